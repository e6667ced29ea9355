"""Engines: who computes the network's stages (:mod:`lmeec_core.model.stages`).

The network calls its stages through one :class:`Runner`; the tracker does not know which engine
runs. An engine builds functions for calls (a stage with the shapes of its inputs); what it does
not offer is computed by eager torch.
"""

from lmeec_core.engine.base import ENGINES, Call, Engine, EngineError, EngineName, StageFunction
from lmeec_core.engine.runner import Runner, engines_in_use
from lmeec_core.engine.select import chosen_engines, make_engine, use_engine
from lmeec_core.engine.steady import SteadyState, steady_calls, steady_state

__all__ = [
    "ENGINES",
    "Call",
    "Engine",
    "EngineError",
    "EngineName",
    "Runner",
    "StageFunction",
    "SteadyState",
    "chosen_engines",
    "engines_in_use",
    "make_engine",
    "steady_calls",
    "steady_state",
    "use_engine",
]
