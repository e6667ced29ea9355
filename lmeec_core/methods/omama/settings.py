"""Settings of the method omama."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict


class OMaMaSettings(BaseModel):
    """How omama compares an object with candidates.

    Attributes:
        features: "network", those of the network chosen by the other settings (nano by default);
            "dinov2", the published ones; "auto", those that the matcher was trained with.
        weights: file or folder with DINOv2's weights; "": those in the user's cache.
        matcher: a checkpoint of the matcher, released or trained here; "": features are compared
            directly; "bundled": the one that comes with the package for nano.
        follow: whether an object's appearance in a target view is remembered, see
            :class:`lmeec_core.methods.omama.tracker.OMaMaTracker`.
        text_weights: file of weights for comparing descriptions with candidates; required for
            descriptions, see :mod:`lmeec_core.methods.omama.texts`.
        text_encoder: folder of the text model that those weights were trained with; "" if they
            were trained with hashed words.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    features: Literal["auto", "network", "dinov2"] = "auto"
    weights: str = ""
    matcher: str = ""
    follow: bool = False
    text_weights: str = ""
    text_encoder: str = ""
