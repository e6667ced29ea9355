"""Loading of O-MaMa's released checkpoints."""

from __future__ import annotations

from pathlib import Path

from lmeec_core.checkpoint import CheckpointError, check_weights, read_state_dict
from lmeec_core.methods.omama.match import build
from lmeec_core.methods.omama.network import EGO_GRID, EXO_GRID, OMaMa

_TABLE = "pos_embed_T"
_DIRECTIONS = {EGO_GRID[0] * EGO_GRID[1]: True, EXO_GRID[0] * EXO_GRID[1]: False}
"""Patches of the target view to whether the direction is exo to ego."""


def load_matcher(checkpoint: str | Path, reverse: bool | None = None) -> OMaMa:
    """The matcher with the weights of a file; every name and shape must agree.

    Args:
        checkpoint: ``.pt`` or ``.safetensors``.
        reverse: the direction that is needed, see :func:`build`; None is the file's, whose tables
            of positions tell it.

    Raises:
        CheckpointError: the file cannot be read, does not fit, or is for the other direction.
    """
    path = Path(checkpoint)
    state = read_state_dict(path)
    rows = state[_TABLE].shape[1:2] if _TABLE in state else ()
    found = _DIRECTIONS.get(int(rows[0])) if rows else None
    if reverse is not None and found is not None and found != reverse:
        names = {True: "exo to ego", False: "ego to exo"}
        raise CheckpointError(
            f"checkpoint {path}: its positions are those of {names[found]}, {names[reverse]} "
            "expected; choose the checkpoint of that direction"
        )
    model = build(bool(found) if reverse is None else reverse)
    check_weights(model, state, str(path))
    model.load_state_dict(state)
    return model
