"""Trains the compact network's click head on simulated scenes; the network stays frozen.

``python -m lmeec_core.training.clicks --scenes FOLDER --out OUT`` reads scenes rendered
by ``python -m lmeec_core.simulation.shards`` and writes OUT/nano_clicks.safetensors. Run the same
command again to resume an interrupted run.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor

from lmeec_core.checkpoint import load_model
from lmeec_core.compact import CompactLMEEC
from lmeec_core.compact.click_head import ClickHead, Hints, Maps, fingerprint
from lmeec_core.compact.features import EmbeddedFeatures
from lmeec_core.errors import InputError
from lmeec_core.files import replacing
from lmeec_core.model import LMEEC
from lmeec_core.preprocessing import colours, prepare_images
from lmeec_core.prompts.marking import deepest
from lmeec_core.simulation.sets import SETS
from lmeec_core.training.augment import (
    change_colours,
    crop_image,
    crop_labels,
    crop_matrix,
    draw_colours,
)
from lmeec_core.training.optimizer import cosine
from lmeec_core.training.store import LABELS, SceneStore, areas

IMAGES, OBJECTS = 2, 8
"""Images per step, and the most objects per image."""
ROUNDS = 2
"""Predictions per object; after each, a corrective point is added or the mask is just fed back."""
WINDOW = 40
"""Side of the training window in cells of two patch strides; objects are small."""
LEAST = 12
"""Smallest area of a clicked object, in pixels at the network's mask size."""
_K = 4


class Batch(NamedTuple):
    """B objects in V views."""

    images: list[NDArray[np.uint8]]
    view: list[int]
    truth: Tensor  # (B, s, s) bool


def draw_batch(store: SceneStore, size: int, side: int, random: np.random.Generator) -> Batch:
    """Crops of random images from any camera, with their objects."""
    images: list[NDArray[np.uint8]] = []
    view: list[int] = []
    truth: list[Tensor] = []
    while not view:
        images.clear()
        for _ in range(IMAGES):
            scene = store.scene(int(random.integers(store.count)))
            frame, camera = (int(random.integers(n)) for n in (store.frames, store.cameras))
            image, labels = scene.image(frame, camera), scene.labels(frame, camera)
            share = float(random.uniform(0.35, 1)) if random.random() < 0.6 else 1.0
            flip = -1.0 if random.random() < 0.5 else 1.0
            centre = random.uniform(share - 1, 1 - share, 2) if share < 1 else np.zeros(2)
            matrix = crop_matrix(centre, share, flip, image.shape[0], size, random)
            cut = crop_image(image, matrix, size)
            images.append(change_colours(cut, draw_colours(random), random))
            small = crop_labels(labels, matrix, size)
            seen = np.flatnonzero(areas(small)[:LABELS] >= 4 * LEAST)
            for label in random.permutation(seen)[:OBJECTS]:
                mask = (small == label).astype(np.float32)
                mask = cv2.resize(mask, (side, side), interpolation=cv2.INTER_AREA) >= 0.5
                if mask.sum() >= LEAST:
                    view.append(len(images) - 1)
                    truth.append(torch.from_numpy(mask))
    return Batch(images, view, torch.stack(truth))


def _anywhere(mask: NDArray[np.bool_], random: np.random.Generator) -> tuple[float, float]:
    """A point inside a mask, away from its edge; the deepest one half of the time."""
    if random.random() < 0.5:
        return deepest(mask)
    inner = cv2.erode(np.pad(mask.astype(np.uint8), 1), np.ones((3, 3), np.uint8))[1:-1, 1:-1]
    ys, xs = np.nonzero(inner if inner.any() else mask)
    i = int(random.integers(len(xs)))
    return xs[i] + float(random.random()), ys[i] + float(random.random())


def first_hints(truth: Tensor, random: np.random.Generator) -> Hints:
    """A first prompt for each mask (B, s, s): box, point, both, or point and negative point."""
    count, side = truth.shape[:2]
    points, labels = torch.zeros(count, _K, 2), torch.full((count, _K), -1)
    boxes = torch.zeros(count, 4)
    for i, mask in enumerate(truth.numpy()):
        kind = random.random()
        if kind < 0.3:
            ys, xs = np.nonzero(mask)
            edges = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], np.float64)
            spread = 0.06 * np.tile(edges[2:] - edges[:2], 2) + 0.4
            edges = edges + random.normal(size=4) * spread * (random.random() < 0.7)
            edges[2:] = np.maximum(edges[2:], edges[:2] + 2)
            boxes[i] = torch.from_numpy(edges / side).clamp(0, 1)
        if kind > 0.25:
            points[i, 0] = torch.tensor(_anywhere(mask, random)) / side
            labels[i, 0] = 1
        if kind > 0.85:
            ring = cv2.dilate(mask.astype(np.uint8), np.ones((13, 13), np.uint8)) > 0
            ring &= cv2.dilate(mask.astype(np.uint8), np.ones((5, 5), np.uint8)) == 0
            if ring.any():
                points[i, 1] = torch.tensor(_anywhere(ring, random)) / side
                labels[i, 1] = 0
    return Hints(points, labels, boxes)


