"""Tracks and scores simulated takes with any method, using their true masks."""

from __future__ import annotations

from collections.abc import Collection

from lmeec_core.correspondence import Method
from lmeec_core.evaluation.metrics import mask_metrics
from lmeec_core.evaluation.scenes import MIN_AREA, qualifies
from lmeec_core.evaluation.scores import FrameScore, Scores
from lmeec_core.takes import Take, is_ego


def track_take(
    method: Method,
    take: Take,
    query: str,
    objects: Collection[str],
    most: int | None = None,
    step: int = 1,
) -> Scores:
    """Track objects into all cameras of the other kind, and score the masks found.

    Frames that count: see :func:`lmeec_core.evaluation.scenes.qualifies`.

    Args:
        method: makes the tracker.
        take: images and true masks.
        query: the query camera.
        objects: the objects to track.
        most: maximum number of frames used, from the start.
        step: only every ``step``-th of these is used.
    """
    targets = take.exos if is_ego(query) else (take.ego,)
    frames = take.common_frames(query, *targets)[:most][::step]
    tracker = method.tracker(query, targets, len(frames))
    scores = Scores(f"simulated, objects of {MIN_AREA} pixels or more")
    for frame in frames:
        given = {name: take.mask(name, query, frame) for name in objects}
        masks = {n: m for n, m in given.items() if m is not None and m.sum() >= MIN_AREA}
        found = tracker.step({c: take.image(c, frame) for c in (query, *targets)}, masks)
        for target in targets:
            for name, asked in masks.items():
                truth, one = take.mask(name, target, frame), found[target][name]
                area = 0 if truth is None else int(truth.sum())
                if not qualifies(asked.sum(), area):
                    continue
                record = FrameScore(
                    take.name, name, query, target, frame, area > 0, one.visible(),
                    presence=one.presence,
                )  # fmt: skip
                if truth is not None and area:
                    iou, contour, location, _ = mask_metrics(one.mask(), truth)
                    record = record._replace(iou=iou, contour=contour, location=location)
                scores.records.append(record)
    return scores
