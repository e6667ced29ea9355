"""Result files of other methods: understood, or refused with the form that they have."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from lmeec_core.cli.app import app
from lmeec_core.errors import InputError
from lmeec_core.evaluation.evaluate import evaluate
from lmeec_core.evaluation.truth import open_truth
from lmeec_core.takes import Results, TakeWriter, encode_mask
from lmeec_core.takes.results import read_confidence

EGO, EXO = "aria01", "cam01"
PAIR = f"{EGO}_{EXO}"
FRAMES = tuple(range(0, 300, 30))
runner = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})


def square(left: int) -> np.ndarray:
    mask = np.zeros((24, 32), bool)
    mask[5:15, left : left + 10] = True
    return mask


@pytest.fixture(scope="module")
def take(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten frames of one object in two cameras, the take's name not in ASCII."""
    path = tmp_path_factory.mktemp("takes") / "küche_1"
    with TakeWriter(path) as writer:
        for frame in FRAMES:
            for camera, left in ((EGO, 2), (EXO, 12)):
                writer.image(camera, frame, np.full((24, 32, 3), 90, np.uint8))
                writer.mask("cup", camera, frame, square(left))
    return path


def predictions(change: Callable[[dict[str, Any]], object] | None = None, first: int = 10) -> Any:
    """A perfect result file's content, the first so many of its predictions changed."""
    frames: dict[str, Any] = {}
    for n, frame in enumerate(FRAMES):
        entry: Any = {"pred_mask": encode_mask(square(12)), "confidence": 0.9}
        if change is not None and n < first:
            changed = change(entry)
            entry = entry if changed is None else changed
        frames[str(frame)] = entry
    masks = {"cup": {PAIR: frames}}
    return {"ego-exo": {"results": {"küche_1": {"masks": masks, "subsample_idx": list(FRAMES)}}}}


def score(take: Path, folder: Path, content: Any, *more: str) -> tuple[int, str]:
    path = folder / "masks.json"
    path.write_text(json.dumps(content))
    result = runner.invoke(
        app, ["evaluate", str(path), str(take), "--out", str(folder / "out"), "--worst", "0", *more]
    )
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result.exit_code, result.output


def iou_of(output: str) -> float:
    row = re.search(r"this result file \(\w+\)\s*│\s*([\d.]+)", output)
    assert row is not None, output
    return float(row[1])


# -- confidences -----------------------------------------------------------------------------

NUMBERS = st.floats(-1e6, 1e6) | st.integers(-(10**6), 10**6) | st.booleans()


@given(NUMBERS, st.integers(0, 5), st.booleans())
def test_a_list_of_one_number_and_a_number_as_text_are_that_number(
    number: float, depth: int, as_text: bool
) -> None:
    given: object = str(number) if as_text and not isinstance(number, bool) else number
    for _ in range(depth):
        given = [given]
    assert read_confidence(json.loads(json.dumps(given))) == number


@given(
    st.none()
    | st.sampled_from(
        ["", "high", "nan", "inf", "1_0", " 1", "0x1", "٣", float("nan"), 1e7, 10**400]
    )
    | st.lists(st.floats(0, 1), max_size=4).filter(lambda values: len(values) != 1)
    | st.dictionaries(st.text(max_size=2), st.floats(0, 1))
)
def test_what_is_no_number_is_told(given: object) -> None:
    with pytest.raises(InputError, match="confidence is .* expected"):
        read_confidence([given])


@pytest.mark.parametrize("form", [[0.62], [[0.62]], "0.62", True, 1])
def test_forms_of_a_confidence_that_are_understood(take: Path, tmp_path: Path, form: Any) -> None:
    code, output = score(take, tmp_path, predictions(lambda e: e.update(confidence=form)))
    assert code == 0 and iou_of(output) == 100, output


def test_confidences_that_are_no_probabilities_are_told(take: Path, tmp_path: Path) -> None:
    content = predictions(lambda e: e.update(confidence=7.25), first=3)
    code, output = score(take, tmp_path, content, "--allow-missing")
    assert code == 1 and iou_of(output) == 100
    assert "3 confidences are no probabilities from 0 to 1, as 7.25" in output
    assert score(take, tmp_path, content, "--protocol", "lm_eec")[0] == 0  # does not look at them


