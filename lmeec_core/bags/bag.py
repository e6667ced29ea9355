"""rosbag2 recordings without ROS: written atomically, read message by message.

Bags are read and written by the rosbags library, so no ROS installation is needed; the files are
those of ``ros2 bag`` (MCAP storage; reading also sqlite3, with or without compression).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmeec_core.bags.files import BagFiles
from lmeec_core.bags.layout import METADATA, BagError, is_bag
from lmeec_core.bags.message_types import (
    MASKS_TYPE,
    ensure_type,
    find_definition,
    split_type,
    typestore,
)
from lmeec_core.bags.rescue import WholeChunks
from lmeec_core.files import NewFolder, WholeOrNothing

__all__ = [
    "INFO_KEY", "MASKS_TYPE", "BagError", "BagReader", "BagWriter", "Topic", "ensure_type",
    "find_definition", "is_bag", "split_type", "typestore",
]  # fmt: skip

if TYPE_CHECKING:
    from rosbags.interfaces import Connection

INFO_KEY = "lmeec"
"""Key of this project's entry (JSON) in a bag's custom data."""


@dataclass(frozen=True)
class Topic:
    """A topic of a bag.

    Attributes:
        name, type: as in ROS, "sensor_msgs/msg/Image".
        count: number of messages.
        latched: published transient local, so that late subscribers get the last message.
    """

    name: str
    type: str
    count: int
    latched: bool


class BagWriter(WholeOrNothing):
    """Write a rosbag2 folder (MCAP), which gets its final name only once it is complete.

        with BagWriter("out/recording") as bag:
            bag.add_topic("/cam/image_raw", "sensor_msgs/msg/Image")
            bag.write("/cam/image_raw", stamp_ns, message)

    Until then it is in a hidden folder next to ``path``, which is removed if the block raises.

    Args:
        path: folder of the bag.
        overwrite: replace an existing bag; otherwise BagError is raised.
        keep: on a full disk, keep the messages written so far as a bag; otherwise remove it.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, overwrite: bool = False, keep: bool = False
    ) -> None:
        from rosbags.rosbag2 import StoragePlugin, Writer

        self.path = Path(path)
        replaceable = (self.path / METADATA).is_file() or is_bag(self.path) and self.path.is_file()
        if self.path.exists() and not (overwrite and replaceable):
            # Only a bag is ever replaced: a mistyped path must not delete a folder.
            hint = "it is not a bag" if overwrite else "remove it or ask to overwrite it"
            raise BagError(f"{self.path}: already exists; {hint}")
        self._folder = NewFolder(self.path)
        self._writer = Writer(self._folder.content, version=9, storage_plugin=StoragePlugin.MCAP)
        self._writer.open()
        self._whole = WholeChunks(self._writer) if keep else None
        self._topics: dict[str, Connection] = {}
        self.counts: dict[str, int] = {}

    def add_topic(self, topic: str, type_name: str, *, latched: bool = False) -> None:
        """Declare a topic; no effect if it is already declared.

        Raises:
            BagError: the type's definition is not found.
        """
        if topic in self._topics:
            return
        ensure_type(type_name)
        self._topics[topic] = self._writer.add_connection(
            topic, type_name, typestore=typestore(), offered_qos_profiles=[_qos(latched)]
        )
        self.counts[topic] = 0

    def write(self, topic: str, stamp_ns: int, message: Any) -> None:
        """Write a message: one made from `typestore`, or its serialised bytes (CDR).

        Raises:
            BagError: it cannot be written (a full disk); says what is left of the bag.
        """
        connection = self._topics[topic]
        if not isinstance(message, bytes):
            message = bytes(typestore().serialize_cdr(message, connection.msgtype))
        try:
            self._writer.write(connection, stamp_ns, message)
            if self._whole is not None:
                self._whole.note()
        except OSError as error:
            raise self._given_up(error) from error
        self.counts[topic] += 1

    def set_info(self, key: str, value: str) -> None:
        """Add an entry to the custom data of the bag's metadata."""
        self._writer.set_custom_data(key, value)

    def close(self) -> None:
        """Finish the bag and give it its final name.

        Raises:
            BagError: it cannot be written (a full disk); says what is left of the bag.
        """
        try:
            self._writer.close()
        except OSError as error:
            raise self._given_up(error) from error
        self._folder.publish()

    def abort(self) -> None:
        """Remove the unfinished bag."""
        with suppress(OSError):  # the library may try again to write to a full disk
            self._writer.abort()
        self._folder.discard()

    def _given_up(self, error: OSError) -> BagError:
        kept = self._whole.close() if self._whole is not None else 0
        if kept:
            self._folder.publish()
            return BagError(
                f"{self.path}: not written to the end: {error.strerror}; the first {kept} messages "
                "are kept in a complete bag (free some space and record again)"
            )
        self.abort()
        return BagError(
            f"{self.path}: not written: {error.strerror}; nothing was kept (free some space and "
            "record again)"
        )


