"""Choosing an engine by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lmeec_core.config import MemoryConfig
from lmeec_core.engine.auto import choose
from lmeec_core.engine.base import Engine, EngineName
from lmeec_core.engine.registry import make_engine
from lmeec_core.engine.runner import Runner
from lmeec_core.engine.steady import steady_calls
from lmeec_core.model.stages import STAGES, Stage

if TYPE_CHECKING:
    from lmeec_core.model import LMEEC


def use_engine(model: LMEEC, name: EngineName = "auto", memory: MemoryConfig | None = None) -> None:
    """Let a model compute its stages with an engine from now on.

    Args:
        model: with its final weights, device and precision; in evaluation mode.
        name: see :data:`lmeec_core.engine.ENGINES`.
        memory: the trackers' memory, None is the default one. All that takes long is done here
            for it; no step waits for an engine later on.

    Raises:
        EngineError: unknown, or it cannot be used here.
        OSError: what it needs cannot be written anywhere.
    """
    engines: dict[Stage, Engine] = {}
    if name == "auto":
        engines = choose(model, memory)
    elif name != "eager":
        engine = make_engine(model, name)
        engine.prepare([call for call, _ in steady_calls(model, memory=memory)])
        engines = dict.fromkeys(STAGES, engine)
    fast = {stage: engine for stage, engine in engines.items() if engine.name != "eager"}
    model.runner = Runner(model, fast) if fast else None