# -- forms that are not understood -----------------------------------------------------------


def mask(**changes: object) -> Callable[[dict[str, Any]], object]:
    return lambda entry: entry["pred_mask"].update(changes)


BROKEN: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda e: e.update(confidence=[0.1, 0.9]), "confidence is [0.1, 0.9]"),
    (lambda e: e.update(confidence=None), "confidence is None"),
    (lambda e: e.pop("confidence") and None, "a prediction is {'pred_mask':"),
    (lambda e: [e["pred_mask"], 0.9], "a prediction is [{"),
    (lambda e: e.update(pred_mask=None), "run lengths: None given"),
    (lambda e: e.update(pred_mask=square(12).tolist()), "run lengths: [[False"),
    (lambda e: e["pred_mask"].pop("size") and None, "run lengths: {'counts':"),
    (mask(counts=None), "counts of a mask are None"),
    (mask(counts="b'abc'"), "repr of Python bytes"),
    (mask(size=[32, 24]), "a mask on its side"),
    (mask(size=[24.0, 32.0]), "'size': [24.0, 32.0]"),
    (mask(counts="5"), "the runs of a mask"),
    (mask(counts=[5, 6]), "the runs of a mask fill 11 pixels"),
]


@pytest.mark.parametrize(("change", "told"), BROKEN)
def test_most_predictions_not_understood_is_no_score(
    take: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object], told: str
) -> None:
    for protocol in ("official", "lm_eec") if "side" not in told else ("official",):
        code, output = score(
            take, tmp_path, predictions(change), "--allow-missing", "--protocol", protocol
        )
        assert code == 1 and "this result file" not in output, output
        assert "no score: 10 of 10 predictions cannot be read; the first: take küche_1" in output
        assert told in output and not (tmp_path / "out").exists()


@pytest.mark.parametrize(("change", "told"), BROKEN)
def test_few_predictions_not_understood_are_named_and_count_as_missing(
    take: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object], told: str
) -> None:
    code, output = score(take, tmp_path, predictions(change, first=2), "--allow-missing")
    assert code == 1 and iou_of(output) == 80, output
    assert output.count("prediction broken:") == 2 and told in output
    assert "2 predictions are missing or broken" in output


def test_broken_predictions_beside_the_scored_ones_are_named_too(
    take: Path, tmp_path: Path
) -> None:
    content = predictions()
    frames = content["ego-exo"]["results"]["küche_1"]["masks"]["cup"][PAIR]
    frames["45"] = {"pred_mask": frames["30"]["pred_mask"]}
    code, output = score(take, tmp_path, content, "--allow-missing")
    assert code == 1 and iou_of(output) == 100 and "frame 45: a prediction is" in output
    frames |= {str(frame): frames["45"] for frame in range(301, 320)}
    code, output = score(take, tmp_path, content)
    assert code == 1 and "no score: 20 of 30 predictions cannot be read" in output


def test_null_for_a_prediction_is_not_silently_missing(take: Path, tmp_path: Path) -> None:
    content = predictions()
    content["ego-exo"]["results"]["küche_1"]["masks"]["cup"][PAIR]["0"] = None
    code, output = score(take, tmp_path, content)
    assert code == 1 and "prediction broken" in output and "a prediction is None" in output


def test_uncompressed_run_lengths_are_understood(take: Path, tmp_path: Path) -> None:
    column = square(12).ravel(order="F").astype(int)
    ends = np.flatnonzero(np.diff(np.r_[0, column, -1]))
    runs = np.diff(np.r_[0, ends]).tolist()
    code, output = score(take, tmp_path, predictions(mask(counts=runs)))
    assert code == 0 and iou_of(output) == 100


@given(st.integers(0, 8))
def test_frames_with_zeros_before_them_score_alike(
    tmp_path_factory: pytest.TempPathFactory, take: Path, width: int
) -> None:
    content = predictions()
    masks = content["ego-exo"]["results"]["küche_1"]["masks"]["cup"]
    masks[PAIR] = {key.zfill(width): entry for key, entry in masks[PAIR].items()}
    path = tmp_path_factory.mktemp("padded") / "masks.json"
    path.write_text(json.dumps(content))
    found = evaluate(Results.read(path), open_truth(take, "ego-exo"))
    assert found.problems == [] and found.notes == [] and found.scores.iou == pytest.approx(1)


