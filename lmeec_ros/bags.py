"""rosbag2 recordings without ROS: written whole or not at all, read message by message.

Bags are read and written by the rosbags library, so no ROS installation is needed; the files are
those of ``ros2 bag`` (MCAP storage; reading also sqlite3, with or without compression).
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import TYPE_CHECKING, Any

from lmeec_core.errors import InputError
from lmeec_ros.bag_rescue import WholeChunks

if TYPE_CHECKING:
    from rosbags.interfaces import Connection
    from rosbags.typesys.store import Typestore

MASKS_TYPE = "lmeec/msg/CorrespondenceMaskArray"
PACKED = ".zstd"
PACKED_MAGIC = b"\x28\xb5\x2f\xfd"
"""How zstd data begin."""
INFO_KEY = "lmeec"
"""Key of this project's entry (JSON) in a bag's custom data."""
_TYPE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*/msg/[A-Za-z][A-Za-z0-9_]*")


class BagError(InputError):
    """A bag is missing, broken, or not what was expected; the text begins with its path."""


@dataclass(frozen=True)
class Topic:
    """A topic of a bag.

    Attributes:
        name, type: as in ROS, "sensor_msgs/msg/Image".
        count: number of messages.
        latched: published transient local, for those who subscribe later.
    """

    name: str
    type: str
    count: int
    latched: bool


def split_type(type_name: str) -> tuple[str, str]:
    """Package and name of a message type, "package/msg/Name".

    Type names come from recordings and lead to files and modules, so nothing else is let through.

    Raises:
        BagError: if it is no such name.
    """
    if not _TYPE_NAME.fullmatch(type_name):
        raise BagError(f"message type {type_name[:80]!r} given, package/msg/Name expected")
    package, _, name = type_name.split("/")
    return package, name


def find_definition(type_name: str) -> str:
    """Text of a message definition (.msg) from the ROS packages at hand or this source tree.

    Args:
        type_name: "package/msg/Name".

    Raises:
        BagError: if there is none.
    """
    package, name = split_type(type_name)
    here = Path(__file__).resolve()
    prefixes = [Path(p) for p in os.environ.get("AMENT_PREFIX_PATH", "").split(":") if p]
    folders = [prefix / "share" / package / "msg" for prefix in prefixes]
    if package == "lmeec":
        folders.insert(0, here.parents[1] / "msg")
        folders += [parent / "share" / "lmeec" / "msg" for parent in here.parents]
    for folder in folders:
        file = folder / f"{name}.msg"
        if file.is_file():
            return file.read_text(encoding="utf-8")
    raise BagError(
        f"{type_name}: its .msg definition was not found; source the workspace that built it "
        f"(AMENT_PREFIX_PATH is {os.environ.get('AMENT_PREFIX_PATH', '')!r})"
    )


@cache
def typestore() -> Typestore:
    """The message types of ROS 2 Jazzy and of this package; `ensure_type` adds more."""
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS2_JAZZY)
    _register(store, MASKS_TYPE)
    return store


def ensure_type(type_name: str) -> None:
    """Make a message type known, from its .msg file and those of the types in it.

    Raises:
        BagError: if a definition is not found.
    """
    if type_name not in typestore().fielddefs:
        _register(typestore(), type_name)


def _register(store: Typestore, type_name: str) -> None:
    from rosbags.typesys import get_types_from_msg

    found = get_types_from_msg(find_definition(type_name), type_name)
    for name, (_, fields) in found.items():
        for _, (_, detail) in fields:
            for inner in _named_types(detail):
                if inner not in store.fielddefs and inner not in found:
                    _register(store, inner)
        store.register({name: found[name]})


def _named_types(detail: Any) -> Iterator[str]:
    """Message types named in a field's description, which nests tuples for sequences."""
    if isinstance(detail, str):
        if "/msg/" in detail:
            yield detail
    elif isinstance(detail, tuple):
        for part in detail:
            yield from _named_types(part)


