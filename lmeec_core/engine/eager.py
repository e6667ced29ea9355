"""Eager torch: the network's modules as they are."""

from __future__ import annotations

from functools import partial

from lmeec_core.engine.base import Call, Engine, StageFunction
from lmeec_core.model.stages import STAGES


class EagerEngine(Engine):
    """Every stage, any shape."""

    name = "eager"

    def build(self, call: Call) -> StageFunction:
        """The stage's own function."""
        return partial(STAGES[call.stage], self.model, call.options)
