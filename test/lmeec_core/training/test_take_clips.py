"""Clips of takes: what is drawn, in which order, what is augmented, what is skipped."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from lmeec_core.takes import Take, TakeError
from lmeec_core.training.augment import (
    Augmentation,
    change_image,
    change_mask,
    draw_change,
)
from lmeec_core.training.clips import Clip, stack
from lmeec_core.training.take_clips import TakeClips, choose

SIDE = 64
GEOMETRY = Augmentation(brightness=0, contrast=0, saturation=0, grey=0)


def clip_of(clips: TakeClips, number: int) -> Clip:
    drawn = clips[number]
    assert drawn.clip is not None and not drawn.errors
    return drawn.clip


def same(a: Clip, b: Clip) -> bool:
    return a.name == b.name and all(torch.equal(x, y) for x, y in zip(a[:4], b[:4], strict=True))


def edit(take: Path, change: Callable[[dict], None]) -> None:
    """Change a take's annotation."""
    path = take / "annotation.json"
    content = json.loads(path.read_text())
    change(content["masks"])
    path.write_text(json.dumps(content))


# -- order -------------------------------------------------------------------------------------


def test_a_clip_follows_from_seed_and_number(data: Path) -> None:
    first = TakeClips(data / "train", SIDE, 3, 2, Augmentation(), seed=5)
    forward = [clip_of(first, number) for number in range(14)]
    second = TakeClips(data / "train", SIDE, 3, 2, Augmentation(), seed=5)
    backward = [clip_of(second, number) for number in reversed(range(14))]
    assert all(same(a, b) for a, b in zip(forward, reversed(backward), strict=True))
    other = TakeClips(data / "train", SIDE, 3, 2, Augmentation(), seed=6)
    assert not all(same(clip_of(other, n), forward[n]) for n in range(6))


def test_an_epoch_has_every_pair_of_views_in_both_directions(data: Path) -> None:
    clips = TakeClips(data / "train", SIDE, 3, 2)
    wanted = {(p.take.name, p.query, p.target) for p in clips.pairs}
    assert len(clips.pairs) == len(wanted) == 6  # three takes, one exo camera each
    orders = []
    for epoch in range(4):
        seen = [clips.pair(6 * epoch + i) for i in range(6)]
        assert {(p.take.name, p.query, p.target) for p in seen} == wanted
        orders.append(seen)
    assert any(order != orders[0] for order in orders)


# -- content -----------------------------------------------------------------------------------


def test_images_and_masks_are_those_of_the_take(data: Path) -> None:
    clips = TakeClips(data / "train", SIDE, 3, 2)
    seen = Counter()
    for number in range(12):
        clip = clip_of(clips, number)
        place, _, frames = clip.name.partition(", frames ")
        path, query, _, target = place.rsplit(" ", 3)
        take, start = Take.open(path), int(frames.split(" to ")[0])
        seen[query, target] += 1
        for t in range(3):
            frame = start + 30 * t
            for view, camera in enumerate((query, target)):
                image = torch.from_numpy(take.image(camera, frame)).permute(2, 0, 1)
                assert torch.equal(clip.images[t, view], image)
            for i in range(clip.filled):
                pairs = [(take.mask(name, query, frame), take.mask(name, target, frame)) for name
                         in ("red", "blue")]  # fmt: skip
                empty = np.zeros((SIDE, SIDE), bool)
                found = clip.masks[t, i].numpy(), clip.truth[t, i].numpy()
                assert any(
                    (found[0] == (empty if a is None else a)).all()
                    and (found[1] == (empty if b is None else b)).all()
                    for a, b in pairs
                )
    assert seen == {("aria01", "cam01"): 6, ("cam01", "aria01"): 6}


def test_absent_objects_count_and_null_masks_do_not(data: Path) -> None:
    for path in (data / "train").iterdir():
        edit(path, lambda masks: masks["blue"]["cam01"].update({"60": None}))
    clips = TakeClips(data / "train", SIDE, 6, 2)  # the whole take
    checked = 0
    for number in range(6):
        clip = clip_of(clips, number)
        if "aria01 to cam01" not in clip.name:
            assert clip.counts[:, 0].tolist() != clip.counts[:, 1].tolist()
            continue  # red has no query mask from frame 90 on, blue none at 60
        reds = [i for i in range(2) if not clip.truth[5, i].any()]
        assert len(reds) == 1
        assert clip.counts[:, reds[0]].tolist() == [1] * 6
        assert clip.counts[:, 1 - reds[0]].tolist() == [1, 1, 0, 1, 1, 1]
        assert [bool(x.any()) for x in clip.truth[:, reds[0]]] == [True] * 3 + [False] * 3
        checked += 1
    assert checked == 3