def test_two_predictions_of_one_frame_are_refused(take: Path, tmp_path: Path) -> None:
    content = predictions()
    frames = content["ego-exo"]["results"]["küche_1"]["masks"]["cup"][PAIR]
    frames["000030"] = frames["30"]
    code, output = score(take, tmp_path, content)
    assert code == 1 and "'30' and '000030' are both frame 30" in output


# -- about something else --------------------------------------------------------------------


def renamed(content: Any, what: str, name: str) -> Any:
    """The content with its one take, object, pair or direction under another name."""
    results = content["ego-exo"]["results"]
    masks = results["küche_1"]["masks"]
    place = {"direction": content, "take": results, "object": masks, "pair": masks["cup"]}[what]
    place[name] = place.pop(next(iter(place)))
    return content


@pytest.mark.parametrize(
    ("what", "name", "told"),
    [
        ("take", "kitchen", "none of its takes is in the truth: it has 'kitchen'"),
        ("take", "Küche_1", r"'k\xfcche_1' exists, but not 'K\xfcche_1'"),
        ("take", "ku\u0308che_1", r"'k\xfcche_1' exists, but not 'ku\u0308che_1'"),
        ("object", "Cup ", "'cup' exists, but not 'Cup '"),
        ("object", "mug", "none of its objects is in the truth: it has 'mug', the truth has 'cup'"),
        ("pair", "aria01_Cam01", f"'{PAIR}' exists, but not 'aria01_Cam01'"),
        ("pair", "cam01_aria01", "none of its pairs of cameras is in the truth"),
        ("direction", "ego2exo", "is not a result file"),
    ],
)
def test_predictions_of_something_else_have_no_score(
    take: Path, tmp_path: Path, what: str, name: str, told: str
) -> None:
    code, output = score(take, tmp_path, renamed(predictions(), what, name), "--allow-missing")
    assert code == 1 and told in output, output
    assert "this result file" not in output and not (tmp_path / "out").exists()


def test_predictions_of_other_frames_have_no_score(take: Path, tmp_path: Path) -> None:
    content = predictions()
    masks = content["ego-exo"]["results"]["küche_1"]["masks"]["cup"]
    masks[PAIR] = {str(int(key) + 1): entry for key, entry in masks[PAIR].items()}
    code, output = score(take, tmp_path, content, "--allow-missing")
    assert code == 1 and "none of its frames is in the truth: it has '1', '31'" in output
    masks[PAIR] = {}
    code, output = score(take, tmp_path, content, "--allow-missing")
    assert code == 1 and "it holds no predictions" in output


def test_a_second_direction_under_another_name_is_not_passed_over(
    take: Path, tmp_path: Path
) -> None:
    content = predictions()
    content["exoego"] = content["ego-exo"]
    code, output = score(take, tmp_path, content)
    assert code == 1 and "'exoego'" in output and "this result file" not in output


def test_one_direction_without_a_score_leaves_the_other_its_own(take: Path, tmp_path: Path) -> None:
    content = predictions()
    content["exo-ego"] = predictions()["ego-exo"]  # its pairs are those of ego-exo
    code, output = score(take, tmp_path, content, "--allow-missing")
    assert code == 1 and iou_of(output) == 100 and "exo-ego: no score: none of its pairs" in output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert list(report["directions"]) == ["ego-exo"] and list(report["without_score"]) == [
        "exo-ego"
    ]
    assert "No score of exo-ego" in (tmp_path / "out" / "report.html").read_text()


def test_what_is_not_scored_is_told(take: Path, tmp_path: Path) -> None:
    content = predictions()
    masks = content["ego-exo"]["results"]["küche_1"]["masks"]
    entry = masks["cup"][PAIR]["0"]
    masks["cup"][PAIR]["45"] = masks["cup"].setdefault("aria01_cam09", {}).setdefault("0", entry)
    told = "2 predictions are of cameras, objects or frames that the truth does not ask for"
    code, output = score(take, tmp_path, content)
    assert code == 0 and told in output and iou_of(output) == 100
    masks["mug"] = {}
    code, output = score(take, tmp_path, content, "--allow-missing")
    assert code == 1 and "object unknown: take küche_1, object 'mug'" in output


