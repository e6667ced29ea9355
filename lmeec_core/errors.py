"""Errors whose text is enough for a user to act on; any other is a bug in this package."""

from __future__ import annotations

__all__ = ["EngineError", "ExplainedError", "InputError"]


class InputError(ValueError):
    """Input that cannot be used: a file, a message, an argument, a parameter.

    The text names what was given, what was expected and what to do. Only checks of input raise it,
    so a caller may skip the input, report it and continue. Any other exception is a failure of
    the program or of the machine.
    """


class ExplainedError(RuntimeError):
    """A failure of the machine or of a run; the text says what happened and what to do."""


class EngineError(ExplainedError):
    """An engine cannot be used here; the text says why and what to do."""
