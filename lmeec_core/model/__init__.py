"""The LM-EEC network; it knows nothing of time."""

from lmeec_core.model.lmeec import (
    LMEEC,
    NO_OBJECT_LOGIT,
    Prediction,
    ViewFeatures,
    build_model,
)

__all__ = [
    "LMEEC",
    "NO_OBJECT_LOGIT",
    "Prediction",
    "ViewFeatures",
    "build_model",
]
