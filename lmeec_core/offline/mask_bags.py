"""Finished units as a rosbag2 recording of CorrespondenceMaskArray. No ROS needed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lmeec_core.bags.bag import (
    MASKS_TYPE,
    BagError,
    BagReader,
    BagWriter,
)
from lmeec_core.bags.mask_messages import BAG
from lmeec_core.bags.take_bags import stamp_of_frame, topic_name
from lmeec_core.offline.records import FrameRecord, Stamp
from lmeec_core.offline.store import UnitStore
from lmeec_core.offline.units import Unit
from lmeec_core.takes import decode_mask

NODE = "lmeec"
MADE_KEY = "lmeec_track"
"""Key in a bag's custom data by which `lmeec track` recognises its own bags."""


def write_mask_bag(
    path: Path, units: Sequence[Unit], store: UnitStore, *, overwrite: bool = False
) -> int:
    """Write the masks of one recording as the messages that the node publishes.

    Topics are /lmeec/<target>/masks. Every message has the stamp and frame id of its target image,
    and is stored at that time. The processing time is 0, so the same units give the same bytes.

    Args:
        path: folder of the bag.
        units: the units of one recording.
        store: holds the finished units.
        overwrite: replace an existing bag.

    Returns:
        The number of messages.

    Raises:
        BagError: something other than a bag is at the path.
        InputError: a unit is missing or cannot be read.
    """
    merged: dict[tuple[int, str, str], list[FrameRecord]] = {}
    for unit in units:
        query, target = names_of(unit)
        for frame in store.load(unit).frames:
            if frame.image:
                stamp = frame.stamp.ns if frame.stamp else stamp_of_frame(frame.frame)
                merged.setdefault((stamp, target, query), []).append(frame)
    with BagWriter(path, overwrite=overwrite) as bag:
        for unit in units:
            bag.add_topic(topic_of(names_of(unit)[1]), MASKS_TYPE)
        bag.set_info(MADE_KEY, units[0].take)
        for (stamp, target, query), frames in sorted(merged.items(), key=lambda item: item[0]):
            bag.write(topic_of(target), stamp, mask_message(frames, query, target))
    return len(merged)


def is_mask_bag(path: Path) -> bool:
    """Whether the path is a bag that `lmeec track` made."""
    try:
        with BagReader(path) as bag:
            return MADE_KEY in bag.info
    except BagError:
        return False


def names_of(unit: Unit) -> tuple[str, str]:
    """Names of the (query, target) cameras in messages."""
    return unit.names or (topic_name(unit.query), topic_name(unit.target))


def topic_of(target: str) -> str:
    """The node's topic for the masks of a target camera."""
    return f"/{NODE}/{target.replace('-', '_')}/masks"


def mask_message(frames: Sequence[FrameRecord], query: str, target: str) -> Any:
    """The CorrespondenceMaskArray of a target image, with all sets of objects."""
    first = frames[0]
    stamp = first.stamp or Stamp(stamp_of_frame(first.frame), target)
    query_stamp = first.query_stamp or Stamp(stamp_of_frame(first.frame), query)
    own = BAG.header(stamp.ns, stamp.frame_id)
    taken: set[int] = set()
    entries = []
    for frame in frames:
        for entry in frame.objects:
            # Each set of objects of a take is numbered from 1.
            label = entry.label if entry.label not in taken else max(taken) + 1
            taken.add(label)
            mask = decode_mask(entry.mask) if entry.mask is not None else None
            entries.append(BAG.mask(entry.object_id, label, mask, own, entry.presence, entry.score))
    other = BAG.header(query_stamp.ns, query_stamp.frame_id)
    return BAG.masks(own, other, (query, target), first.size, entries)
