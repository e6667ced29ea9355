"""The recording that a soak run plays: an endless bag whose messages can be corrupted."""

from __future__ import annotations

import copy
import random
import time
from array import array
from collections.abc import Callable, Collection, Iterator
from typing import Any

import numpy as np
from rclpy.serialization import deserialize_message, serialize_message

from lmeec_core.bags.bag import BagReader, Topic
from lmeec_core.bags.take_bags import RecordingInfo
from lmeec_ros.tools.play import message_class

Sent = list[tuple[str, Any]]
"""Topics and messages, in the order in which they are sent."""

OUT_OF_STEP_NS = 60_000_000
"""Shift of stamps; more than the node's tolerance and than half a period at 10 Hz."""
JUMP_NS = 3_600_000_000_000
NEW_LABEL = 100
"""Labels from this one on occur only in the fault `new_objects`."""
NEW_LABELS = 3
DELAY = 4
"""Frames by which `late_masks` delays the query masks; less than the node's pairing.queue."""


class SoakBag:
    """A looping bag for the player, with wall-clock stamps and messages changed by faults.

    Args:
        bag: an open bag made by `lmeec bag`, with masks as a label image.
        info: description of the bag.
        seed: seed of all random choices.

    Attributes:
        fault: name of the current fault, one of :data:`FAULTS`; "" for none.
    """

    def __init__(self, bag: BagReader, info: RecordingInfo, seed: int) -> None:
        self.path = bag.path
        self.fault = ""
        self._topics = bag.topics
        self._masks = info.mask_topic
        self._target = info.image_topics[info.targets[0]]
        self._random = random.Random(seed)
        self._offset = 0
        self._held: list[Sent] = []
        kinds = {name: message_class(topic.type) for name, topic in bag.topics.items()}
        frames: dict[int, Sent] = {}
        for name, stamp, data in bag.messages():
            frames.setdefault(stamp, []).append((name, deserialize_message(data, kinds[name])))
        self._frames = list(frames.values())

    @property
    def topics(self) -> dict[str, Topic]:
        """The bag's topics by name."""
        return self._topics

    def jump(self) -> None:
        """Set the clock back by an hour."""
        self._offset -= JUMP_NS

    def messages(self, topics: Collection[str] | None = None) -> Iterator[tuple[str, int, bytes]]:
        """Iterate endlessly over topic, stamp (ns) and serialised message."""
        number = 0
        while True:
            stamp = time.time_ns() + self._offset
            frame = [(topic, _copy(msg, stamp)) for topic, msg in self._frames[number]]
            number = (number + 1) % len(self._frames)
            spoil = FAULTS.get(self.fault)
            if spoil is None:
                frame = [entry for held in self._held for entry in held] + frame
                self._held.clear()
            else:
                frame = spoil(self, frame)
            for topic, msg in frame:
                yield topic, stamp, bytes(serialize_message(msg))

    # ---- faults: each takes the messages of one frame and returns those to send instead

    def _as_they_are(self, frame: Sent) -> Sent:
        return frame

    def _duplicate(self, frame: Sent) -> Sent:
        return [entry for entry in frame for _ in range(2)]

    def _reorder(self, frame: Sent) -> Sent:
        """Delay half of the messages until after those of the next frame, and shuffle the rest."""
        before = [entry for held in self._held for entry in held]
        late = [entry for entry in frame if self._random.random() < 0.5]
        self._held = [late]
        now = [entry for entry in frame if entry not in late]
        self._random.shuffle(now)
        return now + before

    def _late_masks(self, frame: Sent) -> Sent:
        self._held.append([entry for entry in frame if entry[0] == self._masks])
        due = self._held.pop(0) if len(self._held) > DELAY else []
        return [entry for entry in frame if entry[0] != self._masks] + due

    def _out_of_step(self, frame: Sent) -> Sent:
        for topic, msg in frame:
            if topic == self._target:
                _set_stamp(msg, _stamp_of(msg) + OUT_OF_STEP_NS)
        return frame

    def _no_masks(self, frame: Sent) -> Sent:
        return [entry for entry in frame if entry[0] != self._masks]

    def _no_target(self, frame: Sent) -> Sent:
        return [entry for entry in frame if entry[0] != self._target]

    def _corrupt_images(self, frame: Sent) -> Sent:
        """Truncate images, overwrite some of their bytes, or replace all of them by noise."""
        for topic, msg in frame:
            if topic == self._masks or self._random.random() < 0.3:
                continue
            data = bytearray(bytes(msg.data))
            kind = self._random.randrange(3)
            if kind == 0:
                del data[self._random.randrange(len(data)) :]
            elif kind == 1:
                start = self._random.randrange(len(data))
                data[start : start + 64] = self._random.randbytes(len(data[start : start + 64]))
            else:
                data = bytearray(self._random.randbytes(len(data)))
            msg.data = array("B", data)
        return frame

    def _wrong_encodings(self, frame: Sent) -> Sent:
        for topic, msg in frame:
            if topic == self._masks:
                msg.encoding = self._random.choice(["rgb8", "32FC1", "bayer_rggb8", "", "\u00e9"])
            else:
                msg.data = array("B", b"GIF89a" + bytes(100))
        return frame

    def _other_masks(self, frame: Sent) -> Sent:
        """Send query masks of half the size, or with a size that does not match their data."""
        for topic, msg in frame:
            if topic != self._masks:
                continue
            if self._random.random() < 0.5:
                msg.height, msg.width = 60_000, 60_000
            else:
                pixels = np.frombuffer(bytes(msg.data), np.uint8)
                half = pixels.reshape(msg.height, msg.step)[::2, : msg.width : 2]
                msg.height, msg.width = half.shape
                msg.step, msg.data = msg.width, array("B", half.tobytes())
        return frame

    def _objects_come_and_go(self, frame: Sent) -> Sent:
        """Remove each object from half of the query masks, at random."""
        return self._relabel(frame, lambda label: 0 if self._random.random() < 0.5 else label)

    def _new_objects(self, frame: Sent) -> Sent:
        """Give the objects labels that have not occurred before."""
        return self._relabel(frame, lambda label: NEW_LABEL + label % NEW_LABELS)

    def _relabel(self, frame: Sent, rule: Callable[[int], int]) -> Sent:
        for topic, msg in frame:
            if topic == self._masks:
                table = np.array([0, *(rule(label) for label in range(1, 256))], np.uint8)
                msg.data = array("B", table[np.frombuffer(bytes(msg.data), np.uint8)].tobytes())
        return frame


