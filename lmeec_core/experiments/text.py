"""Measures how much a description of the object helps omama, on simulated takes.

``python -m lmeec_core.experiments.text TAKES --out FOLDER`` uses takes made by ``lmeec simulate``,
which contain descriptions of their objects. On frozen features of nano, it trains the comparison of
texts and candidates (:class:`lmeec_core.methods.conditions.TextScorer`) in three forms: without
text, with MCFuse as published, and with each object attending to the words about it. A few frames
per take are used; chosen candidates are scored by their IoU with the true mask.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lmeec_core.evaluation.statistics import Sums, difference, estimate, record_of
from lmeec_core.files import write_text
from lmeec_core.methods.candidates.regions import Regions
from lmeec_core.methods.conditions import HashedWords, TextEncoder, TextModel, TextScorer
from lmeec_core.methods.conditions.scoring import FORMS, Form
from lmeec_core.methods.conditions.text import TextVectors, words_of
from lmeec_core.methods.omama.features import Features
from lmeec_core.methods.omama.sources import load_features
from lmeec_core.methods.omama.texts import text_facts
from lmeec_core.methods.omama.tracker import PLAIN_PRESENCE
from lmeec_core.takes import DIRECTIONS, Take
from lmeec_core.training.match_views import DescribedView, DescribedViews
from lmeec_core.training.output import export
from lmeec_core.training.take_clips import annotated_frames, list_takes

RATE, BATCH = 1e-3, 8
ALONE = "similarity alone"
HELD_OUT = {"val": "kinds of training", "test": "kinds held out"}


class Scene(NamedTuple):
    """One frame of a pair of views: K objects in the query view, N candidates and T true masks in
    the target view."""

    take: str
    direction: str
    texts: list[str]
    """(K,) descriptions; "" for an object without one."""
    objects: Tensor
    """(K, C): the part of each object's descriptor that describes the object itself."""
    others: Tensor
    """(N + T, C): the same part for candidates, then for true masks."""
    scores: Tensor
    """(K, N + T) logits from the similarity alone."""
    true: Tensor
    """int64 (K,): the column of the object's true mask, -1 where it is not in the target view."""
    allowed: Tensor
    """bool (K, N + T): which masks an object is compared with in training."""
    overlap: NDArray[np.float32]
    """(K, N) IoU of candidates with the object's true mask."""


def scenes_of(path: Path, views: DescribedViews, features: Features, most: int) -> Iterator[Scene]:
    """Up to `most` evenly spaced frames of each pair of views, in both directions."""
    take = Take.open(path)
    said = take.descriptions
    # Without a matcher, the comparison of descriptors does not depend on the image.
    plain = features.see([np.zeros((64, 64, 3), np.uint8)], [True])[0].plain
    for direction in DIRECTIONS:
        for query, target in take.pairs(direction):
            frames = annotated_frames(take, query, target)
            picked = np.unique(np.linspace(0, len(frames) - 1, min(most, len(frames))).round())
            for i in picked.astype(int):
                seen = [views.view(path, camera, frames[i]) for camera in (query, target)]
                if len(seen[0].names) and seen[1].shown.any():
                    given = [torch.from_numpy(x).float() for x in _descriptors(*seen)]
                    texts = [said.get(str(name), "") for name in seen[0].names]
                    compared = plain(given[0]) @ plain(given[1]).T
                    dim = given[0].shape[1] // 2
                    yield Scene(
                        path.name, direction, texts, given[0][:, :dim], given[1][:, :dim],
                        PLAIN_PRESENCE[0] * compared, *_answers(*seen),
                    )  # fmt: skip


def _descriptors(query: DescribedView, target: DescribedView) -> tuple[Any, Any]:
    """Descriptors of the query view's objects; of the target view's candidates and true masks."""
    return query.objects, np.concatenate((target.candidates, target.objects))


def _answers(
    query: DescribedView, target: DescribedView
) -> tuple[Tensor, Tensor, NDArray[np.float32]]:
    """The fields `true`, `allowed` and `overlap` of a scene."""
    rows = [target.row(str(name)) for name in query.names]
    count, seen = len(target.shown), len(target.names)
    true = np.array([-1 if row is None else count + row for row in rows])
    allowed = np.ones((len(rows), count + seen), bool)
    overlap = np.zeros((len(rows), count), np.float32)
    for k, row in enumerate(rows):
        allowed[k, :count] = target.shown if row is None else target.usable[row]
        if row is not None:
            overlap[k] = np.where(target.shown, target.overlap[row], 0)
    return torch.from_numpy(true), torch.from_numpy(allowed), overlap


