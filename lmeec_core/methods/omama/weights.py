"""Loads a matcher's checkpoints, released ones and those trained here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from lmeec_core.checkpoint import (
    CheckpointError,
    bundled_weights,
    check_weights,
    read_state_dict,
)
from lmeec_core.methods.omama.features import Features
from lmeec_core.methods.omama.loss import TEMPERATURE
from lmeec_core.methods.omama.match import build
from lmeec_core.methods.omama.network import EGO_GRID, EXO_GRID, OMaMa
from lmeec_core.takes import is_ego

_TABLE = "pos_embed_T"
_DIRECTIONS = {EGO_GRID[0] * EGO_GRID[1]: True, EXO_GRID[0] * EXO_GRID[1]: False}
"""Patches of the target view to whether the direction is exo to ego."""
_NAMES = {True: "exo to ego", False: "ego to exo"}
BUNDLED = "bundled"
"""Name of the matcher that comes with the package."""


@dataclass(frozen=True)
class LoadedMatcher:
    """A matcher with the facts from its file.

    Attributes:
        model: the matcher, in evaluation mode.
        path: path of its file.
        reverse: its direction, see :func:`build`; None: both.
        presence: steepness and middle of the presence over the similarity.
    """

    model: OMaMa
    path: str
    reverse: bool | None
    presence: tuple[float, float]

    def check_direction(self, query: str) -> None:
        """Check that the matcher is for queries of a camera.

        Raises:
            CheckpointError: it is for the other direction.
        """
        wanted = not is_ego(query)
        if self.reverse is not None and self.reverse != wanted:
            raise CheckpointError(
                f"matcher {self.path}: it is for {_NAMES[self.reverse]}, and the query camera "
                f"{query!r} needs one for {_NAMES[wanted]}"
            )


def load_matcher(checkpoint: str | Path, reverse: bool | None = None) -> OMaMa:
    """The matcher with the weights of a released file; every name and shape must match.

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
        raise CheckpointError(
            f"checkpoint {path}: its positions are for {_NAMES[found]}, {_NAMES[reverse]} "
            "expected; choose the checkpoint for that direction"
        )
    model = build(bool(found) if reverse is None else reverse)
    check_weights(model, state, str(path))
    model.load_state_dict(state)
    return model


def read_matcher(
    checkpoint: str | Path, features: Features, device: torch.device
) -> LoadedMatcher:  # fmt: skip
    """The matcher of a file, for these features.

    Args:
        checkpoint: a released checkpoint, a file that `lmeec train` wrote, or "bundled".
        features: that it will be given.
        device: where it runs.

    Raises:
        CheckpointError: the file cannot be read, does not fit, or was trained with other features.
    """
    path = Path(checkpoint)
    if checkpoint == BUNDLED:
        bundled = bundled_weights("omama")
        if bundled is None:
            raise CheckpointError("matcher: bundled given, but none comes with this package")
        path = bundled
    facts = read_facts(path)
    trained_on, own = facts.get("fingerprint"), features.fingerprint
    if trained_on is not None and trained_on != own:
        raise CheckpointError(
            f"matcher {path}: it was trained with other features ({facts.get('features')}, "
            f"fingerprint {trained_on}) than those given ({own}); train one for these: lmeec train "
            "RUN --config omama.yaml"
        )
    if trained_on is None:  # a released one
        model = load_matcher(path)
        reverse: bool | None = model.reverse
        if model.layout.dim != features.layout(False).dim:
            raise CheckpointError(
                f"matcher {path}: it is for features of {model.layout.dim} channels, as DINOv2 "
                f"has; those given have {features.layout(False).dim}"
            )
    else:
        reverse = {"exo-ego": True, "ego-exo": False}.get(facts.get("direction", ""))
        model = OMaMa(features.layout(reverse is not False)).eval()
        state = {name: value.float() for name, value in read_state_dict(path).items()}
        check_weights(model, state, str(path))
        model.load_state_dict(state)
    # Where "none of them" was an answer for all objects, the loss makes probabilities.
    steepness = 1 / TEMPERATURE if facts.get("none") == "True" else 1.0
    return LoadedMatcher(model.to(device).eval(), str(path), reverse, (steepness, 0.0))


def read_facts(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file; empty for other files.

    Raises:
        CheckpointError: the file cannot be read.
    """
    if path.suffix != ".safetensors":
        return {}
    try:
        with safe_open(path, "pt") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"checkpoint {path}: unreadable: {error}") from error
