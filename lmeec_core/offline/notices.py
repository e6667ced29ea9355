"""Collects the log messages of the readers of recordings."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

READERS = "lmeec_core.takes"
"""The logger of everything that reads images, videos and annotations."""


@contextmanager
def collected() -> Iterator[list[str]]:
    """The readers' warnings within the `with` statement, each once, not printed.

    The list grows as they come. Worker processes and cluster nodes have no console, so a unit's
    warnings are returned with its result.
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
        for text in () if done else texts:  # nobody will read the list
            logger.warning("%s", text)
