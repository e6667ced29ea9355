"""Simulated scenes in device memory, filled from shard files while training goes on.

A shard is an ``.npy`` file, uint8 (F, cameras, S, S, 4): red, green, blue and label (0
background, 1 .. n objects, 255 the person). Camera 0 is the ego camera.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LABELS = 33
"""Object labels 1 .. LABELS - 1 can be sampled; higher ones (the person) never are."""


def label_table(labels: Tensor) -> Tensor:
    """Visible area and centroid of every label.

    Args:
        labels: uint8 (N, S, S).

    Returns:
        float32 (N, LABELS, 3): pixels, and the centroid's x and y in pixels (0 where absent).
        Row 0, the background, is always 0.
    """
    count, side = labels.shape[0], labels.shape[-1]
    index = labels.flatten(1).long()
    index = index.where(index < LABELS, torch.zeros_like(index))
    axis = torch.arange(side, dtype=torch.float32, device=labels.device) + 0.5
    x = axis.expand(side, side).flatten().expand(count, -1)
    y = axis[:, None].expand(side, side).flatten().expand(count, -1)
    sums = [
        torch.zeros(count, LABELS, device=labels.device).scatter_add_(1, index, value)
        for value in (torch.ones_like(x), x, y)
    ]
    table = torch.stack((sums[0], sums[1], sums[2]), dim=-1)
    table[..., 1:] /= table[..., :1].clamp_min(1)
    table[:, 0] = 0
    return table


class SceneStore:
    """Scenes of equal shape in one tensor; grows as shards come.

    Args:
        folder: where the shards are.
        capacity: most scenes to hold.
        device: where the tensors lie.
        keep: shards beyond the first so many are deleted once they are loaded.
    """

    def __init__(
        self, folder: Path, capacity: int, device: torch.device, keep: int | None = None
    ) -> None:
        self.folder, self.capacity, self.device, self.keep = folder, capacity, device, keep
        self.count = 0
        self.names: list[str] = []
        self.rejected: dict[str, str] = {}
        self._seen: set[str] = set()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.packed = torch.empty(0)
        self.table = torch.empty(0)

    @property
    def frames(self) -> int:
        """Frames of a scene."""
        return self.packed.shape[1]

    @property
    def cameras(self) -> int:
        """Cameras of a scene; number 0 is the ego camera."""
        return self.packed.shape[2]

    @property
    def size(self) -> int:
        """Side of the images, in pixels."""
        return self.packed.shape[3]

    def add(self, packed: NDArray[np.uint8]) -> None:
        """Add one scene, uint8 (F, cameras, S, S, 4).

        Raises:
            ValueError: wrong type or shape, or not the shape of the scenes before.
        """
        if packed.dtype != np.uint8 or packed.ndim != 5 or packed.shape[-1] != 4:
            raise ValueError(
                f"{packed.dtype} {packed.shape} given, uint8 (F, cameras, S, S, 4) expected"
            )
        if not self.count:
            shape = (self.capacity, *packed.shape)
            self.packed = torch.empty(*shape, dtype=torch.uint8, device=self.device)
            self.table = torch.zeros(*shape[:3], LABELS, 3, device=self.device)
        elif packed.shape != self.packed.shape[1:]:
            raise ValueError(f"{packed.shape} given, {tuple(self.packed.shape[1:])} expected")
        i, (frames, cameras) = self.count, packed.shape[:2]
        self.packed[i] = torch.from_numpy(packed).to(self.device)
        table = label_table(self.packed[i, ..., 3].flatten(0, 1))
        self.table[i] = table.unflatten(0, (frames, cameras))
        self.count += 1

    def load_new(self, limit: int | None = None) -> int:
        """Load shards that have come since, in the order of their names; returns how many.

        A shard that cannot be read is kept in ``rejected`` with the reason, and skipped.
        """
        loaded = 0
        for path in sorted(self.folder.glob("*.npy")):
            if self.count >= self.capacity or (limit is not None and loaded >= limit):
                break
            if path.name in self._seen or self._stop.is_set():
                continue
            self._seen.add(path.name)
            try:
                self.add(np.load(path))
                self.names.append(path.stem)
                loaded += 1
                if self.keep is not None and self.count > self.keep:
                    path.unlink()
            except (OSError, ValueError, EOFError) as error:
                self.rejected[path.name] = str(error)
        return loaded

    def watch(self, every: float = 1.0) -> None:
        """Load new shards in a background thread until :meth:`close`."""

        def run() -> None:
            while not self._stop.is_set() and self.count < self.capacity:
                if not self.load_new():
                    self._stop.wait(every)

        self._thread = threading.Thread(target=run, name="scene-loader", daemon=True)
        self._thread.start()

    def wait_for(self, scenes: int, timeout: float) -> bool:
        """Wait until so many scenes are here; returns whether they are."""
        end = time.monotonic() + timeout
        while self.count < scenes and time.monotonic() < end:
            time.sleep(0.2)
        return self.count >= scenes

    def close(self) -> None:
        """Stop the background thread."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
