"""The curricula that fine-tune what follows the encoding of a view, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import lmeec_core as lm
from lmeec_core.training.distributed import Processes
from lmeec_core.training.loop import Trainer
from lmeec_core.training.monitor import Monitor
from lmeec_core.training.recipes import nano_run
from lmeec_core.training.recipes.nano import NanoRecipe
from lmeec_core.training.settings import TrainConfig, find_config, read_config
from lmeec_core.training.stages import CPU_CLIPS_STAGES, STAGES, Schedule
from lmeec_core.training.store import SceneStore

from .conftest import TINY_CONV
from .test_scene_clips import draw_scene

CPU = torch.device("cpu")


@pytest.mark.parametrize("fixed", [True, False])
def test_views_are_encoded_as_before_while_the_rest_learns(tmp_path: Path, fixed: bool) -> None:
    """Bit for bit, so that a head for clicks that reads them still fits; without it they change."""
    draw_scene(tmp_path / "train_00000000.npy", 0)
    store = SceneStore(tmp_path, 1)
    assert store.refresh() == 1
    stage = replace(CPU_CLIPS_STAGES[0], size=64, times=2, sought=2, fixed_views=fixed)
    schedule = Schedule((stage,), 0.0, rate=1e-2, bf16=False, steps=2)
    recipe = NanoRecipe(lm.ModelConfig.model_validate(TINY_CONV), schedule, store, CPU)
    model, image = recipe.model, torch.randn(1, 3, 64, 64)

    def encoded() -> dict[str, torch.Tensor]:
        with torch.no_grad():
            return vars(model.eval().encode_images(image))

    before, weights = encoded(), {n: p.detach().clone() for n, p in model.named_parameters()}
    Trainer(recipe, tmp_path / "run", Processes(0, 1, CPU)).run()
    changed = {name for name, value in encoded().items() if not torch.equal(value, before[name])}
    assert {"fine", "middle", "top_embedding"}.isdisjoint(changed) is fixed
    assert not (fixed and changed)
    learnt = {n for n, p in model.named_parameters() if not torch.equal(p, weights[n])}
    parts = {name.partition(".")[0] for name in learnt}
    assert {"memory_attention", "memory_encoder", "sam_mask_decoder", "MV_MoE"} <= parts
    assert "image_encoder" not in parts


@pytest.mark.parametrize("faster", [True, False])
def test_a_cpu_trains_in_the_faster_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faster: bool
) -> None:
    monkeypatch.setattr(nano_run, "bf16_is_faster", lambda device: faster)
    config = read_config(find_config("nano_sim"), ["start=bundled", "stages=cpu_pairs"])
    assert isinstance(config, TrainConfig)
    run = nano_run.SceneRun(config, tmp_path, tmp_path, CPU, Monitor())
    assert run.schedule.bf16 is faster
    assert all(stage.fixed_views and not stage.encoder_rate for stage in run.schedule.stages)


def test_every_curriculum_has_a_rate_and_an_average() -> None:
    assert set(nano_run.RATES) == set(nano_run.AVERAGES) == set(STAGES)
