"""Loads checkpoints, released ``.pt`` files and ``.safetensors``, with strict checks."""

from __future__ import annotations

import functools
import logging
import reprlib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from lmeec_core.config import (
    PRESETS,
    EngineName,
    MemoryConfig,
    ModelConfig,
    PrecisionName,
    preset,
)
from lmeec_core.engine import choose_precision, use_engine
from lmeec_core.errors import EngineError, InputError
from lmeec_core.model.stages import Stage
from lmeec_core.networks import LMEEC, build_model, seeded_model

logger = logging.getLogger(__name__)

MV_MOE_PREFIX = "MV_MoE."
_WEIGHTS = Path(__file__).parent / "weights"


class CheckpointError(InputError):
    """A checkpoint cannot be used; the message says why and what would be expected."""


def bundled_weights(name: str) -> Path | None:
    """The weights that the package ships for a preset, or None."""
    path = _WEIGHTS / f"{name}.safetensors"
    return path if path.is_file() else None


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a checkpoint's weights without executing any code in the file.

    Args:
        path: ``.safetensors``, or a ``.pt`` with the weights at the top level or under ``model``.

    Raises:
        CheckpointError: no such file, unreadable, or not a mapping of names to tensors.
    """
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path}: no such file")
    try:
        if path.suffix == ".safetensors":
            content: object = load_file(path)
        else:
            _check_archive(path)
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError, KeyError) as error:
        raise CheckpointError(
            f"checkpoint {path}: unreadable or corrupt ({_first(error)})"
        ) from error
    except Exception as error:  # torch raises UnpicklingError and others for what is not weights
        raise CheckpointError(
            f"checkpoint {path}: not a plain file of weights; only these are loaded "
            f"({_first(error)})"
        ) from error
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        content = content["model"]
    if not isinstance(content, dict) or not content:
        raise CheckpointError(f"checkpoint {path}: holds no weights (a mapping of names expected)")
    wrong = [k for k, v in content.items() if not (isinstance(k, str) and _is_dense(v))]
    if wrong:
        raise CheckpointError(
            f"checkpoint {path}: {reprlib.repr(wrong[0])} is not a tensor (dense, of real "
            f"numbers); the weights are expected at the top or under 'model'"
        )
    return content


def _check_archive(path: Path) -> None:
    """Reject a ``.pt`` that is damaged, or would need more memory than its size in bytes.

    torch stores tensors uncompressed in a zip archive, and does not verify its checksums. The older
    format (torch 1.5 and before) allocates whatever memory a file claims to need; it is rejected.

    Raises:
        CheckpointError: the file is rejected.
    """
    if not zipfile.is_zipfile(path):
        raise CheckpointError("not a zip archive, as torch.save writes it")
    with zipfile.ZipFile(path) as archive:
        packed = [info.filename for info in archive.infolist() if info.compress_type]
        if packed:
            raise CheckpointError(f"{packed[0]!r} in it is compressed, which torch.save never does")
        broken = archive.testzip()
    if broken is not None:
        raise CheckpointError(f"the checksum of {broken!r} in it is wrong")


def _is_dense(value: object) -> bool:
    return isinstance(value, Tensor) and (
        value.layout is torch.strided
        and not (value.is_quantized or value.is_complex() or value.is_meta)
    )


def _first(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__


def load_weights(
    model: LMEEC, state: dict[str, Tensor], source: str, require_mv_moe: bool = True
) -> None:
    """Load weights into a model, strictly: every name and shape must match.

    Args:
        model: the network; unchanged if an error is raised.
        state: names to tensors.
        source: where the weights come from, for messages.
        require_mv_moe: if False, an original SAM 2.1 checkpoint without MV-MoE is allowed; the
            MV-MoE then keeps its initial values, and a warning says so.

    Raises:
        CheckpointError: with the first missing, unexpected and misshapen names.
    """
    absent = check_weights(model, state, source, require_mv_moe)
    model.load_state_dict(state, strict=not absent)
    if absent:
        logger.warning(
            "checkpoint %s has no MV-MoE (an original SAM 2.1 file): its %d entries keep their "
            "initial values, so masks after the first frame are unreliable without training",
            source,
            absent,
        )


def check_weights(
    model: nn.Module, state: Mapping[str, Tensor], source: str, require_mv_moe: bool = True
) -> int:
    """Check that weights fit a model: every name and shape must match.

    Args:
        model: the network, which may be on torch's meta device.
        state, source, require_mv_moe: see :func:`load_weights`.

    Returns:
        The number of missing entries of the MV-MoE: 0 or all of them.

    Raises:
        CheckpointError: with the first missing, unexpected and misshapen names.
    """
    own = model.state_dict()
    missing = [name for name in own if name not in state]
    moe_absent = bool(missing) and not any(name.startswith(MV_MOE_PREFIX) for name in state)
    only_moe = moe_absent and all(name.startswith(MV_MOE_PREFIX) for name in missing)
    allowed = only_moe and not require_mv_moe
    unexpected = [name for name in state if name not in own]
    misshapen = [
        f"{name} (file {tuple(state[name].shape)}, model {tuple(own[name].shape)})"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    problems = [
        f"{len(names)} {kind}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
        for kind, names in (
            ("missing", [] if allowed else missing),
            ("unexpected", unexpected),
            ("misshapen", misshapen),
        )
        if names
    ]
    if problems:
        hint = (
            " This looks like an original SAM 2.1 checkpoint: allow it with require_mv_moe=False."
            if only_moe and not unexpected and not misshapen
            else ""
        )
        other = fitting_preset(state) if isinstance(model, LMEEC) else None
        if other is not None and not hint:
            hint = f" It fits the preset {other!r}: choose that one."
        raise CheckpointError(
            f"checkpoint {source} does not fit the model: {'; '.join(problems)}.{hint}"
        )
    return len(missing) if allowed else 0


def fitting_preset(state: Mapping[str, Tensor]) -> str | None:
    """The preset that a state dict fits by names and shapes, MV-MoE aside; None if none does."""
    wanted = _shapes(state)
    return next((name for name in PRESETS if _preset_shapes(name) == wanted), None)


def _shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {n: v.shape for n, v in state.items() if not n.startswith(MV_MOE_PREFIX)}


@functools.cache
def _preset_shapes(name: str) -> dict[str, torch.Size]:
    with torch.device("meta"):
        return _shapes(build_model(PRESETS[name]).state_dict())


def resolve_device(device: str) -> torch.device:
    """The device; ``auto`` is CUDA if available, else the CPU.

    Raises:
        InputError: an unknown device, or CUDA is requested but not available.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"device: {device!r} given, auto, cpu or cuda expected") from error
    if resolved.type not in ("cpu", "cuda"):
        raise InputError(f"device: {device!r} given, auto, cpu or cuda expected")
    if resolved.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not count:
            raise InputError(f"device: {device!r} given, but torch finds no CUDA device; use cpu")
        if (resolved.index or 0) >= count:
            raise InputError(f"device: {device!r} given, but torch finds {count} CUDA devices")
    return resolved


