"""The files of a recording, complete or not: found, unpacked, repaired, opened one by one.

Every kind of recording is an ordered list of storage files: a rosbag2 folder with or without its
metadata.yaml, a single one of its files, compressed files, a ROS 1 bag. They are read as far as
possible; texts record what is lost, and what is unusual.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol
from urllib.parse import quote

from lmeec_core.bags.layout import (
    METADATA,
    PACKED,
    BagError,
    Metadata,
    bare,
    kind_of,
    stem,
    storage_files,
    without_copies,
)

JOURNALS = ("-wal", "-journal")
"""Suffixes of the names of a database's journals."""


class Storage(Protocol):
    """A storage file as the rosbags library opens it."""

    connections: list[Any]
    metadata: Any

    def open(self) -> None: ...  # noqa: D102
    def close(self) -> None: ...  # noqa: D102
    def messages(self, connections: Collection[Any]) -> Iterator[tuple[Any, int, bytes]]: ...  # noqa: D102


@dataclass
class Part:
    """An open storage file.

    Attributes:
        path: the file in the recording.
        storage: its reader.
        retry: opens the file again with a reader that skips damage; None if there is none.
    """

    path: Path
    storage: Storage
    retry: Callable[[], Storage] | None = None

    def messages(
        self, topics: Collection[str] | None, lost: Callable[[str], None]
    ) -> Iterator[tuple[Any, int, bytes]]:
        """Iterate over (connection, stamp, data) of these topics, skipping damage if possible.

        Args:
            topics: None for all.
            lost: called with a text for damage that is found.
        """
        done = 0
        try:
            for message in self.storage.messages(self._chosen(topics)):
                yield message
                done += 1
        except GeneratorExit:
            raise
        except Exception:  # the library's readers raise errors of many kinds
            if self.retry is None:
                raise
            storage = self.retry()
            self.storage.close()
            self.storage, self.retry = storage, None
            lost(f"{self.path}: {getattr(storage, 'problem', '') or 'its index is damaged'}")
            # Both are ordered by stamp, then position: the messages before the damage are the same.
            yield from islice(storage.messages(self._chosen(topics)), done, None)

    def _chosen(self, topics: Collection[str] | None) -> list[Any]:
        known = self.storage.connections
        return [one for one in known if topics is None or one.topic in topics]


