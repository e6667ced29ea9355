"""`lmeec view`: videos and Rerun recordings of takes."""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from lmeec_core import overlay
from lmeec_core.cli.app import app
from lmeec_core.errors import InputError
from lmeec_core.evaluation import score_pair
from lmeec_core.takes import Results, Take, TakeWriter, write_results
from lmeec_core.viewing.comparison import labels, side_by_side
from lmeec_core.viewing.html_file import HtmlWriter
from lmeec_core.viewing.moments import Moment, View
from lmeec_core.viewing.video import Painter, pictures

runner = CliRunner(env={"COLUMNS": "250", "NO_COLOR": "1", "TERM": "dumb"})
NAMES = ("cup/red", "knife")
FRAMES = tuple(range(0, 24 * 30, 30))


def square(left: int, height: int = 60, width: int = 80) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    mask[30:50, left : left + 20] = True
    return mask


@pytest.fixture(scope="module")
def take(tmp_path_factory: pytest.TempPathFactory) -> Take:
    """Grey images; cam-2 is portrait and lacks the first frames; two objects."""
    path = tmp_path_factory.mktemp("takes") / "take_7"
    with TakeWriter(path) as writer:
        for frame in FRAMES:
            writer.image("aria01", frame, np.full((60, 80, 3), 90, np.uint8))
            writer.image("cam-1", frame, np.full((60, 80, 3), 90, np.uint8))
            if frame > 60:
                writer.image("cam-2", frame, np.full((80, 60, 3), 90, np.uint8))
            writer.mask("cup/red", "aria01", frame, square(10))
            writer.mask("cup/red", "cam-1", frame, square(50))
            if frame != 30:
                writer.mask("knife", "aria01", frame, square(50))
    return Take.open(path)


@pytest.fixture(scope="module")
def predictions(take: Take, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("results") / "found.json"
    there, back = Results("ego-exo"), Results("exo-ego")
    for frame in FRAMES:
        there.add("take_7", "cup/red", "aria01", "cam-1", frame, square(45), 0.9)
        there.add("take_7", "knife", "aria01", "cam-1", frame, np.zeros((60, 80), bool), 0.25)
        back.add("take_7", "cup/red", "cam-1", "aria01", frame, square(10), 0.75)
    write_results(path, there, back)
    return path


def frames_of(path: Path) -> list[np.ndarray]:
    import av

    with av.open(str(path)) as video:
        assert video.streams.video[0].codec_context.name == "h264"
        assert video.streams.video[0].codec_context.pix_fmt == "yuv420p"  # browsers play it
        return [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]


def near(image: np.ndarray, colour: tuple[int, ...], tolerance: int = 40) -> np.ndarray:
    """Where an image has a colour laid over the grey of the test's images."""
    mixed = (np.asarray(colour) + 90) / 2
    return np.abs(image.astype(int) - mixed).max(axis=2) < tolerance


def test_the_video_shows_query_masks_and_predictions_side_by_side(
    take: Take, predictions: Path, tmp_path: Path
) -> None:
    out = tmp_path / "x.mp4"
    command = ["view", str(take.path), str(predictions), "--out", str(out), "--height", "240"]
    result = runner.invoke(app, [*command, "--direction", "ego-exo"])
    assert result.exit_code == 0, result.output
    shown = frames_of(out)
    assert len(shown) == len(FRAMES)
    # Two views of 320 x 240 and one of 180 x 240, gaps of 4, and the title.
    assert shown[0].shape == (240 + 26, 320 + 4 + 320 + 4 + 180, 3)
    cup = overlay.colour(0)
    query, target = shown[5][26:, :320], shown[5][26:, 324:644]
    assert near(query, cup)[140:190, 50:110].mean() > 0.9
    assert near(target, cup)[140:190, 190:250].mean() > 0.8  # the truth's left edge is in it
    assert not near(target, cup)[140:190, 20:160].any()
    white = (target.astype(int).min(axis=2) > 200)[130:]
    assert white[:, 270:290].any()  # the truth's right edge, beyond the prediction


def test_the_other_direction_and_no_predictions(
    take: Take, predictions: Path, tmp_path: Path
) -> None:
    out = tmp_path / "x.mp4"
    command = ["view", str(take.path), str(predictions), "--out", str(out), "--height", "96"]
    result = runner.invoke(app, [*command, "--query", "cam-1", "--object", "cup/red"])
    assert result.exit_code == 0, result.output
    assert frames_of(out)[0].shape[1] == 128 + 4 + 128
    command = ["view", str(take.path), "--out", str(out), "--height", "96", "--fps", "10"]
    assert runner.invoke(app, command).exit_code == 0
    assert len(frames_of(out)) == len(FRAMES)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--query", "cam-9"], "cam-9"),
        (["--object", "spoon"], "spoon"),
        (["--params", "x.yaml"], "apply only to bags"),
    ],
)
def test_names_that_are_not_there(
    take: Take, tmp_path: Path, arguments: list[str], text: str
) -> None:
    out = tmp_path / "x.mp4"
    result = runner.invoke(app, ["view", str(take.path), "--out", str(out), *arguments])
    assert result.exit_code == 1 and text in result.output and not out.exists()


