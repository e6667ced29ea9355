"""How well masks show what moves and what is in the hand, on simulated takes.

``python -m lmeec_core.experiments.hand TAKES`` reads takes made by ``lmeec simulate`` with their
true masks; the person's mask serves as the hand. Ground truth: an object moves if its true box has
moved by more than 5 mm since the previous frame, and it is in the hand from grasp to release. Only
objects that some camera sees in both frames are scored.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lmeec_core.datasets.interaction import Interaction
from lmeec_core.errors import InputError
from lmeec_core.files import write_text
from lmeec_core.simulation.truth import TRUTH
from lmeec_core.takes import Take, decode_mask, open_takes

MOVED = 0.005
"""Distance above which an object has moved, in metres."""
MEASURES = ("moves", "contact", "in hand")
DRAWS = 2000


def counts_of(take: Take) -> dict[str, list[int]]:
    """True positives, false positives and false negatives by measure.

    Raises:
        InputError: the take is not simulated.
    """
    truth = take.annotation.get(TRUTH)
    if not isinstance(truth, dict) or "person" not in truth:
        raise InputError(f"{take.path}: no true places in it; a take of `lmeec simulate` expected")
    counts = {name: [0, 0, 0] for name in MEASURES}
    rule, before = Interaction(), None
    for frame in take.common_frames():
        masks = {c: {n: take.mask(n, c, frame) for n in take.objects} for c in take.cameras}
        person = {c: truth["person"][c].get(str(frame)) for c in take.cameras}
        hand = {c: None if rle is None else decode_mask(rle) for c, rle in person.items()}
        found = rule.step(masks, hand)
        for name in take.objects:
            box = truth["boxes"][name].get(str(frame))
            last = None if before is None else truth["boxes"][name].get(str(before))
            seen = [c for c in take.cameras if masks[c][name] is not None and before is not None
                    and take.annotated(name, c, before)]  # fmt: skip
            if box is None or last is None or not seen:
                continue
            moves = bool(np.abs(np.subtract(box, last)).max() > MOVED)
            held = truth["held"][str(frame)] == name
            says = found[name]
            pairs = ((moves, says.moves), (held, says.contact), (held and moves, says.in_hand))
            for measure, (true, told) in zip(MEASURES, pairs, strict=True):
                counts[measure][0] += true and told
                counts[measure][1] += told and not true
                counts[measure][2] += true and not told
        before = frame
    return counts


def summary(takes: Sequence[dict[str, list[int]]]) -> dict[str, Any]:
    """Precision and recall in per cent with 95 % intervals over takes (bootstrap, fixed seed)."""
    result: dict[str, Any] = {}
    for name in MEASURES:
        each = np.array([one[name] for one in takes], np.float64)
        draws = np.random.default_rng(0).integers(0, len(each), (DRAWS, len(each)))
        drawn = each[draws].sum(axis=1)
        true, wrong, missed = each.sum(axis=0)
        result[name] = {"true": int(true + missed), "told": int(true + wrong)}
        for measure, other in (("precision", 1), ("recall", 2)):
            total = true + (wrong if other == 1 else missed)
            if not total:
                continue  # nothing to divide by
            with np.errstate(invalid="ignore"):
                values = 100 * drawn[:, 0] / (drawn[:, 0] + drawn[:, other])
            low, high = np.nanpercentile(values, (2.5, 97.5))
            result[name][measure] = {
                "%": round(100 * float(true / total), 1),
                "95%": [round(float(low), 1), round(float(high), 1)],
            }
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Score the rule of lmeec_core.datasets.interaction on simulated takes."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("takes", type=Path, help="a take, or a folder of takes")
    parser.add_argument("--split", default=None, help="use only this split")
    parser.add_argument("--out", type=Path, default=None, help="JSON file to write")
    args = parser.parse_args(arguments)
    try:
        takes = list(open_takes(args.takes, args.split))
        result = {"simulated": True, "takes": len(takes), **summary([counts_of(t) for t in takes])}
    except InputError as error:
        parser.error(str(error))
    if args.out is not None:
        write_text(args.out, json.dumps(result, indent=1))
    print(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
