"""Output files of a run: weights, metrics, log; and a description of the machine."""

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
    """Write JSON atomically."""
    write_text(path, json.dumps(content, indent=1))


def export(model: nn.Module, path: Path, metadata: dict[str, str], half: bool = True) -> None:
    """Write a network's weights as safetensors, atomically.

    Args:
        model: the network.
        path: the file to write; its folder is created.
        metadata: text entries for the file's header.
        half: convert floating-point weights to float16; else they keep their type.
    """
    state = {
        name: (value.half() if half and value.is_floating_point() else value).cpu().contiguous()
        for name, value in model.state_dict().items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        save_file(state, partial, metadata)


def run_header(steps: int, minutes: float, start: Path | None = None) -> dict[str, str]:
    """Entries for the header of a weights file that describe the run.

    Args:
        steps, minutes: length of the run.
        start: the initial weights, if any; the steps in their header are recorded as ``before``.
    """
    header = {"steps": str(steps), "minutes": f"{minutes:.2f}"}
    if start is None:
        return header
    told = read_header(start)
    return header | {"before": f"{told.get('steps', 'unknown')} steps"}


def read_header(path: Path) -> dict[str, str]:
    """The text entries in the header of a safetensors file; empty for other files."""
    if path.suffix != ".safetensors":
        return {}
    with safe_open(path, "pt") as file:
        return dict(file.metadata() or {})


def machine(device: torch.device) -> dict[str, Any]:
    """The hardware and software that the run uses."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {"gpu": gpu, "cores": os.cpu_count(), "python": platform.python_version(),
            "torch": torch.__version__}  # fmt: skip


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Append the package's log to a file."""
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
