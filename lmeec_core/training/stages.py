"""The stages of the small network's training curriculum."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from lmeec_core.config import Fusion

Kind = Literal["contrast", "pairs", "clips"]


@dataclass(frozen=True)
class Stage:
    """A part of a training run.

    Attributes:
        name: shown in reports.
        kind: ``contrast`` trains only the image encoder and embedding, ``pairs`` the network on
            single frames, ``clips`` the network with memory and MV-MoE over several frames.
        share: fraction of the run.
        size: side of the images, in pixels.
        batch: pairs of views (or of clips) per step; each trains in both directions.
        crop: smallest and largest side of the crops, as a fraction of the image's side.
        sought: objects per view that go through the whole network.
        objects: objects per view for the contrastive losses.
        times: frames per clip. In the last stage of a run, clips have more frames than a bank
            holds, so that the network learns the usual case: full banks that drop frames.
        contrast: weight of the contrastive losses.
        positive_share: share of sought objects that are in the other view.
        fixed_norms: freeze the statistics of batch normalisation, for batches with too few scenes.
        encoder_rate: factor on the image encoder's learning rate; 0 freezes it, which saves its
            backward pass.
        fixed_views: with ``encoder_rate`` 0, keeps unchanged everything the network computes from a
            single view, so that a click head trained on it remains valid.
    """

    name: str
    kind: Kind
    share: float
    size: int
    batch: int
    crop: tuple[float, float]
    sought: int = 3
    objects: int = 8
    times: int = 1
    contrast: float = 1.0
    positive_share: float = 0.57
    fixed_norms: bool = False
    encoder_rate: float = 1.0
    fixed_views: bool = False


@dataclass(frozen=True)
class Schedule:
    """The training schedule of a run.

    Attributes:
        stages: the curriculum.
        minutes: length of the whole run, not counting pauses.
        rate: peak learning rate.
        warmup: fraction of the run in which the rate rises; after that it follows a cosine.
        floor: final learning rate as a fraction of the peak.
        decay: weight decay of matrices.
        clip: largest gradient norm.
        ema: decay of the averaged weights; its memory, 1 / (1 - ema) steps, should be short
            compared with the last stage.
        fusion: how the memory-aware and the view-specific feature are fused.
        bf16: compute in bfloat16.
        seed: for weights and sampling.
        steps: length in optimisation steps instead of minutes, for comparing runs.
    """

    stages: tuple[Stage, ...]
    minutes: float
    rate: float = 1.5e-3
    warmup: float = 0.03
    floor: float = 0.02
    decay: float = 0.05
    clip: float = 1.0
    ema: float = 0.998
    fusion: Fusion = "mv_moe"
    bf16: bool = True
    seed: int = 0
    steps: int | None = None


GPU_STAGES = (
    Stage("contrast", "contrast", 0.12, 192, 64, (0.35, 0.9), sought=4, objects=8),
    Stage("pairs", "pairs", 0.33, 256, 32, (0.4, 1.0)),
    Stage("pairs, whole", "pairs", 0.12, 288, 28, (0.75, 1.0)),
    Stage(
        "clips", "clips", 0.33, 288, 10, (0.7, 1.0), objects=3, times=8, contrast=0.5,
        fixed_norms=True,
    ),
    Stage(
        "clips, whole", "clips", 0.10, 288, 10, (0.95, 1.0), objects=3, times=8, contrast=0.3,
        fixed_norms=True, encoder_rate=0.5,
    ),
)  # fmt: skip
"""For one large GPU and about 20 minutes."""

GPU_MORE_STAGES = (
    Stage("contrast", "contrast", 0.30, 224, 64, (0.4, 1.0), sought=6, objects=8),
    Stage("pairs", "pairs", 0.34, 256, 20, (0.45, 1.0)),
    Stage("pairs, whole", "pairs", 0.10, 288, 16, (0.8, 1.0)),
    Stage(
        "clips", "clips", 0.26, 288, 5, (0.85, 1.0), objects=3, times=8, contrast=0.5,
        fixed_norms=True, encoder_rate=0.5,
    ),
)  # fmt: skip
"""For fine-tuning trained weights on one large GPU, about 5 minutes."""

_CPU_CLIPS = Stage(
    "clips", "clips", 0.20, 288, 1, (0.85, 1.0), objects=3, times=8, contrast=0.5,
    fixed_norms=True, encoder_rate=0.0,
)  # fmt: skip

CPU_STAGES = (
    Stage("contrast", "contrast", 0.18, 128, 8, (0.35, 0.9), sought=4, objects=8),
    Stage("pairs, small", "pairs", 0.30, 144, 5, (0.35, 0.9)),
    Stage("clips, small", "clips", 0.14, 144, 2, (0.45, 0.9), objects=4, times=3, fixed_norms=True),
    Stage("pairs", "pairs", 0.18, 256, 2, (0.6, 1.0)),
    _CPU_CLIPS,
)
"""For two CPU cores."""


CPU_MORE_STAGES = (
    Stage("contrast", "contrast", 0.30, 224, 6, (0.5, 1.0), sought=6, objects=8),
    replace(CPU_STAGES[3], share=0.42, fixed_norms=True),
    Stage("pairs, whole", "pairs", 0.08, 288, 2, (0.9, 1.0), fixed_norms=True),
    _CPU_CLIPS,
)
"""For fine-tuning trained weights on two CPU cores."""

CPU_CLIPS_STAGES = (replace(_CPU_CLIPS, share=1.0, contrast=0.0, fixed_views=True),)
"""For two CPU cores: fine-tunes, on clips, only what comes after the encoding of a view."""

_CPU_PAIRS = Stage(
    "pairs", "pairs", 0.5, 256, 2, (0.6, 1.0), sought=4, objects=4, contrast=0.0,
    fixed_norms=True, encoder_rate=0.0, fixed_views=True,
)  # fmt: skip

CPU_PAIRS_STAGES = (
    _CPU_PAIRS,
    replace(_CPU_PAIRS, name="pairs, whole", share=0.3, size=288, crop=(0.85, 1.0)),
    replace(CPU_CLIPS_STAGES[0], share=0.2),
)
"""For two CPU cores: the same, but mostly on single frames, of which more fit into an hour."""

STAGES = {
    "gpu": GPU_STAGES,
    "gpu_more": GPU_MORE_STAGES,
    "cpu": CPU_STAGES,
    "cpu_more": CPU_MORE_STAGES,
    "cpu_clips": CPU_CLIPS_STAGES,
    "cpu_pairs": CPU_PAIRS_STAGES,
}
"""Curricula by their name in the settings."""


def stage_at(stages: tuple[Stage, ...], progress: float) -> Stage:
    """The stage at a progress of 0 .. 1."""
    end = 0.0
    total = sum(stage.share for stage in stages)
    for stage in stages:
        end += stage.share / total
        if progress < end:
            return stage
    return stages[-1]
