"""Saves a tracker's memory to a file, so that a restarted process can continue with it.

The file is safetensors: the memory of every object and, as metadata, the network, weights, cameras
and memory settings with which it was saved. It can only be loaded with the same ones.
"""

from __future__ import annotations

import errno
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lmeec_core.errors import InputError
from lmeec_core.files import replacing

if TYPE_CHECKING:
    from lmeec_core.correspondence import Tracker
    from lmeec_core.model import LMEEC
    from lmeec_core.tracker import CorrespondenceTracker

VERSION = 2
_KEY = "lmeec_memory"


class MemoryFileError(InputError):
    """A memory file cannot be used; the message says why."""


def fingerprint(model: LMEEC) -> str:
    """A fingerprint of a network's weights: a digest of its configuration, biases and
    embeddings (the large matrices, which would take seconds, are left out).

    Values are rounded to bfloat16 first, so that the fingerprint is the same in both precisions.
    """
    digest = hashlib.sha256(model.config.model_dump_json().encode())
    for name, value in model.state_dict().items():
        if value.numel() <= 4096:
            rounded = value.detach().to(torch.bfloat16).float().cpu().numpy()
            digest.update(name.encode() + rounded.tobytes())
    return digest.hexdigest()[:32]


def _facts(tracker: CorrespondenceTracker) -> dict[str, Any]:
    return {
        "version": VERSION,
        "network": fingerprint(tracker.model),
        "query": tracker.query,
        "targets": list(tracker.targets),
        "memory": tracker.memory.model_dump(mode="json"),
    }


def save_memory(tracker: Tracker, path: str | Path, extra: dict[str, Any] | None = None) -> None:
    """Write the memory of all objects, atomically.

    Args:
        tracker: the tracker with the memory.
        path: file to write or replace; its folder must exist.
        extra: further data to store with the memory (JSON).

    Raises:
        MemoryFileError: the tracker has no memory.
        OSError: the file cannot be written.
    """
    tracker = _with_memory(tracker, path)
    tensors: dict[str, Tensor] = {}
    for i, (_, parts) in enumerate(tracker.memory_state().items()):
        tensors |= {f"{i}.{name}": value.cpu().contiguous() for name, value in parts.items()}
    facts = _facts(tracker) | {"objects": list(tracker.objects), "extra": extra or {}}
    with replacing(Path(path)) as partial:
        try:
            save_file(tensors, partial, {_KEY: json.dumps(facts)})
        except SafetensorError as error:  # a full disk; the library raises no OSError
            raise OSError(errno.EIO, f"not written: {error}", str(path)) from error


def load_memory(tracker: Tracker, path: str | Path) -> dict[str, Any]:
    """Replace the tracker's memory by a file's; returns the further data stored with it.

    Raises:
        MemoryFileError: the tracker has no memory; the file is missing, damaged or not a memory
            file; or it was saved with another network, other cameras or other memory settings. The
            tracker's memory is unchanged.
    """
    source = Path(path)
    tracker = _with_memory(tracker, source)
    if not source.is_file():
        raise MemoryFileError(f"memory {source}: no such file")
    try:
        with safe_open(source, "pt") as file:
            facts = json.loads((file.metadata() or {}).get(_KEY, "null"))
            _check(tracker, facts, source)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except MemoryFileError:
        raise
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise MemoryFileError(f"memory {source}: unreadable or corrupt ({error})") from error
    state: dict[str, dict[str, Tensor]] = {}
    for i, name in enumerate(facts["objects"]):
        prefix = f"{i}."
        state[name] = {
            key.removeprefix(prefix): value
            for key, value in tensors.items()
            if key.startswith(prefix)
        }
    try:
        tracker.restore(state)
    except InputError as error:
        raise MemoryFileError(f"memory {source}: does not fit ({error})") from error
    extra: dict[str, Any] = facts["extra"]
    return extra


def _with_memory(tracker: Tracker, path: str | Path) -> CorrespondenceTracker:
    if not hasattr(tracker, "memory_state"):
        raise MemoryFileError(
            f"memory {path}: the tracker ({type(tracker).__name__}) has no memory to save or load; "
            "only the method lmeec has one"
        )
    return cast("CorrespondenceTracker", tracker)


def _check(tracker: CorrespondenceTracker, facts: Any, source: Path) -> None:
    if not isinstance(facts, dict) or not isinstance(facts.get("objects"), list):
        raise MemoryFileError(f"memory {source}: not a memory file of lmeec")
    objects = facts["objects"]
    if not all(isinstance(name, str) and name for name in objects) or (
        len(set(objects)) < len(objects) or not isinstance(facts.get("extra"), dict)
    ):
        raise MemoryFileError(
            f"memory {source}: corrupt: unique object names and a mapping of further data expected"
        )
    names = {
        "version": "a different format", "network": "a different network or different weights",
        "query": "a different query camera", "targets": "different target cameras",
        "memory": "different memory settings",
    }  # fmt: skip
    for key, wanted in _facts(tracker).items():
        if facts.get(key) != wanted:
            raise MemoryFileError(
                f"memory {source}: it was saved with {names[key]} "
                f"({facts.get(key)!r} in the file, {wanted!r} here)"
            )
    if len(objects) > tracker.max_objects:
        raise MemoryFileError(
            f"memory {source}: {len(objects)} objects, at most {tracker.max_objects} "
            "expected; raise max_objects"
        )


__all__ = ["MemoryFileError", "fingerprint", "load_memory", "save_memory"]
