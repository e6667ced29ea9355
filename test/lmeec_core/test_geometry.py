"""Triangulation with exact synthetic cameras: noise, distortion, and points that cannot be."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from lmeec_core.calibration import CalibrationError, intrinsics, read_calibration
from lmeec_core.geometry import GeometryError, Intrinsics, Pose, View, triangulate

K = np.array([[420.0, 0, 318.0], [0, 430.0, 242.0], [0, 0, 1]])
LENSES = {
    "none": ("plumb_bob", ()),
    "plumb_bob": ("plumb_bob", (-0.28, 0.09, 0.001, -0.0007, -0.01)),
    "rational": ("rational_polynomial", (0.3, 0.05, 0.0003, 0.0002, 0.01, 0.6, 0.12, 0.02)),
    "equidistant": ("equidistant", (-0.02, 0.006, -0.002, 0.0003)),
}
POINT = np.array([0.1, -0.07, 0.05])


def lens(name: str = "none") -> Intrinsics:
    model, numbers = LENSES[name]
    return Intrinsics((640, 480), K, np.array(numbers), model)


def looking(position: Any, at: Any = (0, 0, 0)) -> Pose:
    """A camera at a place, its axis through a point, its image upright (z is up)."""
    place = np.array(position, float)
    forward = np.array(at, float) - place
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, [0, 0, 1.0])
    right /= np.linalg.norm(right)
    return Pose(np.stack([right, np.cross(forward, right), forward], axis=1), place)


PLACES = [(1.2, 0.1, 0.6), (-0.3, 1.3, 0.7), (0.2, -1.1, 0.9)]


def view(pose: Pose, point: Any = POINT, one: Intrinsics | None = None, shift: Any = 0.0) -> View:
    one = one or lens()
    return View(one, pose, one.project(pose.to_camera(np.array([point])))[0] + shift)


def by_hand(point: np.ndarray, numbers: tuple[float, ...], model: str) -> np.ndarray:
    """A pixel by the formulae of OpenCV's manual (calib3d), written out."""
    x, y = point[0] / point[2], point[1] / point[2]
    r = math.hypot(x, y)
    if model == "equidistant":
        angle = math.atan(r)
        bent = angle * (1 + sum(k * angle ** (2 * i + 2) for i, k in enumerate(numbers)))
        x, y = bent / r * x, bent / r * y
    else:
        k1, k2, p1, p2, k3, k4, k5, k6 = (*numbers, *[0.0] * 8)[:8]
        radial = (1 + k1 * r**2 + k2 * r**4 + k3 * r**6) / (1 + k4 * r**2 + k5 * r**4 + k6 * r**6)
        x, y = (
            x * radial + 2 * p1 * x * y + p2 * (r * r + 2 * x * x),
            y * radial + p1 * (r * r + 2 * y * y) + 2 * p2 * x * y,
        )
    return np.array([K[0, 0] * x + K[0, 2], K[1, 1] * y + K[1, 2]])


@pytest.mark.parametrize("name", LENSES)
def test_projection_is_the_formula_of_the_manual(name: str) -> None:
    model, numbers = LENSES[name]
    for point in ([0.2, -0.1, 1.0], [-0.5, 0.4, 1.3], [0.01, 0.6, 2.0]):
        found = lens(name).project(np.array([point]))[0]
        np.testing.assert_allclose(found, by_hand(np.array(point), numbers, model), atol=1e-8)


@pytest.mark.parametrize("name", LENSES)
@pytest.mark.parametrize("count", [2, 3])
def test_exact_pixels_give_the_exact_point(name: str, count: int) -> None:
    views = [view(looking(place), one=lens(name)) for place in PLACES[:count]]
    found = triangulate(views, 0.01, 3.0)
    np.testing.assert_allclose(found.point, POINT, atol=1e-8)
    assert found.error < 1e-5 and 30 < found.angle <= 90


def test_lenses_may_differ_and_the_lens_matters() -> None:
    names = ("plumb_bob", "equidistant", "rational")
    views = [view(looking(p), one=lens(n)) for p, n in zip(PLACES, names, strict=True)]
    np.testing.assert_allclose(triangulate(views, 0.01, 3.0).point, POINT, atol=1e-8)
    far = np.array([0.3, 0.25, 0.1])  # off the axes, where the distortion is
    wrong = [
        View(lens(), v.pose, v.pixel)
        for v in (view(looking(p), far, lens("plumb_bob")) for p in PLACES)
    ]
    assert np.linalg.norm(triangulate(wrong, 100.0, 3.0).point - far) > 0.005


