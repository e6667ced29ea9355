"""`lmeec track --prompts` on bags: the same as on the take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from lmeec_core.bags.take_bags import bag_from_take, stamp_of_frame
from lmeec_core.cli.app import app
from lmeec_core.prompts import PlacedPrompt, Prompt, Prompts, write_prompts
from lmeec_core.takes import Results, Take, TakeWriter

runner = CliRunner(env={"COLUMNS": "250", "NO_COLOR": "1", "TERM": "dumb"})
MINI = ["--preset", "mini", "--seed", "0", "--device", "cpu", "--workers", "1", "--engine", "eager"]
FRAMES = (0, 30, 60, 90)
EGO, EXO = "aria01", "cam-1"


@pytest.fixture(scope="module")
def take(tmp_path_factory: pytest.TempPathFactory) -> Take:
    path = tmp_path_factory.mktemp("takes") / "take_7"
    rng = np.random.default_rng(0)
    mask = np.zeros((60, 80), bool)
    mask[10:45, 10:40] = True
    with TakeWriter(path) as writer:
        for frame in FRAMES:
            for camera in (EGO, EXO, "cam-2"):
                coarse = rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)
                writer.image(camera, frame, cv2.resize(coarse, (80, 60)))
            writer.mask("cup", EGO, frame, mask)
    return Take.open(path)


@pytest.fixture(scope="module")
def bag(take: Take, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bags") / "input"
    bag_from_take(take, path)
    return path


def mark(name: str, camera: str = EGO, x: float = 30, **place: int) -> PlacedPrompt:
    return PlacedPrompt(camera, Prompt(name, ((x, 30.0),), (1,)), **place)


def track(source: Path, out: Path, prompts: Prompts) -> Any:
    file = out.with_suffix(".prompts")
    write_prompts(file, prompts)
    return runner.invoke(
        app, ["track", str(source), "--out", str(out), "--prompts", str(file), *MINI]
    )


def content(path: Path, direction: str, frames: tuple[int, ...]) -> dict[str, Any]:
    """Masks and confidences by place; the query masks, too."""
    results = Results.read(path, direction)
    found: dict[str, Any] = {
        str(place): (one.rle, round(one.confidence, 5))
        for place in results.places()
        if place[3] in frames and (one := results.at(*place))
    }
    for place in results.query_places("take_7"):
        found[str(place)] = results.query_rle("take_7", *place)
    return found


def test_a_take_and_its_bag_give_the_same_predictions(
    take: Take, bag: Path, tmp_path: Path
) -> None:
    """The mug moves to another query camera on frame 90; one prompt has a stamp in the bag."""
    ours, theirs = tmp_path / "take.json", tmp_path / "bag.json"
    later = (mark("cup", frame=60, x=20), mark("mug", EXO, frame=90))
    stamped = mark("mug", stamp=stamp_of_frame(30))
    result = track(take.path, ours, Prompts("take_7", (mark("mug", frame=30), *later)))
    assert result.exit_code == 0, result.output
    result = track(bag, theirs, Prompts("take_7", (stamped, *later)))
    assert result.exit_code == 0, result.output
    found, expected = content(theirs, "ego-exo", (30, 60)), content(ours, "ego-exo", (30, 60))
    assert {k: v for k, v in found.items() if k in expected} == expected
    assert f"('take_7', 'mug', '{EGO}_cam-2', 60)" in expected
    assert f"('mug', '{EGO}', 30)" in found
    back = content(theirs, "exo-ego", (90,)), content(ours, "exo-ego", (90,))
    assert back[0] == back[1] and f"('take_7', 'mug', '{EXO}_{EGO}', 90)" in back[0]


def test_prompts_that_cannot_be_used_are_named(bag: Path, tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    good = mark("cup", frame=30)
    bad = {
        mark("mug", "cam-9", frame=30): "unknown camera; 'aria01', 'cam-1', 'cam-2' expected",
        mark("mug", frame=31): "no set has this image",
        mark("mug", stamp=1): "no set has this image",
        mark("mug", frame=30, x=99): "within the image of 80 x 60",
    }
    result = track(bag, out, Prompts(None, (good, *bad)))
    assert result.exit_code == 1, result.output
    for one, text in bad.items():
        told = [line for line in result.output.splitlines() if f"{one}: " in line]
        assert told and text in told[-1], result.output
    assert {place[0] for place in Results.read(out).query_places("take_7")} == {"cup"}
    other = track(bag, out, Prompts("take_8", (good,)))
    assert other.exit_code == 1 and "prompts for 'take_8' given" in other.output


def test_the_cycle_check_works_on_bags(bag: Path, tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    command = ["track", str(bag), "--out", str(out), *MINI]
    assert runner.invoke(app, command).exit_code == 0
    plain = [one.confidence for one in Results.read(out).predictions()]
    result = runner.invoke(app, [*command, "--cycle-check"])
    assert result.exit_code == 0 and "cycle_check was None, is now True" in result.output
    checked = [one.confidence for one in Results.read(out).predictions()]
    assert len(checked) == len(plain)
    assert all(one <= other + 1e-5 for one, other in zip(checked, plain, strict=True))
