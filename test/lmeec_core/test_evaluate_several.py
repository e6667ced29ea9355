"""`lmeec evaluate` with several takes and result files: intervals, one table, one report."""

import csv
import json
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from lmeec_core.cli.app import app
from lmeec_core.evaluation import Scores
from lmeec_core.evaluation.evaluate import Evaluation
from lmeec_core.evaluation.plots import by_frame
from lmeec_core.evaluation.scores import FrameScore
from lmeec_core.evaluation.strips import differing_takes
from lmeec_core.takes import Results, TakeWriter

EGO, EXO = "aria01", "cam01"
FRAMES = (0, 30)
runner = CliRunner(env={"COLUMNS": "250", "NO_COLOR": "1", "TERM": "dumb"})


def square(left: int) -> np.ndarray:
    mask = np.zeros((48, 64), bool)
    mask[10:30, left : left + 20] = True
    return mask


def write_takes(folder: Path, names: str) -> Path:
    for name in names:
        with TakeWriter(folder / name) as take:
            for camera in (EGO, EXO):
                for frame in FRAMES:
                    take.image(camera, frame, np.zeros((48, 64, 3), np.uint8))
                    take.mask("cup", camera, frame, square(3))
    return folder


def write_results(path: Path, shifts: Mapping[str, int], frames: tuple[int, ...] = FRAMES) -> Path:
    """A file whose masks are moved to the right, by take."""
    results = Results("ego-exo")
    for take, shift in shifts.items():
        for frame in frames:
            results.add(take, "cup", EGO, EXO, frame, square(3 + shift), 1)
    results.write(path)
    return path


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Three result files, the truth and the folder of the report, as arguments."""
    shifts = {"good": {"a": 0, "b": 0}, "shifted": {"a": 0, "b": 10}, "bad": {"a": 5, "b": 20}}
    paths = [write_results(tmp_path / f"{name}.json", own) for name, own in shifts.items()]
    truth = write_takes(tmp_path / "data", "ab")
    return [*map(str, paths), str(truth), "--out", str(tmp_path / "out")]


def test_several_result_files_are_rows_of_one_table(tmp_path: Path, files: list[str]) -> None:
    """What a further file lacks is named and counts."""
    result = runner.invoke(app, ["evaluate", *files])
    assert result.exit_code == 0, result.output
    rows = [line for line in result.output.splitlines() if ".json" in line and "│" in line]
    values = [float(row.split("│")[2]) for row in rows]
    assert values == pytest.approx([100, 100 * (1 + 1 / 3) / 2, 100 * (0.6 + 0) / 2], abs=1)
    assert result.output.count("paper: LM-EEC") == 1 and "this result file" not in result.output
    write_results(tmp_path / "shifted.json", {"a": 0, "b": 10}, frames=FRAMES[:1])
    result = runner.invoke(app, ["evaluate", *files])
    assert result.exit_code == 1 and "shifted.json:" in result.output
    assert "\n" + files[0] + ":\n" not in result.output
    result = runner.invoke(app, ["evaluate", files[0], *files])
    assert result.exit_code == 1 and "given twice" in result.output


def test_what_several_files_have_in_common_is_told_once(tmp_path: Path, files: list[str]) -> None:
    for path in files[:3]:
        write_results(Path(path), {"a": 0, "b": 1}, frames=(*FRAMES, 60))
    result = runner.invoke(app, ["evaluate", *files])
    assert result.output.count("2 predictions are of") == 0
    assert result.output.count("not scored: 1 predictions are of") == 2, result.output  # takes


def test_a_file_without_the_direction_of_the_first_is_refused(
    tmp_path: Path, files: list[str]
) -> None:
    other = Results("exo-ego")
    other.add("a", "cup", EXO, EGO, 0, square(3), 1)
    other.write(tmp_path / "bad.json")
    result = runner.invoke(app, ["evaluate", *files])
    assert result.exit_code == 1 and "bad.json: no results for direction ego-exo" in result.output
    assert not (tmp_path / "out").exists()


def test_a_file_that_cannot_be_scored_is_named_beside_the_others(
    tmp_path: Path, files: list[str]
) -> None:
    write_results(tmp_path / "bad.json", {"of another data set": 0})
    result = runner.invoke(app, ["evaluate", *files])
    assert result.exit_code == 1 and "bad.json, ego-exo: no score" in result.output
    rows = [line for line in result.output.splitlines() if ".json" in line and "│" in line]
    assert len(rows) == 2
    data = json.loads((tmp_path / "out" / "report.json").read_text())
    assert list(data["without_score"]) == [f"ego-exo, {files[2]}"]


def test_the_report_compares_files_frame_by_frame(tmp_path: Path, files: list[str]) -> None:
    result = runner.invoke(app, ["evaluate", *files])
    assert result.exit_code == 0, result.output
    out = tmp_path / "out"
    data = json.loads((out / "report.json").read_text())["directions"]["ego-exo"]
    others = data["other_result_files"]
    assert list(others) == files[1:3] and data["overall"]["iou"] == pytest.approx(1)
    for path in files[1:3]:
        low, high = others[path]["iou_interval_over_takes"]
        assert low < others[path]["overall"]["iou"] < high
    # Take b first: there the files differ by the whole IoU.
    assert [worst["take"] for worst in data["worst"]] == ["b", "a"]
    with (out / "frames.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 3 * 2 * len(FRAMES)
    by_file = {path: [x["iou"] for x in lines if x["predictions"] == path] for path in files[:3]}
    assert [float(iou) for iou in by_file[files[0]]] == pytest.approx([1] * 4)
    assert [float(iou) for iou in by_file[files[2]]] == pytest.approx([0.6, 0.6, 0, 0], abs=0.01)
    page = (out / "report.html").read_text()
    assert "Frame by frame" in page and "The worst takes" not in page
    pictures = len(FRAMES) * (1 + 3)  # the query and each file
    assert page.count("data:image/jpeg") == 2 * pictures
    for path in files[:3]:
        assert page.count(f"{path}, frame 30: IoU") == 2  # a point of each take's plot
    assert f"beside {files[1]}, {files[2]}" in page


@given(st.dictionaries(st.sampled_from("abcd"), st.lists(st.floats(0, 1), min_size=3, max_size=3)))
def test_takes_are_ordered_by_the_largest_difference(ious: dict[str, list[float]]) -> None:
    evaluations = []
    for number in range(3):
        records = [
            FrameScore(take, "cup", EGO, EXO, 0, True, True, iou=own[number])
            for take, own in ious.items()
        ]
        evaluations.append(Evaluation("ego-exo", Scores("official", records)))
    chosen = [pair.records[0].take for _, pair in differing_takes(evaluations, 3)]
    spread = {take: max(own) - min(own) for take, own in ious.items()}
    assert sorted(spread.values(), reverse=True)[:3] == [spread[take] for take in chosen]


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=5), st.lists(st.tuples(st.integers(0, 99), st.floats(0, 1))),
        max_size=12,
    )
)  # fmt: skip
def test_a_plot_has_a_point_for_every_frame_of_every_file(
    curves: dict[str, list[tuple[int, float]]],
) -> None:
    plot = by_frame(curves)
    assert plot.count("<circle") == sum(map(len, curves.values()))
    assert plot.count("<polyline") == len(curves) and "nan" not in plot


def test_several_takes_have_an_interval_of_their_iou(tmp_path: Path) -> None:
    path = write_results(tmp_path / "masks.json", {"a": 0, "b": 5, "c": 10})
    data = write_takes(tmp_path / "data", "abc")
    command = ["evaluate", str(path), "--worst", "0", "--out", str(tmp_path)]
    result = runner.invoke(app, [*command, str(data)])
    assert result.exit_code == 0, result.output
    # Some draws have one take three times, so that the interval reaches from the worst to the best.
    assert re.search(r"95 % over takes: .* 33\.\d\d to 100\.00", result.output), result.output
    overall = json.loads((tmp_path / "report.json").read_text())["directions"]["ego-exo"]
    low, high = overall["iou_interval_over_takes"]
    assert low == pytest.approx(1 / 3, abs=0.01) and high == pytest.approx(1)
    result = runner.invoke(app, [*command, str(data / "a")])
    assert "over takes" not in result.output
    one = json.loads((tmp_path / "report.json").read_text())["directions"]["ego-exo"]
    assert one["iou_interval_over_takes"] is None
