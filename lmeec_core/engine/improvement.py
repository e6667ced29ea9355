"""Makes what engine ``auto`` lacks in the background, then switches to the faster engines."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Hashable
from statistics import median

from pydantic import ValidationError

from lmeec_core.cache import VARIABLE, cache_folder
from lmeec_core.config import MemoryConfig
from lmeec_core.engine import auto
from lmeec_core.engine.base import EngineError, EngineName
from lmeec_core.engine.calls import step_calls
from lmeec_core.engine.graphs import probe
from lmeec_core.engine.making import Report, send
from lmeec_core.engine.runner import Runner, engines_in_use
from lmeec_core.engine.select import runner_of, use_engine
from lmeec_core.model import LMEEC
from lmeec_core.model.stages import StageRunner

logger = logging.getLogger(__name__)

SWITCH = "LMEEC_MAKE_ENGINES"
"""Environment variable; if it is 0, engine ``auto`` makes nothing and uses what exists."""
LOWEST = 19
"""Niceness of the work in the background, so that other processes come first."""
_STEPS = 8
"""Number of steps to compare, with the old engines and with the new ones."""
_PATIENCE = 64
"""Steps after which the comparison is given up, because too few of them are comparable."""
_SLOWER = 1.05
"""The new engines are dropped if their steps take more than this multiple of the old time."""
WORTH_SECONDS = 900.0
"""Seconds of work from which :func:`make_first` makes engines: making them takes a minute for nano
and several for base_plus, and saves at least a sixth of the work."""
_FEW = 100
"""Up to this many steps, the work is not even estimated."""
_LIBRARIES = ("onnx", "onnxscript", "onnxruntime")

Listener = Callable[[str], None]
"""Called with a description of the current work."""


def lacking(model: LMEEC, memory: MemoryConfig | None = None) -> list[EngineName]:
    """The engines that ``auto`` could also consider if their missing files were made.

    Empty if nothing is missing, or if files cannot or must not be made.

    Args:
        model: the network.
        memory: the trackers' memory settings; None for the defaults.
    """
    if os.environ.get(SWITCH) == "0":
        return []
    missing = [name for name in _LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        logger.info(
            "engine auto: other engines need %s (pip install 'lmeec[onnx]')", ", ".join(missing)
        )
        return []
    calls = step_calls(model, memory=memory)
    engines = auto.possible(model)
    return [name for name, engine in engines.items() if not engine.is_complete(calls)]


def make_first(model: LMEEC, memory: MemoryConfig | None, steps: int, listener: Listener) -> None:
    """Make what engine ``auto`` lacks, and use it, if the remaining steps would take long.

    If it cannot be made, a warning is logged, and the engines stay as they are.

    Args:
        model: the network, with the engines that ``auto`` chose. memory: see :class:`Maker`.
        steps: number of steps still to be computed.
        listener: called with a description of the current work.
    """
    names = lacking(model, memory) if steps > _FEW else []
    if not names:
        return
    seconds = steps * auto.step_seconds(model, memory)
    if seconds < WORTH_SECONDS:
        logger.info(
            "engine auto: about %.0f s of work for %s; from %.0f s on, what %s needs is made first",
            seconds, engines_in_use(model), WORTH_SECONDS, " and ".join(names),
        )  # fmt: skip
        return
    try:
        Maker(model, memory).run(listener)
    except (EngineError, OSError) as error:
        logger.warning("engine auto: %s is not made: %s", " and ".join(names), error)
        return
    use_engine(model, "auto", memory)


class Maker:
    """A process that makes what engine ``auto`` lacks; it ends when its parent does.

    Args:
        model: the network. memory: the trackers' memory settings; None for the defaults.
        niceness: 0 to 19; with 19, other processes come first.
    """

    def __init__(self, model: LMEEC, memory: MemoryConfig | None, niceness: int = 0) -> None:
        self._model, self._memory, self._niceness = model, memory, niceness
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._stopped = False

    def run(self, listener: Listener) -> None:
        """Run the process to completion.

        Raises:
            EngineError: it failed (the error says why) or was stopped.
            OSError: the cache cannot be written.
        """
        folder = cache_folder()
        if folder is None:
            raise OSError(f"there is no home folder; {VARIABLE} names one")
        probe(folder)
        with self._begin() as process:
            try:
                reason = self._follow(process, listener)
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            raise EngineError(
                "stopped" if self._stopped else reason or f"exit code {process.returncode}"
            )

    def _follow(self, process: subprocess.Popen[bytes], listener: Listener) -> str:
        """Send the process its order and read its reports; returns its error or last output."""
        assert process.stdin is not None and process.stdout is not None
        os.setpriority(os.PRIO_PROCESS, process.pid, self._niceness)
        with contextlib.suppress(BrokenPipeError):  # the exit code is checked later
            send(process.stdin, self._model, self._memory)
        reason = ""
        for line in process.stdout:
            try:
                report = Report.model_validate_json(line)
            except ValidationError:  # output of a library, or a traceback
                reason = line.decode(errors="replace").strip() or reason
                continue
            reason = report.error or reason
            if report.doing:
                listener(report.doing)
        process.wait()
        with contextlib.suppress(BrokenPipeError):  # input that it did not read
            process.stdin.close()
        return reason

    def _begin(self) -> subprocess.Popen[bytes]:
        # The import paths of this process, but never its current folder.
        paths = os.pathsep.join(path for path in sys.path if path)
        with self._lock:
            if self._stopped:
                raise EngineError("stopped")
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "lmeec_core.engine.making"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                env=os.environ | {"PYTHONPATH": paths},
            )  # fmt: skip
            return self._process

    def stop(self) -> None:
        """Kill the process if it is running."""
        with self._lock:
            self._stopped = True
            if self._process is not None and self._process.poll() is None:
                self._process.kill()


class Improvement:
    """Switches a running network to faster engines as soon as they are ready.

    Call :meth:`take` before each step and :meth:`stepped` after it; neither ever blocks. Files are
    made in a separate process with the lowest priority, and loaded in a thread. Once they are
    loaded, some steps are timed, the new engines take over, and the same number of steps is timed
    with them: if those are slower, the old engines come back.

    Args:
        model: the network, with its current engines.
        memory: the trackers' memory settings; None for the defaults.

    Attributes:
        state: the current status as text, for the diagnostics; "" if there is nothing to make.
    """

    def __init__(self, model: LMEEC, memory: MemoryConfig | None = None) -> None:
        self._model, self._memory = model, memory
        self._maker = Maker(model, memory, LOWEST)
        self._next: Runner | None = None
        self._before: StageRunner | None = None
        self._times: tuple[list[float], list[float]] = ([], [])  # with the old and the new engines
        self._load: Hashable = None
        self._patience = _PATIENCE
        self.state = ""

    def start(self) -> None:
        """Start in the background; ends at once if there is nothing to make."""
        threading.Thread(target=self._run, name="engines", daemon=True).start()

    def stop(self) -> None:
        """Kill the process if it is running."""
        self._maker.stop()

    def take(self) -> None:
        """Between two steps: switch to the new engines once enough steps have been timed."""
        if self._next is None or (len(self._times[0]) < _STEPS and self._patience):
            return
        self._before, self._model.runner = self._model.runner, self._next
        self._next, self._patience = None, _PATIENCE
        self.state = "changed over"
        logger.info("engine auto: changed over to %s", engines_in_use(self._model))

    def stepped(self, seconds: float, load: Hashable) -> None:
        """Record a step that has just been computed.

        Args:
            seconds: how long it took.
            load: what determines its cost, such as the number of objects; only steps with the
                same load are compared.
        """
        if (self._next is None and self.state != "changed over") or not self._patience:
            return
        self._patience -= 1
        old, new = self._times
        if load != self._load and self._next is not None:
            self._load = load
            old.clear()
        if load == self._load:
            (new if self._next is None else old).append(seconds)
        if len(new) > _STEPS:  # the first one is not representative
            self._judge(median(old), median(new[1:]))

    def _judge(self, before: float, after: float) -> None:
        self._patience = 0
        if after > _SLOWER * before:
            self._model.runner = self._before
            self.state = (
                f"made; in steps no faster ({1e3 * after:.0f} ms, {1e3 * before:.0f} before)"
            )
        else:
            self.state = f"changed over ({1e3 * after:.0f} ms a step, {1e3 * before:.0f} before)"
        self._before = None
        logger.info("engine auto: %s; %s computes", self.state, engines_in_use(self._model))

    def _run(self) -> None:
        try:
            self._next = self._make()
        except Exception as error:  # whatever it is, the network keeps running
            self.state = f"nothing better was made: {error}"
            text = f"engine auto: {self.state}; {engines_in_use(self._model)} computes on"
            logger.warning(text, exc_info=not isinstance(error, EngineError | OSError))

    def _make(self) -> Runner | None:
        """The runner with the faster engines; None if there are none or nothing had to be made."""
        names = lacking(self._model, self._memory)
        if not names:
            return None
        logger.info(
            "engine auto: what %s needs is made in the background, once; until then %s computes",
            " and ".join(names),
            engines_in_use(self._model),
        )
        self._maker.run(self._listen)
        engines = auto.candidates(self._model)
        if auto.remembered(self._model, self._memory, engines) is None:
            raise EngineError("the cache does not have what was measured")
        made = runner_of(self._model, auto.choose(self._model, self._memory, engines))
        self.state = "made; eager is the fastest" if made is None else "ready"
        return made

    def _listen(self, doing: str) -> None:
        self.state = doing
        logger.debug("engine auto: %s", doing)
