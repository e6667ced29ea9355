"""Measuring weights: seeds, switches, photographs, other scenes, the report, the command."""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import lmeec_core as lm
from lmeec_core.checkpoint import seeded_model
from lmeec_core.errors import ExplainedError
from lmeec_core.evaluation import FrameScore, Scores
from lmeec_core.evaluation.statistics import balanced_difference, balanced_estimate
from lmeec_core.experiments.measure import __main__ as command
from lmeec_core.experiments.measure import photographs, recordings
from lmeec_core.experiments.measure.photographs import Package, Picture
from lmeec_core.experiments.measure.report import by_group, change, gain, summary
from lmeec_core.experiments.measure.switches import SWITCHES, WHOLE
from lmeec_core.experiments.measure.units import Measured
from lmeec_core.simulation.sets import SETS
from lmeec_core.takes import Take, encode_mask

SIDE = 64


# -- sets ------------------------------------------------------------------------------------------


def test_no_two_sets_share_a_scene() -> None:
    for (a, one), (b, other) in itertools.combinations(SETS.items(), 2):
        apart = one.first + one.most <= other.first or other.first + other.most <= one.first
        assert apart or one.split != other.split, f"{a} and {b}"
    assert SETS["fitting"].seeds(30, 10) == range(10_000_010, 10_000_030)
    assert {SETS[name].split for name in ("development", "sealed")} == {"test"}  # held-out shapes
    with pytest.raises(lm.InputError, match="10000001 scenes asked for, .* from 60000000 has"):
        SETS["sealed"].seeds(10_000_001)


# -- switches --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    """Of a nano network whose parts all do something."""
    torch.manual_seed(0)
    model = lm.build_model(lm.preset("nano").model_copy(update={"image_size": SIDE}))
    model.train().encode_images(torch.randn(8, 3, SIDE, SIDE))  # batch statistics
    torch.nn.init.normal_(model.matching.verification.mlp.layers[-1].weight)
    return model.state_dict()


@pytest.fixture(scope="module")
def answers(weights: dict[str, torch.Tensor]) -> Callable[[str], list[Any]]:
    """What a switched network says of three frames."""

    def track(switch: str) -> list[Any]:
        model = lm.build_model(lm.preset("nano").model_copy(update={"image_size": SIDE}))
        model.load_state_dict(weights)
        tracker = SWITCHES[switch].method(model.eval()).tracker("ego", ("exo",))
        random, found = np.random.default_rng(3), []
        for t in range(3):
            images = {c: random.integers(0, 256, (SIDE, SIDE, 3), np.uint8) for c in ("ego", "exo")}
            masks = {n: np.zeros((SIDE, SIDE), bool) for n in "ab"}
            masks["a"][10 + t : 30, 8:24] = masks["b"][30:44, 20 + t : 50] = True
            found += tracker.step(images, masks)["exo"].values()
        return found

    return track


def _same(one: list[Any], other: list[Any], what: Callable[[Any], Any]) -> list[bool]:
    """Whether the answers agree, for each frame and object."""
    pairs = zip(one, other, strict=True)
    return [bool(torch.equal(torch.as_tensor(what(a)), torch.as_tensor(what(b)))) for a, b in pairs]


def test_each_switch_changes_what_it_says_and_nothing_else(
    answers: Callable[[str], list[Any]],
) -> None:
    whole = answers(WHOLE)
    first, later = slice(0, 2), slice(2, None)
    assert all(_same(whole, answers(WHOLE), lambda a: a.logits))

    def iou(a: Any) -> float:
        return a.predicted_iou

    for switch in ("memory", "moe"):  # the first frame has no memory, and is not fused
        found = answers(switch)
        assert all(_same(whole[first], found[first], iou))
        assert not any(_same(whole[later], found[later], iou))
    assert not any(_same(whole, answers("prompts"), iou))
    for switch in ("second_look", "surroundings"):
        found = answers(switch)
        assert not any(_same(whole[1:2], found[1:2], lambda a: a.presence_logit))
        assert all(_same(whole[first], found[first], iou))
    found = answers("filter")
    assert all(_same(whole, found, lambda a: a.logits)) and found[0].guide is None
    assert whole[0].guide is not None


