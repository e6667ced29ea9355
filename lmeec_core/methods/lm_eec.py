"""LM-EEC as a method: a network with weights, and its trackers."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lmeec_core.checkpoint import load_model
from lmeec_core.config import MemoryConfig
from lmeec_core.encoded import EncodedView, Image, encode_views
from lmeec_core.model import LMEEC
from lmeec_core.tracker import CorrespondenceTracker


@dataclass(frozen=True)
class LmEec:
    """A network and the settings of its trackers' memory; None: the defaults."""

    model: LMEEC
    memory: MemoryConfig | None = None

    def tracker(
        self,
        query: str,
        targets: Sequence[str],
        num_frames: int | None = None,
        max_objects: int = 32,
    ) -> CorrespondenceTracker:
        """See :class:`lmeec_core.correspondence.Method`."""
        return CorrespondenceTracker(
            self.model, query, targets, self.memory, num_frames, max_objects
        )

    def encode(self, images: Sequence[Image]) -> list[EncodedView]:
        """Views for all trackers of the network; see :func:`lmeec_core.encoded.encode_views`."""
        return encode_views(self.model, images)


@functools.wraps(load_model)
def load(*settings: Any, **more: Any) -> LmEec:
    """Load the network and keep the settings of its memory; see :func:`lmeec_core.load_model`."""
    return LmEec(load_model(*settings, **more), more.get("memory"))
