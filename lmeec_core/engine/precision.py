"""Precision ``auto``: bfloat16 if it is faster and finds the same masks, else float32."""

from __future__ import annotations

import copy
import logging
import time
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from lmeec_core.config import Precision
from lmeec_core.model import LMEEC
from lmeec_core.tracker import CorrespondenceTracker

logger = logging.getLogger(__name__)

MASK_IOU = 0.99
"""Minimum IoU of the masks in bfloat16 with those in float32, over the whole :func:`_scene`."""
_FASTER = 0.7
"""Maximum time of a product in bfloat16, as a share of its time in float32."""
_SIDE, _REPEATS, _FRAMES = 512, 5, 2


def choose_precision(model: LMEEC, trained: bool = True) -> Precision:
    """Choose the precision that a network should compute in, and log the choice and the reason.

    Args:
        model: the network in float32, with its final weights, on its device; unchanged.
        trained: False for random weights, whose masks say nothing about rounding.

    Returns:
        bf16 or fp32.
    """
    chosen, why = _choice(model, trained)
    logger.info("precision auto: %s, %s", chosen, why)
    return chosen


def _choice(model: LMEEC, trained: bool) -> tuple[Precision, str]:
    if not trained:
        return "fp32", "since the weights are random"
    ours, exact = product_times(model.device)
    times = f"a product takes {ours:.2g} ms in bfloat16, {exact:.2g} ms in float32"
    if ours > _FASTER * exact:
        return "fp32", f"since {times}"
    agreement = mask_agreement(model)
    if agreement is None:
        return "fp32", "since the network finds nothing in the test scene to compare masks by"
    masks = f"masks of the test scene have an IoU of {agreement:.4f}, {MASK_IOU} expected"
    return ("bf16" if agreement >= MASK_IOU else "fp32"), f"since {times}, and {masks}"


def bf16_is_faster(device: torch.device) -> bool:
    """Whether a device multiplies matrices clearly faster in bfloat16 than in float32."""
    ours, exact = product_times(device)
    return ours <= _FASTER * exact


def product_times(device: torch.device) -> tuple[float, float]:
    """Milliseconds of a matrix product in bfloat16 and in float32, measured in turns."""
    kinds = (torch.bfloat16, torch.float32)
    factors = [torch.ones(_SIDE, _SIDE, dtype=kind, device=device) for kind in kinds]
    best = [float("inf")] * len(kinds)
    for turn in range(_REPEATS + 1):
        for i, factor in enumerate(factors):
            start = time.perf_counter()
            factor @ factor
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if turn:  # the first round is a warm-up
                best[i] = min(best[i], 1e3 * (time.perf_counter() - start))
    return best[0], best[1]


def mask_agreement(model: LMEEC) -> float | None:
    """IoU of the network's masks in bfloat16 with those in float32; None if it finds nothing."""
    half = copy.deepcopy(model)
    half.cast_weights()
    exact, ours = _masks(model), _masks(half)
    if not exact.any():
        return None
    return float(np.count_nonzero(exact & ours) / np.count_nonzero(exact | ours))


def _masks(model: LMEEC) -> NDArray[np.bool_]:
    """The masks that a network finds in the scene, of which both cameras have the same image."""
    tracker = CorrespondenceTracker(model, "query", ["target"])
    found = []
    for frame in range(_FRAMES):
        image, masks = _scene(frame, model.config.image_size)
        step = tracker.step({"query": image, "target": image}, masks)
        found += [one.mask() for one in step["target"].values()]
    return np.stack(found)


def _scene(frame: int, side: int) -> tuple[NDArray[np.uint8], dict[str, NDArray[Any]]]:
    """Two rectangles and two discs that move slowly over a cloudy background, and their masks."""
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.random((1, 3, 9, 9), dtype=np.float32))
    cloudy = F.interpolate(coarse, (side, side), mode="bicubic")[0].clamp(0, 1)
    image = 120 * cloudy.permute(1, 2, 0).numpy()
    y, x = np.mgrid[:side, :side] / side
    masks = {}
    for i, colour in enumerate(((230, 40, 40), (40, 230, 60), (60, 60, 240), (240, 220, 40))):
        dy, dx = y - (0.3, 0.7)[i // 2] - 0.02 * frame, x - (0.3, 0.7)[i % 2]
        r = 0.09 + 0.02 * i
        mask = dy**2 + dx**2 < r**2 if i % 2 else (abs(dy) < r) & (abs(dx) < 1.3 * r)
        image[mask] = np.array(colour) + 14 * rng.random((np.count_nonzero(mask), 3))
        masks[f"object_{i}"] = mask
    return image.astype(np.uint8), masks