def test_without_prompts_the_decoder_sees_no_map(weights: dict[str, torch.Tensor]) -> None:
    model = lm.build_model(lm.preset("nano").model_copy(update={"image_size": SIDE})).eval()
    model.load_state_dict(weights)
    config, decoder = model.config, model.sam_mask_decoder
    g, dim, fine = config.grid, config.hidden_dim, config.hidden_dim // 8
    given = (
        torch.ones(1, dim, g, g),
        torch.ones(1, fine, 4 * g, 4 * g),
        torch.ones(1, 2 * fine, 2 * g, 2 * g),
    )

    def differs() -> tuple[bool, bool]:
        maps = [torch.randn(1, 3, 2 * g, 2 * g) for _ in range(2)]
        finer = [decoder.upscale_with(*given, m) for m in maps]
        dense = [model.matching.dense_prompt(m) for m in maps]
        return not torch.equal(*finer), bool(dense[0].any())

    assert differs() == (True, True)
    SWITCHES["prompts"].method(model)
    assert differs() == (False, False)


def test_only_small_networks_have_switches(small: lm.LMEEC) -> None:
    with pytest.raises(lm.InputError, match="LMEEC: a small network"):
        SWITCHES["memory"].method(small)


# -- photographs -----------------------------------------------------------------------------------


def _picture(shade: tuple[int, int, int] = (220, 40, 30)) -> tuple[Any, Any]:
    """A disc on another ground, and its mask."""
    mask = np.zeros((90, 120), np.uint8)
    cv2.circle(mask, (70, 40), 20, 1, -1)
    image = np.full((90, 120, 3), (30, 60, 90), np.uint8)
    image[mask > 0] = shade
    return image, mask > 0


def test_views_move_picture_and_mask_alike() -> None:
    image, mask = _picture()
    drawn = list(photographs.views(image, mask, 5))
    assert len(drawn) == photographs.VIEWS
    for seen, there in drawn:
        assert seen.dtype == np.uint8 and there.sum() > 0.5 * mask.sum()
        red = seen[..., 0].astype(int) - seen[..., 2] > 40
        assert (red & there).sum() / (red | there).sum() > 0.8
    again = list(photographs.views(image, mask, 5))
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(drawn, again, strict=True))
    assert not np.array_equal(drawn[0][1], next(photographs.views(image, mask, 6))[1])


def test_a_box_gives_the_object_in_it() -> None:
    image, mask = _picture()
    found = photographs.grab(image, (42, 12, 56, 56))
    assert (found & mask).sum() / (found | mask).sum() > 0.95


def test_pictures_of_packages_and_those_that_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, mask = _picture()
    (tmp_path / "absent" / "data").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "absent" / "data" / "disc.png"), image[..., ::-1])
    monkeypatch.setattr(photographs, "PACKAGES", {"p": Package("absent", "data", "CC0")})
    boxes = {"disc.png": {"disc": (42, 12, 56, 56)}, "gone.png": {"it": (0, 0, 9, 9)}}
    monkeypatch.setattr(photographs, "BOXES", {"p": boxes})
    found, missing = photographs.of_packages([tmp_path])
    assert [p.name for p in found] == ["p/disc.png"]
    assert (found[0].image == image).all() and found[0].objects["disc"].sum() > 0.9 * mask.sum()
    assert len(missing) == 1 and "gone.png of p" in missing[0] and str(tmp_path) in missing[0]
    assert "not installed" in photographs.of_packages()[1][0]


class Says:
    """A method that answers the query's mask in views, and in other pictures if told to."""

    def __init__(self, wrong: bool) -> None:
        self.wrong = wrong

    def tracker(self, query: str, targets: tuple[str, ...], *_: Any) -> Says:
        return self

    def step(self, images: Mapping[str, Any], masks: Mapping[str, Any]) -> Any:
        (name, mask), seen = next(iter(masks.items())), images["target"]
        there = self.wrong or seen[..., 0].max() > 150
        shown = mask if there else np.zeros_like(mask)
        answer = SimpleNamespace(mask=lambda: shown, visible=lambda: there, presence=float(there))
        return {"target": {name: answer}}


def test_photographs_for_choices_and_for_the_verdict_are_others() -> None:
    sets = (photographs.BOXES, photographs.WALLPAPERS)
    assert {name for boxes in sets for name in boxes} == set(photographs.PACKAGES)
    files = [{f"{name}/{file}" for name in boxes for file in boxes[name]} for boxes in sets]
    assert not files[0] & files[1]
    found, missing = photographs.of_packages([Path("/nowhere")], photographs.WALLPAPERS)
    assert len(found) + len(missing) == len(files[1]) == 8


def test_objects_are_sought_in_views_and_in_other_pictures() -> None:
    image, mask = _picture()
    one = Picture("one", image, {"disc": mask, "rest": ~mask})
    other = Picture("other", np.full_like(image, 60), {})
    scores = photographs.score_picture(Says(wrong=True), one, [other], 0, count=3)
    assert [r.exists for r in scores.records] == 2 * [True, True, True, False]
    assert scores.predicted == 8 * [True] and 0.05 < scores.iou < 0.9
    right = photographs.score_picture(Says(wrong=False), one, [other], 0, count=3)
    assert right.existence_balanced_accuracy == 1


