"""What engine ``auto`` lacks is made in the background; then the better engines take over."""

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
"""Environment variable; 0: engine ``auto`` makes nothing, and takes what is there."""
LOWEST = 19
"""The niceness of work in the background: others come first."""
_STEPS = 8
"""Steps with the old engines, and with the new ones, that are compared."""
_PATIENCE = 64
"""Steps after which the comparison is given up: no two of them are alike."""
_SLOWER = 1.05
"""New engines whose steps take more than this share of the old ones' time go again."""
WORTH_SECONDS = 900.0
"""Seconds of work from which :func:`make_first` makes engines: that takes a minute for nano, some
for base_plus, and saves a sixth or more of the work."""
_FEW = 100
"""Steps that are not worth the estimate."""
_LIBRARIES = ("onnx", "onnxscript", "onnxruntime")

Listener = Callable[[str], None]
"""Called with what is being done, in words."""


def lacking(model: LMEEC, memory: MemoryConfig | None = None) -> list[EngineName]:
    """The engines that ``auto`` could consider if their files were made; empty if none can be.

    Args:
        model: the network.
        memory: the trackers' memory, None is the default one.
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
    """Make what engine ``auto`` lacks if so many steps take long, and let the network use it.

    What cannot be made is not used; the log says so.

    Args:
        model: the network, with the engines that ``auto`` chose. memory: see :class:`Maker`.
        steps: still to be computed.
        listener: called with what is being done.
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
    """A process that makes what engine ``auto`` lacks; it ends with this one.

    Args:
        model: the network. memory: the trackers' memory, None is the default one.
        niceness: 0 to 19; 19 leaves the processors to others.
    """

    def __init__(self, model: LMEEC, memory: MemoryConfig | None, niceness: int = 0) -> None:
        self._model, self._memory, self._niceness = model, memory, niceness
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._stopped = False

    def run(self, listener: Listener) -> None:
        """Run it to its end.

        Raises:
            EngineError: it does not succeed, or was stopped; says why.
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
        """Give the process its order and hear it out; returns its error, or its last words."""
        assert process.stdin is not None and process.stdout is not None
        os.setpriority(os.PRIO_PROCESS, process.pid, self._niceness)
        with contextlib.suppress(BrokenPipeError):  # its exit code says enough
            send(process.stdin, self._model, self._memory)
        reason = ""
        for line in process.stdout:
            try:
                report = Report.model_validate_json(line)
            except ValidationError:  # of a library, or a traceback
                reason = line.decode(errors="replace").strip() or reason
                continue
            reason = report.error or reason
            if report.doing:
                listener(report.doing)
        process.wait()
        with contextlib.suppress(BrokenPipeError):  # what it did not read
            process.stdin.close()
        return reason

    def _begin(self) -> subprocess.Popen[bytes]:
        # The paths of this process, and never those of the folder that it happens to be in.
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
        """End the process, if it runs."""
        with self._lock:
            self._stopped = True
            if self._process is not None and self._process.poll() is None:
                self._process.kill()


class Improvement:
    """Lets a network that computes already have better engines as soon as they are ready.

    Whoever steps calls :meth:`take` before each step and :meth:`stepped` after it; neither ever
    waits. What is made is made in a process of its own, with the lowest priority; what is loaded
    is loaded in a thread. Once it is loaded, some steps are timed, the new engines take over, and
    as many steps are timed with them: if those take longer, the old engines come back.

    Args:
        model: the network, with the engines that there were.
        memory: the trackers' memory, None is the default one.

    Attributes:
        state: what goes on, in words, for the diagnostics; "" if nothing has to be made.
    """

    def __init__(self, model: LMEEC, memory: MemoryConfig | None = None) -> None:
        self._model, self._memory = model, memory
        self._maker = Maker(model, memory, LOWEST)
        self._next: Runner | None = None
        self._before: StageRunner | None = None
        self._times: tuple[list[float], list[float]] = ([], [])  # with the old and the new ones
        self._load: Hashable = None
        self._patience = _PATIENCE
        self.state = ""

    def start(self) -> None:
        """Begin, if there is anything to make."""
        threading.Thread(target=self._run, name="engines", daemon=True).start()

    def stop(self) -> None:
        """End the process, if it runs."""
        self._maker.stop()

    def take(self) -> None:
        """Between two steps: let the new engines compute, once enough steps were timed."""
        if self._next is None or (len(self._times[0]) < _STEPS and self._patience):
            return
        self._before, self._model.runner = self._model.runner, self._next
        self._next, self._patience = None, _PATIENCE
        self.state = "changed over"
        logger.info("engine auto: changed over to %s", engines_in_use(self._model))

    def stepped(self, seconds: float, load: Hashable) -> None:
        """After a step.

        Args:
            seconds: that it took.
            load: what it was about, as the number of objects; only equal steps are compared.
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
        if len(new) > _STEPS:  # the first one is not like the others
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
        except Exception as error:  # whatever it is, the network computes on
            self.state = f"nothing better was made: {error}"
            text = f"engine auto: {self.state}; {engines_in_use(self._model)} computes on"
            logger.warning(text, exc_info=not isinstance(error, EngineError | OSError))

    def _make(self) -> Runner | None:
        """What computes better; None if nothing does, or nothing had to be made."""
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