def test_noise_is_averaged_and_reported() -> None:
    rng = np.random.default_rng(5)
    misses: dict[int, list[float]] = {2: [], 3: []}
    errors = []
    for _ in range(60):
        noise = rng.normal(0, 1.0, (3, 2))
        views = [view(looking(p), shift=n) for p, n in zip(PLACES, noise, strict=True)]
        for count, all_of in misses.items():
            found = triangulate(views[:count], 10.0, 3.0)
            all_of.append(float(np.linalg.norm(found.point - POINT)))
        errors.append(found.error)
    # 1 pixel at 1.4 m with a focal length of 425 pixels is 3.3 mm.
    assert np.mean(misses[3]) < np.mean(misses[2]) < 0.006
    # Six numbers with a variance of 1, less three that the point takes up: sqrt((6 - 3) / 3) = 1.
    assert 0.8 < math.sqrt(np.mean(np.square(errors))) < 1.2


def test_least_squares_in_the_images_not_in_space() -> None:
    near, far = looking((0.3, 0.0, 0.1)), looking((-0.5, 3.0, 1.0))
    views = [view(near, shift=(0, 3.0)), view(far, shift=(0, -3.0)), view(looking((0, -2, 1)))]
    found = triangulate(views, 10.0, 3.0)

    def cost(point: np.ndarray) -> float:
        return sum(float(np.sum(v.miss(point) ** 2)) for v in views)

    for axis in np.eye(3):
        for sign in (-1, 1):
            assert cost(found.point + 1e-4 * sign * axis) > cost(found.point)
    assert math.isclose(found.error, math.sqrt(cost(found.point) / 3))


def refusal(views: list[View], max_error: float = 5.0, min_angle: float = 3.0) -> GeometryError:
    with pytest.raises(GeometryError) as caught:
        triangulate(views, max_error, min_angle)
    return caught.value


def test_too_few_views() -> None:
    assert refusal([]).kind == "views"
    assert refusal([view(looking(PLACES[0]))]).kind == "views"


def test_parallel_rays() -> None:
    side_by_side = [view(looking((1.5, y, 0.5))) for y in (0.0, 0.02)]
    assert refusal(side_by_side).kind == "parallel"
    assert "rays 0.7" in str(refusal(side_by_side))
    triangulate(side_by_side, 5.0, 0.5)  # the limit is the caller's
    apart = Pose(looking((2, 0, 0)).rotation, np.array([2.0, 1.0, 0.0]))
    centre = np.array([K[0, 2], K[1, 2]])
    exactly = [View(lens(), looking((2, 0, 0)), centre), View(lens(), apart, centre)]
    assert refusal(exactly, min_angle=0.0).kind == "parallel"


def test_cameras_face_to_face_see_no_depth() -> None:
    opposed = [view(looking(p, POINT)) for p in ((1.5, 0, 0.05), (-1.3, -0.14, 0.05))]
    assert refusal(opposed).kind == "parallel"


def test_a_point_behind_the_cameras() -> None:
    centre = np.array([K[0, 2], K[1, 2]])
    # The axes part: they meet behind both cameras.
    parting = [View(lens(), looking((1, y, 0), (2, 3 * y, 0)), centre) for y in (-0.3, 0.3)]
    assert refusal(parting).kind == "behind"


@pytest.mark.parametrize("name", LENSES)
def test_pixels_of_different_things(name: str) -> None:
    one = lens(name)
    views = [view(looking(p), one=one) for p in PLACES[:2]]
    views.append(view(looking(PLACES[2]), (0.1, 0.2, 0.3), one))
    error = refusal(views)
    assert error.kind == "error" and "pixels, at most 5.0 expected" in str(error)


def test_an_image_of_another_size_and_one_of_another_shape() -> None:
    one = lens()
    half = cv2.resize(np.zeros((480, 640), np.uint8), (320, 240)).shape[::-1]
    np.testing.assert_allclose(one.scaled(np.array([-0.5, -0.5]), half), [-0.5, -0.5])
    np.testing.assert_allclose(one.scaled(np.array([159.5, 119.5]), half), [319.5, 239.5])
    with pytest.raises(GeometryError, match="image of 320 x 320 given, but .* for 640 x 480"):
        one.scaled(np.zeros(2), (320, 320))


FILE = """
frame: table
cameras:
  ego:
    width: 640
    height: 480
    distortion_model: equidistant
    k: [420, 0, 318, 0, 430, 242, 0, 0, 1]
    d: [-0.02, 0.006, -0.002, 0.0003]
    position: [0.5, 0, 1]
    orientation: [0, 0.6, 0, 0.8]
  exo:
    position: [0, 0, 0]
    orientation: [0, 0, 0, 1]
"""