def correct(hints: Hints, answer: Tensor, truth: Tensor, number: int, random: np.random.Generator,
            share: float = 0.6) -> Hints:  # fmt: skip
    """Add a point in the largest error of the prediction, for a fraction of the objects."""
    points, labels = hints.points.clone(), hints.labels.clone()
    side = truth.shape[-1]
    for i, (found, true) in enumerate(zip(answer.numpy() > 0.5, truth.numpy(), strict=True)):
        wrong = found ^ true
        if random.random() < share and wrong.sum() > 3:
            x, y = deepest(wrong)
            points[i, number] = torch.tensor((x, y)) / side
            labels[i, number] = int(true[int(y), int(x)])
    return Hints(points, labels, hints.boxes)


def window(x: Tensor, corners: Tensor, side: int) -> Tensor:
    """Windows (B, C, side, side) cut from (B, C, H, W) at corners (B, 2)."""
    cut = [
        one[:, y : y + side, x0 : x0 + side]
        for one, (x0, y) in zip(x, corners.tolist(), strict=True)
    ]
    return torch.stack(cut).contiguous(memory_format=torch.channels_last)


class Trainer:
    """A training run: the head, its optimiser and the current step.

    Args:
        store: the training scenes.
        out: folder of the weights and of the checkpoint.
        steps: length of the whole run.
        rate: peak learning rate.
        seed: for the order of the scenes and for the prompts.
        model: the network whose features the head reads; None: the bundled one.
    """

    def __init__(
        self,
        store: SceneStore,
        out: Path,
        steps: int,
        rate: float,
        seed: int,
        model: LMEEC | None = None,
    ) -> None:
        model = model or load_model("nano", device="cpu")
        assert isinstance(model, CompactLMEEC)
        self.window = min(WINDOW, 2 * model.config.grid)
        self.model, self.store, self.out = model, store, out
        self.steps, self.rate, self.seed, self.step = steps, rate, seed, 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.head = ClickHead(model.config)
        for parameter in self.head.parameters():  # faster on CPUs
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        self.head.of_network = fingerprint(model)
        self.optimizer = torch.optim.AdamW(self.head.parameters(), rate, weight_decay=0.01)
        self.saved = out / "clicks.pt"
        if self.saved.is_file():
            self._restore()

    def _facts(self) -> dict[str, object]:
        return {"rate": self.rate, "seed": self.seed}

    def _restore(self) -> None:
        state = torch.load(self.saved, weights_only=True)
        if state["facts"] != self._facts():
            raise InputError(
                f"{self.saved} is of a run with {state['facts']}, {self._facts()} given; give the "
                "same options to resume it, or use another folder"
            )
        self.head.load_state_dict(state["head"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]

    def save(self) -> None:
        """Write the checkpoint, and the current weights in float16."""
        self.out.mkdir(parents=True, exist_ok=True)
        state = {
            "facts": self._facts(), "step": self.step, "head": self.head.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }  # fmt: skip
        with replacing(self.saved) as partial:
            torch.save(state, partial)
        weights = {
            name: value if name == "of_network" else value.half().contiguous()
            for name, value in self.head.state_dict().items()
            if value.is_floating_point()
        }
        with replacing(self.out / "nano_clicks.safetensors") as partial:
            save_file(weights, partial)

    def run(self) -> Iterator[dict[str, float]]:
        """Train to the end; yields the loss and IoU of each step."""
        self.head.train()
        while self.step < self.steps:
            random = np.random.default_rng([self.seed, self.step])
            factor = min(1, (self.step + 1) / 50) * cosine(self.step / self.steps, 0.02)
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate * factor
            config = self.model.config
            batch = draw_batch(self.store, config.image_size, config.mask_size, random)
            loss, overlaps = self._losses(batch, random)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(self.head.parameters(), 1.0)
            if torch.isfinite(norm):
                self.optimizer.step()
            self.step += 1
            yield {
                "step": self.step,
                "loss": loss.item(),
                "first": overlaps[0],
                "last": overlaps[-1],
            }

    def _losses(self, batch: Batch, random: np.random.Generator) -> tuple[Tensor, list[float]]:
        size = self.model.config.image_size
        with torch.no_grad():
            inputs = prepare_images(batch.images, size, self.model.device)
            views = self.model.encode_images(inputs)
        assert isinstance(views, EmbeddedFeatures)
        seen = self.head.look(colours(inputs), views).of(batch.view)
        hints = first_hints(batch.truth, random)
        corners = self._corners(batch.truth, random)
        truth = window(batch.truth[:, None].float(), 2 * corners, 2 * self.window)[:, 0]
        shared, fine = (
            window(seen.shared, corners, self.window),
            window(seen.fine, 2 * corners, 2 * self.window),
        )
        before: Tensor | None = None
        losses, overlaps = [], []
        for number in range(ROUNDS):
            with torch.no_grad():
                maps = self.head.maps(seen, hints, before)
            cut = Maps(
                window(maps.coarse, corners, self.window), window(maps.seeds, corners, self.window),
                window(maps.fine, 2 * corners, 2 * self.window),
            )  # fmt: skip
            logits, score = self.head(shared, fine, cut)
            p = logits.sigmoid()
            overlap = 2 * (p * truth).sum(dim=(1, 2)) + 1
            dice = 1 - overlap / (p.sum(dim=(1, 2)) + truth.sum(dim=(1, 2)) + 1)
            cross = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
            # Normalised by the object's area rather than the image's: the background is large.
            cross = cross.sum(dim=(1, 2)) / (3 * truth.sum(dim=(1, 2)) + 60)
            hard = (logits > 0).float()
            both = (hard * truth).sum(dim=(1, 2))
            iou = both / (hard.sum(dim=(1, 2)) + truth.sum(dim=(1, 2)) - both).clamp_min(1)
            judged = F.binary_cross_entropy_with_logits(score, iou.detach())
            losses.append(dice.mean() + cross.mean() + 0.1 * judged)
            overlaps.append(float(iou.mean()))
            before = torch.zeros(len(truth), *batch.truth.shape[1:])
            for i, (x, y) in enumerate((2 * corners).tolist()):
                before[i, y : y + 2 * self.window, x : x + 2 * self.window] = p[i].detach()
            inside = torch.zeros_like(batch.truth)
            for i, (x, y) in enumerate((2 * corners).tolist()):
                inside[i, y : y + 2 * self.window, x : x + 2 * self.window] = True
            hints = correct(hints, before, batch.truth & inside, number + 2, random)
        return torch.stack(losses).mean(), overlaps

    def _corners(self, truth: Tensor, random: np.random.Generator) -> Tensor:
        """Corners of a window around each object, randomly shifted: (B, 2) in cells."""
        side = truth.shape[-1] // 2
        corners = []
        for mask in truth.numpy():
            ys, xs = np.nonzero(mask)
            middle = (
                np.array([xs.mean(), ys.mean()]) / 2 + random.uniform(-0.3, 0.3, 2) * self.window
            )
            corners.append(
                np.clip(np.rint(middle - self.window / 2), 0, side - self.window).astype(int)
            )
        return torch.from_numpy(np.stack(corners))


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; the exit code is 0 when the run is complete."""
    parser = argparse.ArgumentParser(prog="python -m lmeec_core.training.clicks")
    parser.add_argument("--scenes", type=Path, required=True, help="folder of rendered scenes")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    console = Console()
    store = SceneStore(args.scenes, 1 << 30)
    if not store.refresh():
        first = SETS["click_training"].first
        raise InputError(
            f"{args.scenes} holds no scenes; render some: python -m lmeec_core.simulation.shards "
            f"{args.scenes} --seeds {first}:{first + 500} --split train --frames 3 --size 320"
        )
    trainer = Trainer(store, args.out, args.steps, args.rate, args.seed)
    start, means = time.monotonic(), dict.fromkeys(("loss", "first", "last"), 0.0)
    for numbers in trainer.run():
        means = {k: 0.95 * v + 0.05 * numbers[k] if v else numbers[k] for k, v in means.items()}
        if trainer.step % 25 == 0:
            store.refresh()
            console.print(
                f"step {trainer.step} of {args.steps}, {time.monotonic() - start:.0f} s, "
                f"{store.count} scenes: loss {means['loss']:.3f}, IoU {means['first']:.3f}, "
                f"corrected {means['last']:.3f}", highlight=False,
            )  # fmt: skip
        if trainer.step % 100 == 0:
            trainer.save()
    trainer.save()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
