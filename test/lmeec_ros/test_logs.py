"""Python's log in the node's: what a node's user gets to see of it."""

from __future__ import annotations

import logging
from collections.abc import Callable

from lmeec_ros.runtime.logs import RosLog


class Logger:
    """Takes what a node's logger would."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str]] = []

    def __getattr__(self, level: str) -> Callable[[str], None]:
        return lambda text: self.said.append((level, text))


def test_engines_tell_what_they_do_and_others_what_is_wrong() -> None:
    logger = Logger()
    log = RosLog(logger)
    package = logging.getLogger("lmeec_core")
    level_before = package.level
    package.setLevel(logging.DEBUG)  # as other code may
    log.attach()
    try:
        for name in ("lmeec_core.engine.improvement", "lmeec_core.checkpoint"):
            for level in ("debug", "info", "warning", "error"):
                getattr(logging.getLogger(name), level)(f"{level} of {name}")
    finally:
        log.detach()
        package.setLevel(level_before)
    logging.getLogger("lmeec_core.engine.auto").warning("too late")
    engine, checkpoint = "lmeec_core.engine.improvement", "lmeec_core.checkpoint"
    assert logger.said == [
        *((level, f"{level} of {engine}") for level in ("info", "warning", "error")),
        *((level, f"{level} of {checkpoint}") for level in ("warning", "error")),
    ]
