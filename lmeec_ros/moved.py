"""Modules that have moved. Their old names work for one version, with a DeprecationWarning."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "lmeec_ros.arena": "lmeec_ros.runtime.arena",
    "lmeec_ros.bags": "lmeec_core.bags.bag",
    "lmeec_ros.bench": "lmeec_ros.tools.bench",
    "lmeec_ros.camera_info": "lmeec_ros.points.camera_info",
    "lmeec_ros.demo": "lmeec_ros.tools.demo",
    "lmeec_ros.diagnostics": "lmeec_ros.health.diagnostics",
    "lmeec_ros.executor": "lmeec_ros.runtime.executor",
    "lmeec_ros.geometry": "lmeec_ros.points.points",
    "lmeec_ros.images": "lmeec_ros.io.images",
    "lmeec_ros.inputs": "lmeec_ros.io.inputs",
    "lmeec_ros.messages": "lmeec_ros.io.messages",
    "lmeec_ros.monitor": "lmeec_core.sync.stream_monitor",
    "lmeec_ros.node_process": "lmeec_ros.tools.node_process",
    "lmeec_ros.pairing": "lmeec_core.sync.pairing",
    "lmeec_ros.parameter_files": "lmeec_ros.parameters.files",
    "lmeec_ros.pipeline": "lmeec_ros.inference.pipeline",
    "lmeec_ros.play": "lmeec_ros.tools.play",
    "lmeec_ros.reasons": "lmeec_ros.health.reasons",
    "lmeec_ros.record": "lmeec_ros.tools.record",
    "lmeec_ros.take_bags": "lmeec_core.bags.take_bags",
    "lmeec_ros.watchdog": "lmeec_ros.health.watchdog",
    "lmeec_ros.worker": "lmeec_ros.inference.worker",
}
"""Old name to new name."""


class _MovedModules(MetaPathFinder, Loader):
    """Import finder and loader that provides the new module under the old name."""

    def __init__(self) -> None:
        self._specs: dict[int, ModuleSpec | None] = {}

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name in MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        new = MOVED[spec.name]
        warnings.warn(
            f"{spec.name} has moved to {new}; the old name will be removed in the next version",
            DeprecationWarning,
            stacklevel=2,
        )
        module = importlib.import_module(new)
        self._specs[id(module)] = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._specs.pop(id(module))  # importlib set that of the old name


def install() -> None:
    """Install the import finder for the old names."""
    if not any(isinstance(one, _MovedModules) for one in sys.meta_path):
        sys.meta_path.append(_MovedModules())