@torch.inference_mode(False)  # tensors made in inference mode do not track later changes
def load_model(
    model: str | ModelConfig = "nano",
    checkpoint: str | Path | None = None,
    device: str = "auto",
    precision: PrecisionName = "fp32",
    seed: int | None = None,
    require_mv_moe: bool = True,
    engine: EngineName | Mapping[Stage, EngineName] = "eager",
    memory: MemoryConfig | None = None,
) -> LMEEC:
    """Build a network and load its weights.

    Args:
        model: a preset's name or a configuration; "nano" comes with weights, "base_plus" is the
            released network.
        checkpoint: ``.pt`` or ``.safetensors``; None: the weights bundled for the preset.
        device: auto, cpu, cuda or cuda:<index>.
        precision: fp32; bf16 (normalisation, rotary tables and logits stay in float32); fp16, the
            same in float16, for GPUs without bfloat16; or auto: bf16 where the device is faster
            with it and it finds the same masks (:func:`lmeec_core.engine.choose_precision`).
        seed: without a checkpoint and bundled weights, use random weights from this seed. The masks
            then mean nothing; use this only to test a setup.
        require_mv_moe: see :func:`load_weights`.
        engine: the backend that runs the stages, one of :data:`lmeec_core.engine.ENGINES`, or one
            for each stage.
        memory: the trackers' memory settings; None: the default. Engines prepare for these here;
            calls with other shapes are computed by eager torch.

    Raises:
        CheckpointError: the checkpoint is absent, unreadable or does not fit.
        InputError: unknown preset, device or precision.
        lmeec_core.engine.EngineError: unknown engine, or one that cannot be used here.
    """
    if precision not in get_args(PrecisionName):
        raise InputError(f"precision: {precision!r} given, auto, fp32, bf16 or fp16 expected")
    config = preset(model) if isinstance(model, str) else model
    target = resolve_device(device)
    if precision == "fp16" and target.type == "cpu":
        raise EngineError(
            "precision: fp16 given with device cpu, which does not compute fast in fp16; choose "
            "fp32 or bf16, or a GPU"
        )
    path = Path(checkpoint) if checkpoint else None
    if path is None and isinstance(model, str):
        path = bundled_weights(model)
    if path is not None:
        network = build_model(config)
        load_weights(network, read_state_dict(path), str(path), require_mv_moe)
    elif seed is not None:
        network = seeded_model(config, seed)
    else:
        raise _no_weights(model)
    network.requires_grad_(False)
    network.to(target)
    if precision == "auto":
        precision = choose_precision(network, trained=path is not None)
    network.compute_in(precision)
    use_engine(network, engine, memory)
    return network


def _no_weights(model: str | ModelConfig) -> CheckpointError:
    bundled = [name for name in PRESETS if bundled_weights(name)] or "none"
    return CheckpointError(
        f"no checkpoint given, and no weights are bundled for {model!r} (bundled: {bundled}); give "
        "a checkpoint, or a seed for random weights, whose masks mean nothing"
    )
