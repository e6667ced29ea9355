"""Python's log in the node's."""

from __future__ import annotations

import logging
from typing import Any

PACKAGES = ("lmeec_core", "lmeec_ros")
TALKATIVE = ("lmeec_core.engine",)
"""Packages whose remarks are handed on, too: which engines and which precision compute."""


class RosLog(logging.Handler):
    """Hands warnings and errors of this package's modules to a node's logger, and so to /rosout;
    of :data:`TALKATIVE` ones also remarks.

    Args:
        logger: the node's.
    """

    def __init__(self, logger: Any) -> None:
        super().__init__(logging.INFO)
        self._logger = logger

    def attach(self) -> None:
        """Begin."""
        for name in PACKAGES:
            logging.getLogger(name).addHandler(self)
        for name in TALKATIVE:
            logging.getLogger(name).setLevel(logging.INFO)

    def detach(self) -> None:
        """End: the node is gone."""
        for name in PACKAGES:
            logging.getLogger(name).removeHandler(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it is handed on, whatever levels others have set."""
        return record.levelno >= logging.WARNING or record.name.startswith(TALKATIVE)

    def emit(self, record: logging.LogRecord) -> None:
        """Log one record."""
        try:
            text = self.format(record)
            if record.levelno >= logging.ERROR:  # rclpy wants one severity at each line of code
                self._logger.error(text)
            elif record.levelno >= logging.WARNING:
                self._logger.warning(text)
            else:
                self._logger.info(text)
        except Exception:
            self.handleError(record)
