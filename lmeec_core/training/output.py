"""Files of a run: weights, numbers, log; and what it ran on."""

from __future__ import annotations

import json
import logging
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from lmeec_core.files import replacing, write_text

METRICS = "metrics.json"


def write_json(path: Path, content: Any) -> None:
    """Write atomically."""
    write_text(path, json.dumps(content, indent=1))


def export(model: nn.Module, path: Path, metadata: dict[str, str], half: bool = True) -> None:
    """Write a network's weights as safetensors, atomically.

    Args:
        model: the network.
        path: of the file; its folder is made.
        metadata: texts that go into it.
        half: as float16, else as they are.
    """
    state = {
        name: (value.half() if half and value.is_floating_point() else value).cpu().contiguous()
        for name, value in model.state_dict().items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        save_file(state, partial, metadata)


def run_header(steps: int, minutes: float, start: Path | None = None) -> dict[str, str]:
    """What the header of weights tells of the run that made them.

    Args:
        steps, minutes: of the run.
        start: weights that it began with; what their header tells is repeated as ``before``.
    """
    header = {"steps": str(steps), "minutes": f"{minutes:.2f}"}
    if start is None:
        return header
    told = read_header(start)
    return header | {"before": f"{told.get('steps', 'unknown')} steps"}


def read_header(path: Path) -> dict[str, str]:
    """The texts in the header of a safetensors file; empty for other files."""
    if path.suffix != ".safetensors":
        return {}
    with safe_open(path, "pt") as file:
        return dict(file.metadata() or {})


def machine(device: torch.device) -> dict[str, Any]:
    """What the run ran on."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {"gpu": gpu, "cores": os.cpu_count(), "python": platform.python_version(),
            "torch": torch.__version__}  # fmt: skip


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Append what the package logs to a file."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("lmeec_core")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()
