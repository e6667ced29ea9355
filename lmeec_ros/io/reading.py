"""From the messages of the inputs to pixels and masks, as the configuration says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lmeec_core.errors import InputError
from lmeec_core.methods.candidates.given import label_masks
from lmeec_core.takes.images import ImageReader
from lmeec_ros.io import images, messages
from lmeec_ros.parameters.config import NodeConfig


def image_readers(config: NodeConfig) -> dict[str, ImageReader]:
    """A reader for each camera; they live as long as a recording, or the node's configuration."""
    return {
        name: ImageReader(f"camera {name!r} ({camera.address})")
        for name, camera in config.cameras.items()
    }


def read_image(
    config: NodeConfig, camera: str, msg: Any, reader: ImageReader | None = None
) -> images.Array:
    """The pixels of a camera's message, uint8 RGB (H, W, 3).

    Args:
        config: the camera's topic, its transport and the limit of pixels.
        camera: its name.
        msg: the message, or why there is none (an InputError).
        reader: the camera's, of :func:`image_readers`; without one the image stands alone.

    Raises:
        InputError: if it cannot be used, or is one itself (it could not be decoded).
    """
    if isinstance(msg, InputError):
        raise msg
    given = config.cameras[camera]
    raw = given.transport == "raw"
    read: Callable[..., images.Array] = images.to_rgb if raw else images.compressed_to_rgb
    try:
        return read(msg, config.max_image_pixels, reader)
    except images.ImageError as error:
        raise InputError(f"camera {camera!r} ({given.address}): {error}") from error


def read_candidates(
    config: NodeConfig, camera: str, msg: Any, image: tuple[int, int]
) -> messages.Mask:
    """The candidate masks (N, h, w) of a target image of the size (height, width).

    Raises:
        InputError: as :func:`read_image`, or :func:`lmeec_core.methods.candidates.label_masks`.
    """
    if isinstance(msg, InputError):
        raise msg
    given = config.candidate_masks[camera]
    read = images.to_labels if given.transport == "raw" else images.compressed_to_labels
    try:
        labels = read(msg, config.max_image_pixels)
        return label_masks(labels, image, config.candidates.limits)
    except InputError as error:
        raise InputError(f"candidates of {camera!r} ({given.address}): {error}") from error


def read_query_masks(
    config: NodeConfig, table: messages.LabelTable, msg: Any
) -> dict[str, messages.Mask | None]:
    """The query masks of a message, bool (H, W) by object; None for an object without one.

    Raises:
        InputError: as :func:`read_image`.
    """
    if isinstance(msg, InputError):
        raise msg
    given, limit = config.query_masks, config.max_image_pixels
    try:
        if given.type == "mask_array":
            return messages.masks_from_array(msg, table, limit, config.max_objects)
        raw = given.transport == "raw"
        labels = (images.to_labels if raw else images.compressed_to_labels)(msg, limit)
        return messages.masks_from_labels(labels, table, config.max_objects)
    except (images.ImageError, messages.MessageError) as error:
        raise InputError(f"query masks ({given.address}): {error}") from error
