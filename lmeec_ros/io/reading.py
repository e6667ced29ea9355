"""Convert the input messages to images and masks, according to the configuration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lmeec_core.errors import InputError
from lmeec_core.methods.candidates.given import label_masks
from lmeec_core.takes.images import ImageReader
from lmeec_ros.io import images, messages
from lmeec_ros.parameters.config import NodeConfig


def image_readers(config: NodeConfig) -> dict[str, ImageReader]:
    """Make an image reader for each camera, to be kept for a whole recording or configuration."""
    return {
        name: ImageReader(f"camera {name!r} ({camera.address})")
        for name, camera in config.cameras.items()
    }


def read_image(
    config: NodeConfig, camera: str, msg: Any, reader: ImageReader | None = None
) -> images.Array:
    """Return the image of a camera's message, uint8 RGB (H, W, 3).

    Args:
        config: the camera's topic and transport, and the largest image allowed.
        camera: name of the camera.
        msg: the message, or the InputError with which reading it failed.
        reader: the camera's reader from :func:`image_readers`; without one, the value range of a
            16-bit image is that of this image.

    Raises:
        InputError: if the message cannot be used, or `msg` itself if it is an InputError.
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
    """Return the candidate masks (N, h, w) for a target image of size `image` (height, width).

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
    """Return the query masks of a message: object id to bool (H, W), None if not visible.

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
