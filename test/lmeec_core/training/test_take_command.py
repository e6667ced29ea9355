"""`lmeec train` on takes: settings, start weights, files, messages."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner

import lmeec_core as lm
from lmeec_core.checkpoint import MV_MOE_PREFIX
from lmeec_core.cli.app import app
from lmeec_core.training.monitor import Monitor
from lmeec_core.training.recipes.egoexo4d import start_model
from lmeec_core.training.settings import (
    CONFIGS,
    TakeTrainConfig,
    TrainConfig,
    find_config,
    read_config,
)

Settings = Callable[..., TakeTrainConfig]
runner = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})
GIVEN = ["data=/somewhere"]


def train(work: Path, settings: TakeTrainConfig, *options: str) -> Any:
    path = work.parent / "settings.yaml"
    path.write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    return runner.invoke(app, ["train", str(work), "--config", str(path), *options])


# -- a run -------------------------------------------------------------------------------------


def test_a_run_leaves_weights_curve_and_pictures(settings: Settings, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    work = tmp_path / "run"
    chosen = settings(conv=True, steps=2, val_takes=1, validate_steps=2, tensorboard=True)
    result = train(work, chosen)
    assert result.exit_code == 0, result.output
    for text in ("training starts from random weights", "val takes", "ego to exo",
                 "0 of 4 clips could not be read", "mini.safetensors"):  # fmt: skip
        assert text in result.output
    content = json.loads((work / "out" / "metrics.json").read_text())
    assert content["steps"] == 2 and content["settings"]["recipe"] == "takes"
    assert [r["step"] for r in content["history"]] == [1, 2, 2]
    assert content["history"][-1]["eval exo-ego frames"] == 10
    network = lm.load_model(chosen.network(), work / "out" / "mini.safetensors", "cpu")
    trained = torch.load(work / "checkpoint.pt", weights_only=True)["model"]
    assert all(torch.equal(v, trained[n]) for n, v in network.state_dict().items())
    events = EventAccumulator(str(work / "tensorboard"))
    events.Reload()
    assert [e.step for e in events.Scalars("train/focal loss")] == [1, 2]
    assert "validation/ego-exo iou" in events.Tags()["scalars"]
    assert events.Tags()["images"] == ["validation"]

    again = train(work, chosen)  # done: shows the same, trains no further
    assert again.exit_code == 0 and "ego to exo" in again.output
    assert json.loads((work / "out" / "metrics.json").read_text())["steps"] == 2
    other = train(work, chosen, "--set", "rate=0.5")
    assert other.exit_code == 2 and "rate 0.001 (now 0.5)" in other.output


def test_broken_data_ends_with_a_message(settings: Settings, data: Path, tmp_path: Path) -> None:
    for path in (data / "train").iterdir():
        (path / "annotation.json").write_text("{")
    result = train(tmp_path / "run", settings())
    assert result.exit_code == 2 and "could not be read" in result.output
    assert "annotation.json: is not valid JSON" in result.output
    result = train(tmp_path / "other", settings(train_split="absent"))
    assert result.exit_code == 2 and "absent: no such folder" in result.output


# -- weights to start from ---------------------------------------------------------------------


def test_start_from_sam(settings: Settings, tmp_path: Path) -> None:
    """A checkpoint without MV-MoE: those weights are new, all others are the file's."""
    first = start_model(settings(seed=1), Monitor())
    state = {n: v for n, v in first.state_dict().items() if not n.startswith(MV_MOE_PREFIX)}
    torch.save({"model": state}, tmp_path / "sam.pt")
    model = start_model(settings(seed=2, checkpoint=str(tmp_path / "sam.pt")), Monitor())
    fresh = [n for n, v in model.state_dict().items() if not torch.equal(v, first.state_dict()[n])]
    assert fresh and all(n.startswith(MV_MOE_PREFIX) for n in fresh)


