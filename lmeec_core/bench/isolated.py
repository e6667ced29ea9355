"""Runs work in a separate process, which can be killed if it hangs or breaks the GPU's state."""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

_ENDING = 5.0
"""Seconds that a process gets to exit by itself."""


def isolated(work: Callable[..., Any], *arguments: Any, seconds: float) -> Any:
    """Call ``work`` in a new process and return its result.

    Args:
        work: a module-level function; it and its arguments are pickled.
        arguments: the arguments of ``work``.
        seconds: time after which the process is killed.

    Raises:
        TimeoutError: the process took too long and was killed.
        RuntimeError: the work failed (with its error and where it occurred), or the process died.
    """
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(theirs, work, arguments), daemon=True)
    process.start()
    theirs.close()
    done = None
    try:
        if not ours.poll(max(0.0, seconds)):
            raise TimeoutError(f"ended after {seconds:.0f} s")
        done, result = ours.recv()
    except EOFError:
        process.join(_ENDING)
        raise RuntimeError(f"its process died (exit code {process.exitcode})") from None
    finally:
        ours.close()
        process.join(0 if done is None else _ENDING)
        if process.is_alive():
            process.kill()
            process.join()
    if not done:
        raise RuntimeError(result)
    return result


def _run(connection: Connection, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        answer: tuple[bool, Any] = (True, work(*arguments))
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        told = (str(error).strip() or "no message")[:2000]
        answer = (False, f"{type(error).__name__}: {told} ({place.name}, line {place.lineno})")
    connection.send(answer)
