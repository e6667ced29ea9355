"""The error for files of a recording that cannot be read."""

from __future__ import annotations

import os

from lmeec_core.errors import InputError

LONGEST = 1000
"""Maximum number of characters of a reason."""


class TakeError(InputError):
    """A file of a recording is missing, broken or not what was expected.

    Attributes:
        path: the file or folder with the error.
    """

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        if len(reason) > LONGEST:  # names in broken files can be of any length
            reason = reason[:LONGEST] + " ..."
        super().__init__(f"{os.fspath(path)}: {reason}")
        self.path = os.fspath(path)
