"""A run's checkpoint file: the complete state for resuming it, written atomically."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lmeec_core.errors import InputError
from lmeec_core.files import SUFFIX, replacing

CHECKPOINT = "checkpoint.pt"
FORMAT = 2
"""Checkpoint format; incremented when older checkpoints can no longer be resumed."""


def write_checkpoint(folder: Path, content: Mapping[str, Any]) -> None:
    """Write the state of a run, tensors and plain values, to its folder."""
    with replacing(folder / CHECKPOINT) as partial:
        torch.save({"format": FORMAT, **content}, partial)


def read_checkpoint(folder: Path) -> dict[str, Any] | None:
    """The state that a run saved in its folder, or None; no code in the file is executed.

    Partly written files are removed.

    Raises:
        InputError: it cannot be read, or is of an older version.
    """
    path = folder / CHECKPOINT
    for partial in folder.glob(f".{CHECKPOINT}.*{SUFFIX}"):
        partial.unlink()  # the process was killed while writing it
    if not path.is_file():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types
        first = (str(error).strip() or repr(error)).splitlines()[0][:200]
        raise InputError(f"{path}: unreadable ({first}); remove it to begin anew") from error
    found = content.get("format", 1) if isinstance(content, dict) else "none"
    if found != FORMAT:
        raise InputError(
            f"{path}: a checkpoint of format {found}, {FORMAT} expected: a run of an older (or "
            "newer) version cannot be resumed; finish it with that version, or start another one "
            "in a new folder from its weights in out/ (--set start=FILE on simulated scenes, "
            "--set checkpoint=FILE on takes)"
        )
    return content
