"""Training examples from a :class:`SceneStore`: pairs of views, or clips of two views.

Everything runs on the store's device. Rows 0 .. B-1 of an example batch are the first views and
B .. 2B-1 the second ones; each row is the query of its other view, so that both directions train.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lmeec_core.preprocessing import normalise
from lmeec_core.training.augment import colour, colour_matrices, crops, warp
from lmeec_core.training.store import LABELS, SceneStore, label_table

MIN_AREA = 30
"""Visible pixels from which an object counts, in images of about 256 pixels."""


class Examples(NamedTuple):
    """2B rows of T frames; row r's other view is row (r + B) mod 2B."""

    images: Tensor
    """(T, 2B, 3, s, s) model input."""
    labels: Tensor
    """uint8 (T, 2B, s, s)."""
    objects: Tensor
    """int64 (2B, N) labels of the objects whose masks are given; 0 = none."""
    sought: int
    """The first so many objects go through the whole network; the rest is for contrast."""
    identity: Tensor
    """int64 (2B, N) equal where scene and object are the same."""

    def masks(self, frame: int) -> Tensor:
        """Objects' masks in their own (query) view: float32 (2B, N, s, s)."""
        return self._of(self.labels[frame])

    def truth(self, frame: int) -> Tensor:
        """Objects' masks in the other (target) view: float32 (2B, N, s, s)."""
        return self._of(other(self.labels[frame]))

    def _of(self, labels: Tensor) -> Tensor:
        same = labels[:, None] == self.objects[:, :, None, None].to(torch.uint8)
        return (same & (self.objects > 0)[:, :, None, None]).float()


def other(rows: Tensor) -> Tensor:
    """Every row's other view: the halves swapped."""
    half = rows.shape[0] // 2
    return torch.cat((rows[half:], rows[:half]))


class _Views(NamedTuple):
    scene: Tensor  # (B,)
    frame: Tensor  # (2, B)
    camera: Tensor  # (2, B)


def _draw_views(store: SceneStore, count: int, same_time: float) -> _Views:
    """Random pairs of views; mostly ego and exo, in either order."""
    device = store.device
    scene = torch.randint(store.count, (count,), device=device)
    first = torch.randint(store.frames, (count,), device=device)
    second = torch.randint(store.frames, (count,), device=device)
    second = torch.where(torch.rand(count, device=device) < same_time, first, second)
    exo = torch.randint(1, store.cameras, (count,), device=device)
    ego = torch.zeros_like(exo)
    if store.cameras > 2:
        step = torch.randint(1, store.cameras - 1, (count,), device=device)
        another = 1 + (exo - 1 + step) % (store.cameras - 1)
        ego = torch.where(torch.rand(count, device=device) < 0.8, ego, another)
    cameras = torch.stack((ego, exo))
    swap = torch.rand(count, device=device) < 0.5
    cameras = torch.where(swap[None], cameras.flip(0), cameras)
    return _Views(scene, torch.stack((first, second)), cameras)


def _keep_useful(views: _Views, useful: Tensor, count: int) -> Tensor:
    """Indices of ``count`` candidates, the useful ones first, now and then any."""
    noise = torch.rand(useful.shape[0], device=useful.device)
    rank = (useful | (noise < 0.05)).float() + noise * 0.5
    return rank.topk(count).indices


def _centres(table: Tensor, anchor: Tensor, scale: Tensor, size: int) -> Tensor:
    """Crop centres near the anchor object (or the image's centre), in -1 .. 1: (N, 2)."""
    place = table.gather(1, anchor[:, None, None].expand(-1, -1, 3))[:, 0]
    place = torch.where(place[:, :1] > 0, place[:, 1:] / size * 2 - 1, 0)
    jitter = (torch.rand_like(place) - 0.5) * 0.8 * 2 * scale[:, None]
    room = (1 - scale[:, None]).clamp_min(0)
    return (place + jitter).clamp(-room, room)


