"""Every method keeps the protocol of a tracker."""

from __future__ import annotations

import numpy as np
import pytest

from lmeec_core.config import preset
from lmeec_core.correspondence import Method, Tracker
from lmeec_core.errors import InputError
from lmeec_core.evaluation.metrics import iou
from lmeec_core.methods import METHODS, load_method, load_with, without_effect
from lmeec_core.tracker import EMPTY_MASK, NO_MASK

RED, GROUND = (220, 30, 30), 60


def view(x: int, y: int, size: tuple[int, int] = (120, 160)) -> tuple[np.ndarray, np.ndarray]:
    """A red square with a pattern on even ground: image and mask."""
    image = np.full((*size, 3), GROUND, np.uint8)
    mask = np.zeros(size, bool)
    mask[y : y + 40, x : x + 40] = True
    image[mask] = RED
    rng = np.random.default_rng(0)
    for i, j, shade in rng.integers((0, 0, 90), (32, 32, 255), (12, 3)):
        image[y + i : y + i + 8, x + j : x + j + 8, 0] = shade
    return image, mask


@pytest.fixture(scope="module", params=METHODS)
def method(request: pytest.FixtureRequest) -> Method:
    """Each method, as it is loaded by default."""
    return load_method(request.param, **({"device": "cpu"} if request.param == "lmeec" else {}))


@pytest.fixture
def tracker(method: Method) -> Tracker:
    """A tracker with two targets."""
    return method.tracker("ego", ["left", "right"], num_frames=2, max_objects=3)


QUERY, MASK = view(20, 30)
IMAGES = {"ego": QUERY, "left": view(90, 50)[0], "right": view(10, 10, (90, 120))[0]}


def test_a_step_answers_for_every_target_and_object(tracker: Tracker) -> None:
    masks = {"cup": MASK, "gone": np.zeros_like(MASK), "unasked": None}
    found = tracker.step(IMAGES, masks)
    assert list(found) == ["left", "right"]
    for target, objects in found.items():
        assert set(objects) == set(masks)
        for one in objects.values():
            assert one.size == one.mask().shape == IMAGES[target].shape[:2]
            assert 0 <= one.presence <= 1 and 0 <= one.score <= 1
            assert one.visible() or not one.mask().any()
        assert objects["cup"].skipped is None
        assert objects["gone"].skipped == EMPTY_MASK and objects["unasked"].skipped == NO_MASK
        assert not objects["gone"].visible() and objects["gone"].presence == 0
    assert set(tracker.objects) == set(masks)


def test_known_objects_stay_until_they_are_forgotten(tracker: Tracker) -> None:
    tracker.step(IMAGES, {"cup": MASK, "pan": MASK})
    found = tracker.step({**IMAGES, "right": None}, {"pan": MASK})
    assert list(found) == ["left"] and found["left"]["cup"].skipped == NO_MASK
    assert tracker.forget("cup") and not tracker.forget("cup")
    assert tracker.objects == ("pan",)
    tracker.reset()
    assert tracker.objects == ()


def test_bad_input_changes_nothing(method: Method, tracker: Tracker) -> None:
    tracker.step(IMAGES, {"cup": MASK})
    with pytest.raises(InputError, match="'left' is missing"):
        tracker.step({"ego": QUERY, "right": None}, {"new": MASK})
    with pytest.raises(InputError, match="at most 3 expected"):
        tracker.step(IMAGES, dict.fromkeys("abc", MASK))
    with pytest.raises(InputError, match="query mask 'cup'"):
        tracker.step(IMAGES, {"cup": np.ones((3, 3, 3), bool)})
    assert tracker.objects == ("cup",)
    for targets in ([], ["left", "left"], ["ego"]):
        with pytest.raises(InputError, match="targets"):
            method.tracker("ego", targets)


@pytest.mark.parametrize("name", ["colour", "template", "sift"])
def test_simple_methods_find_the_object(name: str) -> None:
    target, truth = view(90, 50)
    found = load_method(name).tracker("ego", ["exo"]).step(
        {"ego": QUERY, "exo": target}, {"cup": MASK}
    )  # fmt: skip
    one = found["exo"]["cup"]
    assert one.visible() and one.presence == 1 and iou(one.mask(), truth) > 0.5
    # A mask of half the image's size names the same object.
    small = load_method(name).tracker("ego", ["exo"]).step(
        {"ego": QUERY, "exo": target}, {"cup": MASK[::2, ::2]}
    )  # fmt: skip
    assert np.array_equal(small["exo"]["cup"].mask(), one.mask())


def test_settings_reach_the_method() -> None:
    wide = load_method("colour", threshold=0.0).tracker("ego", ["exo"])
    noisy = np.random.default_rng(1).integers(0, 256, (120, 160, 3), np.uint8)
    narrow = load_method("colour", threshold=0.99).tracker("ego", ["exo"])
    areas = [
        t.step({"ego": noisy, "exo": noisy}, {"cup": MASK})["exo"]["cup"].mask().sum()
        for t in (wide, narrow)
    ]
    assert areas[0] > areas[1] > 0


def test_unknown_names_and_settings_are_named() -> None:
    with pytest.raises(InputError, match="'color' given, one of lmeec, .*colour"):
        load_method("color")
    with pytest.raises(InputError, match="settings of method 'sift'.*treshold"):
        load_method("sift", treshold=1)
    with pytest.raises(InputError, match="settings of method 'lm-eec'.*presets"):
        load_method("lm-eec", presets="nano")


def test_a_preset_among_the_settings_is_the_network() -> None:
    given = {"preset": "mini", "seed": 0, "device": "cpu", "threshold": 0.5}
    assert load_with("lmeec", given).model.config == preset("mini")
    assert without_effect("lmeec", ["model.preset", "model.seed", "memory.capacity"]) is None
