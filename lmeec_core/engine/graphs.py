"""Graphs of a network on disk: one ONNX file for each stage and shapes, with a record beside it."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import lmeec_core.model
from lmeec_core.config import PRESETS, RELEASE_POINTER_WINDOW, MemoryConfig
from lmeec_core.engine.base import Call
from lmeec_core.files import write_text

if TYPE_CHECKING:
    from lmeec_core.model import LMEEC

logger = logging.getLogger(__name__)

CACHE_VARIABLE = "LMEEC_CACHE"
"""Environment variable that names the folder of graphs and engines."""
_MEMORY_POSITION = 2  # the memory attention's input without a batch


def cache_folder() -> Path:
    """Where graphs are kept: $LMEEC_CACHE, else lmeec in $XDG_CACHE_HOME or ~/.cache."""
    own = os.environ.get(CACHE_VARIABLE)
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lmeec"


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


def is_usual(model: LMEEC, call: Call) -> bool:
    """Whether a call's graph is worth making unasked.

    Everything is but the memory attention while a memory fills: each length of it comes once.
    The view-specific one and the full memory (of the default capacity) come on every frame.
    """
    if call.stage != "memory_attention":
        return True
    config = model.config
    pointers = (RELEASE_POINTER_WINDOW - 1) * (config.hidden_dim // config.memory_dim)
    full = 2 * MemoryConfig().capacity * config.stored_shape[0] + pointers
    return call.options == (0, 0) or (call.options, call.shapes[1][1]) == ((pointers, 1), full)


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


class GraphStore:
    """The graphs of one network, made when they are first asked for.

    The folder's name has the network's hash in it, so that graphs of other weights, another
    configuration or another version of the code never mix.

    Args:
        model: the network, with its final weights.
        root: the folder of all networks; None is :func:`cache_folder`.
    """

    def __init__(self, model: LMEEC, root: Path | None = None) -> None:
        self.model = model
        self.network = network_hash(model)
        preset = next((n for n, c in PRESETS.items() if c == model.config), "network")
        self.preset = preset
        self.folder = (root or cache_folder()) / f"{preset}-{self.network[:12]}"

    def path(self, call: Call) -> Path:
        """Where a call's graph is, or would be."""
        return self.folder / f"{graph_name(call)}.onnx"

    def batches(self, call: Call) -> list[int]:
        """Batches for which there are graphs of a call's stage and shapes, ascending."""
        pattern = graph_name(with_batch(call, 0)).replace("_b0", "_b*", 1)
        found = (path.name for path in self.folder.glob(f"{pattern}.onnx"))
        return sorted(int(name.partition("_b")[2].split("_")[0].split(".")[0]) for name in found)

    def get(self, call: Call) -> Path:
        """The graph of a call, checked against its record, or made anew.

        Raises:
            EngineError: it cannot be made.
            OSError: it cannot be written.
        """
        path = self.path(call)
        if not self.is_valid(call):
            from lmeec_core.engine.onnx_export import export_graph

            logger.info("making the graph %s (once; it is kept)", path)
            path.parent.mkdir(parents=True, exist_ok=True)
            record = export_graph(self.model, call, path)
            record |= {"preset": self.preset, "network": self.network}
            write_text(path.with_suffix(".json"), json.dumps(record, indent=1) + "\n")
        return path

    def is_valid(self, call: Call) -> bool:
        """Whether a call's graph is there, whole, and of its shapes."""
        path = self.path(call)
        record = read_record(path.with_suffix(".json"))
        return (
            record.get("network") == self.network
            and record.get("inputs") == describe_inputs(call)
            and path.is_file()
            and record.get("sha256") == file_hash(path)
        )


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