# -- scenes of another generator -------------------------------------------------------------------


def _scene(folder: Path, frames: int = 2) -> list[np.ndarray]:
    """What the other generator writes: two objects, the second in the ego view alone."""
    masks = [np.zeros((32, 32), bool) for _ in range(2)]
    masks[0][4:9, 4:12] = masks[1][20:30, 2:9] = True
    counts = [encode_mask(m)["counts"] for m in masks]
    shown = {"ego": {"0": counts[0], "1": counts[1]}, "exo0": {"0": counts[0]}, "exo1": {}}
    for camera in shown:
        (folder / camera).mkdir(parents=True)
        for frame in range(frames):
            cv2.imwrite(str(folder / camera / f"{frame:05d}.jpg"), np.full((32, 32, 3), 90))
    content = {"size": 32, "kinds": ["mug", "box"], "ntarget": 1,
               "masks": {c: [m] * frames for c, m in shown.items()}}  # fmt: skip
    (folder / "masks.json").write_text(json.dumps(content))
    return masks


def test_scenes_of_another_generator_become_takes(tmp_path: Path) -> None:
    masks = _scene(tmp_path / "in" / "s0")
    paths = recordings.prototype(tmp_path / "out", tmp_path / "in", 1, 2, print)
    take = Take.open(paths[0])
    assert (take.ego, list(take.exos)) == ("aria01", ["cam01", "cam02"])
    assert np.array_equal(take.mask("mug_1", "cam01", 30), masks[0])
    assert np.array_equal(take.mask("box_2", "aria01", 0), masks[1])
    assert take.mask("box_2", "cam01", 0) is None
    assert take.annotation["simulation"]["moved"] == ["mug_1"]
    with pytest.raises(lm.InputError, match="1 scenes with masks.json in it, 2 expected"):
        recordings.prototype(tmp_path / "out", tmp_path / "in", 2, 2, print)
    with pytest.raises(lm.InputError, match="not a scene of 3 frames"):
        recordings.prototype(tmp_path / "other", tmp_path / "in", 1, 3, print)
    with pytest.raises(lm.InputError, match="no generator's program"):
        recordings.prototype(tmp_path / "out", tmp_path / "none.py", 1, 2, print)


def test_a_generator_that_fails_is_told_with_its_message(tmp_path: Path) -> None:
    program = tmp_path / "sim.py"
    program.write_text("raise SystemExit('no renderer here')")
    with pytest.raises(ExplainedError, match="exit code 1 for seed 9000: no renderer here"):
        recordings.prototype(tmp_path, program, 1, 2, print)
    assert sys.executable


# -- the report ------------------------------------------------------------------------------------


def _record(take: str, query: str, exists: bool, says: bool, iou: float | None) -> FrameScore:
    presence = 0.9 if says else 0.2
    return FrameScore(take, "cup", query, "x", 0, exists, says, iou, presence=presence)


