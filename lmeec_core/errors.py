"""The error that bad input raises, apart from everything that is a failure of ours."""

from __future__ import annotations

__all__ = ["InputError"]


class InputError(ValueError):
    """Input that cannot be used: a file, a message, an argument, a parameter.

    The text names what was given, what was expected and what to do. Only checks of input raise it,
    so whoever catches it may leave the input out, say so and go on. Any other exception is a
    failure of the program or of the machine, and counts as one.
    """