def test_calibration_file(tmp_path: Path) -> None:
    path = tmp_path / "calibration.yaml"
    path.write_text(FILE)
    found = read_calibration(path)
    assert found.frame == "table" and set(found.lenses) == {"ego"}
    assert found.lenses["ego"].size == (640, 480) and found.lenses["ego"].model == "equidistant"
    np.testing.assert_allclose(found.lenses["ego"].matrix, K)
    # A turn about y by 2 atan(0.6 / 0.8): z goes to (0.96, 0, 0.28).
    np.testing.assert_allclose(found.poses["ego"].rotation[:, 2], [0.96, 0, 0.28], atol=1e-12)
    seen = found.poses["ego"].to_camera(np.array([[0.5 + 0.96, 0, 1.28]]))
    np.testing.assert_allclose(seen, [[0, 0, 1]], atol=1e-12)
    np.testing.assert_allclose(found.poses["exo"].rotation, np.eye(3))


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("frame: table", "fame: table", "frame: Field required"),
        ("width: 640", "widht: 640", "cameras.ego.widht"),
        ("    height: 480\n", "", "height missing; all of width, height, k"),
        ("k: [420, 0", "k: [0, 0", "positive focal lengths"),
        ("k: [420, ", "k: [", "positive focal lengths"),
        ("equidistant", "pinhole", "one of plumb_bob, rational_polynomial, equidistant"),
        ("d: [-0.02, ", "d: [", "equidistant has 0 or 4"),
        ("[0, 0.6, 0, 0.8]", "[0, 0.6, 0, 0.9]", "of length 1"),
        ("[0.5, 0, 1]", "[0.5, 0, .nan]", "cameras.ego.position.2"),
        ("    position: [0, 0, 0]\n", "", "cameras.exo: position missing"),
        ("frame: table", "frame: [", "cannot be read"),
        ("  exo:", "  ego:", "'ego' occurs twice in the mapping at line 4; keep one"),
        ("    width: 640", "    width: 320\n    width: 640", "'width' occurs twice"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, old: str, new: str, text: str) -> None:
    path = tmp_path / "calibration.yaml"
    assert old in FILE
    path.write_text(FILE.replace(old, new))
    with pytest.raises(CalibrationError) as caught:
        read_calibration(path)
    assert text in str(caught.value) and str(path) in str(caught.value)


def test_no_file_and_one_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="cannot be read"):
        read_calibration(tmp_path / "nothing.yaml")
    big = tmp_path / "big.yaml"
    big.write_bytes(b"#" * 1_000_001)
    with pytest.raises(CalibrationError, match="more than 1000000 bytes"):
        read_calibration(big)


def test_a_camera_that_is_not_calibrated() -> None:
    with pytest.raises(GeometryError, match="zeros mean that the camera is not calibrated"):
        intrinsics((640, 480), np.zeros(9), [], "")
    assert intrinsics((640, 480), K.reshape(-1), [], "").model == "plumb_bob"


@pytest.mark.parametrize("seed", [*range(20), 79, 81, 157, 249, 357, 461])
def test_wide_noise_and_bent_lenses(seed: int) -> None:
    """No place near the point fits better; whole Gauss-Newton steps run away in the last six."""
    rng = np.random.default_rng(seed)
    one = lens(list(LENSES)[seed % 4])
    base = rng.normal(size=3)
    base[2] = abs(base[2]) + 0.3
    base /= np.linalg.norm(base) / rng.uniform(0.8, 3)
    poses = [looking(base + rng.normal(size=3) * rng.choice([0.06, 0.3, 1.0])) for _ in "ab"]
    views = [
        view(pose, rng.normal(size=3) * 0.4, one, rng.normal(size=2) * rng.choice([1, 40, 200]))
        for pose in poses
    ]
    try:
        found = triangulate(views, 1e9, 0.5)
    except GeometryError as error:
        assert error.kind == "behind" and seed < 20
        return

    def cost(point: np.ndarray) -> float:
        return sum(float(np.sum(v.miss(point) ** 2)) for v in views)

    unit = max(v.depth(found.point) for v in views)
    near = [k * unit * axis for k in (1e-3, -1e-3, 1e-4, -1e-4) for axis in np.eye(3)]
    assert min(cost(found.point + step) for step in near) >= cost(found.point) * (1 - 1e-6)
    assert math.isclose(found.error, math.sqrt(cost(found.point) / 2))
