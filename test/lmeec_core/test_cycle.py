"""The cycle check: what is found is looked for again in the query view."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import lmeec_core as lm
from lmeec_core.experiments import cycle as experiment
from lmeec_core.methods import load_method
from lmeec_core.methods.cycle import HALF, Checked, CycleChecked
from lmeec_core.methods.lm_eec import LmEec
from lmeec_core.methods.pairs import Image, Mask, PairMethod

SIDE = 40
BLANK = np.zeros((SIDE, SIDE, 3), np.uint8)


def square(left: int, side: int = 10) -> Mask:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[left : left + side, left : left + side] = True
    return mask


def moving(there: int, back: int) -> PairMethod:
    """Finds a mask moved by so many pixels, and back from the target view (which is brighter)."""

    def find(query_image: Image, query_mask: Mask, target_image: Image) -> Mask:
        shift = there if target_image.mean() > query_image.mean() else back
        return np.roll(query_mask, shift, axis=(0, 1))

    return PairMethod(find)


IMAGES = {"ego": BLANK, "exo": BLANK + 200, "far": BLANK + 100}


@pytest.mark.parametrize(("back", "side"), [(-8, 10), (-6, 10), (-3, 10), (-8, 4), (4, 10)])
def test_the_overlap_is_that_of_the_look_back_with_the_given_mask(back: int, side: int) -> None:
    tracker = CycleChecked(moving(8, back)).tracker("ego", ["exo", "far"])
    given = square(5, side)
    found = tracker.step(IMAGES, {"cup": given, "knife": None})
    seen = np.roll(given, 8 + back, axis=(0, 1))
    overlap = (given & seen).sum() / (given | seen).sum()
    for target in ("exo", "far"):
        cup, knife = found[target]["cup"], found[target]["knife"]
        assert cup.overlap == cup.score == pytest.approx(overlap)
        assert cup.presence == pytest.approx(overlap / (overlap + HALF))
        assert cup.visible() == (overlap >= HALF)
        assert (cup.mask() == (np.roll(given, 8, axis=(0, 1)) & cup.visible())).all()
        assert knife.overlap is None and knife.skipped and not knife.mask().any()
    assert tracker.objects == ("cup", "knife") and tracker.targets == ("exo", "far")
    assert tracker.forget("cup") and not tracker.forget("cup")
    tracker.reset()
    assert tracker.objects == ()


def test_a_mask_over_the_whole_image_is_not_believed() -> None:
    whole = PairMethod(lambda query, mask, target: np.ones(target.shape[:2], bool))
    found = CycleChecked(whole).tracker("ego", ["exo"]).step(IMAGES, {"cup": square(5)})
    one = found["exo"]["cup"]
    assert one.found.mask().all() and one.overlap == pytest.approx(100 / SIDE**2)
    assert not one.visible() and not one.mask().any()


def test_masks_of_another_size_and_results_without_a_mask() -> None:
    tracker = CycleChecked(moving(8, -8)).tracker("ego", ["exo"])
    large = np.kron(square(5).astype(np.uint8), np.full((3, 3), 255, np.uint8))
    assert tracker.step(IMAGES, {"cup": large})["exo"]["cup"].overlap == 1
    never = PairMethod(lambda query, mask, target: np.zeros(target.shape[:2], bool))
    gone = CycleChecked(never).tracker("ego", ["exo"]).step(IMAGES, {"cup": square(5)})
    assert gone["exo"]["cup"].overlap is None and gone["exo"]["cup"].presence == 0
    with pytest.raises(AttributeError, match="logits"):
        gone["exo"]["cup"].logits  # noqa: B018


def test_a_network_encodes_each_view_once_and_is_not_changed(
    mini: lm.LMEEC, scene: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = LmEec(mini)
    encoded: list[int] = []

    def encode(images: list) -> list:
        encoded.append(len(images))
        return method.encode(images)

    monkeypatch.setattr(mini, "encode_images", counting(mini.encode_images, encoded))
    cameras = ("ego", "left", "right")
    plain = method.tracker("ego", cameras[1:])
    tracker = CycleChecked(method, method.encode).tracker("ego", cameras[1:])
    looked_back = 0
    for number in range(4):
        images, masks = scene(number, cameras)
        expected = plain.step(images, masks)
        encoded.clear()
        found = tracker.step(images, masks)
        assert sum(encoded) == 3
        for target, objects in found.items():
            for name, one in objects.items():
                own = expected[target][name]
                assert isinstance(one, Checked)
                assert one.presence <= own.presence + 1e-4
                assert np.allclose(one.logits, own.logits, rtol=1e-4, atol=2e-3)
                looked_back += one.overlap is not None
    assert looked_back


def counting(encode: Callable, calls: list[int]) -> Callable:
    def counted(images: np.ndarray, run: object = None) -> object:
        calls.append(len(images))
        return encode(images, run)

    return counted


def answer(scene: str, there: bool, presence: float, overlap: float | None) -> experiment.Answer:
    checked = presence if overlap is None else presence * overlap / (overlap + HALF)
    return experiment.Answer(
        scene, "ego_to_exo", there, presence, checked, presence >= 0.5, checked >= 0.5, 0.3,
        overlap, 0.8 if there else None, 0.8 * (checked >= 0.5) if there else None, not there,
    )  # fmt: skip


def test_the_comparison_counts_what_the_check_changes() -> None:
    answers = [
        one
        for scene in ("a", "b", "c")
        for one in (
            answer(scene, True, 0.9, 0.8),
            answer(scene, True, 0.8, 0.01),  # lost by the check
            answer(scene, False, 0.95, 0.02),  # found to be wrong by it
            answer(scene, False, 0.1, None),
        )
    ]
    found = experiment.summary(answers, 10)
    assert (found["scenes"], found["present"], found["absent"]) == (3, 6, 6)
    assert found["balanced accuracy"]["without"] == 0.75
    assert found["balanced accuracy"]["with"] == 0.75
    assert found["AUROC of presence"] == {
        "without": 0.5,
        "with": pytest.approx(0.5),
        "difference 95%": [pytest.approx(0.0)] * 2,
    }
    assert found["AUROC of the score"]["without"] == 0.5
    assert found["AUROC of the score"]["with"] == pytest.approx(0.75)
    assert found["IoU"]["with"] == pytest.approx(0.4)
    assert found["large masks of absent objects"] == {"without": 3, "with": 0}


def test_the_command_compares_on_scene_shards(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    shard = np.zeros((2, 3, 32, 32, 4), np.uint8)
    shard[..., :3] = rng.integers(0, 255, shard[..., :3].shape)
    shard[:, :2, 5:15, 5:15, 3] = 1
    np.save(tmp_path / "test_00000000.npy", shard)
    (tmp_path / "test_00000000.json").write_text(json.dumps({"objects": ["cup"]}))
    out = tmp_path / "out.json"
    arguments = [
        str(tmp_path),
        "--out",
        str(out),
        "--method",
        "colour",
        "--answers",
        "--draws",
        "3",
    ]
    assert experiment.main(arguments) == 0
    content = json.loads(out.read_text())
    assert json.loads(capsys.readouterr().out) == content["scores"]
    # Both directions between cameras 0 and 1; camera 2 has no object, so it is never a query.
    assert content["scores"]["both"]["present"] == 4 and content["scores"]["both"]["absent"] == 2
    assert content["scores"]["seconds a step"]["steps"] == 4
    assert len(content["answers"]) == 6
    method = load_method("colour")
    shards = sorted(tmp_path.glob("*.npy"))
    again, _ = experiment.compare(shards, method, CycleChecked(method), 2, 3)
    assert again["both"]["present"] == 2
