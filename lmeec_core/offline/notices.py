"""Collects the warnings that are logged while recordings are read."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

READERS = "lmeec_core.takes"
"""The logger of the code that reads images, videos and annotations."""


@contextmanager
def collected() -> Iterator[list[str]]:
    """Collect the readers' warnings within the `with` statement, each once, and do not log them.

    The list grows as warnings arrive. Worker processes and cluster nodes have no console, so a
    unit's warnings are returned with its result. If an exception is raised, they are logged.
    """
    texts: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = record.getMessage()
            if text not in texts:
                texts.append(text)

    logger, handler = logging.getLogger(READERS), Collector(logging.WARNING)
    propagated, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    done = False
    try:
        yield texts
        done = True
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagated
        for text in () if done else texts:  # after an exception, nobody will read the list
            logger.warning("%s", text)
