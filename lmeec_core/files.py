"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a hidden name beside ``path`` to write to; the end of the block gives it that name.

    If the block fails, nothing is left of it, and ``path`` is as it was.

    Raises:
        OSError: of the block (a full disk, for instance); it names ``path``.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        os.replace(partial, path)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(partial), partial):
            raise
        raise OSError(error.errno, f"not written: {error.strerror}", str(path)) from error
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8 to a hidden file beside ``path``, then give it that name.

    Raises:
        OSError: it cannot be written; names ``path``.
    """
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")
