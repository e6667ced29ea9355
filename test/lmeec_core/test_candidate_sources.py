"""Where omama's candidates and matchers come from: settings, files of other programs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from typer.testing import CliRunner

from lmeec_core.checkpoint import CheckpointError, load_model
from lmeec_core.cli.app import app
from lmeec_core.errors import InputError
from lmeec_core.methods import load_method, without_effect
from lmeec_core.methods.candidates.automatic import AutomaticMasks
from lmeec_core.methods.candidates.files import CandidateFile
from lmeec_core.methods.candidates.limits import CandidateLimits
from lmeec_core.methods.candidates.regions import Regions
from lmeec_core.methods.candidates.settings import CandidateSettings
from lmeec_core.methods.omama.features import EncoderFeatures
from lmeec_core.methods.omama.match import build
from lmeec_core.methods.omama.network import OMaMa
from lmeec_core.methods.omama.settings import OMaMaSettings
from lmeec_core.methods.omama.weights import read_matcher
from lmeec_core.offline.compute import track_take
from lmeec_core.offline.units import Settings, Unit
from lmeec_core.takes import Take, TakeError, encode_mask

CPU = torch.device("cpu")
SAMPLE = Path(__file__).parents[1] / "data" / "sample_take"
SIZE = (40, 60)


def squares() -> list[np.ndarray]:
    found = []
    for i in range(3):
        mask = np.zeros(SIZE, bool)
        mask[5 : 15 + 2 * i, 18 * i : 18 * i + 12] = True
        found.append(mask)
    return found


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_masks_of_another_program_are_read_in_their_order_and_limited(tmp_path: Path) -> None:
    masks = squares()
    path = write(
        tmp_path / "take.json",
        {"candidates": {"cam01": {"30": [encode_mask(m) for m in masks], "60": []}}},
    )
    limits = CandidateLimits(most=2)
    for given in (path, tmp_path):  # a folder holds a file for each take
        found = CandidateFile(given, "take", limits)
        read = found.masks("cam01", 30, SIZE)
        assert read is not None and np.array_equal(read, np.stack(masks[:2]))
        none = found.masks("cam01", 60, SIZE)
        assert none is not None and none.shape == (0, *SIZE)
        assert found.masks("cam01", 90, SIZE) is None and found.masks("cam02", 30, SIZE) is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "was expected"),
        ({"candidates": {"cam01": []}}, "was expected"),
        ({"candidates": {"cam01": {"30": "x"}}}, "cam01, frame 30: a list of masks"),
        ({"candidates": {"cam01": {"30": [{"size": [40]}]}}}, "frame 30, number 0: .*run lengths"),
        (
            {"candidates": {"cam01": {"30": [encode_mask(np.ones((60, 40), bool))]}}},
            "number 0: ",
        ),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path: Path, content: Any, message: str) -> None:
    path = write(tmp_path / "take.json", content)
    with pytest.raises(TakeError, match=rf"take\.json.*{message}"):
        CandidateFile(path, "take", CandidateLimits()).masks("cam01", 30, SIZE)


def test_sources_and_limits(golden_model: Callable[..., Any]) -> None:
    nano, other = load_model("nano", device="cpu"), golden_model("mini", 0.0)
    regions = CandidateSettings(most=7).generator(nano)
    assert isinstance(regions, Regions) and regions.limits.most == 7
    assert isinstance(CandidateSettings(source="regions").generator(other), Regions)
    assert isinstance(CandidateSettings().generator(other), AutomaticMasks)
    assert CandidateSettings(source="files", file="x").generator(nano) is None
    crops = CandidateSettings(source="sam2", crop_layers=2).generator(other)
    assert isinstance(crops, AutomaticMasks) and crops.crop_layers == 2
    for source, text in (("auto", "is regions with this network"), ("topic", "'topic' given")):
        with pytest.raises(InputError, match=f"crop_layers 2 given, which only sam2 .*{text}"):
            CandidateSettings(source=source, crop_layers=2).generator(nano)
    for settings, message in [
        ({"source": "sam2"}, "does not accept points"),
        ({"source": "files"}, "a file with 'files'"),
        ({"file": "x"}, "none with other sources"),
    ]:  # fmt: skip
        with pytest.raises(InputError, match=message):
            CandidateSettings(**settings).generator(nano)
    with pytest.raises(ValidationError):
        CandidateSettings(most=0)
    assert without_effect("omama", ["candidates.most", "omama.matcher"]) is None
    assert "candidates.most" in str(without_effect("sift", ["candidates.most"]))


def test_the_true_masks_as_candidates_are_found_and_missing_ones_named(tmp_path: Path) -> None:
    """Tracking a take with a file of candidates, which lacks a frame."""
    take = Take.open(SAMPLE)
    query, target, names = take.ego, take.exos[0], take.objects[:3]
    frames = take.common_frames(query, target)[:2]
    listed = [
        encode_mask(mask) for name in names
        if (mask := take.mask(name, target, frames[0])) is not None
    ]  # fmt: skip
    path = write(tmp_path / "own.json", {"candidates": {target: {str(frames[0]): listed}}})
    settings = Settings(
        method="omama", candidates=CandidateSettings(source="files", file=str(path))
    )
    unit = Unit(
        kind="take", source=str(SAMPLE), take=SAMPLE.name, query=query, target=target,
        direction="ego-exo", objects=tuple(names), frames=len(frames), inputs="",
    )  # fmt: skip
    problems: list[str] = []
    records = track_take(unit, settings, problems)
    first, _ = next(records), next(records)
    shown = [one for one in first.objects if one.presence > 0]
    assert shown and {one.object_id for one in shown} == {
        one.object_id
        for one in first.objects
        if take.mask(one.object_id, query, frames[0]) is not None
    }
    assert any(f"{target}, frame {frames[1]}: no candidates" in one for one in problems)
    assert not any(f"frame {frames[0]}:" in one for one in problems)


def test_matchers_know_their_features_and_their_direction(tmp_path: Path) -> None:
    features = EncoderFeatures(load_model("nano", device="cpu"))
    model = OMaMa(features.layout(True))
    path = tmp_path / "matcher.safetensors"
    facts = {"features": "nano", "fingerprint": features.fingerprint, "direction": "exo-ego",
             "none": "True"}  # fmt: skip
    save_file(model.state_dict(), path, facts)
    found = read_matcher(path, features, CPU)
    assert found.reverse is True and found.presence[0] == pytest.approx(1 / 0.07)
    method = load_method("omama", device="cpu", omama=OMaMaSettings(matcher=str(path)))
    with pytest.raises(CheckpointError, match="'aria01' needs one for ego to exo"):
        method.tracker("aria01", ["cam01"])
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    mask = np.zeros((64, 64), bool)
    mask[20:40, 20:40] = True
    step = method.tracker("cam01", ["aria01"]).step({"cam01": image, "aria01": image}, {"a": mask})
    assert -1 <= step["aria01"]["a"].similarity <= 1
    save_file(model.state_dict(), path, facts | {"fingerprint": "other"})
    with pytest.raises(CheckpointError, match="trained with other features"):
        read_matcher(path, features, CPU)
    released = tmp_path / "released.pt"
    torch.save(build(True).state_dict(), released)
    with pytest.raises(CheckpointError, match="features of 768 channels"):
        read_matcher(released, features, CPU)


def test_a_look_is_remembered_and_forgotten() -> None:
    """With `follow` the look in the target view decides where the query view cannot."""
    image = np.full((96, 96, 3), 60, np.uint8)
    image[20:50, 20:50] = (220, 30, 30)
    mask = np.zeros((96, 96), bool)
    mask[20:50, 20:50] = True
    tracker = load_method("omama", device="cpu", omama=OMaMaSettings(follow=True)).tracker(
        "aria01", ["cam01"]
    )
    for _ in range(2):
        found = tracker.step({"aria01": image, "cam01": image}, {"cup": mask})
    assert found["cam01"]["cup"].visible() and list(tracker._looks) == [("cam01", "cup")]
    assert tracker._looks["cam01", "cup"][1] == 2
    tracker.forget("cup")
    assert not tracker._looks


def test_candidates_of_a_file_need_the_query_masks_of_the_take(tmp_path: Path) -> None:
    path = write(tmp_path / "own.json", {"candidates": {}})
    command = ["track", str(SAMPLE), "--method", "omama", "--candidates", str(path),
               "--cycle-check", "--out", str(tmp_path / "out.json")]  # fmt: skip
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1 and "with prompts or a cycle check" in " ".join(
        result.output.split()
    )
    assert not (tmp_path / "out.json").exists()
