"""The same step as the release computes it: nothing is shared between objects and targets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lmeec_core.engine import steady_state
from lmeec_core.model.stages import STAGES, Options, Outputs, Stage

if TYPE_CHECKING:
    from lmeec_core.model import LMEEC


class ReferenceStep:
    """One pass of the whole network for each object and target view.

    Each pass encodes both images, computes the first self-attention for each of the two memories
    and encodes the query memory twice, as the release does. The modules are those that
    :class:`lmeec_core.CorrespondenceTracker` uses, so the window padding that the release
    also processes is not counted against it.

    Args:
        model: the network; eager torch runs it, whatever its engine.
        objects: N objects. targets: K target views.
    """

    def __init__(self, model: LMEEC, objects: int, targets: int) -> None:
        self.model = model
        self.passes = [steady_state(model, 1, 1, seed=i) for i in range(objects * targets)]

    def __call__(self) -> None:
        """Compute one step of all pairs."""
        runner, self.model.runner = self.model.runner, self._run
        try:
            for state in self.passes:
                state.tracker.step(state.images, state.masks)
        finally:
            self.model.runner = runner

    def _run(self, stage: Stage, options: Options, inputs: Outputs) -> Outputs:
        query = stage == "memory_encoder" and inputs[1].shape[-1] == self.model.config.image_size
        if query or stage == "target_tokens":
            STAGES[stage](self.model, options, *inputs)
        return STAGES[stage](self.model, options, *inputs)
