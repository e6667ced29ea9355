"""Scores of takes by the tracker: what is scored, pictures, broken takes, the table."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from lmeec_core.config import ModelConfig
from lmeec_core.networks import build_model
from lmeec_core.training.take_validation import Validation, scores_table, validate


def test_every_annotated_frame_is_scored_in_both_directions(
    network: ModelConfig, data: Path
) -> None:
    """Red is not in cam01 in the last three of six frames; blue is always in both."""
    found = validate(build_model(network), [data / "train" / f"take_{i}" for i in range(2)])
    assert not found.errors
    there, back = found.scores["ego-exo"], found.scores["exo-ego"]
    assert (there.frames, len(there.ious), there.missing) == (24, 18, 0)
    assert (back.frames, len(back.ious), back.missing) == (18, 18, 0)
    numbers = found.numbers()
    assert numbers["ego-exo frames"] == 24 and 0 <= numbers["exo-ego iou"] < 0.5
    assert len(found.tiles) == 4
    sheet = found.sheet()
    assert sheet is not None and sheet.shape[1] > 4 * 240 and sheet.shape[0] > 2 * 240


def test_broken_takes_are_named_and_the_rest_is_scored(
    network: ModelConfig, data: Path, draw: Callable[..., None]
) -> None:
    (data / "train" / "take_1" / "cam01" / "60.jpg").write_bytes(b"")
    takes = [data / "train" / "take_1", data / "train" / "gone", data / "val" / "take_9"]
    found = validate(build_model(network), takes)
    assert len(found.errors) == 2 and found.scores["ego-exo"].frames == 10
    assert "take_1/cam01/60.jpg" in found.errors[0] and "gone" in found.errors[1]


def test_nothing_scored() -> None:
    empty = Validation()
    assert empty.sheet() is None
    assert empty.numbers() == {"ego-exo frames": 0, "exo-ego frames": 0}


def test_table() -> None:
    numbers = {"ego-exo frames": 7.0, "ego-exo iou": 0.5125, "exo-ego frames": 0.0}
    numbers |= {"ego-exo location_error": 0.0625, "ego-exo contour_accuracy": 0.75,
                "ego-exo existence_balanced_accuracy": 0.875}  # fmt: skip
    console = Console(file=io.StringIO(), width=120)
    console.print(scores_table(numbers, "val takes"))
    text = console.file.getvalue()
    assert "val takes" in text and "official" in text
    row = next(line for line in text.splitlines() if "ego to exo" in line)
    assert [cell.strip() for cell in row.strip("│").split("│")] == [
        "ego to exo", "7", "0.512", "0.062", "0.750", "0.875"
    ]  # fmt: skip


@pytest.mark.parametrize("frames", [1, 5])
def test_short_takes(network: ModelConfig, tmp_path: Path, draw: Callable[..., None],
                     frames: int) -> None:  # fmt: skip
    draw(tmp_path / "short", frames)
    found = validate(build_model(network), [tmp_path / "short"])
    assert found.scores["ego-exo"].frames == 2 * frames and not found.errors
