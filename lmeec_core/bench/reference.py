"""A step as the release computes it, sharing nothing between objects and targets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lmeec_core.bench.filled import filled_tracker
from lmeec_core.model.stages import Outputs, Stage, StageOptions

if TYPE_CHECKING:
    from lmeec_core.model import LMEEC


class ReferenceStep:
    """One pass through the whole network for each object and target view.

    As in the release, each pass encodes both images, computes the first self-attention for each of
    the two memories, and encodes the query memory twice. It uses the same modules as
    :class:`lmeec_core.CorrespondenceTracker`, so the window padding that the release also processes
    is not counted against it.

    Args:
        model: the network; always run in eager torch, whatever its engine.
        objects: N objects. targets: K target views.
    """

    def __init__(self, model: LMEEC, objects: int, targets: int) -> None:
        self.model = model
        self.passes = [
            filled_tracker(model, seed=i, runner=lambda *call: self._run(*call))
            for i in range(objects * targets)
        ]

    def __call__(self) -> None:
        """Compute one step for all pairs."""
        for state in self.passes:
            state.tracker.step(state.images, state.masks)

    def _run(self, stage: Stage, options: StageOptions, inputs: Outputs) -> Outputs:
        twice = stage == "target_tokens" or self.model.stages[stage].use(options, inputs) == "query"
        if twice:
            self.model.compute(stage, options, inputs)
        return self.model.compute(stage, options, inputs)
