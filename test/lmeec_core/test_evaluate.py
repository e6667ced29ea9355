"""Protocols against the benchmark's and the release's own numbers; validation; `lmeec evaluate`."""

import csv
import io
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from lmeec_core.cli.app import app
from lmeec_core.evaluation import Scores, score_pair
from lmeec_core.evaluation.evaluate import Evaluation, evaluate, length_group, size_group
from lmeec_core.evaluation.truth import open_truth, pairs_of
from lmeec_core.takes import (
    RelationsFile,
    Results,
    Take,
    TakeWriter,
    decode_mask,
    encode_mask,
    resize_mask,
)

DATA = Path(__file__).parents[1] / "data"
GOLDEN = json.loads((DATA / "golden" / "protocols.json").read_text())
SAMPLE = DATA / "sample_take"
EGO, EXO = "aria01_214-1", "cam01"
runner = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})


def write(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


def square(left: int, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[10:30, left : left + 20] = True
    return mask


def perfect(take: Take, direction: str, shift: int = 0) -> Results:
    """Predictions that are the truth, moved to the right."""
    results = Results(direction)
    results.set_frames(take.name, list(take.subsample_idx))
    for name in take.objects:
        results.add_object(take.name, name)
    for pair in pairs_of(take, direction):
        for frame in take.mask_frames(pair.object_name, pair.query):
            true = take.mask(pair.object_name, pair.target, frame)
            mask = np.zeros((480, 480), bool) if true is None else np.roll(true, shift, axis=1)
            results.add(take.name, pair.object_name, pair.query, pair.target, frame, mask,
                        float(true is not None))  # fmt: skip
    return results


# -- protocols -------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["ego-exo", "exo-ego"])
def test_official_equals_the_benchmarks_own_code(tmp_path: Path, direction: str) -> None:
    truth = write(tmp_path / "gt.json", GOLDEN["truth"])
    predictions = write(tmp_path / "pred.json", GOLDEN["predictions"])
    found = evaluate(Results.read(predictions, direction), open_truth(truth, direction))
    assert found.problems == [] and found.skipped == []
    summary = found.scores.summary()
    assert summary["protocol"] == "official" and len(found.takes) == 2
    for name, value in GOLDEN["expected"][direction].items():
        assert summary[name] == pytest.approx(value, abs=1e-12), name


def test_lm_eec_equals_the_releases_own_code(tmp_path: Path) -> None:
    truth = write(tmp_path / "gt.json", GOLDEN["lm_eec_truth"])
    predictions = write(tmp_path / "pred.json", GOLDEN["lm_eec_predictions"])
    found = evaluate(Results.read(predictions), open_truth(truth, "ego-exo"), "lm_eec")
    summary = found.scores.summary()
    assert summary["protocol"] == "lm_eec"
    for name, value in GOLDEN["expected"]["lm_eec"].items():
        assert summary[name] == pytest.approx(value, abs=1e-12), name


@pytest.fixture
def raw(tmp_path: Path, relations: Callable) -> Take:
    """A raw take: frame 30 was not annotated in the target view, the object is gone at 60."""
    masks = {
        EGO: {n: square(0) for n in (0, 30, 60)},
        EXO: {0: square(5), 30: square(5), 90: square(5)},
    }
    take = {"masks": {"cup": masks}, "annotated_frames": {"cup": {EXO: [0, 60, 90]}}}
    return RelationsFile(relations(tmp_path / "relations_val.json", {"u": take})).open("u")


def test_official_scores_annotated_frames_only(raw: Take) -> None:
    scores = score_pair(perfect(raw, "ego-exo"), raw, "cup", EGO, EXO)
    assert [(r.frame, r.exists) for r in scores.records] == [(0, True), (60, False)]
    assert scores.iou == pytest.approx(1) and scores.existence_balanced_accuracy == 1


def test_lm_eec_goes_by_the_predictions(raw: Take) -> None:
    results = Results("ego-exo")
    mask = np.zeros((480, 480), bool)
    mask.T.flat[:230] = True  # one pixel too few to count as present
    results.add("u", "cup", EGO, EXO, 30, mask, 1.0)
    mask.T.flat[230] = True
    results.add("u", "cup", EGO, EXO, 60, mask, 0.0)
    scores = score_pair(results, raw, "cup", EGO, EXO, "lm_eec")
    assert [(r.frame, r.exists, r.predicted) for r in scores.records] == [
        (30, True, False),
        (60, False, True),
    ]
    assert scores.missing == 0  # frame 0 has no prediction, which is not punished
    whole = evaluate(results, open_truth(raw.path, "ego-exo"), "lm_eec")
    assert whole.scores.frames == 2 and whole.problems == []


def test_numbers_of_two_protocols_do_not_mix() -> None:
    with pytest.raises(ValueError, match="lm_eec"):
        Scores("official").add(Scores("lm_eec"))


def test_a_protocol_that_the_truth_does_not_allow(tmp_path: Path, raw: Take) -> None:
    path = tmp_path / "truth.json"
    perfect(raw, "ego-exo").write(path)
    with pytest.raises(ValueError, match="use lm_eec"):
        evaluate(perfect(raw, "ego-exo"), open_truth(path, "ego-exo"))
    with pytest.raises(ValueError, match="nonsense"):
        score_pair(perfect(raw, "ego-exo"), raw, "cup", EGO, EXO, "nonsense")


@settings(max_examples=150, deadline=None)
@given(st.tuples(*[st.integers(1, 60)] * 4), st.floats(0, 1), st.integers(0, 2**31), st.booleans())
def test_masks_decoded_small_are_those_resized(
    sizes: tuple[int, int, int, int], share: float, seed: int, blocks: bool
) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random(sizes[:2]) < share
    if blocks:
        mask = np.repeat(np.repeat(mask, 5, 0), 7, 1)
    rle, size = encode_mask(mask), sizes[2:]
    np.testing.assert_array_equal(decode_mask(rle, size), resize_mask(mask, size))
    np.testing.assert_array_equal(decode_mask(rle, lambda h, w: size), resize_mask(mask, size))


# -- validation ------------------------------------------------------------------------------


def problems(results: Results, raw: Take) -> list[tuple[str, str, int]]:
    found = evaluate(results, open_truth(raw.path, "ego-exo"))
    return [(p.kind, p.what, p.predictions) for p in found.problems]


def test_validation_names_what_is_missing(raw: Take) -> None:
    assert problems(perfect(raw, "ego-exo"), raw) == []
    assert problems(Results("ego-exo"), raw) == [("take missing", "1 objects", 3)]
    results = Results("ego-exo")
    results.add_object("u", "cup")
    results.add_object("u", "fork")
    results.add("z", "cup", EGO, EXO, 0, square(0), 1)
    assert [p[0] for p in problems(results, raw)] == [
        "object unknown",
        "pair missing",
        "take unknown",
    ]
    results = Results("ego-exo")
    results.add("u", "cup", EGO, EXO, 0, square(5), 1)
    found = evaluate(results, open_truth(raw.path, "ego-exo"))
    (problem,) = found.problems
    assert str(problem) == (
        "frames missing: take u, object 'cup', aria01_214-1_cam01, 2 of 3 frames (30, 60)"
    )
    assert found.missing == 2 and found.scores.missing == 1  # frame 30 is not scored


def test_broken_predictions_are_named_and_count_as_missing(tmp_path: Path, raw: Take) -> None:
    path = tmp_path / "masks.json"
    perfect(raw, "ego-exo").write(path)
    content = json.loads(path.read_text())
    frames = content["ego-exo"]["results"]["u"]["masks"]["cup"][f"{EGO}_{EXO}"]
    frames["0"]["pred_mask"]["counts"] = "5"
    del frames["60"]["confidence"]
    found = evaluate(Results.read(write(path, content)), open_truth(raw.path, "ego-exo"))
    assert [p.kind for p in found.problems] == ["prediction broken"] * 2
    assert "frame 0" in found.problems[0].what and "runs" in found.problems[0].what
    assert "frame 60" in found.problems[1].what and "confidence" in found.problems[1].what
    assert found.scores.missing == 2 and found.scores.iou == 0
    assert [str(p).count("take u") for p in found.problems] == [1, 1]
    assert found.void is not None and found.void.count("take u") == 1


def test_a_take_whose_truth_is_broken_is_skipped_as_a_whole(tmp_path: Path) -> None:
    for name in ("a", "b"):
        with TakeWriter(tmp_path / "data" / name) as take:
            for camera in ("aria01", "cam01"):
                for frame in (0, 30):
                    take.image(camera, frame, np.zeros((48, 64, 3), np.uint8))
                take.mask("cup", camera, 0, square(3))
                take.mask(
                    "cup", camera, 30, {"size": [4, 4], "counts": "5"} if name == "a" else None
                )
    results = perfect(Take.open(tmp_path / "data" / "b"), "ego-exo")
    results.add("a", "cup", "aria01", "cam01", 0, square(3), 1)
    found = evaluate(results, open_truth(tmp_path / "data", "ego-exo"))
    assert list(found.takes) == ["b"] and found.scores.records[0].take == "b"
    assert [Path(e.path).parent.name for e in found.skipped] == ["a"]


# -- groups and reports ----------------------------------------------------------------------


def test_groups() -> None:
    assert [length_group(n) for n in (199, 200, 600, 601)] == [
        "under 200 frames", "200 to 600 frames", "200 to 600 frames", "over 600 frames",
    ]  # fmt: skip
    assert [size_group(s) for s in (0, 0.001, 0.02, 1)] == [
        "under 0.1 %", "0.1 to 0.5 %", "2 % and more", "2 % and more",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Folder and output of `lmeec evaluate` on the sample take, both directions in one file."""
    folder = tmp_path_factory.mktemp("report")
    content: dict[str, object] = {}
    for direction in ("ego-exo", "exo-ego"):
        perfect(Take.open(SAMPLE), direction, shift=9).write(folder / "part.json")
        content |= json.loads((folder / "part.json").read_text())
    path = write(folder / "both <b>.json", content)
    result = runner.invoke(app, ["evaluate", str(path), str(SAMPLE), "--out", str(folder / "out")])
    assert result.exit_code == 0, result.output
    return folder / "out", result.output


def test_the_table_stands_beside_the_papers(report: tuple[Path, str]) -> None:
    _, text = report
    assert "Ego to exo, protocol official" in text and "Exo to ego, protocol official" in text
    assert "no lists of annotated frames" in text  # as in the processed layout
    for part in ("this result file (official)", "paper: LM-EEC", "65.77", "54.98", "report.html"):
        assert part in text


def test_json_and_csv_say_the_same(report: tuple[Path, str]) -> None:
    folder, _ = report
    assert sorted(p.name for p in folder.iterdir()) == [
        "frames.csv", "report.html", "report.json", "scores.csv",
    ]  # fmt: skip
    data = json.loads((folder / "report.json").read_text())
    part = data["directions"]["ego-exo"]
    assert part["overall"]["protocol"] == data["protocol"] == "official"
    assert list(part["by"]) == ["object size", "scenario", "take length", "take", "object"]
    assert list(part["by"]["take length"]) == ["under 200 frames"]
    groups = list(csv.DictReader(io.StringIO((folder / "scores.csv").read_text())))
    assert groups[0]["name"] == "all" and groups[0]["protocol"] == "official"
    assert float(groups[0]["iou"]) == part["overall"]["iou"]
    frames = list(csv.DictReader(io.StringIO((folder / "frames.csv").read_text())))
    mine = [float(f["iou"]) for f in frames if f["direction"] == "ego-exo" and f["iou"]]
    assert np.mean(mine) == pytest.approx(part["overall"]["iou"])
    assert sum(s["frames"] for s in part["by"]["object"].values()) == part["overall"]["frames"]


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "srcset")]
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_one_file_without_network(report: tuple[Path, str]) -> None:
    folder, _ = report
    html = (folder / "report.html").read_text()
    page = _Page()
    page.feed(html)
    assert page.open == []
    assert len(page.links) == 2 * 2 * 5  # directions, rows of a strip, frames
    assert all(link.startswith("data:image/jpeg;base64,") for link in page.links)
    assert not re.search(r"https?://|url\(|@import", html)
    assert "both &lt;b&gt;.json" in html
    assert html.count("<svg") == 6 and "LM-EEC" in html and "protocol official" in html
    assert len(html) < 3_000_000


# -- the command -----------------------------------------------------------------------------


def test_missing_predictions_and_the_exit_code(tmp_path: Path, raw: Take) -> None:
    results = Results("ego-exo")
    results.add("u", "cup", EGO, EXO, 0, square(5), 1)
    results.write(tmp_path / "masks.json")
    arguments = ["evaluate", str(tmp_path / "masks.json"), str(raw.path), "--out", str(tmp_path)]
    result = runner.invoke(app, arguments)
    assert result.exit_code == 1
    assert "2 of 3 frames (30, 60)" in result.output and "would reject" in result.output
    assert "would reject" in (tmp_path / "report.html").read_text()
    assert "no video" not in result.output  # masks without images are drawn on plain ground
    assert runner.invoke(app, [*arguments, "--allow-missing"]).exit_code == 0
    result = runner.invoke(app, [*arguments, "--protocol", "lm_eec"])
    assert result.exit_code == 0 and "this result file (lm_eec)" in result.output


def test_broken_takes_and_images_are_named_and_the_exit_code_is_1(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        with TakeWriter(tmp_path / "data" / name) as take:
            for camera in ("aria01", "cam01"):
                take.image(camera, 0, np.zeros((48, 64, 3), np.uint8))
                take.mask("cup", camera, 0, square(3))
    results = Results("ego-exo")
    for name in ("a", "b", "c"):
        results.add(name, "cup", "aria01", "cam01", 0, square(3), 1)
    results.write(tmp_path / "masks.json")
    (tmp_path / "data" / "a" / "annotation.json").write_text("{")
    (tmp_path / "data" / "c" / "cam01" / "0.jpg").write_bytes(b"")
    result = runner.invoke(
        app,
        ["evaluate", str(tmp_path / "masks.json"), str(tmp_path / "data"), "--allow-missing",
         "--out", str(tmp_path / "out")],
    )  # fmt: skip
    assert result.exit_code == 1
    assert "a/annotation.json" in result.output and "c/cam01/0.jpg" in result.output
    data = json.loads((tmp_path / "out" / "report.json").read_text())
    assert len(data["skipped"]) == 2
    assert data["directions"]["ego-exo"]["overall"]["iou"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("predictions", "extra", "text"),
    [
        ("{}", [], "is not a result file"),
        ("{", [], "not valid JSON"),
        ('{"ego-exo": {"results": {"t": {"masks": {"a": {"b": 3}}}}}}', [], "no masks by frame"),
        ('{"ego-exo": {"results": {}}}', ["--direction", "exo-ego"], "exo-ego"),
        ('{"ego-exo": {"results": {}}}', ["--split", "val"], "split"),
    ],
)
def test_bad_input_is_one_line_that_names_the_file(
    tmp_path: Path, predictions: str, extra: list[str], text: str
) -> None:
    path = tmp_path / "masks.json"
    path.write_text(predictions)
    out = tmp_path / "out"
    result = runner.invoke(app, ["evaluate", str(path), str(SAMPLE), "--out", str(out), *extra])
    assert result.exit_code == 1 and text in result.output
    assert "Traceback" not in result.output and not out.exists()


def test_info_of_a_dataset_and_of_a_relations_file(tmp_path: Path, raw: Take) -> None:
    result = runner.invoke(app, ["info", str(raw.path)])
    assert result.exit_code == 0, result.output
    assert "1 takes" in result.output and "Cooking" in result.output
    for name in ("a", "b"):
        with TakeWriter(tmp_path / "data" / name) as take:
            take.image("aria01", 0, np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "data" / "b" / "annotation.json").write_text("{")
    result = runner.invoke(app, ["info", str(tmp_path / "data")])
    assert (
        result.exit_code == 1 and "broken" in result.output and "b/annotation.json" in result.output
    )


def test_evaluation_without_any_scored_frame(tmp_path: Path, raw: Take) -> None:
    from lmeec_core.evaluation.report import Report

    empty = Evaluation("ego-exo", Scores())
    files = Report("p", "t", "official", [empty]).write(tmp_path / "out")
    assert "–" in files["report.html"].read_text()
    assert json.loads(files["report.json"].read_text())["directions"]["ego-exo"]["by"]["take"] == {}
