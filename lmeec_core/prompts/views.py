"""Makes the right tracker of one view for a network."""

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
    """A tracker of marked objects in one view: by matching for compact networks, else as in SAM
    2.1.

    Args:
        model: a network with weights (:func:`lmeec_core.load_model`).
        conditioning_frames: number of prompted frames kept per object, the newest ones.
        num_frames: number of frames of the recording, if known; see :class:`PromptTracker`. Not
            used by compact networks.
        max_objects: maximum number of objects, which limits memory use.
        runner: computes the stages; None: the model's own (:func:`lmeec_core.engine.use_engine`).
        hold: number of frames that can be prompted, the newest ones; None: the tracker's default.

    Raises:
        InputError: a number is below 1.
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
