"""Choosing an engine by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lmeec_core.engine.auto import choose
from lmeec_core.engine.base import EngineName
from lmeec_core.engine.registry import make_engine
from lmeec_core.engine.runner import Runner
from lmeec_core.model.stages import STAGES

if TYPE_CHECKING:
    from lmeec_core.model import LMEEC


def use_engine(model: LMEEC, name: EngineName = "auto") -> None:
    """Let a model compute its stages with an engine from now on.

    Args:
        model: with its final weights, device and precision; in evaluation mode.
        name: see :data:`lmeec_core.engine.ENGINES`.

    Raises:
        EngineError: unknown, or it cannot be used here.
    """
    if name == "auto":
        engines = choose(model)
    else:
        engine = make_engine(model, name)
        engine.prepare()
        engines = {stage: engine for stage in STAGES}
    fast = {stage: engine for stage, engine in engines.items() if engine.name != "eager"}
    model.runner = Runner(model, fast) if fast else None
