"""Conditions in addition to the mask: descriptions of objects in words, and alignment of the views.

For any method that represents objects as vectors, such as O-MaMa's descriptors. After ObjectRelator
("Cross-View Multi-Modal Segmentation @ Ego-Exo4D Challenges 2025").
"""

from lmeec_core.methods.conditions.fusion import (
    ConditionScorer,
    MCFuse,
    RegionPool,
    TextFuse,
    cross_view_align,
)
from lmeec_core.methods.conditions.scoring import TextScorer
from lmeec_core.methods.conditions.text import HashedWords, TextEncoder, TextModel, TextVectors

__all__ = [
    "ConditionScorer",
    "HashedWords",
    "MCFuse",
    "RegionPool",
    "TextEncoder",
    "TextFuse",
    "TextModel",
    "TextScorer",
    "TextVectors",
    "cross_view_align",
]
