"""Reads the intact content of storage files that are truncated or damaged.

If a recorder is killed, the disk is full or the power fails, MCAP files lack their index, and
databases their last pages. The content before that is intact.
"""

from __future__ import annotations

import heapq
import os
import shutil
import sqlite3
import struct
from collections import Counter
from collections.abc import Collection, Generator, Iterator
from contextlib import closing, suppress
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import quote
from zlib import crc32

from rosbags.interfaces import Connection, ConnectionExtRosbag2
from rosbags.rosbag2.errors import ReaderError
from rosbags.rosbag2.metadata import ReaderMetadata
from rosbags.rosbag2.storage_mcap import Schema, get_msgdef, get_qos, read_bytes, read_string

from lmeec_core.bags import unpacking

MCAP_MAGIC = b"\x89MCAP0\r\n"
_SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _DATA_END = 3, 4, 5, 6, 15
_TABLES = ("schema", "metadata", "topics", "message_definitions", "messages")
_HEAD = struct.Struct("<BQ")  # of a record: kind, length
_RUN = 2**20  # bytes of bare messages that are read at a time


class _Block(NamedTuple):
    """A part of the file with messages: a chunk, or consecutive records."""

    first: int
    """Smallest stamp, nanoseconds."""
    offset: int
    size: int
    packing: str
    unpacked: int
    crc: int


class CutMcap:
    """An MCAP file without its end or with damaged chunks, as a storage of the rosbags library.

    It is scanned once when it is opened; messages are read on request. From a truncated chunk the
    complete messages are read.

    Args:
        path: the file.

    Attributes:
        connections, metadata: as in other storages.
        problem: a text about the damage, without the file's name; empty if no message is missing.
        closed: whether the file was closed properly.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.connections: list[Connection] = []
        self.metadata = ReaderMetadata(0, 2**63 - 1, 0, 0, None, None, None, None)
        self.problem = ""
        self.closed = False
        self._file: BinaryIO | None = None
        self._schemas: dict[int, Schema] = {}
        self._blocks: list[_Block] = []
        self._counts: Counter[int] = Counter()

    def open(self) -> None:
        """Open and scan the file.

        Raises:
            ReaderError: it is not an MCAP file.
        """
        self._file = self.path.open("rb")
        if self._file.read(len(MCAP_MAGIC)) != MCAP_MAGIC:
            self.close()
            raise ReaderError("File magic is invalid.")
        size = self._file.seek(0, os.SEEK_END)
        self._file.seek(max(0, size - len(MCAP_MAGIC)))
        self.closed = self._file.read() == MCAP_MAGIC
        stamps: list[int] = []
        try:
            end, damaged = self._scan(size, stamps)
        except BaseException:
            self.close()
            raise
        total = len(stamps)
        self.connections = [c._replace(msgcount=self._counts[c.id]) for c in self.connections]
        if stamps:
            first, last = min(stamps), max(stamps) + 1
            self.metadata = ReaderMetadata(last - first, first, last, total, *[None] * 4)
        parts = [f"{damaged} damaged chunks are left out"] * bool(damaged)
        if end:
            parts.append(end)
        if parts:
            self.problem = (
                f"{' and '.join(parts)}; {total} messages can be read (mcap recover writes them "
                "into a sound file)"
            )

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def messages(
        self,
        connections: Collection[Connection],
        start: int | None = None,
        stop: int | None = None,
    ) -> Generator[tuple[Connection, int, bytes], None, None]:
        """Iterate over (connection, stamp, data) in the order of the stamps; see rosbags."""
        by_id = {connection.id: connection for connection in connections}
        waiting = sorted(self._blocks, key=lambda block: block.first, reverse=True)
        heap: list[tuple[int, int, int, int, bytes]] = []
        while waiting or heap:
            while waiting and (not heap or waiting[-1].first <= heap[0][0]):
                block = waiting.pop()
                for number, (kind, record) in enumerate(self._records(block)):
                    if kind == _MESSAGE and (channel := _channel_of(record)) in by_id:
                        item = (_stamp_of(record), block.offset, number, channel, record[22:])
                        heapq.heappush(heap, item)
            if heap:
                stamp, _, _, channel, data = heapq.heappop(heap)
                if (start is None or stamp >= start) and (stop is None or stamp < stop):
                    yield by_id[channel], stamp, data

    def _scan(self, size: int, stamps: list[int]) -> tuple[str, int]:
        """Find blocks, connections and stamps; returns a text about a damaged end ("" if intact)
        and the number of damaged chunks."""
        assert self._file is not None
        place, run, damaged = len(MCAP_MAGIC), -1, 0

        def end_run() -> None:
            if run >= 0:
                self._take_in(_Block(0, run, place - run, "", place - run, 0), stamps)

        while place + _HEAD.size <= size:
            self._file.seek(place)
            kind, length = _HEAD.unpack(self._file.read(_HEAD.size))
            whole = place + _HEAD.size + length <= size
            bare = kind in (_SCHEMA, _CHANNEL, _MESSAGE) and whole
            if not bare or place - run > _RUN:
                end_run()
                run = -1
            if kind == _DATA_END:
                return "", damaged
            if kind == _CHUNK:
                held = min(length, size - place - _HEAD.size)
                damaged += not self._take_in_chunk(place + _HEAD.size, held, whole, stamps)
            elif bare and run < 0:
                run = place
            if not (1 <= kind <= 0x0F or kind >= 0x80):
                return f"damaged from byte {place} of {size} on", damaged
            if not whole:
                break
            place += _HEAD.size + length
        end_run()
        return f"cut off at byte {size}", damaged

    def _take_in_chunk(self, offset: int, size: int, whole: bool, stamps: list[int]) -> bool:
        """Record the content of a chunk; False if it is complete but damaged."""
        assert self._file is not None
        self._file.seek(offset)
        head = BytesIO(self._file.read(min(size, 64)))
        try:
            unpacked, crc = struct.unpack("<QI", head.read(28)[16:])
            packing = read_string(head)
            (packed,) = struct.unpack("<Q", head.read(8))
        except (ReaderError, struct.error, UnicodeDecodeError):
            return not whole
        begin = head.tell()
        held = min(packed, size - begin)
        block = _Block(0, offset + begin, held, packing, unpacked, crc if whole else 0)
        if whole and len(content := self._unpack(block)) != unpacked:
            return False
        if whole and crc and crc32(content) != crc:
            return False
        self._take_in(block, stamps)
        return True

    def _take_in(self, block: _Block, stamps: list[int]) -> None:
        """Record the connections and stamps of a block, and the block if it has messages."""
        first: int | None = None
        for kind, record in self._records(block):
            if kind == _MESSAGE:
                stamp = _stamp_of(record)
                stamps.append(stamp)
                self._counts[_channel_of(record)] += 1
                first = stamp if first is None else min(first, stamp)
            elif kind in (_SCHEMA, _CHANNEL):
                with suppress(ReaderError, struct.error, ValueError, KeyError, TypeError):
                    self._declare(kind, BytesIO(record))
        if first is not None:
            self._blocks.append(block._replace(first=first))

    def _declare(self, kind: int, record: BytesIO) -> None:
        (number,) = struct.unpack("<H", record.read(2))
        if kind == _SCHEMA:
            texts = (read_string(record), read_string(record), read_string(record))
            self._schemas[number] = Schema(number, *texts)
            return
        (schema,) = struct.unpack("<H", record.read(2))
        topic, encoding, extra = read_string(record), read_string(record), read_bytes(record)
        if all(connection.id != number for connection in self.connections):
            known = self._schemas.get(schema)
            self.connections.append(
                Connection(
                    number, topic, known.name if known else "", get_msgdef(known), "", 0,
                    ConnectionExtRosbag2(encoding, get_qos(extra)), self,
                )
            )  # fmt: skip

    def _records(self, block: _Block) -> Iterator[tuple[int, bytes]]:
        """(kind, content) of a block's complete records."""
        content, place = self._unpack(block), 0
        while place + _HEAD.size <= len(content):
            kind, length = _HEAD.unpack_from(content, place)
            begin, place = place + _HEAD.size, place + _HEAD.size + length
            if place > len(content) or (kind == _MESSAGE and length < 22):
                return
            yield kind, content[begin:place]

    def _unpack(self, block: _Block) -> bytes:
        assert self._file is not None
        self._file.seek(block.offset)
        data = self._file.read(block.size)
        return unpacking.unpack_beginning(block.packing, data)


