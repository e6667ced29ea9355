"""Settings of the method omama."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict


class OMaMaSettings(BaseModel):
    """How omama compares an object with candidates.

    Attributes:
        features: "network", those of the network that the other settings name (nano by default);
            "dinov2", the published ones; "auto", those that the matcher was trained with.
        weights: of DINOv2, a file or a folder; "" are those in the user's cache.
        matcher: a checkpoint of the matcher, released or trained here; "" compares the features
            themselves, "bundled" is the one that comes with the package for nano.
        follow: whether an object's look in a target view is remembered, see
            :class:`lmeec_core.methods.omama.tracker.OMaMaTracker`.
        text_weights: how texts about objects and candidates are compared, a file; needed where
            there are texts, see :mod:`lmeec_core.methods.omama.texts`.
        text_encoder: folder of the text model that those weights were trained with; "" where they
            were trained with the words themselves.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    features: Literal["auto", "network", "dinov2"] = "auto"
    weights: str = ""
    matcher: str = ""
    follow: bool = False
    text_weights: str = ""
    text_encoder: str = ""
