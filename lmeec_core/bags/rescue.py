"""Keeps the complete part of a bag that could not be written to the end."""

from __future__ import annotations

import os
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rosbags.rosbag2 import Writer


@dataclass(frozen=True)
class _Mark:
    """The state after a complete chunk of messages in the file."""

    end: int
    chunks: int
    counts: dict[int, int]
    channel_stats: dict[int, int]
    times: tuple[int, int]


class WholeChunks:
    """Keeps track of the complete chunks of an MCAP file while it is being written.

    rosbags cannot close a file after a failed write. So its state is reset to the last complete
    chunk, after which it can close the file with index and metadata as usual.

    Args:
        writer: an open writer of rosbags, with MCAP.
    """

    def __init__(self, writer: Writer) -> None:
        self._writer: Any = writer
        self._storage: Any = writer.storage
        self._marks: list[_Mark] = []

    def note(self) -> None:
        """Record the state if a chunk has been written; call this after each message.

        Raises:
            OSError: the disk is full.
        """
        storage, writer = self._storage, self._writer
        known = self._marks[-1].chunks if self._marks else 0
        if len(storage.chunks) == known:
            return
        storage.bio.flush()
        times = writer.min_timestamp, writer.max_timestamp
        self._marks.append(
            _Mark(
                storage.bio.tell(),
                len(storage.chunks),
                dict(writer.counts),
                dict(storage.channel_stats),
                times,
            )
        )

    def close(self) -> int:
        """Close the file after its last complete chunk, or an earlier one if space is needed.

        Returns:
            the number of messages in the file; 0 if no file could be closed.
        """
        for mark in reversed(self._marks):
            try:
                self._set_back(mark)
                self._writer.close()
            except OSError:
                continue
            return sum(mark.counts.values())
        return 0

    def _set_back(self, mark: _Mark) -> None:
        storage, writer = self._storage, self._writer
        with suppress(OSError):  # closing tries to write the buffered data
            storage.bio.close()
        partial = storage.path  # the file's temporary name
        os.truncate(partial, mark.end)
        storage.bio = partial.open("r+b")
        storage.bio.seek(0, os.SEEK_END)
        del storage.chunks[mark.chunks :]
        storage.chunk = type(storage.chunk)(2**63 - 1, 0, BytesIO(), defaultdict(list))
        storage.channel_stats = {**dict.fromkeys(storage.channel_stats, 0), **mark.channel_stats}
        storage.message_start_time, storage.message_end_time = mark.times
        writer.counts = {**dict.fromkeys(writer.counts, 0), **mark.counts}
        writer.min_timestamp, writer.max_timestamp = mark.times
        writer.storage = storage
