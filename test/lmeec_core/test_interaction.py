"""From hand to object: the rule on masks, its score on simulated takes, its place in datasets."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from lmeec_core.cli.app import app
from lmeec_core.datasets.interaction import Interaction, Touch, moving
from lmeec_core.experiments import hand as experiment
from lmeec_core.takes import TakeWriter

SIZE = (60, 80)


def square(x: int, y: int, side: int = 12) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[max(0, y) : y + side, max(0, x) : x + side] = True
    return mask


def scene(dx: int = 0, dy: int = 0, **moved: tuple[int, int]) -> dict[str, np.ndarray]:
    """Three squares, as a camera sees them that has moved by (-dx, -dy)."""
    places = {"cup": (10, 10), "knife": (40, 10), "bowl": (40, 40)} | moved
    return {name: square(x + dx, y + dy) for name, (x, y) in places.items()}


@given(st.integers(-8, 8), st.integers(-8, 8), st.integers(3, 12), st.booleans())
def test_what_moves_is_told_apart_from_the_cameras_motion(
    dx: int, dy: int, way: int, worn: bool
) -> None:
    now = scene(dx, dy, cup=(10 + way, 10))
    assert moving(scene(), now, worn) == {"cup": True, "knife": False, "bowl": False}
    assert not any(moving(scene(), scene(dx, dy), worn).values())


def test_what_a_hand_begins_to_hide_does_not_move() -> None:
    now = scene()
    now["cup"] = now["cup"] & ~square(10, 10, 7)  # a corner
    now["knife"][:, 47:] = False  # a side
    assert not any(moving(scene(), now, False).values())


def test_too_few_things_do_not_tell_a_worn_cameras_motion() -> None:
    one = {"cup": square(10, 10)}
    two = {"cup": square(20, 10)}
    assert moving(one, two, True) == {} and moving(one, two, False) == {"cup": True}
    assert moving(one, {"cup": square(10, 10)[:30]}, False) == {}  # another size: cannot be told


def test_cameras_are_asked_in_their_order_and_touches_need_all() -> None:
    rule = Interaction()
    still, gone = scene(), scene(cup=(20, 10))
    by_cup, away = square(24, 14), square(60, 40)
    rule.step({"aria01": still, "cam01": still, "cam02": still}, {})
    found = rule.step({"aria01": gone, "cam01": still, "cam02": still}, {"cam01": by_cup})
    assert found["cup"] == Touch(False, False)  # fixed cameras are asked first
    found = rule.step(
        {"aria01": gone, "cam01": gone, "cam02": still}, {"cam01": by_cup, "cam02": away}
    )
    assert found["cup"] == Touch(True, False)  # one of two says so; a view without overlap
    found = rule.step({"cam01": scene(cup=(30, 10)), "cam02": still}, {"cam01": square(38, 20)})
    assert found["cup"] == Touch(True, True) and found["cup"].in_hand
    assert found["bowl"] == Touch(False, False)
    hidden = rule.step({"cam01": {"cup": None, "bowl": still["bowl"]}}, {"cam01": None})
    assert hidden == {"bowl": Touch(False, False)}


def test_precision_and_recall() -> None:
    found = experiment.summary([
        {"moves": [3, 1, 0], "contact": [0, 2, 0], "in hand": [1, 0, 1]},
        {"moves": [1, 1, 4], "contact": [0, 0, 0], "in hand": [0, 0, 0]},
    ])  # fmt: skip
    assert found["moves"]["true"] == 8 and found["moves"]["told"] == 6
    assert found["moves"]["precision"]["%"] == 66.7 and found["moves"]["recall"]["%"] == 50.0
    assert "recall" not in found["contact"]  # nothing to find: no figure
    assert found["in hand"]["recall"]["%"] == 50.0


def test_the_score_of_a_take_that_says_what_is_true(tmp_path: Path) -> None:
    box, there = [[0, 0, 0], [1, 1, 1]], [[0.2, 0, 0], [1.2, 1, 1]]
    with TakeWriter(tmp_path / "take") as take:
        for frame, x in ((0, 10), (30, 20)):
            for camera in ("aria01", "cam01"):
                take.image(camera, frame, np.zeros((*SIZE, 3), np.uint8))
            for name, mask in scene(cup=(x, 10)).items():
                take.mask(name, "cam01", frame, mask)
        boxes = {name: {"0": box, "30": box} for name in ("knife", "bowl")}
        boxes["cup"] = {"0": box, "30": there}
        take.extra["simulation_truth"] = {
            "boxes": boxes, "held": {"0": None, "30": "cup"}, "person": {"aria01": {}, "cam01": {}},
        }  # fmt: skip
    from lmeec_core.takes import Take

    counts = experiment.counts_of(Take.open(tmp_path / "take"))
    assert counts == {"moves": [1, 0, 0], "contact": [0, 0, 1], "in hand": [0, 0, 1]}


def test_a_dataset_says_what_is_in_the_hand(tmp_path: Path) -> None:
    with TakeWriter(tmp_path / "take") as take:
        for number, x in enumerate((10, 10, 20)):
            for camera in ("aria01", "cam01"):
                take.image(camera, 3 * number, np.zeros((*SIZE, 3), np.uint8))
                for name, mask in {**scene(cup=(x, 10)), "palm": square(x, 20)}.items():
                    take.mask(name, camera, 3 * number, mask)
    runner = CliRunner(env={"COLUMNS": "250"})

    def export(*more: str) -> tuple[int, str]:
        arguments = ["dataset", str(tmp_path / "take"), "--out", str(tmp_path / "set"), *more]
        result = runner.invoke(app, arguments)
        return result.exit_code, " ".join(result.output.split())

    code, said = export("--hand", "plam")
    assert code and "--hand plam: no such object" in said and "palm" in said
    code, said = export("--hand", "palm", "--format", "coco")
    assert code and "lerobot, hdf5, webdataset expected" in said
    code, said = export("--hand", "palm", "--format", "hdf5")
    assert code == 0, said
    with h5py.File(tmp_path / "set" / "data.hdf5") as file:
        names = json.loads(file["data"].attrs["objects"])
        seen = file["data/demo_0/obs"]
        moves, contact = seen["moves"][:], seen["contact"][:]
    cup = names.index("cup")
    assert moves[:, cup].tolist() == [False, False, True] and moves.sum() == 1
    assert contact[:, cup].tolist() == [True] * 3 and contact.sum() == 3
    provenance = json.loads((tmp_path / "set" / "provenance.json").read_text())
    assert provenance["hand"]["object"] == "palm" and "centroid" in provenance["hand"]["rule"]


def test_other_takes_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        experiment.main([str(Path(__file__).parents[1] / "data" / "sample_take")])
    assert "a take of `lmeec simulate` expected" in capsys.readouterr().err
