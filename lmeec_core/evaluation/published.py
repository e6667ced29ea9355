"""Numbers of the LM-EEC paper (NeurIPS 2025), EgoExo4D test split, for comparison."""

from __future__ import annotations

from typing import NamedTuple

SOURCE = "Robust Ego-Exo Correspondence with Long-Term Memory, Tables 1 and 7, EgoExo4D test split"


class Published(NamedTuple):
    """A row of Table 1.

    Attributes:
        method: name as printed.
        iou, existence_balanced_accuracy: percent.
        location_error: share of the diagonal.
        contour_accuracy: [0, 1].
    """

    method: str
    iou: float
    location_error: float
    contour_accuracy: float
    existence_balanced_accuracy: float


TABLE_1: dict[str, tuple[Published, ...]] = {
    "ego-exo": (
        Published("XSegTx", 18.99, 0.070, 0.386, 66.31),
        Published("XView-Xmem (w/ finetuning)", 14.84, 0.115, 0.242, 61.24),
        Published("XView-Xmem (+ XSegTx)", 34.90, 0.038, 0.559, 66.79),
        Published("STCN", 27.39, 0.109, 0.378, 61.97),
        Published("QDMN", 27.03, 0.108, 0.346, 63.16),
        Published("GSFM", 3.98, 0.146, 0.057, 52.39),
        Published("SimVOS", 38.26, 0.090, 0.481, 57.21),
        Published("Cutie", 27.03, 0.108, 0.346, 59.18),
        Published("Base model", 52.13, 0.024, 0.734, 61.56),
        Published("LM-EEC", 54.98, 0.017, 0.778, 64.22),
    ),
    "exo-ego": (
        Published("XSegTx", 27.14, 0.104, 0.358, 82.01),
        Published("XView-Xmem (w/ finetuning)", 21.37, 0.139, 0.269, 61.72),
        Published("XView-Xmem (+ XSegTx)", 25.00, 0.117, 0.327, 59.71),
        Published("STCN", 27.61, 0.122, 0.348, 65.98),
        Published("QDMN", 17.56, 0.158, 0.213, 58.94),
        Published("GSFM", 13.78, 0.164, 0.169, 59.53),
        Published("SimVOS", 40.67, 0.099, 0.481, 66.62),
        Published("Cutie", 47.52, 0.070, 0.579, 70.71),
        Published("Base model", 57.27, 0.047, 0.677, 57.11),
        Published("LM-EEC", 65.77, 0.031, 0.774, 58.14),
    ),
}

TABLE_7: dict[str, tuple[float, float, float]] = {
    "Base model": (0.5580, 0.6260, 0.4724),
    "LM-EEC": (0.6054, 0.6732, 0.6150),
}
"""Association accuracy of takes under 200, of 200 to 600, and of more than 600 frames."""
