"""Which engine computes which stage: the network's stages go through one :class:`Runner`."""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import TYPE_CHECKING

from torch import Tensor

from lmeec_core.engine.base import Call, Engine, StageFunction
from lmeec_core.model.stages import STAGES, Options, Stage

if TYPE_CHECKING:
    from lmeec_core.model import LMEEC

logger = logging.getLogger(__name__)

_FUNCTIONS_KEPT = 128  # lengths of a filling memory times some numbers of objects


class Runner:
    """Computes a model's stages, each by its engine; eager takes what that does not offer.

    Args:
        model: the network.
        engines: the engine of each stage; a stage that is not named is eager.
    """

    def __init__(self, model: LMEEC, engines: dict[Stage, Engine]) -> None:
        self.model = model
        self.engines = engines
        self._functions: OrderedDict[Call, StageFunction] = OrderedDict()

    def __call__(
        self, stage: Stage, options: Options, inputs: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        """Compute one stage; inputs and outputs as in :mod:`lmeec_core.model.stages`."""
        engine = self.engines.get(stage)
        call = Call.of(stage, options, inputs)
        if engine is None or not engine.offers(call):
            return STAGES[stage](self.model, options, *inputs)
        function = self._functions.pop(call, None) or engine.build(call)
        self._functions[call] = function
        if len(self._functions) > _FUNCTIONS_KEPT:
            self._functions.popitem(last=False)
        return function(*inputs)