def _random_among(candidates: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """``count`` different random members of each row of a bool table: labels and whether real."""
    noise = torch.rand(candidates.shape, device=candidates.device)
    value, index = torch.where(candidates, 1 + noise, noise * 0).topk(count, dim=1)
    return index, value > 0.5


def _choose(positive: Tensor, negative: Tensor, sought: int, count: int, share: float) -> Tensor:
    """Labels of ``count`` objects per row, 0 where there is none: (R, count).

    The first ``sought`` are in the other view with probability ``share`` (as far as there are
    such), the rest always.
    """
    there, there_ok = _random_among(positive, count)
    gone, gone_ok = _random_among(negative, sought)
    wanted = torch.rand(there.shape[0], sought, device=there.device) < share
    some_there = there_ok.any(dim=1, keepdim=True)
    some_gone = gone_ok.any(dim=1, keepdim=True)
    wanted = torch.where(some_gone, wanted | False, True) & some_there
    turn = wanted.long().cumsum(dim=1) - 1
    number = there_ok[:, :count].sum(dim=1, keepdim=True).clamp_min(1)
    from_there = there.gather(1, turn.clamp_min(0) % number)
    turn = (~wanted).long().cumsum(dim=1) - 1
    number = gone_ok.sum(dim=1, keepdim=True).clamp_min(1)
    from_gone = torch.where(some_gone, gone.gather(1, turn.clamp_min(0) % number), 0)
    first = torch.where(wanted, from_there, from_gone)
    extra = torch.where(there_ok, there, 0)[:, : count - sought]
    return torch.cat((first, extra), dim=1)


def _warp_rows(
    store: SceneStore, views: _Views, crop: tuple[float, float], size: int, frames: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Warped images (T, 2B, 3, s, s), labels (T, 2B, s, s) and colour matrices (2B, 3, 3).

    ``frames`` (T, 2B): the frame of each row at each time. The warp of a row is the same at all
    times.
    """
    device, count = store.device, views.scene.shape[0]
    scene, camera = views.scene.repeat(2), views.camera.flatten()
    table = store.table[scene, frames[0], camera]  # (2B, LABELS, 3)
    area = table[..., 0].unflatten(0, (2, count))
    shared = (area > MIN_AREA).all(dim=0)
    anchor, _ = _random_among(shared, 1)
    anchor = torch.where(shared.any(dim=1), anchor[:, 0], 0).repeat(2)
    low, high = crop
    scale = torch.rand(2 * count, device=device) * (high - low) + low
    flip = torch.where(torch.rand(count, device=device) < 0.5, 1.0, -1.0).repeat(2)
    theta = crops(_centres(table, anchor, scale, store.size), scale, flip)
    times = frames.shape[0]
    rows = scene.repeat(times), frames.flatten(), camera.repeat(times)
    images, labels = warp(store.packed[rows], theta.repeat(times, 1, 1), size)
    matrices = colour_matrices(count, device).repeat(2, 1, 1)
    images = normalise(colour(images, matrices.repeat(times, 1, 1)))
    shape = (times, 2 * count)
    return images.unflatten(0, shape), labels.unflatten(0, shape), scene


def sample(
    store: SceneStore,
    count: int,
    size: int,
    crop: tuple[float, float],
    sought: int,
    objects: int,
    times: int = 1,
    positive_share: float = 0.57,
) -> Examples:
    """Draw examples.

    Args:
        store: the scenes.
        count: B pairs of views.
        size: side of the images, in pixels.
        crop: smallest and largest side of the crops, as a share of the image.
        sought: objects per row that go through the whole network.
        objects: objects per row in all.
        times: 1 for single frames (the views then sometimes differ in time), else the length of
            the clips (consecutive frames, both views at the same time).
        positive_share: share of sought objects that are in the other view.
    """
    views = _draw_views(store, 3 * count, same_time=0.8 if times == 1 else 1.0)
    if times > 1:
        start = torch.randint(store.frames - times + 1, views.scene.shape, device=store.device)
        views = views._replace(frame=start.expand(2, -1))
    area = store.table[views.scene, views.frame, views.camera][..., 0]  # (2, 3B, LABELS)
    useful = (area > MIN_AREA).all(dim=0).any(dim=1)
    keep = _keep_useful(views, useful, count)
    views = _Views(views.scene[keep], views.frame[:, keep], views.camera[:, keep])
    frames = views.frame.flatten() + torch.arange(times, device=store.device)[:, None]
    if times > 1:  # time may as well run backwards
        turned = torch.rand(count, device=store.device).repeat(2) < 0.5
        frames = torch.where(turned, frames.flip(0), frames)
    images, labels, scene = _warp_rows(store, views, crop, size, frames)
    visible = torch.stack([label_table(frame)[..., 0] for frame in labels])  # (T, 2B, LABELS)
    least = MIN_AREA * (size / 256) ** 2
    query = visible[0] > 0.8 * least
    seen = other(visible.amax(dim=0)) if times > 1 else other(visible[0])
    chosen = _choose(
        query & (seen > 0.5 * least), query & (seen == 0), sought, objects, positive_share
    )
    return Examples(images, labels, chosen, sought, scene[:, None] * LABELS + chosen)
