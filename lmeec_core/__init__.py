"""LM-EEC: ego-exo correspondence with long-term memory. Everything that is not ROS.

The names below are imported when they are first used, so that what needs no network
(`lmeec --help`, reading takes and bags) does not wait for torch.
"""

from __future__ import annotations

import importlib
from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lmeec_core.checkpoint import (
        CheckpointError,
        bundled_weights,
        load_model,
        load_weights,
        read_state_dict,
    )
    from lmeec_core.config import (
        PRESETS,
        ConvTrunkConfig,
        MatchingConfig,
        MemoryConfig,
        ModelConfig,
        TrunkConfig,
        preset,
    )
    from lmeec_core.errors import InputError
    from lmeec_core.memory.saved import MemoryFileError, load_memory, save_memory
    from lmeec_core.networks import LMEEC, build_model
    from lmeec_core.prompts import PromptTracker, Tracked
    from lmeec_core.tracker import Correspondence, CorrespondenceTracker, exclusive_masks

try:
    __version__: str = metadata.version("lmeec")  # package.xml has it
except metadata.PackageNotFoundError:  # a source tree that is not installed
    __version__ = "0+unknown"

__all__ = [
    "LMEEC",
    "PRESETS",
    "CheckpointError",
    "ConvTrunkConfig",
    "Correspondence",
    "CorrespondenceTracker",
    "InputError",
    "MatchingConfig",
    "MemoryConfig",
    "MemoryFileError",
    "ModelConfig",
    "PromptTracker",
    "Tracked",
    "TrunkConfig",
    "__version__",
    "build_model",
    "bundled_weights",
    "exclusive_masks",
    "load_memory",
    "load_model",
    "load_weights",
    "preset",
    "read_state_dict",
    "save_memory",
]

_MODULES = (
    "errors",
    "config",
    "checkpoint",
    "networks",
    "tracker",
    "prompts",
    "memory.saved",
)  # in the order of their cost


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in _MODULES:
            value = getattr(importlib.import_module(f"lmeec_core.{module}"), name, None)
            if value is not None:
                globals()[name] = value
                return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
