"""The files that belong to a recording, by its metadata.yaml or by the files in its folder."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePath

import yaml

from lmeec_core.errors import InputError

PACKED = ".zstd"
METADATA = "metadata.yaml"
MAGICS = {b"\x89MCAP0\r\n": "mcap", b"SQLite format 3\0": "sqlite3", b"#ROSBAG V": "ros1"}
"""The first bytes of storage files."""
_SUFFIXES = {".mcap": "mcap", ".db3": "sqlite3", ".bag": "ros1"}


class BagError(InputError):
    """A bag is missing, broken, or not what was expected; the text begins with its path."""


@dataclass
class Metadata:
    """The relevant content of a recording's metadata.yaml."""

    files: tuple[str, ...] = ()
    topics: tuple[tuple[str, str], ...] = ()
    """Name and type."""
    custom: Mapping[str, str] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    """Messages by file."""

    @classmethod
    def read(cls, path: Path) -> Metadata:
        """Read the file.

        Raises:
            BagError: it cannot be understood.
        """
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
            given = content["rosbag2_bagfile_information"]
            topics = [one["topic_metadata"] for one in given["topics_with_message_count"]]
            files = [PurePath(name).name for name in given["relative_file_paths"]]
            parts = given.get("files") or []
            counts = {PurePath(p["path"]).name: int(p["message_count"]) for p in parts}
            custom = {str(k): str(v) for k, v in (given.get("custom_data") or {}).items()}
            named = tuple((str(one["name"]), str(one["type"])) for one in topics)
        except (OSError, yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise BagError(f"{path}: cannot be understood: {error!r}") from error
        except RecursionError as error:
            raise BagError(f"{path}: cannot be understood: too deep") from error
        return cls(tuple(files), named, custom, counts)


def storage_files(folder: Path) -> list[Path]:
    """The .mcap and .db3 files of a folder, compressed ones too, bag_2 before bag_10."""

    def order(file: Path) -> list[tuple[int, str]]:
        return [(int(p), "") if p.isdecimal() else (-1, p) for p in re.split(r"(\d+)", file.name)]

    suffixes = (".mcap", ".db3")
    names = (f for f in folder.iterdir() if not f.name.startswith("."))
    files = [f for f in names if bare(f).suffix in suffixes and f.is_file()]
    return sorted(files, key=order)


def kind_of(path: Path) -> str:
    """Kind of a storage file, by its first bytes, else by its name: mcap, sqlite3, ros1, or ""."""
    with suppress(OSError), path.open("rb") as file:
        begin = file.read(max(map(len, MAGICS)))
        for magic, kind in MAGICS.items():
            if begin.startswith(magic):
                return kind
    return _SUFFIXES.get(path.suffix, "")


def is_bag(path: Path) -> bool:
    """Whether the path is a recording, complete or not: a folder with storage files, or a file."""
    if path.is_dir():
        return (path / METADATA).is_file() or bool(storage_files(path))
    if bare(path).suffix in _SUFFIXES:
        return True
    return path.is_file() and bool(kind_of(path))


def bare(path: Path) -> Path:
    """The name of a file without the compression suffix."""
    return path.with_suffix("") if path.suffix == PACKED else path


def stem(path: Path) -> str:
    """The common part of the names of a recording's files: bag for bag_2.mcap."""
    return re.sub(r"_\d+$", "", bare(path).stem)


def without_copies(files: Collection[Path]) -> Sequence[Path]:
    """The files, without compressed ones that also exist unpacked (ros2 bag play unpacks them)."""
    names = {file.name for file in files}
    return [f for f in files if f.suffix != PACKED or f.name.removesuffix(PACKED) not in names]