class BagReader:
    """Read a recording: a rosbag2 folder, one of its .mcap or .db3 files, or a ROS 1 bag.

    Compressed files are supported, as a whole (.mcap.zstd, .db3.zstd; unpacked into a temporary
    folder while in use) or per message. Incomplete recordings are read as far as possible; `lost`
    names what is missing.

    Use it in a with statement. Messages are read on request, in the order of their stamps within
    each file.

    Attributes:
        path: the recording.
        lost: texts about what could not be read, each with the file's name; grows if damage is
            found while messages are read.
        notes: remarks about recordings that are unusual but complete (a journal, no
            metadata.yaml).

    Raises:
        BagError: the recording is missing, or nothing of it can be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise BagError(f"{self.path}: there is no such bag")
        try:
            self._files = BagFiles(self.path)
        except OSError as error:
            raise BagError(f"{self.path}: cannot be read: {error}") from error
        self.lost, self.notes = self._files.lost, self._files.notes
        self._registered: set[str] = set()
        for topic, types in self._types().items():
            (kept, most), *others = types
            self.lost += [
                f"{self.path}: topic {topic} has messages of several types; the {count} of "
                f"{other} are left out, the {most} of {kept} are read"
                for other, count in others
                if count
            ]

    def _types(self) -> dict[str, list[tuple[str, int]]]:
        """The message types of each topic with their counts, most frequent first; only the first
        type is read."""
        counts: dict[str, Counter[str]] = {}
        for one in self.connections:
            counts.setdefault(one.topic, Counter())[one.msgtype] += int(one.msgcount)
        return {topic: types.most_common() for topic, types in counts.items()}

    @property
    def connections(self) -> list[Connection]:
        """The topics of each file, as rosbags connections."""
        return [one for part in self._files.parts for one in part.storage.connections]

    @property
    def topics(self) -> dict[str, Topic]:
        """The bag's topics by name."""
        found: dict[str, Topic] = {}
        types = self._types()
        for connection in self.connections:
            name = connection.topic
            if connection.msgtype != types[name][0][0]:
                continue
            before = found.get(name)
            count = int(connection.msgcount) + (before.count if before else 0)
            profiles = getattr(connection.ext, "offered_qos_profiles", [])
            latched = bool(profiles) and all(
                profile.durability.name == "TRANSIENT_LOCAL" for profile in profiles
            )
            found[name] = Topic(name, connection.msgtype, count, latched)
        for name, kind in self._files.metadata.topics:
            found.setdefault(name, Topic(name, kind, 0, False))
        return found

    @property
    def duration_ns(self) -> int:
        """Time from the first to the last message, nanoseconds."""
        spans = [part.storage.metadata for part in self._files.parts]
        spans = [one for one in spans if one.message_count]
        first = min((int(one.start_time) for one in spans), default=0)
        last = max((int(one.end_time) for one in spans), default=0)
        return max(0, last - first - 1)  # the library's end is one nanosecond later

    @property
    def info(self) -> Mapping[str, str]:
        """The custom data of the bag's metadata."""
        return dict(self._files.metadata.custom)

    def messages(self, topics: Collection[str] | None = None) -> Iterator[tuple[str, int, bytes]]:
        """Iterate over (topic, stamp in ns, serialised message), for all topics or those named.

        Raises:
            BagError: a topic is not in the bag, or a file is damaged so that the rest cannot be
                read.
        """
        from lmeec_core.bags.unpacking import PACKED_MAGIC, unpack_zstd

        known = self.topics
        missing = [topic for topic in topics or () if topic not in known]
        if missing:
            raise BagError(f"{self.path}: no topic {missing[0]!r}; it has {sorted(known)}")
        for connection in self.connections:
            form = getattr(connection.ext, "serialization_format", "cdr")
            if form != "cdr" and (topics is None or connection.topic in topics):
                raise BagError(
                    f"{self.path}: messages of {connection.topic} are serialised as {form!r}, "
                    "'cdr' expected"
                )
        for part in self._files.parts:
            try:
                for connection, stamp, data in part.messages(topics, self.lost.append):
                    if connection.msgtype != known[connection.topic].type:
                        continue
                    # Only the metadata says whether messages are compressed, and a single file has
                    # none. No serialised message begins like zstd data: its first byte is 0.
                    packed = data[:4] == PACKED_MAGIC
                    yield connection.topic, stamp, unpack_zstd(data) if packed else bytes(data)
            except GeneratorExit:
                raise
            except Exception as error:
                raise BagError(f"{part.path}: broken off or damaged: {error}") from error

    def decode(self, topic: str, data: bytes) -> Any:
        """Deserialise a message into an object with the message's fields.

        For unknown types, the definition in the bag is used, if there is one.

        Raises:
            BagError: the type's definition is not found, or the message does not match it.
        """
        type_name = self.topics[topic].type
        try:
            if type_name not in self._registered:
                self._learn(type_name)
                self._registered.add(type_name)
            return typestore().deserialize_cdr(data, type_name)
        except BagError:
            raise
        except Exception as error:  # the library's readers raise errors of many kinds
            raise BagError(
                f"{self.path}: topic {topic}, {type_name}: a message of {len(data)} bytes cannot "
                f"be read: {error!r}"
            ) from error

    def _learn(self, type_name: str) -> None:
        if type_name in typestore().fielddefs:
            return
        from rosbags.typesys import get_types_from_msg

        for connection in self.connections:
            text = connection.msgdef.data
            if connection.msgtype == type_name and text and not text.startswith("=" * 80 + "\nIDL"):
                found = get_types_from_msg(text, type_name)
                known = typestore().fielddefs
                typestore().register({n: d for n, d in found.items() if n not in known})
                return
        ensure_type(type_name)

    def close(self) -> None:
        """Close the files."""
        self._files.close()

    def __enter__(self) -> BagReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _qos(latched: bool) -> Any:
    from rosbags.interfaces import (
        Qos,
        QosDurability,
        QosHistory,
        QosLiveliness,
        QosReliability,
        QosTime,
    )

    infinite = QosTime(9223372036, 854775807)
    return Qos(
        history=QosHistory.KEEP_LAST,
        depth=10,
        reliability=QosReliability.RELIABLE,
        durability=QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE,
        deadline=infinite,
        lifespan=infinite,
        liveliness=QosLiveliness.AUTOMATIC,
        liveliness_lease_duration=infinite,
        avoid_ros_namespace_conventions=False,
    )