def test_a_camera_without_images_is_not_silently_unscored(take: Path, tmp_path: Path) -> None:
    copy = tmp_path / take.name
    shutil.copytree(take, copy)
    (copy / "cam02").mkdir()
    content = json.loads((copy / "annotation.json").read_text())
    content["masks"]["cup"]["cam02"] = content["masks"]["cup"][EXO]
    content["masks"]["spoon"] = {EGO: content["masks"]["cup"][EGO]}
    (copy / "annotation.json").write_text(json.dumps(content))
    code, output = score(copy, tmp_path, predictions(), "--allow-missing")
    assert code == 1 and "camera 'cam02' has no images and no list of annotated frames" in output
    content["masks"] = {"spoon": content["masks"]["spoon"]}
    (copy / "annotation.json").write_text(json.dumps(content))
    code, output = score(copy, tmp_path, predictions(), "--allow-missing")
    assert code == 1 and "no object is listed in an ego and in an exo camera" in output


def test_missing_ones_alone_may_be_allowed(take: Path, tmp_path: Path) -> None:
    content = predictions()
    del content["ego-exo"]["results"]["küche_1"]["masks"]["cup"][PAIR]["30"]
    assert score(take, tmp_path, content)[0] == 1
    code, output = score(take, tmp_path, content, "--allow-missing")
    assert code == 0 and iou_of(output) == 90
    code, output = score(take, tmp_path, content, "--protocol", "lm_eec")
    assert code == 0 and "1 predictions are missing, which protocol lm_eec does not count" in output


def test_a_truth_without_any_mask_has_no_iou_and_exit_code_1(tmp_path: Path) -> None:
    with TakeWriter(tmp_path / "küche_1") as writer:
        for frame in FRAMES:
            for camera in (EGO, EXO):
                writer.image(camera, frame, np.full((24, 32, 3), 90, np.uint8))
            writer.mask("cup", EGO, frame, square(2))
            writer.mask("cup", EXO, frame, None)
    code, output = score(tmp_path / "küche_1", tmp_path, predictions())
    assert code == 1 and "No scored frame has a true mask" in output


# -- the viewer ------------------------------------------------------------------------------


def view(take: Path, folder: Path, content: Any) -> tuple[int, str]:
    path = folder / "masks.json"
    path.write_text(json.dumps(content))
    out = folder / "x.mp4"
    arguments = ["view", str(take), str(path), "--out", str(out), "--height", "64"]
    result = runner.invoke(app, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result.exit_code, result.output


@pytest.mark.parametrize(("change", "told"), BROKEN[:3] + BROKEN[-2:])
def test_the_viewer_leaves_out_what_it_cannot_read_and_says_so(
    take: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object], told: str
) -> None:
    code, output = view(take, tmp_path, predictions(change, first=2))
    assert code == 1 and told in output and (tmp_path / "x.mp4").is_file()


def test_the_viewer_names_what_is_of_something_else(take: Path, tmp_path: Path) -> None:
    assert view(take, tmp_path, predictions())[0] == 0
    code, output = view(take, tmp_path, renamed(predictions(), "object", "Cup"))
    assert code == 1 and "object 'Cup', which the take does not have; 'cup' exists" in output
    code, output = view(take, tmp_path, renamed(predictions(), "pair", "aria01_Cam01"))
    assert code == 1 and "no predictions for ['aria01_cam01']" in output
    content = predictions()
    frames = content["ego-exo"]["results"]["küche_1"]["masks"]["cup"][PAIR]
    frames["45"] = frames["30"]
    code, output = view(take, tmp_path, content)
    assert code == 1 and "predictions for 1 frames that the recording does not have" in output
    code, output = view(take, tmp_path, predictions(BROKEN[0][0]))
    assert code == 1 and "10 of 10 predictions cannot be read" in output


def test_a_direction_that_the_file_lacks_is_named(take: Path, tmp_path: Path) -> None:
    code, said = score(take, tmp_path, predictions())
    assert code == 0 and "no part exo-ego; that direction is not scored" in said
