"""Depth images, clouds of masks, several cameras; depth of simulated takes."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmeec_core.calibration import (
    Calibration,
    CalibrationError,
    calibration_text,
    read_calibration,
)
from lmeec_core.depth import images
from lmeec_core.depth.cloud import DepthView, kept_pixels, object_cloud
from lmeec_core.depth.fusion import TRIANGULATED, fuse
from lmeec_core.depth.images import DepthImageError
from lmeec_core.errors import InputError
from lmeec_core.experiments import depth as experiment
from lmeec_core.geometry import GeometryError, Intrinsics, Pose, Triangulation
from lmeec_core.simulation import level
from lmeec_core.simulation.backend import RenderingError
from lmeec_core.simulation.generate import generate_takes
from lmeec_core.simulation.render import SceneRenderer
from lmeec_core.simulation.scene import Scene
from lmeec_core.simulation.truth import TRUTH
from lmeec_core.takes import Take

SAMPLE = Path(__file__).parents[1] / "data" / "sample_take"
SIZE = 120
LENS = Intrinsics(
    (SIZE, SIZE), np.array([[300.0, 0, 59.5], [0, 300, 59.5], [0, 0, 1]]), np.zeros(0)
)
HERE = Pose(np.eye(3), np.zeros(3))
BEHIND = Pose(np.diag([-1.0, 1, -1]), np.array([0, 0, 2.0]))
"""Looks at the first camera from 2 m away."""


def compressed(values: np.ndarray, a: float = 0.0, b: float = 0.0) -> bytes:
    return struct.pack("<iff", 0, a, b) + bytes(cv2.imencode(".png", values)[1])


def test_depth_in_millimetres_and_metres() -> None:
    found = images.to_metres(np.array([[0, 1, 1500, 65535]], np.uint16))
    np.testing.assert_array_equal(found, np.float32([[np.nan, 0.001, 1.5, 65.535]]))
    odd = np.array([[0.0, -1.0, np.nan, np.inf, -np.inf, 2.5]], np.float32)
    np.testing.assert_array_equal(images.to_metres(odd), np.float32([[np.nan] * 5 + [2.5]]))
    for wrong, text in (
        (np.zeros((2, 2), np.uint8), "picture of depth"),
        (np.zeros((2, 2, 3), np.uint16), "one channel"),
        (np.zeros((0, 2), np.uint16), "one channel"),
    ):
        with pytest.raises(DepthImageError, match=text):
            images.to_metres(wrong)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 65535), min_size=6, max_size=6))
def test_whole_millimetres_survive_a_png(values: list[int]) -> None:
    metres = images.to_metres(np.array(values, np.uint16).reshape(2, 3))
    np.testing.assert_array_equal(images.from_png(images.encode_depth(metres)), metres)


def test_what_png_cannot_hold_is_no_value() -> None:
    given_ = np.array([[70.0, -1.0, np.nan, np.inf, 65.535, 0.0004]])
    found = images.from_png(images.encode_depth(given_))
    np.testing.assert_array_equal(found, np.float32([[np.nan] * 4 + [65.535, np.nan]]))


@settings(max_examples=30, deadline=None)
@given(st.floats(0.3, 9.9), st.floats(10, 200))
def test_compressed_depth_as_image_transport_writes_it(metres: float, quantum: float) -> None:
    """The codec's own arithmetic: A = q (q + 1), B = 1 - A / max, value = A / depth + B."""
    a = np.float32(quantum * (quantum + 1))
    b = np.float32(1 - a / np.float32(10.0))
    coded = int(a / np.float32(metres) + b)
    if coded > 65535:
        return
    data = compressed(np.array([[coded, 0]], np.uint16), a, b)
    for kind in ("32FC1; compressedDepth png", "32FC1; compressedDepth"):
        found = images.from_compressed(data, kind)
        assert np.isnan(found[0, 1])
        assert abs(float(found[0, 0]) - metres) <= metres**2 / float(a) * 1.1 + 1e-5
    raw = compressed(np.array([[0, round(metres * 1000)]], np.uint16))
    found = images.from_compressed(raw, "16UC1; compressedDepth png")
    assert np.isnan(found[0, 0]) and abs(found[0, 1] - metres) < 0.001