class BagWriter:
    """Write a rosbag2 folder (MCAP) that appears under its name only once it is complete.

        with BagWriter("out/recording") as bag:
            bag.add_topic("/cam/image_raw", "sensor_msgs/msg/Image")
            bag.write("/cam/image_raw", stamp_ns, message)

    Until then it lies in a hidden folder beside; an exception in the block removes that.

    Args:
        path: folder of the bag.
        overwrite: replace a bag that is there; otherwise BagError.
        keep: what a full disk took is a bag, too; otherwise nothing of it is left.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, overwrite: bool = False, keep: bool = False
    ) -> None:
        from rosbags.rosbag2 import StoragePlugin, Writer

        self.path = Path(path)
        if self.path.exists() and not (overwrite and is_bag(self.path)):
            # Nothing but a bag is ever replaced: a mistyped path must not cost a folder.
            hint = "it is not a bag" if overwrite else "remove it or ask to overwrite it"
            raise BagError(f"{self.path}: exists already; {hint}")
        self._temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.partial")
        shutil.rmtree(self._temporary, ignore_errors=True)
        self._temporary.mkdir(parents=True)
        # The file in the folder takes the folder's name, so the inner folder has the final one.
        self._writer = Writer(
            self._temporary / self.path.name, version=9, storage_plugin=StoragePlugin.MCAP
        )
        self._writer.open()
        self._whole = WholeChunks(self._writer) if keep else None
        self._topics: dict[str, Connection] = {}
        self.counts: dict[str, int] = {}

    def add_topic(self, topic: str, type_name: str, *, latched: bool = False) -> None:
        """Declare a topic; a second time does nothing.

        Raises:
            BagError: if the type's definition is not found.
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
            BagError: if it cannot be written (a full disk); says what is left of the bag.
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
        """Finish the bag and give it its name.

        Raises:
            BagError: if it cannot be written (a full disk); says what is left of the bag.
        """
        try:
            self._writer.close()
        except OSError as error:
            raise self._given_up(error) from error
        self._publish()

    def _publish(self) -> None:
        old = self._temporary / "replaced"
        if self.path.exists():
            os.replace(self.path, old)
        os.replace(self._temporary / self.path.name, self.path)
        shutil.rmtree(self._temporary, ignore_errors=True)

    def abort(self) -> None:
        """Remove what was written; nothing appears under the bag's name."""
        with suppress(OSError):  # it may try to write what a full disk did not take
            self._writer.abort()
        shutil.rmtree(self._temporary, ignore_errors=True)

    def _given_up(self, error: OSError) -> BagError:
        kept = self._whole.close() if self._whole is not None else 0
        if kept:
            self._publish()
            return BagError(
                f"{self.path}: not written to the end: {error.strerror}; the first {kept} messages "
                "are kept, in a bag that is closed (make room and record again)"
            )
        self.abort()
        return BagError(
            f"{self.path}: not written: {error.strerror}; nothing of it was kept (make room and "
            "record again)"
        )

    def __enter__(self) -> BagWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()