class Texts:
    """Encodes texts, each only once."""

    def __init__(self, encoder: TextEncoder) -> None:
        self._encoder, self._found = encoder, dict[str, TextVectors]()

    def __call__(self, texts: Sequence[str]) -> list[TextVectors | None]:
        """Vectors of the texts; None for "" and for texts without any word known to the encoder."""
        new = [one for one in dict.fromkeys(texts) if one not in self._found]
        self._found.update(zip(new, self._encoder.encode(new), strict=True))
        found = [self._found[one] for one in texts]
        return [one if text and len(one.words) else None
                for text, one in zip(texts, found, strict=True)]  # fmt: skip


def train(
    form: Form, scenes: Sequence[Scene], texts: Texts, text_dim: int, seed: int, steps: int
) -> TextScorer:
    """Train a scorer to pick the true mask among candidates and other objects' masks."""
    scenes = [one for one in scenes if (one.true >= 0).any()]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        scorer = TextScorer(form, scenes[0].objects.shape[1], text_dim)
    random = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(scorer.parameters(), RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        losses = []
        for i in random.integers(len(scenes), size=BATCH):
            one = scenes[i]
            logits = scorer(one.scores, one.objects, one.others, texts(one.texts))
            there = one.true >= 0
            logits = logits.masked_fill(~one.allowed, -torch.inf)[there]
            losses.append(torch.nn.functional.cross_entropy(logits, one.true[there]))
        optimizer.zero_grad()
        torch.stack(losses).mean().backward()
        optimizer.step()
        schedule.step()
    return scorer.eval()


@torch.no_grad()
def overlaps(
    scorer: TextScorer | None, scenes: Sequence[Scene], texts: Texts, wrong: bool = False
) -> Sums:
    """Sum of the IoU of the chosen candidates, and their number, by take.

    Args:
        scorer: None: use the similarity alone.
        scenes: scenes to score; objects that are not in the target view are ignored.
        texts: encodes the texts.
        wrong: give each scene the texts of a scene from another take.
    """
    sums: dict[str, tuple[float, int]] = defaultdict(lambda: (0.0, 0))
    for i, one in enumerate(scenes):
        own = one.texts
        if wrong:
            other = next(s.texts for s in [*scenes[i:], *scenes] if s.take != one.take)
            own = [other[k % len(other)] for k in range(len(own))]
        logits = one.scores
        if scorer is not None:
            logits = scorer(logits, one.objects, one.others, texts(own))
        count = one.overlap.shape[1]
        # An empty candidate overlaps with nothing, and its descriptor is 0.
        shown = one.others[:count].any(dim=1)
        best = logits[:, :count].masked_fill(~shown, -torch.inf).argmax(dim=1)
        there = one.true >= 0
        for k in np.flatnonzero(there.numpy()):
            total, number = sums[one.take]
            sums[one.take] = (total + float(one.overlap[k, best[k]]), number + 1)
    return dict(sums)


def mean_of(runs: Sequence[Sums]) -> Sums:
    """Mean over several seeds, take by take."""
    return {t: (float(np.mean([run[t][0] for run in runs])), n) for t, (_, n) in runs[0].items()}


def row_of(runs: Sequence[Sums], reference: Sequence[Sums]) -> dict[str, Any]:
    """IoU with its 95 % interval over takes and by seed, and the difference from a reference."""
    by_seed = [estimate(run) for run in runs]
    apart = [difference(*pair) for pair in zip(runs, reference, strict=True)]
    means = [one.mean for one in by_seed if one is not None]
    overall, gap = estimate(mean_of(runs)), difference(mean_of(runs), mean_of(reference))
    return {
        "iou": record_of(overall),
        "seeds": means,
        "seeds sd": float(np.std(means, ddof=1)) if len(means) > 1 else None,
        "difference": record_of(gap),
        "difference by seed": [one.mean for one in apart if one is not None],
    }


def compare(
    held_out: Mapping[str, Sequence[Scene]], scorers: Mapping[Form, Sequence[TextScorer]],
    texts: Texts,
) -> dict[str, Any]:  # fmt: skip
    """Rows by split and direction; differences are from the form without text, seed by seed.

    With only one take, there are no rows with wrong texts.
    """
    found: dict[str, Any] = {}
    for split, every in held_out.items():
        for direction in DIRECTIONS:
            scenes = [one for one in every if one.direction == direction]
            if not any((one.true >= 0).any() for one in scenes):
                continue
            rows: dict[str, list[Sums]] = {
                ALONE: [overlaps(None, scenes, texts)] * len(scorers["none"])
            }
            for form, own in scorers.items():
                rows[form] = [overlaps(s, scenes, texts) for s in own]
                if form != "none" and len({one.take for one in scenes}) > 1:
                    name = f"{form}, wrong texts"
                    rows[name] = [overlaps(s, scenes, texts, wrong=True) for s in own]
            found[f"{split} {direction}"] = {k: row_of(v, rows["none"]) for k, v in rows.items()}
            best = [one.overlap[(one.true >= 0).numpy()].max(axis=1) for one in scenes]
            found[f"{split} {direction}"]["best candidate"] = float(np.concatenate(best).mean())
    return found


def table(found: Mapping[str, Any]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| takes | direction | scores | IoU (95 % over takes) | sd of seeds | difference to none |",
        "|---|---|---|---|---|---|",
    ]
    for place, rows in found.items():
        split, direction = place.split(" ")
        for name, row in rows.items():
            if name == "best candidate":
                lines.append(f"| {split} | {direction} | {name} | {row:.3f} | | |")
                continue
            iou, gap, spread = row["iou"], row["difference"], row["seeds sd"]
            own = "" if spread is None or name == ALONE else f"{spread:.3f}"
            apart = "" if name == "none" else _cell(gap, "+.3f")
            lines.append(
                f"| {split} | {direction} | {name} | {_cell(iou, '.3f')} | {own} | {apart} |"
            )
    return "\n".join(lines)


def _cell(found: Mapping[str, Any], form: str) -> str:
    """A mean with its interval, if there is one (there is none for a single take)."""
    mean, low, high = (found[name] for name in ("mean", "low", "high"))
    return f"{mean:{form}}" + ("" if low is None else f" ({low:{form}} to {high:{form}})")


def main(arguments: Sequence[str] | None = None) -> int:
    """Train and compare the forms on a folder of takes; writes results.json and the weights."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("takes", type=Path, help="folder of takes: train, val, test")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--train", type=int, default=72, help="training takes")
    parser.add_argument("--held-out", type=int, default=12, help="takes in val, and in test")
    parser.add_argument("--frames", type=int, default=2, help="per take")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--encoder", help="folder of a text model; default: hashed words")
    args = parser.parse_args(arguments)
    features = load_features("nano", device="cpu")
    views = DescribedViews(args.out / "views" / features.fingerprint, features, Regions())
    scenes: dict[str, list[Scene]] = {}
    for split, most in (("train", args.train), ("val", args.held_out), ("test", args.held_out)):
        takes = list_takes(args.takes / split)[:most]
        scenes[split] = [s for take in takes for s in scenes_of(take, views, features, args.frames)]
        print(f"{split}: {len(takes)} takes, {len(scenes[split])} pairs of images", flush=True)
    words = sorted({w for one in scenes["train"] for text in one.texts for w in words_of(text)})
    encoder = TextModel(args.encoder) if args.encoder else HashedWords(known=words)
    texts = Texts(encoder)
    scorers: dict[Form, list[TextScorer]] = {}
    for form in FORMS:
        scorers[form] = []
        for seed in range(args.seeds):
            made = train(form, scenes["train"], texts, encoder.dim, seed, args.steps)
            scorers[form].append(made)
            facts = text_facts(made, features.fingerprint, encoder)
            export(made, args.out / f"{form}_{seed}.safetensors", facts, half=False)
        print(f"{form}: {args.seeds} seeds trained", flush=True)
    found = compare({split: scenes[split] for split in HELD_OUT}, scorers, texts)
    content = {
        "settings": {k: str(v) for k, v in vars(args).items()},
        "words": words,
        "rows": found,
    }
    write_text(args.out / "results.json", json.dumps(content, indent=1))
    print(table(found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
