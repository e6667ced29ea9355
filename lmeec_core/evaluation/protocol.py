"""Scores predictions by the rules of a protocol.

`official` is the benchmark's evaluation: one score per (take, object, exo camera, frame), and their
plain mean. Frames with a query mask are scored if they were annotated in the target camera. Truth
and predictions have a long side of 480 pixels. The object exists if the truth has an entry; it is
predicted to exist according to the confidence.

`lm_eec` is the evaluation of the LM-EEC release: all masks are resized to 480 x 480, and all frames
with a prediction are scored, whether annotated or not. The object exists if the true mask is not
empty; it is predicted to exist according to the predicted mask's area.

Scores of the two protocols are not comparable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lmeec_core.errors import InputError
from lmeec_core.evaluation.metrics import mask_metrics
from lmeec_core.evaluation.scores import FrameScore, Scores
from lmeec_core.evaluation.truth import Pair, ResultsTruth, Truth, named
from lmeec_core.takes import Results, Take, decode_mask
from lmeec_core.takes.rle import Size, mask_size

PROTOCOLS = ("official", "lm_eec")
LONG_SIDE = 480
CONFIDENCE = 0.5
LEAST_AREA = 0.001  # share of the image, lm_eec


def benchmark_size(height: int, width: int) -> tuple[int, int]:
    """(height, width) at which the benchmark compares masks: long side 480, truncated.

    Uses the benchmark's floating-point operations, which give a long side of 479 for some sizes.
    """
    ratio = 1.0 / max(height, width) * LONG_SIDE
    return int(height * ratio), int(width * ratio)


def score_pair(
    results: Results,
    take: Take,
    object_name: str,
    query: str,
    target: str,
    protocol: str = "official",
    on_broken: Callable[[str], None] | None = None,
) -> Scores:
    """Scores of one object from one query camera to one target camera.

    Predictions are resized to the protocol's size by nearest neighbour. In `official`, a prediction
    with another aspect ratio is rejected and counts as missing.

    Args:
        results: the predictions.
        take: the truth.
        object_name, query, target: the object and the cameras.
        protocol: "official" or "lm_eec".
        on_broken: called with every prediction that cannot be read; it counts as missing.

    Raises:
        TakeError: the truth is broken, or lacks the object.
    """
    pair = Pair(object_name, query, target, f"{query}_{target}")
    return score(results, take, pair, protocol, on_broken)


def score(
    results: Results,
    truth: Truth,
    pair: Pair,
    protocol: str,
    on_broken: Callable[[str], None] | None = None,
) -> Scores:
    """As :func:`score_pair`, with a truth of either kind.

    Raises:
        InputError: an unknown protocol, or one that cannot be used with this truth.
    """
    if protocol not in PROTOCOLS:
        raise InputError(f"protocol {protocol!r} was given, expected one of {PROTOCOLS}")
    if protocol == "lm_eec":
        frames: Iterator[int] = iter(results.pair_frames(truth.name, pair.object_name, pair.key))
        size: Size = (LONG_SIDE, LONG_SIDE)
    elif isinstance(truth, ResultsTruth):
        raise InputError(
            f"{truth.path}: a truth in the result format does not say which frames are annotated; "
            "protocol official needs the annotations, use lm_eec"
        )
    else:
        frames = scored_frames(truth, pair.object_name, pair.query, pair.target)
        size = benchmark_size
    scores = Scores(protocol)
    for frame in frames:
        true = truth.mask(pair.object_name, pair.target, frame, size)
        found = _prediction(results, truth.name, pair, frame, true, protocol, on_broken)
        if protocol == "official":  # a null mask: the object exists, there is nothing to compare
            exists = truth.annotated(pair.object_name, pair.target, frame)
            says = found is not None and found.confidence > CONFIDENCE
        else:
            exists = true is not None and bool(true.any())
            says = found is not None and _is_large(found.mask)
            true = true if exists else None
        record = FrameScore(
            truth.name, pair.object_name, pair.query, pair.target, frame, exists, says,
            missing=found is None,
        )  # fmt: skip
        if true is not None:
            iou, contour, location, _ = mask_metrics(
                np.zeros(true.shape, bool) if found is None else found.mask, true
            )
            share = float(np.count_nonzero(true) / true.size)
            record = record._replace(iou=iou, contour=contour, location=location, size=share)
        scores.records.append(record)
    return scores


class _Found(NamedTuple):
    mask: NDArray[np.bool_]
    confidence: float


def _is_large(mask: NDArray[np.bool_]) -> bool:
    return bool(np.count_nonzero(mask) > LEAST_AREA * mask.shape[0] * mask.shape[1])


def _prediction(
    results: Results,
    take: str,
    pair: Pair,
    frame: int,
    true: NDArray[np.bool_] | None,
    protocol: str,
    on_broken: Callable[[str], None] | None,
) -> _Found | None:
    """A frame's predicted mask at the true mask's size; None if it is missing or broken."""
    size = (LONG_SIDE, LONG_SIDE) if true is None else (true.shape[0], true.shape[1])
    try:
        entry = results.prediction(take, pair.object_name, pair.key, frame)
        if entry is None:
            return None
        if true is not None:
            _check_upright(mask_size(entry.rle), size)
        image = size if true is not None and protocol == "official" else None  # lm_eec squashes
        return _Found(decode_mask(entry.rle, size, image=image), entry.confidence)
    except InputError as error:
        if on_broken is not None:
            on_broken(f"{named(take, pair.object_name, pair.key, frame)}: {error}")
        return None


def _check_upright(given: tuple[int, int], true: tuple[int, int]) -> None:
    """Reject a size [W, H] instead of [H, W]: resizing would give a wrong mask."""
    (height, width), (high, wide) = given, true
    if abs(wide - high) > 0.1 * high and abs(height * high - width * wide) < 0.05 * width * wide:
        raise InputError(
            f"the mask's size {list(given)} is that of a mask on its side; [H, W] expected, as "
            f"{list(true)}"
        )


def scored_frames(take: Take, object_name: str, query: str, target: str) -> Iterator[int]:
    """Frames with a query mask that were annotated in the target camera.

    If the take does not list the annotated frames (the processed layout), all frames with images of
    the target camera are used.
    """
    annotated: frozenset[int] | set[int] | None = take.annotated_frames(object_name, target)
    if annotated is None:
        images = set(take.frames(target))
        annotated = set(take.subsample_idx) & images or images
    for frame in take.mask_frames(object_name, query):
        if frame in annotated:
            yield frame