def test_predictions_of_another_take(take: Take, tmp_path: Path) -> None:
    other = Results("ego-exo")
    other.add("take_8", "cup", "aria01", "cam-1", 0, square(0), 1.0)
    other.write(tmp_path / "other.json")
    command = ["view", str(take.path), str(tmp_path / "other.json"), "--out", str(tmp_path / "x")]
    result = runner.invoke(app, command)
    assert result.exit_code == 1 and "no take 'take_7'" in result.output


def test_pictures_have_one_size_and_two_rows_for_many_cameras() -> None:
    image = np.zeros((30, 40, 3), np.uint8)

    def moment(frame: int, late: bool) -> Moment:
        views = [View(f"cam{i}", image, {}) for i in range(3)]
        views.append(View("late", None if late else np.zeros((40, 30, 3), np.uint8), {}))
        return Moment(frame, frame / 30, View("ego", image, {}), views)

    painter = Painter(overlay.Colours(), 120, "title")
    drawn = list(pictures((moment(k, k < 5) for k in range(40)), painter))
    assert len(drawn) == 40 and {one.shape for one in drawn} == {(2 * 120 + 26, 3 * 160 + 8, 3)}


def test_a_rerun_recording_has_images_masks_and_curves(
    take: Take, predictions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("rerun", reason="the extra rerun is not installed")
    monkeypatch.setenv("RERUN_ANALYTICS", "0")
    rrd = tmp_path / "x.rrd"
    command = ["view", str(take.path), str(predictions), "--out", str(tmp_path / "x.mp4")]
    command += ["--direction", "ego-exo", "--height", "96", "--rerun", str(rrd)]
    result = runner.invoke(app, command)
    assert result.exit_code == 0, result.output
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.mp4", "x.rrd"]
    assert "has no calibration" in result.output and "--calibration" in result.output
    tool = [sys.executable, "-P", "-m", "rerun", "rrd"]
    subprocess.run([*tool, "verify", str(rrd)], check=True, capture_output=True)
    print_ = subprocess.run([*tool, "print", str(rrd)], check=True, capture_output=True, text=True)
    rows: Counter[str] = Counter()
    for chunk in re.finditer(r"with (\d+) rows \(.*?\) - (/\S+) - .*\[(\w+):", print_.stdout):
        rows[f"{chunk[2]} {chunk[3]}"] += int(chunk[1])
    count = len(FRAMES)
    for path, number in (
        ("/query/aria01/image EncodedImage", count),
        ("/query/aria01/masks SegmentationImage", count),
        ("/target/cam-1/image EncodedImage", count),
        ("/target/cam-1/truth SegmentationImage", count),
        ("/target/cam-2/image EncodedImage", count - 3),
        (r"/presence/cam-1/cup\/red Scalars", count),
        ("/presence/cam-1/knife Scalars", count),
        (r"/iou/cam-1/cup\/red Scalars", count),
    ):
        assert rows[path] == number, (path, rows)
    assert not any(path.startswith("/space") or "Pinhole" in path for path in rows)
    assert not any(path.startswith("/score") for path in rows)  # a result file has none


def test_without_the_sdk_it_says_what_to_install(
    take: Take, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rerun", None)
    command = ["view", str(take.path), "--out", str(tmp_path / "x.mp4")]
    result = runner.invoke(app, [*command, "--rerun", str(tmp_path / "x.rrd")])
    assert result.exit_code == 1 and "pip install 'lmeec[rerun]'" in result.output
    assert not list(tmp_path.iterdir())


def test_a_page_holds_images_masks_and_presence(
    take: Take, predictions: Path, tmp_path: Path
) -> None:
    page = tmp_path / "x.html"
    command = ["view", str(take.path), str(predictions), "--out", str(tmp_path / "x.mp4")]
    command += ["--direction", "ego-exo", "--height", "120", "--html", str(page)]
    result = runner.invoke(app, command)
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.html", "x.mp4"]
    text = page.read_text(encoding="utf-8")
    assert "http" not in text and "src=" not in text  # nothing is loaded
    moments = [json.loads(line) for line in re.findall(r"<script>F\.push\((.*)\)</script>", text)]
    found = re.search(r"<script>const META = (.*)</script>", text)
    assert found is not None
    meta = json.loads(found[1])
    assert meta["cameras"] == ["aria01", "cam-1", "cam-2"] and meta["truth"]
    assert meta["sizes"] == [[160, 120], [160, 120], [90, 120]]
    assert [name for name, _ in meta["objects"]] == list(NAMES)
    assert [moment["f"] for moment in moments] == list(FRAMES)
    for moment in moments:
        query, first, second = moment["v"]
        data = base64.b64decode(first["i"].removeprefix("data:image/jpeg;base64,"))
        assert Image.open(io.BytesIO(data)).size == (160, 120)
        assert (second["i"] is None) == (moment["f"] <= 60)
        assert first["p"] == {"cup/red": 0.9, "knife": 0.25} and not second["p"]
        for left, polygons in ((10, query["m"]), (45, first["m"]), (50, first["u"])):
            want = square(left).repeat(2, axis=0).repeat(2, axis=1)
            drawn = np.zeros((120, 160), np.uint8)
            points = [np.reshape(one, (-1, 2)) for one in polygons["cup/red"]]
            assert (cv2.fillPoly(drawn, points, 1).astype(bool) == want).all()
        assert ("knife" in query["m"]) == (moment["f"] != 30) and "knife" not in first["m"]


def test_a_page_compares_methods_by_the_scores_of_evaluate(
    take: Take, predictions: Path, tmp_path: Path
) -> None:
    worse, page = tmp_path / "worse.json", tmp_path / "x.html"
    results = Results("ego-exo")
    for frame in FRAMES[5:]:  # the first ones lack a prediction
        results.add("take_7", "cup/red", "aria01", "cam-1", frame, square(35), 0.4)
    write_results(worse, results)
    command = ["view", str(take.path), str(predictions), str(worse), "--direction", "ego-exo"]
    command += ["--out", str(tmp_path / "x.mp4"), "--height", "64", "--html", str(page)]
    result = runner.invoke(app, command)
    assert result.exit_code == 0, result.output
    text = page.read_text(encoding="utf-8")
    moments = [json.loads(line) for line in re.findall(r"<script>F\.push\((.*)\)</script>", text)]
    meta = json.loads(re.findall(r"<script>const META = (.*)</script>", text)[0])
    assert meta["methods"] == ["found", "worse"]
    assert meta["cameras"] == ["aria01", "cam-1", "cam-1", "cam-2", "cam-2"]
    assert meta["from"] == [None, "found", "worse", "found", "worse"]
    for place, path in ((1, predictions), (2, worse)):
        scores = score_pair(Results.read(path, "ego-exo"), take, "cup/red", "aria01", "cam-1")
        assert [moment["v"][place]["q"].get("cup/red") for moment in moments] == [
            pytest.approx(record.iou, abs=1e-4) for record in scores.records
        ]
    for moment in moments:
        first, second = moment["v"][1:3]
        assert first["i"] and second["i"] is None and second["s"] == 1 and not second["u"]
        assert ("cup/red" in second["p"]) == (moment["f"] >= FRAMES[5])
    again = runner.invoke(app, [*command, str(worse)])
    assert again.exit_code == 1 and "given twice" in again.output


def test_methods_have_the_shortest_names_that_tell_them_apart() -> None:
    assert labels([Path("a/x.json"), Path("b/y.json")]) == ["x", "y"]
    assert labels([Path("a/x.json"), Path("b/x.json")]) == ["a/x", "b/x"]
    assert labels([Path("x.json"), Path("x.jsonl")]) == ["x.json", "x.jsonl"]


def test_it_is_said_where_the_methods_had_other_query_masks() -> None:
    def moments(left: int) -> list[Moment]:
        return [Moment(3, 0.1, View("ego", None, {"cup": square(left)}), [View("cam", None, {})])]

    said: list[str] = []
    (moment,) = side_by_side({"one": moments(1), "two": moments(2)}, said.append)
    assert [view.title for view in moment.targets] == ["cam, one", "cam, two"]
    assert len(said) == 1 and "two" in said[0] and "frame 3" in said[0]
    list(side_by_side({"one": moments(1), "two": moments(1)}, said.append))
    (moment,) = moments(1)
    for other in ([], [moment, moment], [replace(moment, frame=7)]):
        with pytest.raises(InputError, match="two: (no more )?frame.* view them one by one"):
            list(side_by_side({"one": [moment], "two": other}, said.append))
    assert len(said) == 1


def test_names_cannot_leave_the_pages_script(tmp_path: Path) -> None:
    name = "</script><script>alert(1)//\u2028"
    image = np.zeros((30, 40, 3), np.uint8)
    view = View("ego", image, {name: np.ones((30, 40), bool)})
    with HtmlWriter(tmp_path / "x.html", overlay.Colours(), 60, name) as page:
        page.add(Moment(0, 0.0, view, []))
    text = (tmp_path / "x.html").read_text(encoding="utf-8")
    assert "alert" in text and "<script>alert" not in text and "\u2028" not in text
    with pytest.raises(KeyError), HtmlWriter(tmp_path / "y.html", {}, 60, name) as page:
        page.add(Moment(0, 0.0, view, []))
        raise KeyError
    assert [path.name for path in tmp_path.iterdir()] == ["x.html"]
