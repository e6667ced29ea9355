"""`lmeec track --prompts`: marked objects in place of query masks, and what the report says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

import lmeec_core as lm
from lmeec_core.cli.app import app
from lmeec_core.evaluation import benchmark_size
from lmeec_core.methods.lm_eec import LmEec
from lmeec_core.offline import compute
from lmeec_core.offline.units import PromptSettings, Settings
from lmeec_core.prompts import (
    PlacedPrompt,
    Prompt,
    PromptedTracker,
    Prompts,
    view_tracker,
    write_prompts,
)
from lmeec_core.takes import Results, Take, TakeWriter, decode_mask, resize_mask
from lmeec_core.viewing.moments import NoPredictions, ResultPredictions, take_moments

runner = CliRunner(env={"COLUMNS": "250", "NO_COLOR": "1", "TERM": "dumb"})
MINI = ["--preset", "mini", "--seed", "0", "--device", "cpu", "--workers", "1", "--engine", "eager"]
FRAMES = (0, 30, 60, 90)
EGO, EXO = "aria01", "cam-1"


def picture(number: int, height: int, width: int) -> np.ndarray:
    coarse = np.random.default_rng(number).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def square(left: int) -> np.ndarray:
    mask = np.zeros((96, 128), bool)
    mask[16:80, left : left + 50] = True
    return mask


@pytest.fixture(scope="module")
def take(tmp_path_factory: pytest.TempPathFactory) -> Take:
    """Frame 60 has no exo image; the cup has true masks on all frames, in both cameras."""
    path = tmp_path_factory.mktemp("takes") / "take_7"
    with TakeWriter(path) as writer:
        for frame in FRAMES:
            writer.image(EGO, frame, picture(frame, 96, 128))
            if frame != 60:
                writer.image(EXO, frame, picture(frame + 1, 60, 80))
            writer.mask("cup", EGO, frame, square(10))
            writer.mask("cup", EXO, frame, resize_mask(square(20), (60, 80)))
    return Take.open(path)


CUP = Prompt("cup", mask=square(10))
MARKED = (
    PlacedPrompt(EGO, CUP, frame=30),
    PlacedPrompt(EGO, Prompt("mug", ((40.0, 50.0),), (1,)), frame=30),
)


def file_of(path: Path, *prompts: PlacedPrompt, recording: str | None = "take_7") -> Path:
    write_prompts(path, Prompts(recording, prompts))
    return path


def track(take: Take, out: Path, prompts: Path, *more: str) -> Any:
    arguments = ["track", str(take.path), "--out", str(out), "--prompts", str(prompts)]
    return runner.invoke(app, [*arguments, *MINI, *more])


def test_results_are_those_of_the_prompted_tracker(take: Take, tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    result = track(take, out, file_of(tmp_path / "p.json", *MARKED))
    assert result.exit_code == 0, result.output
    assert "object 'mug' is not annotated" in result.output
    found = Results.read(out)
    assert found.direction == "ego-exo" and found.tracked("take_7")
    # The cup was annotated on frame 0, so the benchmark asks for it there, too.
    assert list(found.places()) == [
        *(("take_7", "cup", f"{EGO}_{EXO}", frame) for frame in FRAMES),
        *(("take_7", "mug", f"{EGO}_{EXO}", frame) for frame in FRAMES[1:]),
    ]
    assert list(found.query_places("take_7")) == [
        (name, EGO, frame) for name in ("cup", "mug") for frame in FRAMES[1:]
    ]
    model = lm.load_model("mini", seed=0, device="cpu")
    tracker = PromptedTracker((EGO, EXO), LmEec(model), lambda: view_tracker(model))
    tracker.look({EGO: take.image(EGO, 0), EXO: take.image(EXO, 0)})
    for frame in FRAMES[1:]:
        images = {c: take.image(c, frame) for c in (EGO, EXO) if (c, frame) != (EXO, 60)}
        tracker.look(images)
        for one in MARKED if frame == 30 else ():
            tracker.prompt(EGO, one.prompt)
        expected = tracker.find()
        for name, one in expected[EGO].items():
            rle = found.query_rle("take_7", name, EGO, frame)
            assert rle is not None
            given = decode_mask(rle)
            assert (given == resize_mask(one.mask(), benchmark_size(96, 128))).mean() > 0.999
        for name, one in expected.get(EXO, {}).items():
            there = found.get("take_7", name, EGO, EXO, frame)
            assert there is not None
            assert there.confidence == pytest.approx(one.presence, abs=1e-5)
            assert (there.mask == resize_mask(one.mask(), benchmark_size(60, 80))).mean() > 0.999
    for name, frame in (("cup", 0), ("cup", 60), ("mug", 60)):
        gone = found.get("take_7", name, EGO, EXO, frame)
        assert gone is not None and gone.confidence == 0 and not gone.mask.any()


def test_finished_units_are_kept_until_the_prompts_change(take: Take, tmp_path: Path) -> None:
    out, prompts = tmp_path / "found.json", file_of(tmp_path / "p.json", *MARKED)
    assert track(take, out, prompts).exit_code == 0
    first = out.read_bytes()
    prompts.write_text(prompts.read_text().replace(", ", ",  "))  # written another way
    again = track(take, out, prompts)
    assert "1 of 1 units were already finished" in again.output and out.read_bytes() == first
    file_of(prompts, MARKED[0], PlacedPrompt(EGO, Prompt("mug", ((41.0, 50.0),), (1,)), frame=30))
    changed = track(take, out, prompts)
    assert "stored units are not reused: prompts.digest was" in changed.output
    assert out.read_bytes() != first


def test_an_object_that_is_marked_in_another_view_is_followed_from_there(
    take: Take, tmp_path: Path
) -> None:
    prompts = file_of(
        tmp_path / "p.json",
        PlacedPrompt(EGO, Prompt("mug", ((40.0, 50.0),), (1,)), frame=0),
        PlacedPrompt(EXO, Prompt("mug", ((30.0, 30.0),), (1,)), frame=90),
    )
    assert track(take, tmp_path / "found.json", prompts).exit_code == 0
    parts = Results.read_all(tmp_path / "found.json")
    frames = {name: [place[2:] for place in part.places()] for name, part in parts.items()}
    assert frames["ego-exo"] == [(f"{EGO}_{EXO}", frame) for frame in (0, 30, 60)]
    assert frames["exo-ego"] == [(f"{EXO}_{EGO}", 90)]


@pytest.mark.parametrize(
    ("one", "text"),
    [
        (PlacedPrompt("cam-9", CUP, frame=30), "'cam-9', frame 30: no images of this camera"),
        (PlacedPrompt("Cam-1", CUP, frame=30), "'cam-1' exists, but not 'Cam-1'"),
        (PlacedPrompt(EXO, CUP, frame=60), "no such image; one of the camera's 3 frames from 0"),
        (PlacedPrompt(EGO, CUP, frame=31), "no such image; one of the camera's 4 frames from 0"),
        (PlacedPrompt(EGO, CUP, stamp=30), "a stamp is only for bags"),
        (PlacedPrompt(EGO, Prompt("cup", ((128.5, 3),)), frame=30), "within the image of 128 x 96"),
        (PlacedPrompt(EXO, Prompt("cup", box=(70, 3, 90, 9)), frame=30), "within the image of 80"),
        (PlacedPrompt(EXO, Prompt("cup", mask=np.ones((9, 40), bool)), frame=30), "aspect"),
    ],
)
def test_a_prompt_that_cannot_be_used_is_named(
    take: Take, tmp_path: Path, one: PlacedPrompt, text: str
) -> None:
    out = tmp_path / "found.json"
    result = track(take, out, file_of(tmp_path / "p.json", one, MARKED[1]))
    assert result.exit_code == 1 and result.output.count(text) == 2  # at the start and at the end
    assert Results.read(out).objects("take_7") == ("cup", "mug")
    assert {place[0] for place in Results.read(out).query_places("take_7")} == {"mug"}
    out.unlink()
    alone = track(take, out, file_of(tmp_path / "p.json", one))
    assert alone.exit_code == 1 and "nothing to track" in alone.output and not out.exists()


def test_what_does_not_go_together_is_refused(take: Take, tmp_path: Path) -> None:
    good = file_of(tmp_path / "good.json", *MARKED)
    other = file_of(tmp_path / "other.json", *MARKED, recording="Take_7")
    empty = file_of(tmp_path / "empty.json")
    for prompts, more, text in (
        (other, [], "'take_7' exists, but not 'Take_7'"),
        (empty, [], "no prompts in it"),
        (tmp_path / "none.json", [], "none.json: cannot be read"),
        (good, ["--prompt-checkpoint", "x.pt"], "--prompt-preset"),
        (good, ["--prompt-preset", "sam3"], "sam3"),
        (good, ["--object", "spoon"], "no object 'spoon'"),
    ):
        result = track(take, tmp_path / "x.json", prompts, *more)
        assert result.exit_code == 1 and text in result.output, result.output
    result = runner.invoke(app, ["track", str(take.path), "--prompt-preset", "nano", *MINI])
    assert result.exit_code == 1 and "used only with --prompts FILE" in result.output
    assert not (tmp_path / "x.json").exists()


def test_another_network_may_track_the_query_view(take: Take, tmp_path: Path) -> None:
    out, prompts = tmp_path / "found.json", file_of(tmp_path / "p.json", *MARKED)
    assert track(take, out, prompts, "--prompt-preset", "nano").exit_code == 0
    (head,) = (
        json.loads(file.open().readline())["settings"]
        for file in (tmp_path / "found.json.work").glob("*.jsonl")
    )
    assert head["preset"] == "mini" and head["prompts.preset"] == "nano"
    assert head["prompts.weights"].startswith("sha256:")
    prompted = PromptSettings(digest="x", preset="nano", weights="y")
    settings = Settings(preset="mini", seed=0, weights="seed:0", prompts=prompted)
    assert compute.view_model_of(settings).config == lm.preset("nano")
    same = settings.model_copy(update={"prompts": PromptSettings(digest="x")})
    assert compute.view_model_of(same) is compute.method_of(same).model
    compute.forget_method()


def test_the_report_says_that_the_query_masks_were_tracked(take: Take, tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    assert track(take, out, file_of(tmp_path / "p.json", MARKED[0])).exit_code == 0
    found = Results.read(out)
    ious = []
    for frame in FRAMES[1:]:
        rle = found.query_rle("take_7", "cup", EGO, frame)
        assert rle is not None
        mask, true = decode_mask(rle), take.mask("cup", EGO, frame, benchmark_size)
        assert true is not None
        ious.append((mask & true).sum() / (mask | true).sum())
    assert ious[0] > 0.95  # the given mask itself
    report = tmp_path / "report"
    result = runner.invoke(app, ["evaluate", str(out), str(take.path), "--out", str(report)])
    assert result.exit_code == 0, result.output
    text = "The query masks of 1 of 1 takes were tracked from prompts, not given."
    mean = f"Their own IoU with the true ones is {100 * np.mean(ious):.2f} % (3 masks)."
    assert f"{text} {mean}" in " ".join(result.output.split())
    assert f"{text} {mean}" in (report / "report.html").read_text()
    data = json.loads((report / "report.json").read_text())["directions"]["ego-exo"]
    told = data["query_masks_tracked"]
    assert told == {"from": "prompts", "takes": ["take_7"], "masks": 3, "iou": told["iou"]}
    assert told["iou"] == pytest.approx(np.mean(ious), abs=1e-6)


def test_masks_that_were_given_are_not_called_tracked(take: Take, tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    arguments = ["track", str(take.path), "--out", str(out), *MINI, "--direction", "ego-exo"]
    assert runner.invoke(app, arguments).exit_code == 0
    assert "query_masks" not in out.read_text() and not Results.read(out).tracked("take_7")
    result = runner.invoke(app, ["evaluate", str(out), str(take.path), "--out", str(tmp_path)])
    assert "prompts" not in result.output
    data = json.loads((tmp_path / "report.json").read_text())["directions"]["ego-exo"]
    assert data["query_masks_tracked"] is None


def test_what_is_shown_in_the_query_view_is_what_was_tracked(take: Take, tmp_path: Path) -> None:
    out = tmp_path / "p.json"
    assert track(take, out, file_of(tmp_path / "prompts.json", *MARKED)).exit_code == 0
    results, told = Results.read(out), list[str]()
    predictions = ResultPredictions(results, "take_7", out, told.append)
    moments = take_moments(take, EGO, [EXO], ("cup",), predictions, told.append)
    shown = {moment.frame: moment.query.masks["cup"] for moment in moments}
    assert shown[0] is None  # the prompt comes later; the take's own mask is not drawn
    rle = results.query_rle("take_7", "cup", EGO, 30)
    assert rle is not None and shown[30] is not None and not told
    np.testing.assert_array_equal(shown[30], decode_mask(rle))
    own = take_moments(take, EGO, [EXO], ("cup",), NoPredictions(), told.append)
    assert next(iter(own)).query.masks["cup"] is not None