class BagFiles:
    """The open files of a recording.

    Args:
        path: a folder, or a file.

    Attributes:
        parts: the files that can be read, in their order.
        metadata: the content of metadata.yaml.
        lost: texts about what is missing, each with the file's name.
        notes: remarks about what is unusual but complete.

    Raises:
        BagError: nothing of the recording can be read.
    """

    def __init__(self, path: Path) -> None:
        from lmeec_core.bags import unpacking

        unpacking.install()
        self.path = path
        self.parts: list[Part] = []
        self.metadata = Metadata()
        self.lost: list[str] = []
        self.notes: list[str] = []
        self._folder: TemporaryDirectory[str] | None = None
        try:
            files = self._files() if path.is_dir() else [path]
            for file in files:
                self._open(file, alone=len(files) == 1)
            if not self.parts:
                raise BagError(f"{path}: none of its files can be read: {'; '.join(self.lost)}")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the files."""
        for part in self.parts:
            with suppress(Exception):
                part.storage.close()
        self.parts.clear()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    # ---- which files

    def _files(self) -> list[Path]:
        present = {file.name: file for file in storage_files(self.path)}
        metadata = self.path / METADATA
        try:
            self.metadata = Metadata.read(metadata) if metadata.is_file() else Metadata()
        except BagError as error:
            self.notes.append(f"{error}; the recording is put together from its files")
        else:
            if not metadata.is_file():
                self.notes.append(
                    f"{self.path}: no {METADATA}, as a recorder that was killed leaves it; put "
                    "together from its files (ros2 bag reindex writes one)"
                )
        listed = [self._listed(name, present) for name in self.metadata.files]
        found = [file for file in listed if file is not None]
        if listed and not found:
            raise BagError(f"{self.path}: {'; '.join(self.lost)}; none of its files exists")
        kinds = {bare(file).suffix for file in found or present.values()}
        if len(kinds) > 1:
            raise BagError(
                f"{self.path}: files of several kinds ({', '.join(sorted(present))}) and no "
                f"{METADATA} that says which belong to it; name one of them"
            )
        known = {bare(file).name for file in found}
        stems = {stem(file) for file in found}
        for file in without_copies(present.values()):
            if listed and (bare(file).suffix not in kinds or stem(file) not in stems):
                continue  # another recording's
            if bare(file).name not in known:
                if listed:
                    self.notes.append(f"{file}: not named in {METADATA}; read all the same")
                found.append(file)
        if not found:
            raise BagError(
                f"{self.path}: is no readable rosbag2 recording: no .mcap or .db3 file in it"
            )
        return found

    def _listed(self, name: str, present: Mapping[str, Path]) -> Path | None:
        """A file listed in the metadata, compressed or not."""
        for other in (name, f"{name}{PACKED}", name.removesuffix(PACKED)):
            if other in present:
                return present[other]
        if (file := self.path / name).is_file():
            return file
        self.lost.append(f"{file}: named in {METADATA}, but not there")
        return None

    # ---- one file

    def _open(self, file: Path, alone: bool) -> None:
        try:
            part, problem = self._part(file)
        except BagError as error:
            if alone:
                raise
            self.lost.append(str(error))
            return
        count = int(part.storage.metadata.message_count)
        expected = self.metadata.counts.get(file.name, 0)
        if problem or count < expected:
            what = problem or f"{count} messages can be read"
            said = f", {METADATA} says {expected}" if expected else ""
            self.lost.append(f"{file}: {what}{said}")
        self.parts.append(part)

    def _part(self, file: Path) -> tuple[Part, str]:
        """Open a file; also returns a text about its damage, "" if there is none."""
        if file.stat().st_size == 0:
            raise BagError(f"{file}: is empty, a file without any message")
        problem = ""
        plain = file
        if file.suffix == PACKED:
            plain, problem = self._unpack(file)
        kind = kind_of(plain)
        if kind == "mcap":
            return self._open_mcap(file, plain, problem)
        if kind == "sqlite3":
            storage, more = self._open_sqlite(file, plain)
            return Part(file, storage), problem or more
        if kind == "ros1":
            return Part(file, _open_ros1(file, plain)), problem
        raise BagError(
            f"{file}: is no readable rosbag2 recording: neither MCAP nor SQLite begins like that"
        )

    def _open_mcap(self, file: Path, plain: Path, problem: str) -> tuple[Part, str]:
        from rosbags.rosbag2.storage_mcap import McapReader

        from lmeec_core.bags.cut_files import CutMcap

        def repaired() -> CutMcap:
            storage = CutMcap(plain)
            storage.open()
            return storage

        whole = McapReader(plain)
        try:
            whole.open()
        except Exception as error:  # the library's readers raise errors of many kinds
            try:
                storage = repaired()
            except Exception as worse:
                raise _unreadable(file, worse) from worse
            if not storage.metadata.message_count:
                storage.close()
                raise _unreadable(file, error, "; no message comes before the damage") from error
            if not (storage.problem or problem):
                why = str(error).removesuffix(".")
                if not storage.closed:
                    why = "cut off after its last message"
                self.notes.append(f"{file}: {why}; read without its index, all messages are there")
            return Part(file, storage), storage.problem or problem
        return Part(file, whole, repaired), problem

    def _open_sqlite(self, file: Path, plain: Path) -> tuple[Storage, str]:
        from rosbags.rosbag2.storage_sqlite3 import Sqlite3Reader

        from lmeec_core.bags.cut_files import database_problem, rescue_database

        if any(_journal(plain, suffix) for suffix in JOURNALS):
            plain = self._with_journal(file, plain)
        problem = database_problem(plain)
        # The library inserts the path into a URI, in which "#", "?" and "%" are special.
        storage = Sqlite3Reader(Path(quote(str(plain.resolve()))))
        try:
            if problem:
                raise BagError(problem)
            storage.open()
        except Exception as error:  # the library's readers raise errors of many kinds
            copy = self._place(f"rescued_{len(self.parts)}.db3")
            try:
                count = rescue_database(plain, copy)
                storage = Sqlite3Reader(Path(quote(str(copy))))
                storage.open()
            except Exception as worse:
                raise _unreadable(file, error) from worse
            what = str(error) if isinstance(error, BagError) else "damaged"
            return storage, f"{what}; {count} messages can be read"
        return storage, ""

    def _with_journal(self, file: Path, plain: Path) -> Path:
        """A copy of a database into which SQLite has merged its journal.

        The recording itself is not changed; it may be on a read-only disk.
        """
        copy = self._place(f"journal_{len(self.parts)}.db3")
        try:
            shutil.copyfile(plain, copy)
            for suffix in JOURNALS:
                if journal := _journal(plain, suffix):
                    shutil.copyfile(journal, f"{copy}{suffix}")
                    self.notes.append(f"{journal}: what it holds of {plain.name} is read too")
            with closing(sqlite3.connect(copy)) as database:
                database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                database.execute("PRAGMA journal_mode = DELETE").fetchall()
        except (OSError, sqlite3.Error) as error:
            raise BagError(
                f"{file}: the journal beside it ({file.name}-wal) cannot be read: {error}; open "
                "the file once with sqlite3, which puts the journal into it"
            ) from error
        return copy

    def _unpack(self, file: Path) -> tuple[Path, str]:
        """Unpack a storage file into a temporary folder; also returns a text about its damage."""
        from lmeec_core.bags import unpacking

        plain = self._place(file.stem)
        problem = ""
        try:
            with (
                file.open("rb") as raw,
                unpacking.open_zstd(raw, "rb") as packed,
                plain.open("wb") as out,
            ):
                try:
                    shutil.copyfileobj(packed, out, 2**16)
                except (EOFError, unpacking.zstd.ZstdError):
                    problem = f"cut off or damaged at byte {file.stat().st_size}"
        except Exception as error:
            raise _unreadable(file, error) from error
        return plain, problem

    def _place(self, name: str) -> Path:
        if self._folder is None:
            self._folder = TemporaryDirectory(prefix="lmeec_bag_")
        return Path(self._folder.name) / name


def _open_ros1(file: Path, plain: Path) -> Storage:
    from lmeec_core.bags.message_types import typestore
    from lmeec_core.bags.ros1 import Ros1Storage

    try:
        storage = Ros1Storage(plain, typestore())
        storage.open()
    except Exception as error:  # the library's readers raise errors of many kinds
        raise BagError(
            f"{file}: is a ROS 1 bag, and cut off or damaged: {str(error).removesuffix('.')}; "
            f"repair it with ROS 1's `rosbag reindex {file.name}`, after which it can be read, or "
            f"converted: rosbags-convert --src {file.name} --dst {file.stem}"
        ) from error
    return storage


def _unreadable(file: Path, error: Exception, more: str = "") -> BagError:
    text = str(error).removesuffix(".") or repr(error)
    return BagError(f"{file}: is no readable rosbag2 recording: {text}{more}")


def _journal(path: Path, suffix: str) -> Path | None:
    """The journal next to a database, unless it is empty."""
    journal = path.with_name(path.name + suffix)
    with suppress(OSError):
        return journal if journal.stat().st_size else None
    return None
