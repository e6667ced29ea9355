"""Message types for recordings: those of ROS 2 Jazzy, of this package, and any others found."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmeec_core.bags.layout import BagError

if TYPE_CHECKING:
    from rosbags.typesys.store import Typestore

MASKS_TYPE = "lmeec/msg/CorrespondenceMaskArray"
_TYPE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*/msg/[A-Za-z][A-Za-z0-9_]*")


def split_type(type_name: str) -> tuple[str, str]:
    """Package and name of a message type, "package/msg/Name".

    Type names come from recordings and select files and modules, so anything else is rejected.

    Raises:
        BagError: the name has another form.
    """
    if not _TYPE_NAME.fullmatch(type_name):
        raise BagError(f"message type {type_name[:80]!r} given, package/msg/Name expected")
    package, _, name = type_name.split("/")
    return package, name


def find_definition(type_name: str) -> str:
    """Text of a message definition (.msg) from the installed ROS packages or this source tree.

    Args:
        type_name: "package/msg/Name".

    Raises:
        BagError: there is none.
    """
    package, name = split_type(type_name)
    here = Path(__file__).resolve()
    prefixes = [Path(p) for p in os.environ.get("AMENT_PREFIX_PATH", "").split(":") if p]
    folders = [prefix / "share" / package / "msg" for prefix in prefixes]
    if package == "lmeec":
        folders.insert(0, here.parents[2] / "msg")
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
    """Register a message type, from its .msg file and those of its fields' types.

    Raises:
        BagError: a definition is not found.
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
