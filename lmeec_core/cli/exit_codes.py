"""The exit code and the error message of every sub-command of ``lmeec``."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from lmeec_core.cli.missing_packages import remedy
from lmeec_core.errors import ExplainedError, InputError

__all__ = ["REPORT", "run_command"]

REPORT = "This is a bug in lmeec, not in its input. Please report it, with all the lines above."
_SYSTEM_ERRORS = {
    errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC,
    errno.EROFS,
}  # fmt: skip
"""Errors of the machine, which a user can fix even without the name of a file."""


def run_command(work: Callable[[], Any], error_code: int = 1) -> None:
    """Run a command; errors that a user can fix are one line on stderr, others a traceback.

    Args:
        work: the command; returns the exit code, or None for 0.
        error_code: the exit code of a one-line error.
    """
    try:
        code = work()
    except (InputError, ExplainedError) as error:
        _fail(str(error), error_code, error)
    except OSError as error:
        if error.filename is None and error.errno not in _SYSTEM_ERRORS:
            error.add_note(REPORT)
            raise
        _fail(str(error), error_code, error)
    except ImportError as error:
        _fail(remedy(error), error_code, error)
    except (typer.Exit, typer.Abort, typer.BadParameter):
        raise
    except Exception as error:
        error.add_note(REPORT)
        raise
    if code:
        raise typer.Exit(int(code))


def _fail(text: str, code: int, error: Exception) -> NoReturn:
    Console(stderr=True).print(f"[bold red]error:[/] {escape(text)}", soft_wrap=True)
    raise typer.Exit(code) from error