def test_summary_and_change_by_hand() -> None:
    records = [
        _record("a", "aria01", True, True, 0.8), _record("a", "cam01", True, False, 0.0),
        _record("a", "cam01", False, False, None), _record("b", "aria01", True, True, 0.4),
        _record("b", "aria01", False, True, None),
    ]  # fmt: skip
    whole = Scores("t", records)
    told = summary(whole)
    assert told["iou"]["mean"] == pytest.approx(0.4) and (told["present"], told["absent"]) == (3, 2)
    assert told["iou"]["low"] == pytest.approx(0.4) == told["iou"]["high"]  # both takes have 0.4
    assert told["existence"]["mean"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert told["presence AUROC"] == pytest.approx((1 + 0.5 + 1 + 0.5 + 0.5 + 0) / 6, abs=1e-6)
    groups = by_group(whole, lambda r: "ego" if r.query == "aria01" else "exo")
    assert groups["exo"]["iou"]["mean"] == 0 and groups["exo"]["iou"]["low"] is None  # one take
    assert groups["ego"]["existence"]["mean"] == 0.5
    worse = Scores("t", [r._replace(iou=r.iou and r.iou - 0.1, predicted=True) for r in records])
    found = change(worse, whole)
    assert found["iou"]["mean"] == pytest.approx(-0.2 / 3)
    assert found["right on presence"]["mean"] == pytest.approx(0.0)
    json.dumps([told, groups, found], allow_nan=False)


def test_intervals_of_balanced_accuracy() -> None:
    takes = {str(i): (9, 10, 4, 5) for i in range(6)}
    told = balanced_estimate(takes)
    assert told is not None
    assert (told.mean, told.low, told.high) == pytest.approx((0.85,) * 3)  # all takes are alike
    assert (told.takes, told.frames) == (6, 90)
    wide = balanced_estimate(takes | {"x": (0, 10, 0, 5)})
    assert wide is not None and wide.low < 0.65 < wide.mean < wide.high == pytest.approx(0.85)
    assert balanced_estimate({"a": (3, 3, 0, 0)}) is None and balanced_estimate({}) is None


def test_a_gain_is_paired() -> None:
    """Takes differ much, but the second weights are better by the same in each of them."""
    worse = [
        r for i in range(6) for r in (
            _record(str(i), "aria01", True, True, i / 10),
            _record(str(i), "aria01", False, i < 3, None),
        )
    ]  # fmt: skip
    better = [r._replace(iou=r.iou and r.iou + 0.05) for r in worse]
    told = gain(Scores("t", better), Scores("t", worse), lambda r: r.query)
    assert set(told) == {"all", "aria01"}
    found = told["aria01"]["iou"]
    assert found["mean"] == pytest.approx(0.25 / 6)  # the first take has an IoU of 0
    assert found["low"] > 0 and found["high"] == pytest.approx(0.05)
    assert told["all"]["existence"]["mean"] == told["all"]["existence"]["high"] == 0

    mine, theirs = ({str(i): (9, 10, right, 5) for i in range(6)} for right in (4, 3))
    apart = balanced_difference(mine, theirs)
    assert apart is not None
    assert (apart.mean, apart.low, apart.high) == pytest.approx((0.1,) * 3)
    assert (apart.takes, apart.frames) == (6, 90)
    one = {"0": (9, 10, 0, 0)}
    assert balanced_difference(one, theirs) is None is balanced_difference({}, theirs)


# -- the command -----------------------------------------------------------------------------------


def test_the_command_scores_once_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, shade in (("one", (220, 40, 30)), ("two", (40, 220, 60))):
        cv2.imwrite(str(tmp_path / f"{name}.png"), _picture(shade)[0][..., ::-1])
    square = [[[50, 20], [90, 20], [90, 60], [50, 60]]]
    (tmp_path / "outlines.json").write_text(
        json.dumps({f"{n}.png|it": square for n in ("one", "two")})
    )
    config = lm.preset("nano").model_copy(update={"image_size": SIDE})
    made: list[str] = []

    def method(measured: Measured) -> Any:
        made.append(measured.switch)
        return SWITCHES[measured.switch].method(seeded_model(config, 0).eval())

    monkeypatch.setattr(Measured, "method", method)
    given = [str(tmp_path / "work"), "--source", "pictures", "--pictures", str(tmp_path),
             "--switch", "whole", "--switch", "filter"]  # fmt: skip
    assert command.main(given) == 0
    told = json.loads((tmp_path / "work" / "measure.json").read_text())
    mine = told["pictures"]
    assert mine["parts done"] == "2 of 2" and len(told["weights"]["sha256"]) == 64
    assert mine["whole"]["all"]["present"] == 12 and mine["whole"]["all"]["absent"] == 2
    assert mine["whole"]["two.png: it"]["iou"]["takes"] == 1
    assert mine["filter"]["change"]["iou"]["takes"] == 2
    assert sorted(made) == ["filter", "filter", "whole", "whole"]
    assert command.main(given) == 0 and len(made) == 4  # all was kept
    assert json.loads((tmp_path / "work" / "measure.json").read_text()) == told

    other = tmp_path / "other.safetensors"
    other.write_bytes(b"only its digest is read here")
    assert command.main([*given[:5], "--against", str(other)]) == 0 and len(made) == 6
    assert "difference: IoU +0.000, existence +" in capsys.readouterr().out
    told = json.loads((tmp_path / "work" / "measure.json").read_text())
    assert told["against"]["sha256"] == hashlib.sha256(other.read_bytes()).hexdigest()
    assert told["pictures"]["against"] == mine["whole"]
    assert told["pictures"]["gain"]["all"]["iou"]["mean"] == 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--takes", "0"], "--takes 0: 1 or more expected"),
        (["--source", "pictures"], "--pictures names a folder"),
        (["--source", "prototype"], "--generator names its program"),
        (["--against", "gone.safetensors"], "--against gone.safetensors: no such file"),
        (["--weights", "gone.safetensors"], "--weights gone.safetensors: no such file"),
    ],
)
def test_options_that_do_not_fit_are_named(tmp_path: Path, given: list[str], message: str) -> None:
    with pytest.raises(lm.InputError, match=message):
        command.main([str(tmp_path), *given])
