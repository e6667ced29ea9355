"""Measures the other methods: the time of a step and of its parts."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from lmeec_core.bench.measure import SEED, device_name, spread
from lmeec_core.correspondence import Mask
from lmeec_core.methods import has_setting, load_with
from lmeec_core.methods.candidates.settings import CandidateSettings
from lmeec_core.methods.omama.features import Features, SeenView
from lmeec_core.methods.omama.network import Layout
from lmeec_core.methods.omama.tracker import OMaMaMethod
from lmeec_core.methods.pairs import Image

SIZE = (480, 640)
THINGS = 40
WARM_UP = 2


@dataclass(frozen=True)
class MethodCase:
    """What to measure.

    Attributes:
        method: its name.
        preset, device: those of the network, if any; weights are random if none are bundled.
        objects, targets: N and K.
        steps: number of measured steps.
        candidates: settings for methods that choose among candidates.
    """

    method: str
    preset: str
    device: str
    objects: int
    targets: int
    steps: int = 10
    candidates: CandidateSettings = CandidateSettings()


@dataclass
class Clock:
    """Adds up the seconds of the parts of a step."""

    device: torch.device
    spent: dict[str, float] = field(default_factory=dict)
    made: list[int] = field(default_factory=list)
    """Number of candidates found in each image."""

    def now(self) -> float:
        """The time in seconds, after waiting for the GPU's pending work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def time(self, part: str, work: Callable[[], Any]) -> Any:
        """Call ``work``, add its time to a part, and return its result."""
        start = self.now()
        result = work()
        self.spent[part] = self.spent.get(part, 0.0) + self.now() - start
        return result


@dataclass(frozen=True)
class TimedFeatures:
    """Features that measure their own time."""

    inner: Features
    clock: Clock

    @property
    def fingerprint(self) -> str:
        """See :class:`Features`."""
        return self.inner.fingerprint

    def layout(self, reverse: bool) -> Layout:
        """See :class:`Features`."""
        return self.inner.layout(reverse)

    def see(self, images: Sequence[Image], ego: Sequence[bool]) -> list[SeenView]:
        """See :class:`Features`."""
        seen: list[SeenView] = self.clock.time("features", lambda: self.inner.see(images, ego))
        return seen


def measure_method(case: MethodCase) -> dict[str, Any]:
    """Measure a case; returns its entry for the JSON file.

    The images show objects of many colours and sizes, because the number of candidates and the time
    they take depend on what is in an image.
    """
    given = {"preset": case.preset, "device": case.device, "seed": SEED,
             "candidates": case.candidates, "precision": "fp32"}  # fmt: skip
    method = load_with(case.method, given)
    network = getattr(method, "model", None)
    clock = Clock(torch.device("cpu") if network is None else network.device)
    if isinstance(method, OMaMaMethod):
        method = _timed(method, clock)
    names = [f"exo_{k}" for k in range(case.targets)]
    tracker = method.tracker("ego", names, max_objects=case.objects)
    images = {name: picture(i) for i, name in enumerate(("ego", *names))}
    masks = _masks(case.objects)
    steps: list[float] = []
    parts: list[dict[str, float]] = []
    for i in range(WARM_UP + case.steps):
        clock.spent, clock.made = {}, []
        start = clock.now()
        tracker.step(images, masks)
        taken = clock.now() - start
        if i >= WARM_UP:
            steps.append(taken * 1e3)
            parts.append({**clock.spent, "rest": taken - sum(clock.spent.values())})
    result: dict[str, Any] = {
        "method": case.method, "device": device_name(clock.device), "objects": case.objects,
        "targets": case.targets, "step_ms": spread(steps), "threads": torch.get_num_threads(),
    }  # fmt: skip
    if has_setting(case.method, "preset") or has_setting(case.method, "model"):
        result["preset"] = case.preset
    if clock.made:
        result["candidates"] = round(float(np.mean(clock.made)), 1)
    if len(parts[0]) > 1:
        result["part_ms"] = {name: spread([p[name] * 1e3 for p in parts]) for name in parts[0]}
    return result


def _timed(method: OMaMaMethod, clock: Clock) -> OMaMaMethod:
    """The same method, but timing its candidates and features."""
    make = method.candidates
    assert make is not None  # candidates are never read from a file here

    def candidates(image: Image) -> Mask:
        found: Mask = clock.time("candidates", lambda: make(image))
        clock.made.append(len(found))
        return found

    features = TimedFeatures(method.features, clock)
    return dataclasses.replace(method, candidates=candidates, features=features)


def picture(seed: int) -> npt.NDArray[np.uint8]:
    """An image of :data:`THINGS` boxes and ellipses on an uneven background; uint8 RGB."""
    random = np.random.default_rng(seed)
    ground = random.integers(60, 200, (4, 5, 3), np.uint8)
    image = np.asarray(cv2.resize(ground, SIZE[::-1], interpolation=cv2.INTER_CUBIC), np.uint8)
    for i in range(THINGS):
        centre = int(random.integers(SIZE[1])), int(random.integers(SIZE[0]))
        sides = int(random.integers(8, 60)), int(random.integers(8, 60))
        colour = [int(c) for c in random.integers(0, 256, 3)]
        if i % 2:
            cv2.ellipse(image, centre, sides, float(random.integers(180)), 0, 360, colour, -1)
        else:
            low = centre[0] - sides[0], centre[1] - sides[1]
            high = centre[0] + sides[0], centre[1] + sides[1]
            cv2.rectangle(image, low, high, colour, -1)
    noisy = image + random.normal(0, 3, image.shape)
    return np.asarray(np.clip(noisy, 0, 255), np.uint8)


def _masks(count: int) -> dict[str, Mask]:
    """Square query masks, side by side."""
    masks = {}
    for i in range(count):
        mask = np.zeros(SIZE, bool)
        x, y = 20 + 60 * (i % 10), 20 + 60 * (i // 10 % 7)
        mask[y : y + 50, x : x + 50] = True
        masks[f"object_{i}"] = mask
    return masks
