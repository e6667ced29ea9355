"""Convert masks to messages and back: CorrespondenceMaskArray and label images."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt
from builtin_interfaces.msg import Duration, Time
from lmeec.msg import CorrespondenceMask, CorrespondenceMaskArray
from sensor_msgs.msg import Image, RegionOfInterest
from std_msgs.msg import Header

from lmeec_core.bags.mask_messages import MessageFactory
from lmeec_core.errors import InputError
from lmeec_core.takes.images import MAX_PIXELS

if TYPE_CHECKING:
    # At run time this would import the network.
    from lmeec_core.correspondence import CorrespondenceLike

Mask = npt.NDArray[np.bool_]

MAX_LABEL = 65535
MAX_ID = 256
"""Maximum length of an object id; ids are never discarded, so their size is limited."""
IGNORED = (255,)
"""Labels that are not objects by default. In the 8-bit label images of PASCAL VOC, Cityscapes and
similar datasets, 255 marks pixels to ignore (object borders, unlabelled pixels)."""
EIGHT_BIT = 255
"""This label is ignored in 8-bit images only; in wider images it is an ordinary label."""


def _data(pixels: npt.NDArray[np.uint8]) -> array[int]:
    data = array("B")  # assigning bytes or a list to a message is much slower
    data.frombytes(pixels.data)
    return data


_TYPES = {
    "builtin_interfaces/msg/Duration": Duration,
    "builtin_interfaces/msg/Time": Time,
    "lmeec/msg/CorrespondenceMask": CorrespondenceMask,
    "lmeec/msg/CorrespondenceMaskArray": CorrespondenceMaskArray,
    "sensor_msgs/msg/Image": Image,
    "sensor_msgs/msg/RegionOfInterest": RegionOfInterest,
    "std_msgs/msg/Header": Header,
}
MESSAGES = MessageFactory(_TYPES.__getitem__, _data)
"""Creates the messages that rclpy publishes."""


class MessageError(InputError):
    """Query masks that cannot be used; the text names what was given and what was expected."""


class LabelTable:
    """Assigns a permanent label (value in label images) to each object id, and maps both ways.

    Args:
        named: label (1 to 65535) to id, both unique.
        ignored: labels that are not objects, unless they are in `named`.
        notify: called with a text when an ignored label occurs for the first time.

    Attributes:
        met: ignored labels that have occurred so far.
    """

    def __init__(
        self,
        named: Mapping[int, str] | None = None,
        ignored: Iterable[int] = IGNORED,
        notify: Callable[[str], object] = lambda _: None,
    ) -> None:
        self.named = dict(named or {})
        self.ignored = frozenset(ignored) - self.named.keys()
        self.met: set[int] = set()
        self._notify = notify
        self._ids = dict(self.named)
        self._labels = {name: label for label, name in self.named.items()}

    def ignores(self, label: int, wide: bool = False) -> bool:
        """Return whether a label is ignored; arguments as in :meth:`id_of`."""
        return label in self.ignored and not (wide and label == EIGHT_BIT)

    def id_of(self, label: int, wide: bool = False) -> str | None:
        """Return the id of a label; one without a name becomes object_<label>.

        Args:
            label: 1 to 65535.
            wide: whether the image has more than 8 bits, so that 255 is not ignored.

        Returns:
            None for an ignored label.
        """
        if self.ignores(label, wide):
            if label not in self.met:
                self.met.add(label)
                self._notify(self.ignored_text()[0])
            return None
        if label not in self._ids:
            name = f"object_{label}"
            while name in self._labels:  # another label has this id
                name += "_"
            self._remember(label, name)
        return self._ids[label]

    def label_of(self, object_id: str, wish: int = 0) -> int:
        """Return the label of an id; a new id gets `wish` if free, else the lowest free one.

        Raises:
            MessageError: if all 65535 labels are taken.
        """
        if object_id not in self._labels:
            free = 1 <= wish <= MAX_LABEL and wish not in self._ids
            label = (
                wish
                if free
                else next((i for i in range(1, MAX_LABEL + 1) if i not in self._ids), 0)
            )
            if not label:
                raise MessageError(f"object {object_id!r}: all {MAX_LABEL} labels are taken")
            self._remember(label, object_id)
        return self._labels[object_id]

    def ignored_text(self) -> list[str]:
        """Return one line about the ignored labels that occurred, or an empty list."""
        if not self.met:
            return []
        labels = ", ".join(map(str, sorted(self.met)))
        return [
            f"ignored in label images: {labels} (parameter ignore_labels; to track a label as an "
            "object, name it in the parameter objects)"
        ]

    @property
    def labels(self) -> dict[str, int]:
        """Label of every id known so far."""
        return dict(self._labels)

    def restore(self, labels: Mapping[str, int]) -> None:
        """Add the labels of an earlier run; existing labels and ids are not changed."""
        for object_id, label in labels.items():
            if object_id not in self._labels and label not in self._ids:
                self._remember(label, object_id)

    def forget(self, object_id: str) -> None:
        """Free the label of an id, unless the parameter `objects` names the id."""
        label = self._labels.get(object_id)
        if label is not None and label not in self.named:
            del self._labels[object_id], self._ids[label]

    def _remember(self, label: int, object_id: str) -> None:
        self._ids[label] = object_id
        self._labels[object_id] = label


def masks_from_labels(
    labels: npt.NDArray[Any], table: LabelTable, max_objects: int = 32
) -> dict[str, Mask | None]:
    """Split a label image into masks.

    Args:
        labels: uint8 or uint16 (H, W), 0 = background.
        table: names of the labels.
        max_objects: refuse images with more labels (a camera image used by mistake has many).

    Returns:
        object id to bool (H, W); None for every named object that is not in the image. Ignored
        labels are left out.

    Raises:
        MessageError: if there are more labels than `max_objects`.
    """
    labels = labels.astype(labels.dtype.newbyteorder("="), copy=False)  # OpenCV needs native order
    values = int(np.iinfo(labels.dtype).max) + 1
    counts = cv2.calcHist([labels], [0], None, [values], [0, values]).ravel()  # 5x np.bincount
    wide = labels.dtype.itemsize > 1
    found = [int(label) for label in np.flatnonzero(counts) if label]
    present = [label for label in found if not table.ignores(label, wide)]
    if len(present) > max_objects:
        raise MessageError(
            f"label image with {len(present)} labels given, at most {max_objects} expected "
            "(parameter max_objects; is it a label image at all?)"
        )
    masks: dict[str, Mask | None] = dict.fromkeys(table.named.values())
    for label in found:
        if (name := table.id_of(label, wide)) is not None:
            masks[name] = labels == label
    return masks


def masks_from_array(
    msg: Any, table: LabelTable, max_pixels: int = MAX_PIXELS, max_objects: int = 32
) -> dict[str, Mask | None]:
    """Return the full-size masks of a CorrespondenceMaskArray.

    Returns:
        object id to bool (height, width); None for objects that are not visible, and for named
        ones that are not in the message.

    Raises:
        MessageError: if a size, a region, an encoding or a buffer is wrong, an id is wrong or
            occurs twice, or there are more than `max_objects` objects. The table is unchanged then.
    """
    width, height = int(msg.width), int(msg.height)
    if not 1 <= width * height <= max_pixels:
        raise MessageError(
            f"mask array of {width} x {height} given, 1 to {max_pixels} pixels expected "
            "(parameter max_image_pixels)"
        )
    if len(msg.masks) > max_objects:
        raise MessageError(
            f"mask array with {len(msg.masks)} objects given, at most {max_objects} expected "
            "(parameter max_objects)"
        )
    crops: dict[str, npt.NDArray[np.uint8] | None] = {}
    for entry in msg.masks:
        name = entry.object_id
        if not name or name in crops or len(name) > MAX_ID:
            raise MessageError(
                f"mask array: object id {name[:80]!r} given, unique ids of 1 to {MAX_ID} "
                "characters expected"
            )
        crops[name] = _crop(entry, width, height) if entry.visible else None
    masks: dict[str, Mask | None] = dict.fromkeys(table.named.values())
    for entry in msg.masks:
        table.label_of(entry.object_id, int(entry.label))
        crop = crops[entry.object_id]
        masks[entry.object_id] = None if crop is None else _full_mask(entry.roi, crop, msg)
    return masks


def _crop(entry: Any, width: int, height: int) -> npt.NDArray[np.uint8]:
    """A view (h, w) of an entry's mask, after checking that it lies inside the image."""
    roi, mask = entry.roi, entry.mask
    where = f"mask array, object {entry.object_id!r}"
    x, y, w, h = int(roi.x_offset), int(roi.y_offset), int(roi.width), int(roi.height)
    if w < 1 or h < 1 or x + w > width or y + h > height:
        raise MessageError(
            f"{where}: region {w} x {h} at ({x}, {y}) given, one inside {width} x {height} expected"
        )
    if mask.encoding not in ("mono8", "8UC1") or (mask.width, mask.height) != (w, h):
        raise MessageError(
            f"{where}: mask {mask.width} x {mask.height} {mask.encoding[:40]} given, {w} x {h} "
            "mono8 (the region's size) expected"
        )
    data = np.frombuffer(mask.data, np.uint8)
    if mask.step < w or data.size != mask.step * h:
        raise MessageError(
            f"{where}: buffer of {data.size} bytes with step {mask.step} given, {w * h} bytes with "
            f"step {w} expected"
        )
    return data.reshape(h, mask.step)[:, :w]


def _full_mask(roi: Any, crop: npt.NDArray[np.uint8], msg: Any) -> Mask:
    full = np.zeros((int(msg.height), int(msg.width)), np.bool_)
    y, x = int(roi.y_offset), int(roi.x_offset)
    full[y : y + crop.shape[0], x : x + crop.shape[1]] = crop > 0
    return full


def mask_array_message(
    found: Mapping[str, CorrespondenceLike],
    masks: Mapping[str, Mask],
    table: LabelTable,
    header: Header,
    query_header: Header,
    cameras: tuple[str, str],
    size: tuple[int, int],
) -> CorrespondenceMaskArray:
    """Return the message with all objects in one target image.

    Args:
        found: object id to the tracker's result for this target.
        masks: object id to bool (H, W), for the same ids.
        table: labels of the ids.
        header: header of the target image.
        query_header: header of the query image.
        cameras: names of the query camera and the target camera.
        size: (height, width) of the target image.
    """
    entries = []
    for name, one in found.items():
        score = min(1.0, max(0.0, float(one.score)))
        label = table.label_of(name)
        entries.append(MESSAGES.mask(name, label, masks[name], header, float(one.presence), score))
    return MESSAGES.masks(header, query_header, cameras, size, entries)