def test_start_from_what_does_not_fit(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(lm.CheckpointError, match="no such file"):
        start_model(settings(checkpoint=str(tmp_path / "gone.pt")), Monitor())
    torch.save({"a": torch.zeros(1)}, tmp_path / "wrong.pt")
    with pytest.raises(lm.CheckpointError, match="does not fit"):
        start_model(settings(checkpoint=str(tmp_path / "wrong.pt")), Monitor())


def test_start_from_the_bundled_weights(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They fit the preset at any image size, and no changed network."""
    from safetensors.torch import save_file

    from lmeec_core import checkpoint

    monkeypatch.setattr(checkpoint, "_WEIGHTS", tmp_path)
    torch.manual_seed(5)
    brought = lm.build_model(lm.preset("nano")).state_dict()
    save_file({n: v.half() if v.is_floating_point() else v for n, v in brought.items()},
              tmp_path / "nano.safetensors")  # fmt: skip
    model = start_model(settings(preset="nano", model={"image_size": 64}), Monitor())
    name = "sam_mask_decoder.conv_s0.weight"
    assert torch.equal(model.state_dict()[name], brought[name].half().float())
    small = start_model(settings(preset="nano", model={"memory_layers": 1}), Monitor())
    assert not torch.equal(small.state_dict()[name], brought[name].half().float())


# -- settings ----------------------------------------------------------------------------------


def test_the_recipe_is_the_papers() -> None:
    """Section 4.3 and SAM 2.1's training configuration."""
    found = read_config(find_config("egoexo4d"), GIVEN)
    assert isinstance(found, TakeTrainConfig)
    assert (found.frames, found.objects, found.epochs, found.capacity) == (8, 3, 60, 6)
    assert (found.rate, found.encoder_rate, found.floor) == (5e-6, 3e-6, 0.1)
    assert (found.layer_decay, found.weight_decay, found.clip) == (0.9, 0.1, 0.1)
    assert tuple(found.loss.model_dump().values()) == (20, 1, 1, 1) and found.bf16
    assert found.augment is not None
    assert (found.augment.flip, found.augment.degrees, found.augment.shear) == (0.5, 25, 20)
    assert found.augment.grey == 0.05 and found.fusion == "mv_moe"
    assert found.network() == lm.preset("base_plus") and found.network().image_size == 480


def test_the_file_names_every_setting() -> None:
    content = yaml.safe_load((CONFIGS / "egoexo4d.yaml").read_text())
    assert set(content) == set(TakeTrainConfig.model_fields)
    assert read_config(CONFIGS / "egoexo4d.yaml", GIVEN) == TakeTrainConfig(
        recipe="takes", data="/somewhere"
    )


def test_nested_changes() -> None:
    changes = ["loss.focal=10", "model.image_size=320", "augment.flip=0", "augment.degrees=5"]
    found = read_config(find_config("egoexo4d"), [*GIVEN, *changes])
    assert isinstance(found, TakeTrainConfig) and found.augment is not None
    assert (found.loss.focal, found.loss.dice) == (10, 1)
    assert found.network().image_size == 320
    assert (found.augment.flip, found.augment.degrees, found.augment.shear) == (0, 5, 20)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("batch=0", "batch: .*greater than or equal to 1.*0 given"),
        ("minutes=3", "minutes: Extra inputs"),
        ("loss.focus=3", "loss.focus: Extra inputs"),
        ("data=null", "data: .*--set data=/path"),
        ("recipe=paper", "recipe: 'paper' given, one of omama, simulation, takes"),
    ],
)
def test_bad_settings_are_named(change: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_config(find_config("egoexo4d"), [*GIVEN, change])


def test_networks_that_do_not_exist(settings: Settings) -> None:
    with pytest.raises(ValueError, match="preset: 'mega' given"):
        settings(preset="mega").network()
    with pytest.raises(ValueError, match="image_size: 100 given"):
        settings(model={"image_size": 100}).network()


def test_the_recipe_decides_the_class(tmp_path: Path) -> None:
    assert isinstance(read_config(find_config("nano_sim")), TrainConfig)
    (tmp_path / "old.yaml").write_text("minutes: 3")
    assert isinstance(read_config(tmp_path / "old.yaml"), TrainConfig)


def test_help_covers_both_recipes() -> None:
    text = runner.invoke(app, ["train", "--help"]).output
    for word in ("nano_sim.yaml", "egoexo4d.yaml", "torchrun", "sam2.1_hiera_base_plus.pt"):
        assert word in text
