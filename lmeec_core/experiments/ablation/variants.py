"""The compared variants: the settings in the paper's tables, with the paper's numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from lmeec_core.config import Compression, Fusion, MemoryConfig

Table = Literal["fusion", "stores", "size", "compression", "length"]
TABLES: tuple[Table, ...] = get_args(Table)
Metric = Literal["iou", "location", "contour", "association"]
METRICS: dict[Metric, str] = {
    "iou": "IoU",
    "location": "location error",
    "contour": "contour accuracy",
    "association": "association accuracy",
}


@dataclass(frozen=True)
class Variant:
    """One way to run the network.

    Attributes:
        name: short name, used in file names.
        fusion: how the memory-aware and the view-specific feature are fused.
        compression, capacity: settings of the memory banks.
        ego_bank, exo_bank: whether to keep each bank; named by camera as in the paper's Table 4.
        trained: True: use weights trained with this fusion; False: use the given weights.
    """

    name: str
    fusion: Fusion = "mv_moe"
    compression: Compression = "keep_first"
    capacity: int = 6
    ego_bank: bool = True
    exo_bank: bool = True
    trained: bool = False

    def memory(self, query_is_ego: bool) -> MemoryConfig:
        """Memory settings of a tracker, depending on whether the query camera is the ego camera."""
        query, target = self.ego_bank, self.exo_bank
        if not query_is_ego:
            query, target = target, query
        return MemoryConfig(
            compression=self.compression,
            capacity=self.capacity,
            query_bank=query,
            target_bank=target,
            fusion=self.fusion,
        )


REFERENCE = Variant("reference")
"""The method as released: MV-MoE, both banks, six frames, compression ``keep_first``."""


@dataclass(frozen=True)
class Line:
    """A line of a table: label, variant and the paper's numbers."""

    label: str
    variant: Variant
    paper: dict[Metric, float]


def _paper(iou: float, location: float, contour: float) -> dict[Metric, float]:
    return {"iou": iou, "location": location, "contour": contour}


_OURS = _paper(0.5925, 0.0198, 0.8006)

LINES: dict[Table, tuple[Line, ...]] = {
    "fusion": (
        Line("without the other view", Variant("none", fusion="none", trained=True), {"iou": 0.0}),
        Line(
            "simple addition",
            Variant("add", fusion="add", trained=True),
            _paper(0.5673, 0.0258, 0.7643),
        ),
        Line("MV-MoE", Variant("mv_moe", trained=True), _OURS),
    ),
    "stores": (
        Line("both banks", REFERENCE, _OURS),
        Line("no ego bank", Variant("no_ego", ego_bank=False), _paper(0.5748, 0.0220, 0.7837)),
        Line("no exo bank", Variant("no_exo", exo_bank=False), _paper(0.5420, 0.0293, 0.7495)),
    ),
    "size": (
        Line("4 frames", Variant("size_4", capacity=4), _paper(0.5921, 0.0205, 0.8004)),
        Line("6 frames", REFERENCE, _OURS),
        Line("8 frames", Variant("size_8", capacity=8), _paper(0.5963, 0.0196, 0.8025)),
    ),
    "compression": (
        Line(
            "first in first out",
            Variant("fifo", compression="fifo"),
            _paper(0.5823, 0.0214, 0.7874),
        ),
        Line("cluster", Variant("cluster", compression="cluster"), _paper(0.5867, 0.0208, 0.7942)),
        Line("IoU selection", Variant("iou", compression="iou"), _paper(0.5880, 0.0204, 0.7948)),
        Line("features, average (paper's equation 10)", Variant("average", compression="average"),
             _OURS),
        Line("features, keep first (release)", REFERENCE, _OURS),
    ),
    "length": (
        Line("first in first out", Variant("fifo", compression="fifo"), {}),
        Line("features, keep first (release)", REFERENCE, {}),
    ),
}  # fmt: skip
"""Lines of each table. The paper's Table 6 has one number for feature compression; the paper's text
describes ``average``, but the released code computes ``keep_first``."""

PAPER_TABLE = {"fusion": 2, "stores": 4, "size": 5, "compression": 6, "length": 7}


def variants_of(tables: tuple[Table, ...]) -> tuple[Variant, ...]:
    """The distinct variants in the tables, in order."""
    seen = {line.variant.name: line.variant for table in tables for line in LINES[table]}
    return tuple(seen.values())