@pytest.mark.parametrize(
    ("data", "kind", "text"),
    [
        (compressed(np.ones((2, 2), np.uint16)), "16UC1; compressedDepth rvl", "rvl is not read"),
        (compressed(np.ones((2, 2), np.uint16)), "rgb8; jpeg compressed bgr8", "compressedDepth"),
        (compressed(np.ones((2, 2), np.uint16)), "", "compressedDepth png"),
        (compressed(np.ones((2, 2), np.uint8)), "16UC1; compressedDepth png", "8 bits"),
        (compressed(np.ones((2, 2), np.uint16)), "32FC1; compressedDepth", "quantisation"),
        (compressed(np.ones((9, 9), np.uint16))[:40], "16UC1; compressedDepth", "truncated"),
        (b"\0" * 12, "16UC1; compressedDepth png", "12 bytes"),
        (b"\0" * 12 + b"\xff\xd8\xff", "16UC1; compressedDepth png", "JPEG"),
    ],
)
def test_compressed_depth_that_is_refused(data: bytes, kind: str, text: str) -> None:
    with pytest.raises(DepthImageError, match=text):
        images.from_compressed(data, kind)


def ball(pose: Pose, radius: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Mask and depth of a ball at (0, 0, 1) in front of a wall at 3 m, as a camera sees them."""
    pixels = np.stack(np.meshgrid(np.arange(SIZE), np.arange(SIZE)), axis=-1).reshape(-1, 2)
    rays = LENS.rays(pixels.astype(float))
    centre = pose.to_camera(np.array([[0, 0, 1.0]]))[0]
    along = rays @ centre
    under = along**2 - (centre @ centre - radius**2)
    hit = under > 0
    depth = np.full(len(rays), 3.0)
    depth[hit] = ((along - np.sqrt(np.maximum(under, 0))) * rays[:, 2])[hit]
    return hit.reshape(SIZE, SIZE), depth.reshape(SIZE, SIZE).astype(np.float32)


def test_the_cloud_of_a_ball_is_its_surface() -> None:
    mask, depth = ball(HERE)
    cloud = object_cloud(mask, DepthView(depth, LENS, HERE))
    np.testing.assert_allclose(np.linalg.norm(cloud.points - [0, 0, 1], axis=1), 0.1, atol=1e-4)
    assert cloud.given == mask.sum() and len(cloud.points) > 0.6 * cloud.given
    assert cloud.centre[2] < 1  # one side only
    few = object_cloud(mask, DepthView(depth, LENS, HERE), most=50)
    assert len(few.points) == 50 and abs(few.points[:, 0].mean()) < 0.02


def test_what_is_not_the_object_does_not_count() -> None:
    mask, depth = ball(HERE)
    clean = object_cloud(mask, DepthView(depth, LENS, HERE))
    wide = cv2.dilate(mask.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
    spoilt = depth.copy()
    rim = wide & ~cv2.erode(mask.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
    spoilt[rim] = np.random.default_rng(0).uniform(1, 3, rim.sum())  # flying pixels
    spoilt[55:60, 58:62], spoilt[50, 50:55] = 0.4, np.nan
    found = object_cloud(wide, DepthView(spoilt, LENS, HERE))
    np.testing.assert_allclose(found.centre, clean.centre, atol=0.01)
    np.testing.assert_allclose(np.linalg.norm(found.points - [0, 0, 1], axis=1), 0.1, atol=0.01)
    whole = wide & np.isfinite(spoilt)
    assert not (kept_pixels(wide, spoilt) & (spoilt > 1.2)).any() and (spoilt[whole] > 1.2).any()


def test_lower_depth_resolution_places_the_same() -> None:
    mask, depth = ball(HERE)
    full = object_cloud(mask, DepthView(depth, LENS, HERE))
    half = object_cloud(mask, DepthView(np.ascontiguousarray(depth[::2, ::2]), LENS, HERE))
    np.testing.assert_allclose(half.centre, full.centre, atol=0.012)
    for other in (np.ones((60, 120), np.float32), np.ones((120, 100), np.float32)):
        with pytest.raises(InputError, match="aspect"):
            object_cloud(mask, DepthView(other, LENS, HERE))


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_a_mask_without_depth_is_refused(value: float) -> None:
    mask, depth = ball(HERE)
    depth = images.to_metres(np.where(mask, np.float32(value), depth))
    with pytest.raises(GeometryError, match="0 of the mask's .* usable depth") as caught:
        object_cloud(mask, DepthView(depth, LENS, HERE))
    assert caught.value.kind == "no_depth"
    with pytest.raises(GeometryError, match="0 of the mask's 0"):
        object_cloud(np.zeros_like(mask), DepthView(depth, LENS, HERE))
    with pytest.raises(InputError, match="bool mask"):
        object_cloud(mask.astype(np.uint8), DepthView(depth, LENS, HERE))


def test_cameras_are_fused_and_compared() -> None:
    clouds = {
        name: object_cloud(mask, DepthView(depth, LENS, pose))
        for name, pose in (("ego", HERE), ("exo", BEHIND))
        for mask, depth in [ball(pose)]
    }
    point = Triangulation(np.array([0, 0, 1.0]), 0.1, 20.0)
    found = fuse(clouds, point)
    np.testing.assert_allclose(found.cloud.centre, [0, 0, 1], atol=0.01)
    assert (found.cloud.extent > 0.12).all() and (found.cloud.extent < 0.21).all()
    # Opposite sides of a ball are no contradiction, as far as its rims are seen.
    found.check(0.1)
    away = fuse(clouds, Triangulation(np.array([0.5, 0, 1.0]), 0.1, 20.0))
    assert away.between == (TRIANGULATED, "depth") and 0.38 < away.disagreement < 0.45
    with pytest.raises(GeometryError, match=r"place it 0\.4.. m apart, at most 0\.100") as caught:
        away.check(0.1)
    assert caught.value.kind == "disagree"
    moved = Pose(BEHIND.rotation, BEHIND.position + [0.6, 0, 0])  # a wrong calibration
    mask, depth = ball(BEHIND)
    wrong = fuse({**clouds, "exo": object_cloud(mask, DepthView(depth, LENS, moved))})
    assert wrong.between == ("ego", "exo") and wrong.disagreement > 0.4
    assert fuse({"ego": clouds["ego"]}).disagreement == 0
    with pytest.raises(InputError, match="no point cloud"):
        fuse({})


def test_the_nearer_camera_does_not_weigh_more() -> None:
    mask, depth = ball(HERE)
    one = object_cloud(mask, DepthView(depth, LENS, HERE))
    few = object_cloud(mask, DepthView(depth, LENS, HERE), most=100)
    both = fuse({"a": one, "b": few}).cloud
    np.testing.assert_allclose(both.points.mean(axis=0), one.points.mean(axis=0), atol=0.01)


def test_a_calibration_with_a_moving_camera_survives_its_file(tmp_path: Path) -> None:
    turn = Pose.from_quaternion((0.1, 0.2, 0.3), (0.5, -0.5, 0.5, 0.5))
    lens = Intrinsics((640, 480), LENS.matrix, np.arange(8) / 100, "rational_polynomial")
    given_ = Calibration("table", {"ego": lens, "exo": LENS}, {"exo": turn}, {"ego": {30: turn}})
    path = tmp_path / "calibration.yaml"
    path.write_text(calibration_text(given_))
    found = read_calibration(path)
    assert found.frame == "table" and found.placed == {"ego", "exo"}
    assert found.at("ego", 0) is None and found.at("nobody", 0) is None
    for camera, frame in (("ego", 30), ("exo", 7)):
        placed = found.at(camera, frame)
        assert placed is not None
        assert placed[0].model == given_.lenses[camera].model
        np.testing.assert_allclose(placed[0].distortion, given_.lenses[camera].distortion)
        np.testing.assert_allclose(placed[1].rotation, turn.rotation, atol=1e-6)
        np.testing.assert_allclose(placed[1].position, turn.position)


@pytest.mark.parametrize(
    ("camera", "text"),
    [
        ({"poses": {0: [0, 0, 0, 0, 0, 0]}}, "poses"),
        ({"poses": {-1: [0, 0, 0, 0, 0, 0, 1]}}, "poses"),
        ({"poses": {0: [0, 0, 0, 0, 0, 0, 2]}}, "length 1"),
        ({"poses": {0: [0, 0, 0, 0, 0, 0, 1]}, "position": [0, 0, 0], "orientation": [0, 0, 0, 1]},
         "one of them"),
    ],
)  # fmt: skip
def test_poses_by_frame_that_cannot_be(tmp_path: Path, camera: Any, text: str) -> None:
    path = tmp_path / "calibration.yaml"
    path.write_text(json.dumps({"frame": "a", "cameras": {"ego": camera}}))
    with pytest.raises(CalibrationError, match=text):
        read_calibration(path)


@pytest.fixture(scope="module")
def takes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("depth") / "sim"
    config = level("easy", multisamples=4, exo_cameras=2, shadow_share=0.0)
    try:
        results = list(generate_takes(root, config, {"test": 2}, 4, 128, 2, depth=True))
    except RenderingError as error:
        pytest.skip(str(error))
    assert [r.error for r in results] == [None, None]
    with pytest.raises(InputError, match="depth = True, asked for is False"):
        list(generate_takes(root, config, {"test": 2}, 4, 128, 2))
    return root


def test_depth_of_a_take_belongs_to_its_masks_and_calibration(takes: Path) -> None:
    """The points of one camera's image, seen by another one, have the depth that that one has."""
    take = Take.open(takes / "test" / "sim_test_000002")
    assert take.cameras == ("aria01", "cam01", "cam02")  # the folders of depth are no cameras
    calibration, truth = read_calibration(take.calibration_path), take.annotation[TRUTH]
    assert set(truth["held"]) == {"0", "30", "60", "90"}
    apart, inside = [], []
    for frame in take.frames("cam01"):
        placed = {c: calibration.at(c, frame) for c in take.cameras}
        depth = {c: images.read_depth(take.depth_path(c, frame)) for c in take.cameras}
        for name in take.objects:
            mask, other = (take.mask(name, c, frame) for c in ("cam01", "cam02"))
            if mask is None or other is None or mask.sum() < 40 or other.sum() < 40:
                continue
            one, two = placed["cam01"], placed["cam02"]
            assert one is not None and two is not None
            cloud = object_cloud(mask, DepthView(depth["cam01"], *one))
            low, high = np.array(truth["boxes"][name][str(frame)])
            inside.append(((cloud.points > low - 0.01) & (cloud.points < high + 0.01)).all(axis=1))
            seen = two[1].to_camera(cloud.points)
            pixel = np.clip(np.rint(two[0].project(seen)).astype(int), 0, 127)
            hit = other[pixel[:, 1], pixel[:, 0]]
            apart.append((depth["cam02"][pixel[:, 1], pixel[:, 0]] - seen[:, 2])[hit])
    assert np.concatenate(inside).mean() > 0.99
    # The other camera may see the front of what is behind it, but never through a surface.
    differences = np.concatenate(apart)
    assert len(differences) > 100 and (differences < 0.012).mean() > 0.97
    assert (np.abs(differences) < 0.005).sum() > 10


def test_the_lens_of_a_bent_view_is_the_one_that_bent_it() -> None:
    try:
        scene = Scene(38, level("hard", exo_cameras=1), "test", 64, 3)
        renderer = SceneRenderer(scene)
    except RenderingError as error:
        pytest.skip(str(error))
    renderer.__exit__()
    effects, lens = scene.effects[0], scene.lens(0)
    assert effects.maps is not None and lens.distortion.any()
    half = np.tan(np.radians(scene.model.cam_fovy[scene.camera_id(0)]) / 2)
    pixels = np.array([[x, y] for x in range(0, 64, 7) for y in range(0, 64, 7)])
    source = np.array([[one[y, x] for one in effects.maps] for x, y in pixels])
    there = np.concatenate([(source - 31.5) * half / 32, np.ones((len(pixels), 1))], axis=1)
    np.testing.assert_allclose(lens.project(there), pixels, atol=0.01)


def test_the_experiment_gives_millimetres(
    takes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "depth.json"
    assert experiment.main([str(takes), "--every", "2", "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    result = json.loads(out.read_text())
    for noise in ("exact", "noisy"):
        for method in experiment.METHODS:
            one = result[noise][method]
            assert 0 < one["placed"] <= one["of"]
            low, high = one["median"]["95%"]
            assert 1 < low <= one["median"]["mm"] <= high < 100, (noise, method, one)
            assert one["median"]["mm"] <= one["90 %"]["mm"]
            assert f"| {noise} | {method} | {one['placed']} of {one['of']} |" in shown
        assert result[noise]["mask of another object in one camera"]["noticed"] > 0
    assert result["exact"]["triangulation"] == result["noisy"]["triangulation"]
    assert result["exact"]["depth, one camera"] != result["noisy"]["depth, one camera"]


def test_the_experiment_refuses_other_takes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        experiment.main([str(SAMPLE)])
    assert "lmeec simulate --depth" in capsys.readouterr().err
