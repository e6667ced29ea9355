"""Exported graphs on disk: their names, and the record next to each."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from lmeec_core.engine.calls import StageCall


def graph_name(call: StageCall) -> str:
    """Name of a call's graph, unique among those of one network."""
    parts = [call.stage, f"b{call.batch}"]
    if call.length is not None:
        parts.append(f"l{call.length}")
    return "_".join([*parts, *(f"{name}-{value}" for name, value in vars(call.options).items())])


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe_inputs(call: StageCall) -> list[dict[str, Any]]:
    """A call's inputs in the form used in records."""
    return [
        {
            "name": f"input_{i}",
            "tensor": spec.name,
            "shape": list(shape),
            "dtype": str(dtype).removeprefix("torch."),
        }
        for i, (spec, shape, dtype) in enumerate(
            zip(call.spec.inputs, call.shapes, call.dtypes, strict=True)
        )
    ]


def read_record(path: Path) -> dict[str, Any]:
    """Read a record; empty if there is none or it cannot be read."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}
