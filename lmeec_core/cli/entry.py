"""The entry point of the ``lmeec`` command; an interrupt ends it without a traceback."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

INTERRUPTED = 130
"""The exit code after Ctrl-C, as shells define it."""


def main() -> int:
    """Run the command; returns or raises its exit code."""
    interrupted = False

    def interrupt(*_: Any) -> None:
        nonlocal interrupted
        interrupted = True
        raise KeyboardInterrupt

    handled = signal.getsignal(signal.SIGINT) is not signal.SIG_IGN  # ignored in background jobs
    if handled:  # exit at once: modules being imported may turn KeyboardInterrupt into other errors
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    from lmeec_core.cli import app

    if handled:
        signal.signal(signal.SIGINT, interrupt)
    try:
        return app.main()
    except BaseException as error:
        if not interrupted or (isinstance(error, SystemExit) and not error.code):
            raise
    print("interrupted", file=sys.stderr)
    return INTERRUPTED
