"""Encoded views, which several trackers of a network share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lmeec_core.errors import InputError
from lmeec_core.model import LMEEC, ViewFeatures
from lmeec_core.model.stages import StageRunner
from lmeec_core.preprocessing import check_image, prepare_images

Image = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class EncodedView:
    """An image encoded by a network. Trackers of this network accept it instead of the image.

    Attributes:
        model: the network.
        size: (height, width) of the image, in pixels.
        inputs: (1, 3, S, S) float32, the network's input.
        features: features of one view.
        prepared: (1, P, C), see :meth:`lmeec_core.model.LMEEC.prepare_targets`.
    """

    model: LMEEC
    size: tuple[int, int]
    inputs: Tensor
    features: ViewFeatures
    prepared: Tensor


View = Image | EncodedView
Encode = Callable[[Sequence[Image]], list[EncodedView]]


@torch.inference_mode()
def encode_views(
    model: LMEEC, images: Sequence[Image], runner: StageRunner | None = None
) -> list[EncodedView]:
    """Encode images as one batch.

    Args:
        model: the network.
        images: RGB uint8 (H, W, 3), of any sizes.
        runner: computes the stages; None: the model's own.

    Raises:
        InputError: an image is invalid.
    """
    checked = [check_image("image", image) for image in images]
    if not checked:
        return []
    run = runner or model.runner or model.compute
    with model.autocast():
        inputs = prepare_images(checked, model.config.image_size, model.device)
        features = model.encode_images(inputs, run)
        prepared = model.prepare_targets(features, run)
    return [
        EncodedView(
            model,
            (image.shape[0], image.shape[1]),
            inputs[i : i + 1],
            features.map(lambda x, i=i: x[i : i + 1]),  # type: ignore[misc]
            prepared[i : i + 1],
        )
        for i, image in enumerate(checked)
    ]


def check_view(name: str, view: object, model: LMEEC) -> View:
    """Return the argument if it is a valid image, or a view encoded by this network.

    Raises:
        InputError: names the camera, what was given and what is expected.
    """
    if not isinstance(view, EncodedView):
        return check_image(name, view)
    if view.model is not model:
        raise InputError(
            f"image {name!r}: a view that another network has encoded given; one of this network, "
            "or the image itself, expected"
        )
    return view


def size_of(view: View) -> tuple[int, int]:
    """(height, width) of a view, in pixels."""
    return view.size if isinstance(view, EncodedView) else (view.shape[0], view.shape[1])


def encoded(model: LMEEC, name: str, view: object, runner: StageRunner | None) -> EncodedView:
    """A view of one camera, encoded if it is not already.

    Raises:
        InputError: see :func:`check_view`.
    """
    checked = check_view(name, view, model)
    if isinstance(checked, EncodedView):
        return checked
    return encode_views(model, [checked], runner)[0]


class SharedViews:
    """The images of one frame, each encoded only once, when it is first needed.

    Args:
        images: by camera.
        encode: encodes images; None: images are not encoded.
    """

    def __init__(self, images: Mapping[str, Image], encode: Encode | None = None) -> None:
        self.images = dict(images)
        self._encode = encode
        self._encoded: dict[str, EncodedView] = {}

    def of(self, cameras: Iterable[str]) -> dict[str, View]:
        """The views of these cameras; new ones are encoded as one batch."""
        names = list(cameras)
        if self._encode is None:
            return {name: self.images[name] for name in names}
        new = [name for name in names if name not in self._encoded]
        images = [check_image(name, self.images[name]) for name in new]
        found = self._encode(images) if new else []
        self._encoded.update(zip(new, found, strict=True))
        return {name: self._encoded[name] for name in names}
