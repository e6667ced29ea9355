"""Counts the nodes of the network's graphs, and the layers that TensorRT makes of them.

``python -m lmeec_core.bench.graph_sizes --preset base_plus --seed 0`` prints a table that compares
the graphs for CPU engines, in which the image encoder's windows are cut one by one, with those for
GPUs, in which all windows of a block are computed at once.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, get_args

from lmeec_core.config import PRESETS, Precision

if TYPE_CHECKING:
    from lmeec_core.engine.tensorrt_library import Library
    from lmeec_core.model import LMEEC


class Size(NamedTuple):
    """The size of one graph."""

    nodes: int
    """Number of nodes in the ONNX graph."""
    reshapes: int
    """How many of these are Reshape nodes."""
    layers: int
    """Number of layers in TensorRT's network, before it fuses any."""


def size_of_graph(library: Library, path: Path) -> Size:
    """The size of an ONNX file.

    Raises:
        EngineError: TensorRT rejects it.
    """
    import onnx

    from lmeec_core.engine.tensorrt import read_graph

    nodes = onnx.load(str(path), load_external_data=False).graph.node
    reshapes = sum(node.op_type == "Reshape" for node in nodes)
    _builder, network, _parser = read_graph(library, path)
    return Size(len(nodes), reshapes, network.num_layers)


def sizes(model: LMEEC, folder: Path, library: Library) -> dict[str, tuple[Size, Size]]:
    """The sizes of a step's graphs with a full memory: by name, for the CPU and the GPU form.

    Args:
        model: the network.
        folder: where to write the graphs.
        library: the TensorRT library.

    Raises:
        EngineError: a graph cannot be made, or TensorRT rejects it.
    """
    from lmeec_core.engine import step_calls
    from lmeec_core.engine.graphs import GraphStore
    from lmeec_core.engine.records import graph_name

    stores = [GraphStore(model, folder, for_gpus=gpus) for gpus in (False, True)]
    found = {}
    for call in dict.fromkeys(call.for_graph(1) for call in step_calls(model)):
        one, other = (size_of_graph(library, store.get(call)) for store in stores)
        found[graph_name(call)] = one, other
    return found


def table(found: dict[str, tuple[Size, Size]]) -> str:
    """The sizes as a Markdown table: of the CPU form, and of the GPU form where it differs."""
    lines = ["| graph | ONNX nodes | Reshape | TensorRT layers |", "|---|---|---|---|"]
    for name, (before, after) in found.items():
        pairs = zip(before, after, strict=True)
        cells = [f"{a:,}" if before == after else f"{a:,} -> {b:,}" for a, b in pairs]
        lines.append(f"| {' | '.join([name, *cells])} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table for one network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", choices=PRESETS, default="nano")
    parser.add_argument("--seed", type=int, help="seed of random weights, if none are bundled")
    parser.add_argument("--precision", choices=get_args(Precision), default="fp32")
    parser.add_argument("--out", type=Path, help="folder in which to keep the graphs")
    given = parser.parse_args(arguments)
    from lmeec_core.checkpoint import load_model
    from lmeec_core.engine.tensorrt_library import load_tensorrt

    library = load_tensorrt()
    model = load_model(given.preset, device="cpu", seed=given.seed)
    model.precision = given.precision
    with tempfile.TemporaryDirectory() as folder:
        print(table(sizes(model, given.out or Path(folder), library)))


if __name__ == "__main__":
    main()
