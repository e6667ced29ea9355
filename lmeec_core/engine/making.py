"""Makes what engine ``auto`` lacks for a network, in a separate process.

``python -m lmeec_core.engine.making`` reads an :class:`Order` and the weights from standard input,
which stays open: when it is closed, the parent is gone, and the process exits. It writes each
:class:`Report` to standard output as a line of JSON. Two processes never make the same files: one
holds a lock, which the system releases however that process ends, and the other waits for it.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import torch
from pydantic import BaseModel

from lmeec_core.cache import VARIABLE, cache_folder
from lmeec_core.config import MemoryConfig, ModelConfig, Precision
from lmeec_core.engine import auto
from lmeec_core.engine.base import Engine, EngineError
from lmeec_core.engine.calls import StageCall, step_calls
from lmeec_core.engine.graphs import GraphStore
from lmeec_core.files import SUFFIX
from lmeec_core.model import LMEEC
from lmeec_core.networks import build_model

LOCK = ".making.lock"
_FORGOTTEN = 3600.0
"""Age in seconds at which an unfinished file must come from a process that was killed."""


class Order(BaseModel):
    """What to make.

    Attributes:
        config, precision, device, memory: those of the network and its trackers.
        threads: torch's number of threads in the process that will use the engines.
        tensors: name, type and shape of each weight; their bytes follow in this order.
    """

    config: ModelConfig
    precision: Precision
    device: str
    memory: MemoryConfig
    threads: int
    tensors: list[tuple[str, str, tuple[int, ...]]]


class Report(BaseModel):
    """A message from the process.

    Attributes:
        doing: what it is doing now.
        error: why it failed; None otherwise.
    """

    doing: str = ""
    error: str | None = None


Say = Callable[[Report], None]


def send(stream: IO[bytes], model: LMEEC, memory: MemoryConfig | None) -> None:
    """Write the order for a network and its weights, one tensor at a time to save memory.

    Raises:
        OSError: the process has stopped reading.
    """
    state = model.state_dict()
    order = Order(
        config=model.config,
        precision=model.precision,
        device=str(model.device),
        memory=memory or MemoryConfig(),
        threads=torch.get_num_threads(),
        tensors=[
            (name, str(value.dtype).removeprefix("torch."), tuple(value.shape))
            for name, value in state.items()
        ],
    )
    stream.write(order.model_dump_json().encode() + b"\n")
    for value in state.values():
        plain = value.detach().cpu().contiguous().flatten()
        stream.write(memoryview(plain.view(torch.uint8).numpy()))
    stream.flush()


def receive(stream: IO[bytes]) -> tuple[LMEEC, MemoryConfig]:
    """Read a network and its trackers' memory settings; sets torch's threads as ordered."""
    order = Order.model_validate_json(stream.readline())
    torch.set_num_threads(order.threads)
    model = build_model(order.config).requires_grad_(False)
    model.compute_in(order.precision)
    state = {}
    for name, dtype, shape in order.tensors:
        kind: torch.dtype = getattr(torch, dtype)
        content = bytearray(stream.read(math.prod(shape) * kind.itemsize))
        state[name] = torch.frombuffer(content, dtype=kind).reshape(shape)
    model.load_state_dict(state)
    return model.to(order.device), order.memory


def make(model: LMEEC, memory: MemoryConfig, say: Say) -> None:
    """Make and load all files for every engine that this machine can use, then measure and cache.

    Calls that an engine cannot be prepared for are left to the others.

    Raises:
        OSError: the cache cannot be written.
    """
    root = cache_folder()
    if root is None:
        raise OSError(f"there is no home folder; {VARIABLE} names one for it")
    calls = list(dict.fromkeys(step_calls(model, memory=memory)))
    with _alone(GraphStore(model, root).folder, say):
        engines = auto.possible(model, root)
        jobs = [(engine, call) for engine in engines.values() for call in calls]
        for done, (engine, call) in enumerate(jobs, start=1):
            if engine.name != "eager":
                say(Report(doing=f"making {call.stage} for {engine.name}, {done} of {len(jobs)}"))
                _prepare(engine, call, say)
        say(Report(doing="measuring"))
        auto.choose(model, memory, engines)
        if auto.remembered(model, memory, engines) is None:
            raise OSError(f"what was measured cannot be kept in {root}")


def _prepare(engine: Engine, call: StageCall, say: Say) -> None:
    try:
        engine.prepare([call])
    except EngineError as error:
        say(Report(doing=f"without {call.stage} of {engine.name}: {error}"))


@contextmanager
def _alone(folder: Path, say: Say) -> Iterator[None]:
    """Hold the lock of a network's folder, and delete what killed processes left in it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(Report(doing="waiting for another process that makes the same"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        for left in folder.glob(f".*{SUFFIX}"):
            with contextlib.suppress(OSError):  # it has just been renamed
                if time.time() - left.stat().st_mtime > _FORGOTTEN:
                    left.unlink()
        yield


def main() -> int:
    """Run the process; returns its exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops this process
    with contextlib.suppress(OSError):  # if memory runs out, this process dies, not the parent
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    report = sys.stdout  # what libraries print is no valid report

    def say(what: Report) -> None:
        print(what.model_dump_json(), file=report, flush=True)

    model, memory = receive(sys.stdin.buffer)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        make(model, memory, say)
    except (EngineError, OSError) as error:
        say(Report(error=str(error)))
        return 1
    return 0


def _end_with_parent() -> None:
    os.read(sys.stdin.fileno(), 1)  # only end of file arrives; takes no buffer lock
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
