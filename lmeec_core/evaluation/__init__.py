"""Scores of predicted masks, as the EgoExo4D correspondence benchmark computes them."""

from lmeec_core.evaluation.metrics import (
    MaskMetrics,
    contour_accuracy,
    iou,
    location_error,
    mask_metrics,
)
from lmeec_core.evaluation.protocol import Scores, benchmark_size, score_pair, scored_frames

__all__ = [
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
