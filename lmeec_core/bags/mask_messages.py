"""Images and masks as messages, for the message classes of rosbags or of ROS."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from lmeec_core.bags.bag import MASKS_TYPE, BagError, typestore
from lmeec_core.geometry import centroid

SECOND_NS = 1_000_000_000
Mask = NDArray[np.bool_]


class MessageFactory:
    """Makes messages of the given classes.

    Args:
        type_of: returns the class of a type such as sensor_msgs/msg/Image; its constructor takes
            the fields by name.
        data: converts the bytes of an image, uint8 (N,), to the type of the class's field.
    """

    def __init__(
        self, type_of: Callable[[str], Any], data: Callable[[NDArray[np.uint8]], Any]
    ) -> None:
        self._type_of = type_of
        self._data = data

    def header(self, stamp_ns: int, frame_id: str) -> Any:
        """std_msgs/Header."""
        sec, nanosec = divmod(stamp_ns, SECOND_NS)
        time = self._type_of("builtin_interfaces/msg/Time")(sec=sec, nanosec=nanosec)
        return self._type_of("std_msgs/msg/Header")(stamp=time, frame_id=frame_id)

    def image(self, header: Any, pixels: NDArray[Any], encoding: str) -> Any:
        """sensor_msgs/Image of (H, W) or (H, W, C) pixels, uint8 or uint16."""
        height, width = pixels.shape[:2]
        return self._type_of("sensor_msgs/msg/Image")(
            header=header,
            height=height,
            width=width,
            encoding=encoding,
            is_bigendian=0,
            step=pixels.nbytes // height if height else 0,
            data=self._data(np.ascontiguousarray(pixels).view(np.uint8).reshape(-1)),
        )

    def mask(
        self,
        object_id: str,
        label: int,
        mask: Mask | None,
        header: Any,
        presence: float,
        score: float,
    ) -> Any:
        """lmeec/CorrespondenceMask: the mask cropped to its bounding box; visible if it has any.

        Args:
            object_id: the object's id.
            label: its value in label images.
            mask: bool (H, W) at the image's size; None or empty if the object is not visible.
            header: the image's header.
            presence: presence probability, 0 to 1.
            score: predicted IoU, 0 to 1.
        """
        columns = np.flatnonzero(mask.any(axis=0)) if mask is not None else np.zeros(0, int)
        crop = np.zeros((0, 0), np.bool_)
        left = top = 0
        x = y = 0.0
        if mask is not None and columns.size:
            rows = np.flatnonzero(mask.any(axis=1))
            top, left = int(rows[0]), int(columns[0])
            crop = mask[top : int(rows[-1]) + 1, left : int(columns[-1]) + 1]
            x, y = centroid(crop, left, top)
        height, width = crop.shape
        roi = self._type_of("sensor_msgs/msg/RegionOfInterest")(
            x_offset=left, y_offset=top, height=height, width=width, do_rectify=False
        )
        return self._type_of("lmeec/msg/CorrespondenceMask")(
            object_id=object_id,
            label=label,
            visible=bool(crop.size),
            presence=presence,
            score=score,
            roi=roi,
            mask=self.image(header, crop.astype(np.uint8) * 255, "mono8"),
            area=int(np.count_nonzero(crop)),
            centroid_x=x,
            centroid_y=y,
        )

    def masks(
        self,
        header: Any,
        query_header: Any,
        cameras: tuple[str, str],
        size: tuple[int, int],
        masks: Sequence[Any],
    ) -> Any:
        """lmeec/CorrespondenceMaskArray, with a processing time of 0.

        Args:
            header: the target image's header.
            query_header: the query image's header.
            cameras: names of the query and of the target camera.
            size: (height, width) of the target image.
            masks: the objects' messages, made by :meth:`mask`.
        """
        return self._type_of(MASKS_TYPE)(
            header=header,
            query_header=query_header,
            query_camera=cameras[0],
            target_camera=cameras[1],
            height=size[0],
            width=size[1],
            processing_time=self._type_of("builtin_interfaces/msg/Duration")(sec=0, nanosec=0),
            masks=masks,
        )


BAG = MessageFactory(lambda name: typestore().types[name], lambda data: data)
"""Makes messages that rosbags writes."""


def label_image(
    masks: Mapping[int, Mask | None], size: tuple[int, int], dtype: DTypeLike | None = None
) -> tuple[NDArray[Any], int]:
    """Combine masks into a label image.

    Args:
        masks: bool (H, W) or None, by label (from 1).
        size: (H, W).
        dtype: type of the image; None: uint8, or uint16 if a label exceeds 254 (255 means "ignore"
            in 8-bit images).

    Returns:
        The image, 0 = background, and the number of pixels that belong to several objects; they get
        the highest label.

    Raises:
        BagError: a mask has another size.
    """
    if dtype is None:
        dtype = np.uint8 if max(masks, default=0) < 255 else np.uint16
    labels = np.zeros(size, dtype=dtype)
    overlap = 0
    for label in sorted(masks):
        mask = masks[label]
        if mask is None:
            continue
        if mask.shape != size:
            raise BagError(
                f"masks of shapes {size} and {mask.shape} on one frame, but a label image has only "
                "one size; write the masks as mask_array"
            )
        overlap += int(np.count_nonzero(labels[mask]))
        labels[mask] = label
    return labels, overlap
