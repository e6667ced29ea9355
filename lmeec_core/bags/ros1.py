"""ROS 1 bags as a storage of the rosbags library, with messages converted to ROS 2."""

from __future__ import annotations

from collections.abc import Collection, Generator
from pathlib import Path

from rosbags.convert.converter import migrate_bytes
from rosbags.interfaces import Connection, ConnectionExtRosbag2
from rosbags.rosbag1 import Reader
from rosbags.rosbag2.metadata import ReaderMetadata
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore


class Ros1Storage:
    """A ROS 1 bag (version 2.0). Types use the definitions stored in the bag.

    Args:
        path: the file.
        store: the message types of ROS 2; unknown types of the bag are added to it.

    Attributes:
        connections, metadata: as in other storages.
    """

    def __init__(self, path: Path, store: Typestore) -> None:
        self.path = path
        self.connections: list[Connection] = []
        self.metadata = ReaderMetadata(0, 2**63 - 1, 0, 0, None, None, None, None)
        self._reader = Reader(path)
        self._store = store
        self._own = get_typestore(Stores.EMPTY)
        self._sources: dict[int, Connection] = {}

    def open(self) -> None:
        """Open the file.

        Raises:
            ReaderError: the file is not an intact ROS 1 bag.
        """
        self._reader.open()
        try:
            for connection in self._reader.connections:
                types = get_types_from_msg(connection.msgdef.data, connection.msgtype)
                known = self._own.fielddefs
                self._own.register({n: d for n, d in types.items() if n not in known})
                self._learn(connection.msgtype)
                ext = ConnectionExtRosbag2("cdr", [])
                made = connection._replace(ext=ext, digest="", owner=self)
                self.connections.append(made)
                self._sources[made.id] = connection
            count = sum(connection.msgcount for connection in self.connections)
            first, last = self._reader.start_time, self._reader.end_time
        except BaseException:
            self._reader.close()
            raise
        if count:
            self.metadata = ReaderMetadata(last - first, first, last, count, *[None] * 4)

    def close(self) -> None:
        """Close the file."""
        self._reader.close()

    def messages(
        self,
        connections: Collection[Connection],
        start: int | None = None,
        stop: int | None = None,
    ) -> Generator[tuple[Connection, int, bytes], None, None]:
        """Iterate over (connection, stamp, data as CDR) in the order of the stamps; see rosbags."""
        wanted = {connection.id: connection for connection in connections}
        cache: dict[str, object] = {}
        sources = [self._sources[number] for number in wanted]
        for source, stamp, data in self._reader.messages(sources, start, stop):
            kind = source.msgtype
            stores = (self._own, self._store)
            made = migrate_bytes(*stores, kind, kind, cache, data, src_is2=False, dst_is2=True)
            yield wanted[source.id], stamp, bytes(made)

    def _learn(self, kind: str) -> None:
        """Add a type to the ROS 2 store, with the ROS 2 header."""
        if kind not in self._store.fielddefs:
            text = self._own.generate_msgdef(kind, ros_version=2)[0]
            types = get_types_from_msg(text, kind)
            known = self._store.fielddefs
            self._store.register({n: d for n, d in types.items() if n not in known})