def test_a_camera_that_an_object_is_not_annotated_for(data: Path) -> None:
    for path in (data / "train").iterdir():
        edit(path, lambda masks: masks["red"].pop("cam01"))
    clips = TakeClips(data / "train", SIDE, 3, 2)
    for number in range(6):
        clip = clip_of(clips, number)
        assert clip.filled == 1 and not clip.masks[:, 1].any() and not clip.counts[:, 1].any()


def test_choose() -> None:
    random = np.random.default_rng(0)
    query = np.array([[0, 1, 0, 0, 1], [0, 1, 1, 1, 1], [0, 0, 1, 1, 1]], bool)
    target = np.array([[0, 0, 0, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]], bool)
    found = [choose(query, target, 2, 3, random) for _ in range(50)]
    # object 1 alone is ever seen, in the last frame; a clip of two begins at 3 then
    assert {start for start, _ in found} == {3}
    assert {tuple(objects) for _, objects in found} == {(1, 2)}
    unseen = [choose(query, target & False, 2, 3, random) for _ in range(80)]
    assert {start for start, _ in unseen} == {1, 2, 3}
    assert all(query[i, start] for start, objects in unseen for i in objects)
    assert max(len(objects) for _, objects in unseen) == 2
    assert all(len(objects) == 1 for _, objects in [choose(query, target, 2, 1, random)])
    assert choose(query & False, target, 2, 3, random) is None
    assert choose(query, target, 6, 3, random) is None
    assert choose(query[:0], target[:0], 2, 3, random) is None


def test_stack_keeps_as_many_objects_as_there_are(data: Path) -> None:
    clips = TakeClips(data / "train", SIDE, 3, 3)
    pair = [clip_of(clips, 0), clip_of(clips, 1)]
    images, masks, truth, counts = stack(pair)
    n = max(clip.filled for clip in pair)
    assert images.shape == (3, 2, 2, 3, SIDE, SIDE) and n <= 2
    assert masks.shape == truth.shape == (3, 2, n, SIDE, SIDE) and counts.shape == (3, 2, n)
    assert torch.equal(images[:, 1], pair[1].images) and torch.equal(
        masks[:, 0], pair[0].masks[:, :n]
    )


# -- augmentation ------------------------------------------------------------------------------


def test_one_change_for_all_frames_of_both_views(data: Path) -> None:
    """Wherever the geometry goes, a mask still lies on its object, in every frame and view."""
    plain = TakeClips(data / "train", SIDE, 3, 2, None)
    turned = TakeClips(data / "train", SIDE, 3, 2, GEOMETRY)
    for number in range(8):
        before, after = clip_of(plain, number), clip_of(turned, number)
        assert before.name == after.name and not torch.equal(before.images, after.images)
        for t in range(3):
            for view, masks in ((0, after.masks), (1, after.truth)):
                for i in range(after.filled):
                    inside = after.images[t, view][:, masks[t, i]].float()
                    if inside.shape[1] > 30:
                        red, _, blue = inside.mean(dim=1).tolist()
                        assert abs(red - blue) > 100  # a red or a blue disk


def test_flip_mirrors_exactly() -> None:
    ranges = Augmentation(flip=1, degrees=0, shear=0, brightness=0, contrast=0, saturation=0,
                          grey=0)  # fmt: skip
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    mask = random.random((32, 32)) > 0.5
    change = draw_change(ranges, 32, random)
    assert (change_image(image, change) == image[:, ::-1]).all()
    assert (change_mask(mask, change) == mask[:, ::-1]).all()


