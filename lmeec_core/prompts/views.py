"""Makes the tracker of one view that suits a network."""

from __future__ import annotations

from typing import Any

from lmeec_core.compact import CompactLMEEC
from lmeec_core.model import LMEEC
from lmeec_core.model.stages import StageRunner
from lmeec_core.prompts.matching import MatchingPromptTracker
from lmeec_core.prompts.prompt import ViewTracker
from lmeec_core.prompts.sam2 import PromptTracker


def view_tracker(
    model: LMEEC,
    *,
    conditioning_frames: int = 4,
    num_frames: int | None = None,
    max_objects: int = 32,
    runner: StageRunner | None = None,
    hold: int | None = None,
) -> ViewTracker:
    """A tracker of marked objects in one view: SAM 2.1's own for its networks, matching for
    compact ones.

    Args:
        model: a network with weights (:func:`lmeec_core.load_model`).
        conditioning_frames: how many prompted frames are kept per object, the newest ones.
        num_frames: length of the recording where it is known; see :class:`PromptTracker`. Compact
            networks do not need it.
        max_objects: refuse more objects than this, a bound on memory.
        runner: computes the stages; None is the model's own (:func:`lmeec_core.engine.use_engine`).
        hold: frames that can be prompted, the newest ones; None is the tracker's own number.

    Raises:
        InputError: a number below 1.
    """
    held: dict[str, Any] = {} if hold is None else {"hold": hold}
    if isinstance(model, CompactLMEEC):
        return MatchingPromptTracker(
            model, conditioning_frames=conditioning_frames, max_objects=max_objects, runner=runner,
            **held,
        )  # fmt: skip
    return PromptTracker(
        model,
        conditioning_frames=conditioning_frames,
        num_frames=num_frames,
        max_objects=max_objects,
        runner=runner,
        **held,
    )