class BagReader:
    """Read a rosbag2 recording: a folder with metadata.yaml, or one of its .mcap or .db3 files.

    A file alone is read too if the bag is compressed: whole (.mcap.zstd, .db3.zstd; unpacked into
    a temporary folder meanwhile) or message by message.

    Use it in a with statement. Messages are read as they are asked for, in the order of their
    stamps within each file.

    Raises:
        BagError: if it is missing or broken.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        from rosbags.rosbag2 import Reader

        from lmeec_ros import unpacking

        self.path = Path(path)
        if not self.path.exists():
            raise BagError(f"{self.path}: there is no such bag")
        unpacking.install()
        self._unpacked: TemporaryDirectory[str] | None = None
        try:
            self._reader = Reader(self._unpack() if self.path.suffix == PACKED else self.path)
            self._reader.open()
        except Exception as error:  # the library's readers raise errors of many kinds
            self._remove_unpacked()
            raise BagError(
                f"{self.path}: is no readable rosbag2 recording: "
                f"{str(error).removesuffix('.')}{self._hint()}"
            ) from error
        self._registered: set[str] = set()

    @property
    def topics(self) -> dict[str, Topic]:
        """The bag's topics by name."""
        found: dict[str, Topic] = {}
        for connection in self._reader.connections:
            count = (found[connection.topic].count if connection.topic in found else 0) + int(
                connection.msgcount
            )
            profiles = getattr(connection.ext, "offered_qos_profiles", [])
            latched = bool(profiles) and all(
                profile.durability.name == "TRANSIENT_LOCAL" for profile in profiles
            )
            found[connection.topic] = Topic(connection.topic, connection.msgtype, count, latched)
        return found

    @property
    def duration_ns(self) -> int:
        """Time from the first to the last message, nanoseconds."""
        return max(0, int(self._reader.duration) - 1)  # the library counts one nanosecond more

    @property
    def info(self) -> Mapping[str, str]:
        """The custom data of the bag's metadata."""
        metadata = self._reader.storage.metadata
        return dict(metadata.custom or {})

    def messages(self, topics: Collection[str] | None = None) -> Iterator[tuple[str, int, bytes]]:
        """Go through (topic, stamp in ns, serialised message), all topics or those named.

        Raises:
            BagError: if a topic is not in the bag, or the file breaks off.
        """
        from lmeec_ros.unpacking import unpack_zstd

        known = self.topics
        missing = [topic for topic in topics or () if topic not in known]
        if missing:
            raise BagError(f"{self.path}: no topic {missing[0]!r}; it has {sorted(known)}")
        chosen = [c for c in self._reader.connections if topics is None or c.topic in topics]
        if not chosen:
            return
        try:
            for connection, stamp, data in self._reader.messages(chosen):
                # The metadata says whether messages are compressed; a file alone does not have it.
                # No serialised message begins like that: its first byte is 0.
                packed = data[:4] == PACKED_MAGIC
                yield connection.topic, stamp, unpack_zstd(data) if packed else bytes(data)
        except GeneratorExit:
            raise
        except Exception as error:
            raise BagError(f"{self.path}: broken off or damaged: {error}") from error

    def decode(self, topic: str, data: bytes) -> Any:
        """A serialised message as an object with the message's fields.

        Types that are not known take the definition that the bag carries, if it does.

        Raises:
            BagError: if the type cannot be made known, or the message does not have it.
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

        for connection in self._reader.connections:
            text = connection.msgdef.data
            if connection.msgtype == type_name and text and not text.startswith("=" * 80 + "\nIDL"):
                found = get_types_from_msg(text, type_name)
                known = typestore().fielddefs
                typestore().register({n: d for n, d in found.items() if n not in known})
                return
        ensure_type(type_name)

    def close(self) -> None:
        """Close the files."""
        self._reader.close()
        self._remove_unpacked()

    def _unpack(self) -> Path:
        """The storage file of a compressed one, in a temporary folder."""
        from lmeec_ros import unpacking

        self._unpacked = TemporaryDirectory(prefix="lmeec_bag_")
        file = Path(self._unpacked.name) / self.path.stem
        with (
            self.path.open("rb") as raw,
            unpacking.open_zstd(raw, "rb") as packed,
            file.open("wb") as plain,
        ):
            shutil.copyfileobj(packed, plain)
        return file

    def _remove_unpacked(self) -> None:
        if self._unpacked is not None:
            self._unpacked.cleanup()

    def _hint(self) -> str:
        """What to do about a folder without metadata.yaml, as a killed recorder leaves it."""
        files = [file.name for file in sorted(self.path.glob("*")) if is_bag(file)]
        if not files or (self.path / "metadata.yaml").exists():
            return ""
        return f"; name one of its files instead: {', '.join(files)}"

    def __enter__(self) -> BagReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def is_bag(path: str | os.PathLike[str]) -> bool:
    """Whether the path looks like a rosbag2 recording."""
    path = Path(path)
    name = path.name.removesuffix(PACKED)
    return (path / "metadata.yaml").is_file() or name.endswith((".mcap", ".db3"))


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
