"""Forward Python's logging to the node's logger."""

from __future__ import annotations

import logging
from typing import Any

PACKAGES = ("lmeec_core", "lmeec_ros")
TALKATIVE = ("lmeec_core.engine",)
"""Packages whose INFO messages are forwarded, too: the engines and the precision in use."""


class RosLog(logging.Handler):
    """Forwards warnings and errors of this package's modules to a node's logger, and so to
    /rosout; of the packages in :data:`TALKATIVE` also INFO messages.

    Args:
        logger: the node's logger.
    """

    def __init__(self, logger: Any) -> None:
        super().__init__(logging.INFO)
        self._logger = logger

    def attach(self) -> None:
        """Start forwarding."""
        for name in PACKAGES:
            logging.getLogger(name).addHandler(self)
        for name in TALKATIVE:
            logging.getLogger(name).setLevel(logging.INFO)

    def detach(self) -> None:
        """Stop forwarding."""
        for name in PACKAGES:
            logging.getLogger(name).removeHandler(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is forwarded, independent of the levels set by others."""
        return record.levelno >= logging.WARNING or record.name.startswith(TALKATIVE)

    def emit(self, record: logging.LogRecord) -> None:
        """Log a record with the node's logger."""
        try:
            text = self.format(record)
            if record.levelno >= logging.ERROR:  # rclpy allows one severity per call site
                self._logger.error(text)
            elif record.levelno >= logging.WARNING:
                self._logger.warning(text)
            else:
                self._logger.info(text)
        except Exception:
            self.handleError(record)
