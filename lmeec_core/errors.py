"""The errors whose text is all that a user needs; any other one is a fault of this package."""

from __future__ import annotations

__all__ = ["EngineError", "ExplainedError", "InputError"]


class InputError(ValueError):
    """Input that cannot be used: a file, a message, an argument, a parameter.

    The text names what was given, what was expected and what to do. Only checks of input raise it,
    so whoever catches it may leave the input out, say so and go on. Any other exception is a
    failure of the program or of the machine, and counts as one.
    """


class ExplainedError(RuntimeError):
    """A failure, of the machine or of a run, whose text says what happened and what to do."""


class EngineError(ExplainedError):
    """An engine cannot be used here; the text says why and what to do."""
