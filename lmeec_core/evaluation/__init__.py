"""Scores of predicted masks, as the EgoExo4D correspondence benchmark computes them."""

from lmeec_core.evaluation.metrics import (
    MaskMetrics,
    contour_accuracy,
    iou,
    location_error,
    mask_metrics,
)
from lmeec_core.evaluation.protocol import PROTOCOLS, benchmark_size, score_pair, scored_frames
from lmeec_core.evaluation.scores import FrameScore, Scores

__all__ = [
    "PROTOCOLS",
    "FrameScore",
    "MaskMetrics",
    "Scores",
    "benchmark_size",
    "contour_accuracy",
    "iou",
    "location_error",
    "mask_metrics",
    "score_pair",
    "scored_frames",
]
