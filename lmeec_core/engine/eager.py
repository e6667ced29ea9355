"""Eager torch: runs the network's modules as they are."""

from __future__ import annotations

from torch import Tensor

from lmeec_core.engine.base import Engine, StageFunction
from lmeec_core.engine.calls import StageCall
from lmeec_core.model.stages import Outputs


class EagerEngine(Engine):
    """Computes every stage, for any shapes."""

    name = "eager"

    def build(self, call: StageCall) -> StageFunction:
        """The network's own function."""

        def run(*inputs: Tensor) -> Outputs:
            return self.model.compute(call.stage, call.options, inputs)

        return run
