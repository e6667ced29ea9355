"""The side files of a dataset: objects, cameras, and the provenance of its masks."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lmeec_core import __version__
from lmeec_core.datasets import interaction
from lmeec_core.datasets.cameras import cameras_file
from lmeec_core.datasets.episode import Part
from lmeec_core.datasets.faces import CELLS, MARGIN, SCORE
from lmeec_core.datasets.frames import Plan
from lmeec_core.geometry import MAX_ERROR, MIN_ANGLE

SIDE = ("meta/provenance.json", "provenance.json")
"""Places of the file by which `lmeec dataset` recognises its own datasets."""
TRACK_WORK = ".work"
"""Suffix of the folder in which `lmeec track` keeps the settings of a result file."""


def side_files(
    kind: str, plan: Plan, parts: Sequence[Part], problems: Sequence[str]
) -> dict[str, Any]:
    """The content of objects, cameras and provenance, ready for JSON.

    Args:
        kind: the dataset's format.
        plan: the plan of the dataset.
        parts: the episodes.
        problems: texts about everything that was left out.
    """
    return {
        "objects": _objects(plan, parts),
        "cameras": cameras_file(plan, parts),
        "provenance": _provenance(kind, plan, parts, problems),
    }


def _objects(plan: Plan, parts: Sequence[Part]) -> list[dict[str, Any]]:
    """The slots, and where each object is visible: first tick, last tick and number of ticks."""
    listed = []
    for slot, name in enumerate(plan.slots):
        episodes = {
            str(number): {
                camera: {"first": first, "last": last, "visible": count}
                for camera, (first, last, count) in part.facts["objects"][name].items()
            }
            for number, part in enumerate(parts)
            if name in part.facts["objects"]
        }
        listed.append({"slot": slot, "id": name, "query": plan.query, "episodes": episodes})
    return listed


QUERY = "query masks of the recording, or those that the predictions tracked from prompts"


def _provenance(
    kind: str, plan: Plan, parts: Sequence[Part], problems: Sequence[str]
) -> dict[str, Any]:
    files = dict.fromkeys(
        part.episode.options.predictions
        for part in parts
        if part.episode.options.predictions is not None
    )
    targets = "predictions" if plan.predicted else "annotations of the recording"
    return {
        "made by": f"lmeec {__version__}",
        "format": kind,
        "masks": {
            camera: QUERY if camera == plan.query else targets
            for camera in plan.cameras
        },
        "visible": f"probability >= {plan.threshold:g} and a mask that is not empty",
        "thresholds": {
            "visible": plan.threshold,
            **({"position": {"reprojection error, pixels": MAX_ERROR, "angle, degrees": MIN_ANGLE}}
               if plan.located else {}),
        },
        **({"hand": {"object": plan.hand, "rule": inspect.getdoc(interaction)}}
           if plan.hand else {}),
        **({"faces": {"blurred": f"to {CELLS} x {CELLS} mean colours", "score from": SCORE,
                      "margin": MARGIN, "model sha256": plan.faces.sha256}}
           if plan.faces else {}),
        "clock": {"rate, Hz": plan.fps, "rule": "nearest frame of the query camera to each tick"},
        "predictions": [_predictions(path) for path in files],
        "recordings": [
            {"episode": number, "name": part.episode.name, "ticks": part.facts["length"],
             "source": str(part.episode.options.source),
             "calibration": part.episode.calibrated_by and str(part.episode.calibrated_by)}
            for number, part in enumerate(parts)
        ],
        "left out": list(problems),
        "notes": list(dict.fromkeys(n for part in parts for n in part.facts["notes"])),
    }  # fmt: skip


def _predictions(path: Path) -> dict[str, Any]:
    """The origin of the masks: the file's digest, and the settings of `lmeec track`."""
    found: dict[str, Any] = {"file": path.name}
    if path.is_file():
        with path.open("rb") as file:
            found["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
    settings = _settings(path.with_name(path.name + TRACK_WORK))
    found["settings"] = settings
    if settings is None:
        found["note"] = (
            f"the method and its checkpoint are unknown: there is no {path.name}{TRACK_WORK} "
            "from `lmeec track` next to the file"
        )
    return found


def _settings(folder: Path) -> dict[str, Any] | None:
    """The settings of the units in a work folder of `lmeec track`: preset, digest of weights..."""
    for unit in sorted(folder.glob("*.jsonl")):
        with suppress(OSError, ValueError, KeyError, TypeError), unit.open("rb") as file:
            return dict(json.loads(file.readline())["settings"])
    return None