def test_colour_and_geometry_stay_in_range() -> None:
    random = np.random.default_rng(1)
    image = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    draws = [draw_change(Augmentation(grey=0.3), 16, random) for _ in range(300)]
    assert 0.35 < np.mean([np.linalg.det(c.matrix[:, :2]) < 0 for c in draws]) < 0.65
    centre = np.array([7.5, 7.5, 1])
    assert all(np.allclose(c.matrix @ centre, centre[:2]) for c in draws)
    assert all(0.9 <= c.brightness <= 1.1 and 0.97 <= c.contrast <= 1.03 for c in draws)
    grey = [c for c in draws if c.saturation == 0]
    assert 50 < len(grey) < 130
    assert all(0.97 <= c.saturation <= 1.03 for c in draws if c.saturation)
    found = change_image(image, grey[0]._replace(matrix=None))[0, 0]
    luma = 0.299 * 200 + 0.587 * 100 + 0.114 * 50
    assert (found == round(luma * grey[0].brightness)).all()
    brighter = change_image(image, draws[0]._replace(matrix=None, brightness=1.1, contrast=1.0,
                                                     saturation=1.0))  # fmt: skip
    assert brighter[3, 3].tolist() == [220, 110, 55]


# -- broken data -------------------------------------------------------------------------------


def test_broken_files_are_named_and_another_clip_is_drawn(data: Path) -> None:
    broken = data / "train" / "take_1"
    for image in (broken / "cam01").iterdir():
        image.write_bytes(image.read_bytes()[:200])
    clips = TakeClips(data / "train", SIDE, 3, 2)
    drawn = [clips[number] for number in range(6)]
    errors = [e for one in drawn for e in one.errors]
    assert len(errors) >= 2 and all(
        "take_1/cam01" in e and "JPEG of 200 bytes" in e for e in errors
    )
    assert all(one.clip is not None and "take_1" not in one.clip.name for one in drawn)


@pytest.mark.parametrize(
    "damage",
    [
        lambda masks: masks["red"]["aria01"].update({"0": {"size": [64, 64], "counts": "zz"}}),
        lambda masks: masks["red"].update({"aria01": {"first": None}}),
        lambda masks: masks["red"]["aria01"].update({"0": "a mask"}),
        lambda masks: masks.update({"red": 3}),
    ],
)
def test_broken_annotations_are_named(data: Path, damage: Callable[[dict], None]) -> None:
    for seed in (1, 2):
        edit(data / "train" / f"take_{seed}", damage)
    clips = TakeClips(data / "train", SIDE, 6, 2)
    drawn = [clips[number] for number in range(6)]
    errors = [e for one in drawn for e in one.errors]
    assert errors and all("annotation.json" in e for e in errors)
    assert all(one.clip is not None and "take_0" in one.clip.name for one in drawn)


def test_cameras_without_annotations_give_way_to_others_of_the_take(data: Path) -> None:
    """Three of four exo cameras of each take have no masks at all."""
    for path in (data / "train").iterdir():
        for name in ("cam02", "cam03", "cam04"):
            shutil.copytree(path / "cam01", path / name)
    clips = TakeClips(data / "train", SIDE, 3, 2, None, seed=1)
    assert len(clips.pairs) == 24
    kept = 0
    for number in range(24):
        clip, wanted = clip_of(clips, number), clips.pair(number)
        assert {"cam01", "aria01"} <= set(clip.name.partition(",")[0].split())
        kept += str(wanted.take) in clip.name and f"{wanted.query} to {wanted.target}".startswith(
            "aria01"
        ) == ("aria01 to" in clip.name)
        fresh = TakeClips(data / "train", SIDE, 3, 2, None, seed=1)  # knows of no empty pair
        assert same(clip_of(fresh, number), clip)
    assert kept > 18


def test_nothing_to_draw(data: Path) -> None:
    clips = TakeClips(data / "train", SIDE, 7, 2)  # the takes have six frames
    assert clips[0].clip is None and clips[0].errors == ()


def test_folders_that_hold_no_takes(data: Path, tmp_path: Path) -> None:
    with pytest.raises(TakeError, match="no such folder"):
        TakeClips(tmp_path / "nowhere", SIDE)
    (tmp_path / "empty").mkdir()
    with pytest.raises(TakeError, match="no takes in it"):
        TakeClips(tmp_path / "empty", SIDE)
    (tmp_path / "empty" / "no take").mkdir()
    with pytest.raises(TakeError, match="first problem: .*no take.*annotation.json"):
        TakeClips(tmp_path / "empty", SIDE)
    (data / "train" / "half").mkdir()
    assert "half/annotation.json" in TakeClips(data / "train", SIDE).errors[0]
