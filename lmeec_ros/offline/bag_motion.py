"""Image motion of a bag's cameras."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lmeec_core.bags.bag import BagReader
from lmeec_core.errors import InputError
from lmeec_core.sync.offsets import Motion
from lmeec_core.takes.images import ImageReader
from lmeec_ros.io import images

LONGEST = 60.0
"""Seconds of a bag that are read."""
READ: dict[str, Callable[..., Any]] = {
    "sensor_msgs/msg/Image": images.to_rgb,
    "sensor_msgs/msg/CompressedImage": images.compressed_to_rgb,
}


def bag_motion(path: Path, problems: list[str]) -> dict[str, Motion]:
    """Return the motion of each image topic in the bag's first minute, without label images.

    Args:
        path: the bag.
        problems: receives texts about what could not be read, at most one for each topic.

    Returns:
        image topic to its motion.

    Raises:
        BagError: if the bag cannot be read.
    """
    found: dict[str, Motion] = {}
    with BagReader(path) as bag:
        topics = [
            one.name
            for one in bag.topics.values()
            if one.type in READ and one.count and "label_image" not in one.name
        ]
        readers = {name: ImageReader(name) for name in topics}
        broken: set[str] = set()
        first: int | None = None
        for topic, stamp, data in bag.messages(topics) if topics else ():
            first = stamp if first is None else first
            if stamp - first > LONGEST * 1e9:
                break
            try:
                message = bag.decode(topic, data)
                pixels = READ[bag.topics[topic].type](message, reader=readers[topic])
            except InputError as error:
                if topic not in broken:
                    problems.append(f"{topic}: an image is left out: {error}")
                broken.add(topic)
                continue
            header = message.header.stamp
            found.setdefault(topic, Motion()).add(header.sec * 10**9 + header.nanosec, pixels)
        problems += bag.lost
    return found
