"""Loads the frozen features that a matcher needs, by name."""

from __future__ import annotations

from lmeec_core.checkpoint import load_model
from lmeec_core.errors import InputError
from lmeec_core.methods.omama.features import EncoderFeatures, Features


def load_features(name: str, weights: str | None = None, device: str = "auto") -> Features:
    """Features by name.

    Args:
        name: "nano", the small network's, or "dinov2", the published ones.
        weights: a file (or a folder of transformers); None are the bundled ones of nano, and those
            in the user's cache of DINOv2.
        device: as of :func:`lmeec_core.load_model`.

    Raises:
        InputError: an unknown name, or weights that cannot be used.
        ImportError: dinov2 without transformers.
    """
    if name == "nano":
        return EncoderFeatures(load_model("nano", weights, device))
    if name == "dinov2":
        from lmeec_core.methods.omama.dinov2 import load_dinov2

        return load_dinov2(weights, device)
    raise InputError(f"features {name!r} given, nano or dinov2 expected")
