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
    """Make a model compute its stages with an engine from now on.

    Args:
        model: the network with its final weights, device and precision; in evaluation mode.
        name: see :data:`lmeec_core.engine.ENGINES`; or the engine of each stage as returned by
            :func:`chosen_engines`, to repeat a choice that ``auto`` made elsewhere.
        memory: the trackers' memory settings; None for the defaults. All slow work for them is
            done here; no later step waits for an engine.

    Raises:
        EngineError: the name is unknown, or the engine cannot be used here.
        OSError: files that the engine needs cannot be written anywhere.
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
    """The runner of a model with prepared engines; None if all of them are eager."""
    fast = {stage: engine for stage, engine in engines.items() if engine.name != "eager"}
    return Runner(model, fast) if fast else None


def chosen_engines(model: LMEEC) -> dict[Stage, EngineName]:
    """The engine that computes each stage of a model."""
    runner = model.runner
    fast = runner.engines if isinstance(runner, Runner) else {}
    return {stage: fast[stage].name if stage in fast else "eager" for stage in STAGES}