FAULTS: dict[str, Callable[[SoakBag, Sent], Sent]] = {
    "burst": SoakBag._as_they_are,  # the feeder does not wait between frames
    "duplicates": SoakBag._duplicate,
    "reordered": SoakBag._reorder,
    "late_masks": SoakBag._late_masks,
    "out_of_step": SoakBag._out_of_step,
    "no_masks": SoakBag._no_masks,
    "no_target": SoakBag._no_target,
    "corrupt_images": SoakBag._corrupt_images,
    "wrong_encodings": SoakBag._wrong_encodings,
    "other_masks": SoakBag._other_masks,
    "objects_come_and_go": SoakBag._objects_come_and_go,
    "new_objects": SoakBag._new_objects,
}
"""Faults in the messages, by name."""


def _copy(message: Any, stamp_ns: int) -> Any:
    """Copy a message with a new header, so that changes do not affect the original."""
    new = copy.copy(message)
    new.header = type(message.header)(frame_id=message.header.frame_id)
    _set_stamp(new, stamp_ns)
    return new


def _set_stamp(message: Any, stamp_ns: int) -> None:
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 1_000_000_000)


def _stamp_of(message: Any) -> int:
    return int(message.header.stamp.sec) * 1_000_000_000 + int(message.header.stamp.nanosec)
