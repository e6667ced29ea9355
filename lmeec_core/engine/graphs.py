"""Graphs of a network on disk: one ONNX file for each stage and shapes, with a record beside it."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import lmeec_core.model
from lmeec_core.cache import cache_folder, stand_in
from lmeec_core.config import PRESETS
from lmeec_core.engine.base import Call
from lmeec_core.files import write_text

if TYPE_CHECKING:
    from lmeec_core.model import LMEEC

logger = logging.getLogger(__name__)

_MEMORY_POSITION = 2  # the memory attention's input without a batch


def has_batch(call: Call, index: int) -> bool:
    """Whether an input of a call has the batch in front."""
    return call.stage != "memory_attention" or index != _MEMORY_POSITION


def with_batch(call: Call, batch: int) -> Call:
    """The call that a graph computes for it: another batch, floating inputs in float32."""
    shapes = tuple(
        (batch, *shape[1:]) if has_batch(call, i) else shape for i, shape in enumerate(call.shapes)
    )
    dtypes = tuple(torch.float32 if dtype.is_floating_point else dtype for dtype in call.dtypes)
    return Call(call.stage, call.options, shapes, dtypes)


def graph_name(call: Call) -> str:
    """Name of a call's graph, different for each that one network has."""
    length = {"memory_attention": 1, "memory_encoder": 1}.get(call.stage)
    parts = [call.stage, f"b{call.shapes[0][0]}"]
    if length is not None:  # tokens of the memory, side of the mask
        parts.append(f"l{call.shapes[length][1]}")
    return "_".join([*parts, *("-".join(map(str, call.options)),) * bool(call.options)])


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@functools.cache
def _code_hash() -> bytes:
    """Of the code that makes the graphs: others are made when it changes."""
    files = [
        *sorted(Path(next(iter(lmeec_core.model.__path__))).glob("*.py")),
        Path(__file__).with_name("onnx_export.py"),
    ]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).digest()


def network_hash(model: LMEEC) -> str:
    """SHA-256 of a network: its configuration, its weights and its code."""
    digest = hashlib.sha256(_code_hash() + model.config.model_dump_json().encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def probe(folder: Path) -> None:
    """Raise an OSError now, not after minutes of work, if a folder cannot be written."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


class GraphStore:
    """The graphs of one network.

    The folder's name has the network's hash in it, so that graphs of other weights, another
    configuration or another version of the code never mix. Where the cache cannot be written,
    what is there is read, and what is made goes to a temporary folder.

    Args:
        model: the network, with its final weights.
        root: the folder of all networks, which has to be writable; None is the cache.
    """

    def __init__(self, model: LMEEC, root: Path | None = None) -> None:
        self.model = model
        self.network = network_hash(model)
        preset = next((n for n, c in PRESETS.items() if c == model.config), "network")
        self.preset = preset
        self.name = f"{preset}-{self.network[:12]}"
        self._replaceable = root is None
        home = root or cache_folder()
        self._folders = [] if home is None else [home / self.name]

    @property
    def folder(self) -> Path:
        """Where graphs are written: the cache's folder of this network, or what stands in."""
        if not self._folders:
            self._give_way("there is no home folder")
        return self._folders[-1]

    def _give_way(self, reason: str) -> None:
        self._folders.append(stand_in(reason) / self.name)
        self._replaceable = False

    def path(self, call: Call) -> Path:
        """Where a call's graph is, or would be."""
        paths = [folder / f"{graph_name(call)}.onnx" for folder in self._folders or [self.folder]]
        return next((path for path in reversed(paths) if os.path.isfile(path)), paths[-1])

    def files(self, pattern: str) -> list[Path]:
        """The files whose names fit a pattern."""
        return [path for folder in self._folders for path in sorted(folder.glob(pattern))]

    def batches(self, call: Call) -> list[int]:
        """Batches for which there are graphs of a call's stage and shapes, ascending."""
        pattern = graph_name(with_batch(call, 0)).replace("_b0", "_b*", 1)
        found = (path.name for path in self.files(f"{pattern}.onnx"))
        return sorted({int(name.partition("_b")[2].split("_")[0].split(".")[0]) for name in found})

    def get(self, call: Call) -> Path:
        """The graph of a call, checked against its record, or made anew.

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

    def _make(self, call: Call, folder: Path) -> Path:
        from lmeec_core.engine.onnx_export import export_graph

        path = folder / f"{graph_name(call)}.onnx"
        probe(folder)
        logger.info("making the graph %s (once; it is kept)", path)
        record = export_graph(self.model, call, path)
        record |= {"preset": self.preset, "network": self.network}
        write_text(path.with_suffix(".json"), json.dumps(record, indent=1) + "\n")
        return path

    def is_valid(self, call: Call) -> bool:
        """Whether a call's graph is there, whole, and of its shapes."""
        if not self._folders:
            return False
        path = self.path(call)
        record = read_record(path.with_suffix(".json"))
        if (record.get("network"), record.get("inputs")) != (self.network, describe_inputs(call)):
            return False
        try:
            return record.get("sha256") == file_hash(path)
        except OSError:  # absent, or not readable
            return False


def describe_inputs(call: Call) -> list[dict[str, Any]]:
    """A call's inputs as a record has them."""
    return [
        {"name": f"input_{i}", "shape": list(shape), "dtype": str(dtype).removeprefix("torch.")}
        for i, (shape, dtype) in enumerate(zip(call.shapes, call.dtypes, strict=True))
    ]


def read_record(path: Path) -> dict[str, Any]:
    """A record, empty if there is none or it cannot be read."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}
