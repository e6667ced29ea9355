"""Simple baselines on drawn images, and their scores on scene shards."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from lmeec_core.evaluation.metrics import iou
from lmeec_core.experiments.baselines import main, pairs_of, score_baselines
from lmeec_core.methods.pairs import (
    SIMPLE_METHODS,
    FindMask,
    colour_histogram,
    same_place,
    sift,
    sift_or_template,
    template,
)

SIDE = 160


def _texture(seed: int, side: int, cell: int) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (side // cell, side // cell, 3), np.uint8)
    return cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)


def _draw(
    place: tuple[int, int] | None, background: int = 1, size: tuple[int, int] = (SIDE, SIDE)
) -> tuple[np.ndarray, np.ndarray]:
    """A textured ellipse on a textured ground: image and mask; nothing at place None."""
    image = np.ascontiguousarray(_texture(background, SIDE, 8)[: size[0], : size[1]] // 3 + 40)
    mask = np.zeros(size, np.uint8)
    if place is not None:
        x, y = place
        cv2.ellipse(mask, (x + 24, y + 24), (22, 16), 0, 0, 360, 1, -1)
        thing = np.zeros_like(image)
        thing[y : y + 48, x : x + 48] = _texture(7, 48, 4)
        image[mask > 0] = thing[mask > 0]
    return image, mask > 0


QUERY, QUERY_MASK = _draw((10, 20))
TARGET, TRUTH = _draw((90, 70), background=2)


def test_same_place() -> None:
    assert iou(same_place(QUERY, QUERY_MASK, TARGET), QUERY_MASK) == pytest.approx(1)
    wide = np.zeros((SIDE, 2 * SIDE, 3), np.uint8)
    found = same_place(QUERY, QUERY_MASK, wide)
    assert found.shape == (SIDE, 2 * SIDE) and found.dtype == bool
    assert found.sum() == 2 * QUERY_MASK.sum()


@pytest.mark.parametrize("baseline", [template, sift, sift_or_template])
def test_a_moved_object_is_found(baseline: FindMask) -> None:
    assert iou(baseline(QUERY, QUERY_MASK, TARGET), TRUTH) > 0.9


@pytest.mark.parametrize("baseline", [template, sift])
def test_a_smaller_object_is_found(baseline: FindMask) -> None:
    side = SIDE * 7 // 10
    small = cv2.resize(TARGET, (side, side), interpolation=cv2.INTER_AREA)
    truth = cv2.resize(TRUTH.astype(np.uint8), small.shape[1::-1]) > 0
    assert iou(baseline(QUERY, QUERY_MASK, small), truth) > 0.75


def test_colours_tell_where() -> None:
    """A red disk among blue and green ones, moved; a red speck elsewhere is not taken."""
    query, target = np.full((2, SIDE, SIDE, 3), 90, np.uint8)
    red, blue, green = (210, 30, 30), (30, 40, 200), (30, 180, 40)
    for image, places in ((query, (40, 80, 120)), (target, (110, 30, 70))):
        for x, colour in zip(places, (red, blue, green), strict=True):
            cv2.circle(image, (x, 80), 15, colour, -1)
    cv2.circle(target, (20, 20), 3, red, -1)
    asked = (query == red).all(axis=2)
    truth = (target == red).all(axis=2)
    truth[:40] = False
    found = colour_histogram(query, asked, target)
    assert iou(found, truth) > 0.7
    assert not found[:40].any()
    gone = np.where((target == red).all(axis=2)[..., None], np.uint8(90), target)
    assert not colour_histogram(query, asked, gone).any()


def test_sift_says_that_an_object_is_not_there() -> None:
    empty, _ = _draw(None, background=2)
    assert not sift(QUERY, QUERY_MASK, empty).any()
    found = sift_or_template(QUERY, QUERY_MASK, empty)
    assert np.array_equal(found, template(QUERY, QUERY_MASK, empty)) and found.any()


@pytest.mark.parametrize("name", list(SIMPLE_METHODS))
def test_result_has_the_target_images_size(name: str) -> None:
    target, _ = _draw((50, 40), background=3, size=(120, 150))
    found = SIMPLE_METHODS[name](QUERY, QUERY_MASK, target)
    assert found.shape == (120, 150) and found.dtype == bool


@pytest.mark.parametrize("name", list(SIMPLE_METHODS))
def test_bad_input_is_named(name: str) -> None:
    with pytest.raises(ValueError, match="query_mask: an empty mask"):
        SIMPLE_METHODS[name](QUERY, np.zeros_like(QUERY_MASK), TARGET)
    with pytest.raises(ValueError, match=r"query_mask: bool \(10, 10\) given"):
        SIMPLE_METHODS[name](QUERY, np.ones((10, 10), bool), TARGET)
    with pytest.raises(ValueError, match="target_image: float64"):
        SIMPLE_METHODS[name](QUERY, QUERY_MASK, TARGET / 255)


# -- scores ------------------------------------------------------------------------------------


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    """Two scenes of an ego and an exo camera, 2 frames.

    Object 1 is in both views at another place, object 2 in the ego view alone (left out of what
    exo asks), object 3 is too small in the ego view to be asked for or to count as a target.
    """
    paths = []
    for scene in range(2):
        packed = np.zeros((2, 2, SIDE, SIDE, 4), np.uint8)
        for frame in range(2):
            for camera, place in enumerate(((10 + 9 * scene, 20), (90, 70))):
                image, mask = _draw(place, background=10 * scene + camera)
                packed[frame, camera, ..., :3] = image
                packed[frame, camera, ..., 3] = mask
        packed[:, 0, 130:150, 130:150, 3] = 2
        packed[:, 0, 0:5, 0:5, 3] = 3
        packed[:, 1, 0:20, 0:20, 3] = 3
        path = tmp_path / f"test_{scene:08d}.npy"
        np.save(path, packed)
        path.with_suffix(".json").write_text(json.dumps({"objects": ["a", "b", "c"]}))
        paths.append(path)
    return paths


def test_what_counts(shards: list[Path]) -> None:
    found = [(int(p.query != "0"), bool(p.truth.any())) for p in pairs_of(shards[0])]
    assert found == [(0, True), (0, False), (1, True)] * 2
    assert len(list(pairs_of(shards[0], step=2))) == 3
    ego_to_exo = next(pairs_of(shards[0]))
    assert np.array_equal(ego_to_exo.query_mask, QUERY_MASK)
    assert np.array_equal(ego_to_exo.query_image, _draw((10, 20), background=0)[0])
    assert np.array_equal(ego_to_exo.truth, TRUTH)


def test_scores(shards: list[Path]) -> None:
    scores = score_baselines(shards, methods={"same place": same_place, "template": template})
    ego = scores["template"]["ego_to_exo"]
    assert (ego["present"], ego["absent"]) == (4, 4)
    assert ego["iou"] > 0.9 and ego["contour"] > 0.9
    low, high = ego["iou 95%"]
    assert low <= ego["iou"] <= high
    assert ego["existence"] == 0.5  # it always claims to have found something
    other = scores["same place"]["exo_to_ego"]
    assert other["iou"] == 0 and other["iou spread"] == 0
    assert (other["present"], other["absent"]) == (4, 0) and "existence" not in other


def test_command(shards: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "scores.json"
    assert main([str(tmp_path), "--out", str(out), "--first", "1", "--step", "2"]) == 0
    content = json.loads(out.read_text())
    assert content["scenes"] == ["test_00000000"]
    assert set(content["scores"]) == set(SIMPLE_METHODS)
    assert json.loads(capsys.readouterr().out) == content
    assert main([str(tmp_path), "--out", str(out), "--choose"]) == 0
    tried = json.loads(out.read_text())["iou by threshold"]
    assert json.loads(out.read_text())["threshold"] == float(max(tried, key=lambda t: tried[t]))


def test_command_without_scenes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--out", str(tmp_path / "out.json")])
    assert "no .npy files here" in capsys.readouterr().err
