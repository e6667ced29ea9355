"""`lmeec bench --method`: times of other methods, and of omama's candidates."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from lmeec_core.bench import methods
from lmeec_core.bench.methods import MethodCase, measure_method, picture
from lmeec_core.cli.app import app
from lmeec_core.methods.candidates.regions import Regions

runner = CliRunner(env={"COLUMNS": "250", "NO_COLOR": "1", "TERM": "dumb"})


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small images, no warm-up."""
    monkeypatch.setattr(methods, "SIZE", (96, 128))
    monkeypatch.setattr(methods, "WARM_UP", 0)


def test_what_candidates_take_is_counted_as_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slower candidates lengthen their part and the step, for each target, and no other part."""
    made = Regions.__call__

    def slow(self: Regions, image: np.ndarray) -> np.ndarray:
        time.sleep(0.1)
        return made(self, image)

    monkeypatch.setattr(Regions, "__call__", slow)
    found = measure_method(MethodCase("omama", "nano", "cpu", 2, 2, 1))
    parts = {name: one["median"] for name, one in found["part_ms"].items()}
    assert list(parts) == ["features", "candidates", "rest"] and parts["candidates"] >= 200
    assert sum(parts.values()) == pytest.approx(found["step_ms"]["median"], abs=0.1)
    assert parts["features"] > 0 and 1 < found["candidates"] <= 100


def test_the_command_shows_and_writes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods, "SIZE", (96, 128))
    out = tmp_path / "bench.json"
    command = ["bench", "--method", "omama", "--method", "colour", "--objects", "2", "--steps", "1"]
    done = runner.invoke(app, [*command, "--device", "cpu", "--json", str(out)])
    assert done.exit_code == 0, done.output
    omama, colour = json.loads(out.read_text())["results"]
    assert (omama["method"], omama["preset"], colour["method"]) == ("omama", "nano", "colour")
    assert "part_ms" not in colour and "preset" not in colour and colour["step_ms"]["median"] > 0
    row = next(line for line in done.output.splitlines() if "omama nano 2x1" in line)
    assert f"{omama['part_ms']['candidates']['median']:.1f}" in row


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--method", "omma"], "method 'omma' given, one of lmeec, omama"),
        (["--method", "omama", "--reference", "--engine", "eager"], "--engine, --reference given"),
        (["--method", "sift", "--candidates", "regions"], "none of the methods chooses among"),
        (["--method", "omama", "--candidates", "fast"], "'fast' given, regions or sam2 expected"),
        (["--candidates", "regions"], "--candidates given without --method omama"),
    ],
)
def test_what_does_not_belong_together_is_refused(options: list[str], text: str) -> None:
    done = runner.invoke(app, ["bench", "--device", "cpu", *options])
    assert done.exit_code == 1 and text in " ".join(done.output.split()), done.output


def test_a_picture_is_the_same_for_the_same_seed() -> None:
    assert np.array_equal(picture(1), picture(1)) and not np.array_equal(picture(1), picture(2))
    assert picture(1).shape == (*methods.SIZE, 3) and picture(1).dtype == np.uint8
