"""The weights that come with the package: size, record, and the IoU they are recorded with."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

import lmeec_core as lm
from lmeec_core.training.bundle import FOLDER, LEAST, card, check_header, sample_scores, verdict
from lmeec_core.training.output import read_header, run_header

WEIGHTS = FOLDER / "nano.safetensors"
SAMPLE = Path(__file__).parents[1] / "data" / "sample_take"
RECORD = json.loads((FOLDER / "nano.json").read_text())


def test_they_are_small_and_the_recorded_ones() -> None:
    bundled = lm.bundled_weights("nano")
    assert bundled is not None and bundled.resolve() == WEIGHTS
    data = WEIGHTS.read_bytes()
    assert len(data) == RECORD["bytes"] <= 12e6
    assert hashlib.sha256(data).hexdigest() == RECORD["sha256"]
    model = lm.load_model()  # nothing named: these
    assert sum(p.numel() for p in model.parameters()) == RECORD["parameters"] <= 6e6
    assert model.config == lm.preset("nano")


def test_weights_record_and_card_tell_of_one_run(tmp_path: Path) -> None:
    run = RECORD["run"]
    check_header(WEIGHTS, run)
    text = (FOLDER / "nano.md").read_text()
    assert f"{run['minutes']:.1f} minutes, {run['steps']} steps" in text
    assert read_header(WEIGHTS)["preset"] == "nano" and run["steps"] > 0
    with pytest.raises(lm.InputError, match=r"run of 1339 steps in 4.60 .* metrics.json .* 7 in"):
        check_header(WEIGHTS, run | {"steps": 7})
    assert run_header(0, 0.0, WEIGHTS) == {"steps": "0", "minutes": "0.00", "before": "1339 steps"}
    assert run_header(5, 1.0, tmp_path / "old.pt")["before"] == "unknown steps"


def test_a_card_is_written_from_its_run_alone() -> None:
    run = RECORD["run"] | {"steps": 77, "settings": {"frames": 9, "start": None}}
    facts = {k: RECORD[k] for k in ("bytes", "parameters", "test scenes")} | {"baselines": ""}
    text = card(run, RECORD["scores"], facts)
    assert "4.6 minutes, 77 steps" in text and "scenes of 9 frames without a jump" in text
    assert "test scenes from seed 20000000" in text and "began with random weights" in text


def test_they_reach_their_recorded_iou_on_the_sample_take() -> None:
    recorded = RECORD["sample take"]["iou"]
    found = sample_scores(WEIGHTS, SAMPLE)
    assert found.keys() == recorded.keys()
    for direction, value in found.items():
        assert value == pytest.approx(recorded[direction], abs=0.02)


def test_the_model_card_has_the_recorded_scores() -> None:
    text = (FOLDER / "nano.md").read_text()
    test = RECORD["scores"]["test tracker"]["all"]
    for direction in ("ego_to_exo", "exo_to_ego"):
        assert f"{test[f'{direction} iou']:.3f}" in text
        assert f"{test[f'{direction} existence']:.3f}" in text


def test_weights_that_fall_short_are_called_interim_with_what_is_lacking() -> None:
    good = {f"{d} {k}": v for d in ("ego_to_exo", "exo_to_ego") for k, v in LEAST.items()}
    assert verdict(good) == ""
    text = verdict(good | {"exo_to_ego iou": 0.431})
    assert "interim" in text and "exo to ego IoU 0.431 of 0.50" in text
    assert "existence" not in text and text.endswith("\n\n")
    text = (FOLDER / "nano.md").read_text()
    assert ("interim" in text) == bool(verdict(RECORD["scores"]["test tracker"]["all"]))
