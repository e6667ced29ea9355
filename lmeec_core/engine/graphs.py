"""A network's graphs on disk: one ONNX file per stage and shapes, each with a record next to it."""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import logging
import os
import sys
import tempfile
from pathlib import Path

import torch

from lmeec_core.cache import cache_folder, stand_in
from lmeec_core.config import PRESETS, Precision
from lmeec_core.engine import onnx_export
from lmeec_core.engine.calls import StageCall
from lmeec_core.engine.records import describe_inputs, file_hash, graph_name, read_record
from lmeec_core.files import write_text
from lmeec_core.model import LMEEC

logger = logging.getLogger(__name__)


@functools.cache
def _code_hash(folders: frozenset[Path]) -> bytes:
    """Hash of the code that makes the graphs: when it changes, they are made again."""
    files = [
        *(file for folder in sorted(folders) for file in sorted(folder.glob("*.py"))),
        *(Path(__file__).with_name(name) for name in ("onnx_export.py", "half_graph.py")),
    ]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).digest()


def _code_folders(model: LMEEC) -> frozenset[Path]:
    """The folders with the code of the network's own modules."""
    package = __package__.partition(".")[0]
    kinds = {kind for module in model.modules() for kind in type(module).__mro__}
    names = {kind.__module__ for kind in kinds}
    files = [sys.modules[n].__file__ for n in names if n.partition(".")[0] == package]
    return frozenset(Path(file).parent for file in files if file)


def network_hash(model: LMEEC) -> str:
    """SHA-256 of a network: its configuration, its weights and its code."""
    digest = hashlib.sha256(
        _code_hash(_code_folders(model)) + model.config.model_dump_json().encode()
    )
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def probe(folder: Path) -> None:
    """Raise an OSError if a folder cannot be written: now, not after minutes of work."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


class GraphStore:
    """The graphs of one network.

    The folder's name contains the network's hash, so that graphs of different weights,
    configurations or versions of the code never mix. If the cache cannot be written, graphs in it
    are still used, and new ones go to a temporary folder.

    Args:
        model: the network, with its final weights.
        root: the parent folder for all networks, which must be writable; None for the cache.
        for_gpus: graphs for GPUs: products in the network's precision (otherwise in float32), and
            fewer operations that compute more. Graphs that differ for GPUs have their own names.
    """

    def __init__(self, model: LMEEC, root: Path | None = None, for_gpus: bool = False) -> None:
        self.model = model
        self._precision: Precision = model.precision if for_gpus else "fp32"
        self._few = for_gpus and model.image_encoder.trunk.cuts_windows
        self.network = network_hash(model)
        preset = next((n for n, c in PRESETS.items() if c == model.config), "network")
        self.preset = preset
        self.name = f"{preset}-{self.network[:12]}"
        self._replaceable = root is None
        home = root or cache_folder()
        self._folders = [] if home is None else [home / self.name]

    @property
    def folder(self) -> Path:
        """Where graphs are written: this network's folder in the cache, or a temporary one."""
        if not self._folders:
            self._give_way("there is no home folder")
        return self._folders[-1]

    def _give_way(self, reason: str) -> None:
        self._folders.append(stand_in(reason) / self.name)
        self._replaceable = False

    def _file(self, call: StageCall) -> str:
        parts: list[str] = [] if self._precision == "fp32" else [self._precision]
        parts += ["few"] if self._few and call.stage == "image_encoder" else []
        return "_".join([*parts, f"{graph_name(call)}.onnx"])

    def path(self, call: StageCall) -> Path:
        """Where a call's graph is, or would be written."""
        paths = [folder / self._file(call) for folder in self._folders or [self.folder]]
        return next((path for path in reversed(paths) if os.path.isfile(path)), paths[-1])

    def files(self, pattern: str) -> list[Path]:
        """The files whose names match a pattern."""
        return [path for folder in self._folders for path in sorted(folder.glob(pattern))]

    def batches(self, call: StageCall) -> list[int]:
        """Batch sizes for which a graph of the call's stage and shapes exists, ascending."""
        pattern = self._file(call.with_batch(0)).replace("_b0", "_b*", 1)
        found = (path.name for path in self.files(pattern))
        return sorted({int(name.partition("_b")[2].split("_")[0].split(".")[0]) for name in found})

    def get(self, call: StageCall) -> Path:
        """The graph of a call; made if there is none that matches its record.

        Raises:
            EngineError: it cannot be made.
            OSError: it cannot be written.
        """
        if self.is_valid(call):
            return self.path(call)
        try:
            return self._make(call, self.folder)
        except OSError as error:
            if not self._replaceable:
                raise
            self._give_way(str(error))
            return self._make(call, self.folder)

    def _make(self, call: StageCall, folder: Path) -> Path:
        path = folder / self._file(call)
        probe(folder)
        logger.info("making the graph %s (once; it is kept)", path)
        if self._precision == "fp32":
            record = onnx_export.export_graph(self.model, call, path, self._few)
        else:
            exact = copy.copy(self)
            exact._precision = "fp32"
            record = onnx_export.export_half(
                self.model, call, exact.get(call), path, self._precision
            )
        record |= {"preset": self.preset, "network": self.network}
        write_text(path.with_suffix(".json"), json.dumps(record, indent=1) + "\n")
        return path

    def is_valid(self, call: StageCall) -> bool:
        """Whether a call's graph exists, is intact, and belongs to this network and call."""
        if not self._folders:
            return False
        path = self.path(call)
        record = read_record(path.with_suffix(".json"))
        if (record.get("network"), record.get("inputs")) != (self.network, describe_inputs(call)):
            return False
        try:
            return record.get("sha256") == file_hash(path)
        except OSError:  # missing or unreadable
            return False
