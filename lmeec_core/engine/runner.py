"""Maps stages to engines: all of a network's stages go through one :class:`Runner`."""

from __future__ import annotations

import logging
from collections import OrderedDict

from torch import Tensor

from lmeec_core.engine.base import Engine, StageFunction
from lmeec_core.engine.calls import StageCall
from lmeec_core.model import LMEEC
from lmeec_core.model.stages import STAGES, Outputs, Stage, StageOptions

logger = logging.getLogger(__name__)

_FUNCTIONS_KEPT = 128  # enough for a filling memory with several numbers of objects


class Runner:
    """Computes a model's stages, each with its engine; eager torch takes what that does not offer.

    Args:
        model: the network.
        engines: the engine of each stage; stages without one use eager torch.
    """

    def __init__(self, model: LMEEC, engines: dict[Stage, Engine]) -> None:
        self.model = model
        self.engines = engines
        self.used: dict[Stage, str] = {}
        """Name of the engine that last computed each stage."""
        self._functions: OrderedDict[StageCall, StageFunction] = OrderedDict()
        self._reported: set[tuple[Stage, StageOptions]] = set()

    def __call__(
        self, stage: Stage, options: StageOptions, inputs: tuple[Tensor, ...], /
    ) -> Outputs:
        """Compute one stage, with inputs and outputs as in the network's table."""
        engine = self.engines.get(stage)
        call = StageCall.of(self.model.stages[stage], options, inputs)
        function = None if engine is None else self._function(engine, call)
        if engine is None or function is None:
            self.used[stage] = "eager"
            return self.model.compute(stage, options, inputs)
        self.used[stage] = engine.name
        return function(*inputs)

    def _function(self, engine: Engine, call: StageCall) -> StageFunction | None:
        """The engine's function for a call, if it offers one; the last used ones are kept."""
        function = self._functions.pop(call, None)
        if function is None:
            if not engine.offers(call):
                self._report(call, engine)
                return None
            function = engine.build(call)
        self._functions[call] = function
        if len(self._functions) > _FUNCTIONS_KEPT:
            self._functions.popitem(last=False)
        return function

    def _report(self, call: StageCall, engine: Engine) -> None:
        """Warn once about a call that an engine is not prepared for; not for a filling memory."""
        kind = (call.stage, call.options)
        if call.stage != "memory_attention" and kind not in self._reported:
            self._reported.add(kind)
            logger.warning(
                "engine %s is not prepared for %s%s: eager torch computes it; load the model with "
                "the tracker's memory settings",
                engine.name,
                call.stage,
                f" ({call.options})" if str(call.options) else "",
            )


def engines_in_use(model: LMEEC) -> str:
    """The engines that compute the network: "eager", or "openvino: image_encoder, ...; eager: ...".

    Names the engine that last computed each stage, or the one chosen for it if it has not run yet.
    """
    runner = model.runner
    if not isinstance(runner, Runner):
        return "eager"
    chosen = {stage: engine.name for stage, engine in runner.engines.items()}
    by_engine: dict[str, list[str]] = {}
    for stage in STAGES:
        name = runner.used.get(stage) or chosen.get(stage, "eager")
        by_engine.setdefault(name, []).append(stage)
    if len(by_engine) == 1:
        return next(iter(by_engine))
    return "; ".join(f"{name}: {', '.join(stages)}" for name, stages in by_engine.items())