def _channel_of(message: bytes) -> int:
    return int.from_bytes(message[:2], "little")


def _stamp_of(message: bytes) -> int:
    return int.from_bytes(message[6:14], "little")


def database_problem(path: Path) -> str:
    """A text if an SQLite file is shorter than its header says; "" if all its pages exist."""
    with path.open("rb") as file:
        head = file.read(100)
    size = path.stat().st_size
    if len(head) < 100:
        return f"cut off at byte {size}"
    expected = _page_size(head) * int.from_bytes(head[28:32], "big")
    trusted = head[24:28] == head[92:96]  # else the number of pages is outdated
    return f"cut off at byte {size} of {expected}" if trusted and size < expected else ""


def _page_size(head: bytes) -> int:
    size = int.from_bytes(head[16:18], "big")
    return 65536 if size == 1 else size


def rescue_database(path: Path, copy: Path) -> int:
    """Copy the rows of a damaged SQLite recording that can be read into a new file.

    Args:
        path: the damaged file.
        copy: the new file; must not exist.

    Returns:
        The number of messages.

    Raises:
        sqlite3.DatabaseError: not even its tables can be read.
    """
    with path.open("rb") as file:
        page = _page_size(file.read(100))
    if page and path.stat().st_size % page:
        # SQLite would read zeros instead of the missing part of the last page.
        path = Path(shutil.copyfile(path, copy.with_name(f"whole_pages_of_{copy.name}")))
        os.truncate(path, path.stat().st_size // page * page)
    source = sqlite3.connect(f"file:{quote(str(path.resolve()))}?immutable=1", uri=True)
    with closing(source), closing(sqlite3.connect(copy)) as target:
        # Otherwise SQLite refuses a file with fewer pages than its header says.
        source.execute("PRAGMA writable_schema = ON")
        for name, sql in source.execute("SELECT name, sql FROM sqlite_master").fetchall():
            if name in _TABLES and sql:
                target.execute(sql)
                for row in _rows(source, name):
                    places = ",".join("?" * len(row))
                    target.execute(f"INSERT INTO {name} VALUES ({places})", row)  # noqa: S608
        target.commit()
        return int(target.execute("SELECT count(*) FROM messages").fetchone()[0])


def _rows(source: sqlite3.Connection, table: str) -> Iterator[tuple[Any, ...]]:
    """The rows of a table that can be read; the others are skipped."""
    numbers: list[int] = []
    with suppress(sqlite3.DatabaseError):
        for (number,) in source.execute(f"SELECT rowid FROM {table} NOT INDEXED"):  # noqa: S608
            numbers.append(number)
    for number in numbers:
        with suppress(sqlite3.DatabaseError):
            yield from source.execute(f"SELECT * FROM {table} WHERE rowid = ?", (number,))  # noqa: S608
