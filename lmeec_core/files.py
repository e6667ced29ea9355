"""Atomic writing: files are complete or absent, even after a power cut."""

from __future__ import annotations

import contextlib
import glob
import os
import secrets
import shutil
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

SUFFIX = ".partial"
"""Suffix of files that are being written."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a hidden file next to ``path`` to write to; it is renamed at the end of the block.

    The hidden name is unique, so several threads and processes may write the same file: the last
    one wins. The content is flushed to disk before renaming. The permissions are those of the
    replaced file, or the default ones of a new file. Special files (/dev/stdout, a pipe) are
    written directly. If the block fails, the hidden file is removed and ``path`` is unchanged.

    Raises:
        OSError: raised in the block (a full disk, for instance); it names ``path``.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        yield path
        return
    partial = path.with_name(f".{path.name[:40]}.{secrets.token_hex(6)}{SUFFIX}")
    try:
        mode = _create(partial)
        with contextlib.suppress(FileNotFoundError):
            mode = stat.S_IMODE(path.stat().st_mode)
        yield partial
        partial.chmod(mode)
        _to_disk(partial)
        os.replace(partial, path)
        with contextlib.suppress(OSError):  # not supported by every file system
            _to_disk(path.parent)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(partial), partial):
            raise
        raise OSError(error.errno, f"not written: {error.strerror}", str(path)) from error
    finally:
        partial.unlink(missing_ok=True)


def _create(partial: Path) -> int:
    """Create an empty file; returns the permissions that a new file gets here."""
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        return stat.S_IMODE(os.fstat(descriptor).st_mode)
    finally:
        os.close(descriptor)


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, atomically.

    Raises:
        OSError: the file cannot be written; names ``path``.
    """
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


class WholeOrNothing(ABC):
    """An atomic writer: closed at the end of a with block, aborted if the block raises."""

    @abstractmethod
    def close(self) -> None:
        """Finish writing."""

    @abstractmethod
    def abort(self) -> None:
        """Remove everything that was written."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()


class NewFolder:
    """A folder that gets its final name once it is complete.

    Until then its content is in `content`, inside a hidden folder next to it. If the process is
    killed, the hidden folder remains (:meth:`left_behind`).

    Args:
        path: the final path.

    Attributes:
        content: the folder to create and fill; it has the same name as `path`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._hidden = path.with_name(f".{path.name}.{secrets.token_hex(6)}{SUFFIX}")
        self._hidden.mkdir(parents=True)
        self.content = self._hidden / path.name

    @staticmethod
    def left_behind(path: Path) -> list[Path]:
        """Contents of unfinished folders with this name, from processes that were killed or are
        still running."""
        pattern = f".{glob.escape(path.name)}.*{SUFFIX}"
        return sorted(
            one / path.name for one in path.parent.glob(pattern) if (one / path.name).exists()
        )

    def publish(self) -> None:
        """Rename the folder to its final path, replacing an existing one."""
        if self.path.exists():
            os.replace(self.path, self._hidden / "replaced")
        os.replace(self.content, self.path)
        self.discard()

    def discard(self) -> None:
        """Remove the unfinished folder."""
        shutil.rmtree(self._hidden, ignore_errors=True)
