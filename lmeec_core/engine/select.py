"""Choosing an engine by name."""

from __future__ import annotations

from collections.abc import Mapping

from lmeec_core.config import MemoryConfig
from lmeec_core.engine.auto import choose
from lmeec_core.engine.base import Engine, EngineName
from lmeec_core.engine.calls import step_calls
from lmeec_core.engine.registry import make_engine
from lmeec_core.engine.runner import Runner
from lmeec_core.model import LMEEC
from lmeec_core.model.stages import STAGES, Stage


def use_engine(
    model: LMEEC,
    name: EngineName | Mapping[Stage, EngineName] = "auto",
    memory: MemoryConfig | None = None,
) -> None:
    """Let a model compute its stages with an engine from now on.

    Args:
        model: with its final weights, device and precision; in evaluation mode.
        name: see :data:`lmeec_core.engine.ENGINES`; or the engine of each stage, as
            :func:`chosen_engines` gives them: what ``auto`` has chosen elsewhere.
        memory: the trackers' memory, None is the default one. All that takes long is done here
            for it; no step waits for an engine later on.

    Raises:
        EngineError: unknown, or it cannot be used here.
        OSError: what it needs cannot be written anywhere.
    """
    if name == "auto":
        engines = choose(model, memory)
    else:
        chosen = dict.fromkeys(STAGES, name) if isinstance(name, str) else name
        made = {one: make_engine(model, one) for one in dict.fromkeys(chosen.values())}
        engines = {stage: made[one] for stage, one in chosen.items()}
        if set(made) - {"eager"}:
            calls = step_calls(model, memory=memory)
            for engine in made.values():
                engine.prepare(call for call in calls if engines.get(call.stage) is engine)
    model.runner = runner_of(model, engines)


def runner_of(model: LMEEC, engines: Mapping[Stage, Engine]) -> Runner | None:
    """What computes a model's stages with prepared engines; None where all of them are eager."""
    fast = {stage: engine for stage, engine in engines.items() if engine.name != "eager"}
    return Runner(model, fast) if fast else None


def chosen_engines(model: LMEEC) -> dict[Stage, EngineName]:
    """The engine that computes each stage of a model."""
    runner = model.runner
    fast = runner.engines if isinstance(runner, Runner) else {}
    return {stage: fast[stage].name if stage in fast else "eager" for stage in STAGES}
