"""Simulated takes and shards on disk, and the processes that make them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from lmeec_core.cli.simulate import simulate_command
from lmeec_core.jobs import run_jobs
from lmeec_core.simulation import level, training_config
from lmeec_core.simulation.descriptions import COLOURS, describe
from lmeec_core.simulation.generate import generate_takes, take_name
from lmeec_core.simulation.objects import draw_object
from lmeec_core.simulation.render import render_scene
from lmeec_core.simulation.shapes import TRAINING_KINDS, kinds
from lmeec_core.simulation.shards import read_shard, render_many, shard_path
from lmeec_core.takes import Take, TakeError, read_split

CONFIG = level("easy")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three takes, made by two processes."""
    root = tmp_path_factory.mktemp("simulated") / "sim"
    counts = {"train": 1, "val": 1, "test": 1}
    results = list(generate_takes(root, CONFIG, counts, frames=6, size=96, first_seed=4, workers=2))
    assert [r.error for r in results] == [None] * 3
    return root


def test_a_dataset_has_the_layout_of_the_benchmark(dataset: Path) -> None:
    for split in ("train", "val", "test"):
        names = read_split(dataset / "split.json", split)
        assert names == (take_name(split, 4),)
        take = Take.open(dataset / split / names[0])
        assert take.cameras == ("aria01", "cam01", "cam02") and take.ego == "aria01"
        assert list(take.subsample_idx) == [0, 30, 60, 90, 120, 150]
        assert take.common_frames(*take.cameras) == (0, 30, 60, 90, 120, 150)
        shown = 0
        for name in take.objects:
            for camera in take.cameras:
                for frame in take.mask_frames(name, camera):
                    mask = take.mask(name, camera, frame)
                    assert mask is not None and mask.shape == (96, 96) and mask.any()
                    shown += 1
        assert shown > 10
        assert take.image("cam02", 90).shape == (96, 96, 3)


def test_a_take_says_what_its_objects_look_like(dataset: Path, tmp_path: Path) -> None:
    take = Take.open(dataset / "val" / take_name("val", 4))
    found = take.descriptions
    facts = take.annotation["simulation"]
    assert set(found) == set(facts["kinds"])
    for name, text in found.items():
        kind = facts["kinds"][name]
        assert kind in text.split() or kind == "turned"
        assert set(text.split()) & set(COLOURS) and text.split()[0] in ("a", "an")
    given = dict(take.annotation)
    for wrong, message in (
        ({"mugg": "a mug"}, "no object 'mugg' is annotated"),
        ({next(iter(found)): 3}, '{object: "text"} was expected'),
        (["a mug"], '{object: "text"} was expected'),
    ):
        (tmp_path / "annotation.json").write_text(json.dumps({**given, "descriptions": wrong}))
        with pytest.raises(TakeError, match=message):
            _ = Take.open(tmp_path).descriptions


@pytest.mark.parametrize(
    ("family", "rgb", "text"),
    [
        ("plain", [(220, 20, 20), (220, 20, 20)], "a red mug"),
        ("plain", [(250, 250, 250), (250, 250, 250)], "a white mug"),
        ("checker", [(10, 10, 10), (30, 60, 230)], "a (black and blue|blue and black) chequered"),
        ("stripes", [(240, 150, 20), (240, 150, 20)], "an orange striped mug"),
    ],
)
def test_a_description_names_the_colours_that_one_sees(
    family: str, rgb: list[tuple[int, int, int]], text: str
) -> None:
    drawn = draw_object(np.random.default_rng(0), "mug", "train")
    colours = np.array([*rgb, rgb[0], rgb[1]], float)
    assert re.match(text, describe(replace(drawn, family=family, colours=colours)))


def test_masks_on_disk_are_the_rendered_ones_and_do_not_overlap(dataset: Path) -> None:
    take = Take.open(dataset / "train" / take_name("train", 4))
    count = np.zeros((96, 96), int)
    for name in take.objects:
        mask = take.mask(name, "cam01", 60)
        count += 0 if mask is None else mask
    assert count.max() == 1


def test_the_manifest_says_how_it_was_made(dataset: Path) -> None:
    manifest = json.loads((dataset / "manifest.json").read_text())
    assert manifest["simulated"] is True and manifest["recipe"]["size"] == 96
    assert manifest["recipe"]["config"]["level"] == "easy"
    assert set(manifest["held_out_kinds"]) == set(kinds("test"))
    takes = manifest["takes"]
    assert takes["sim_test_000004"]["seed"] == 4
    assert set(takes["sim_test_000004"]["kinds"].values()) <= set(kinds("test"))
    assert set(takes["sim_train_000004"]["kinds"].values()) <= set(TRAINING_KINDS)


def test_a_second_run_keeps_what_is_there_and_clears_what_is_half_done(dataset: Path) -> None:
    kept = dataset / "train" / take_name("train", 4) / "annotation.json"
    before = kept.stat().st_mtime_ns
    half = dataset / "train" / ".sim_train_000005.99.partial"
    half.mkdir()
    made = list(generate_takes(dataset, CONFIG, {"train": 2}, frames=6, size=96, first_seed=4))
    assert [(r.job.seed, r.error) for r in made] == [(5, None)]
    assert kept.stat().st_mtime_ns == before and not half.exists()
    assert len(read_split(dataset / "split.json", "train")) == 2
    assert len(read_split(dataset / "split.json", "test")) == 1


def test_other_options_in_the_same_folder_are_refused(dataset: Path) -> None:
    with pytest.raises(ValueError, match="made with frames = 6, asked for is 7"):
        list(generate_takes(dataset, CONFIG, {"train": 1}, frames=7, size=96))


def test_the_command_reports_bad_input_and_makes_takes(dataset: Path) -> None:
    app = typer.Typer()
    app.command()(simulate_command)
    runner = CliRunner()
    wrong = runner.invoke(app, [str(dataset), "--frames", "9", "--size", "96"])
    assert wrong.exit_code == 2 and "made with config" in wrong.output
    wrong = runner.invoke(app, [str(dataset), "--moved", "3", "1"])
    assert wrong.exit_code == 2 and "moved is (3, 1)" in wrong.output
    options = "--train 0 --val 0 --test 1 --seed 4 --frames 6 --size 96 --level easy --workers 1"
    fine = runner.invoke(app, [str(dataset), *options.split()])
    assert fine.exit_code == 0, fine.output
    assert "0 takes made, 1 kept, 0 failed" in " ".join(fine.output.split())


def test_shards_hold_the_rendered_scene_and_are_kept(tmp_path: Path) -> None:
    config = training_config(1)
    options = {"frames": 4, "size": 64, "split": "train", "out_dir": tmp_path, "clip": 2}
    first = list(render_many([3, 9], config, workers=2, **options))
    assert sorted((r.job.seed, r.error) for r in first) == [(3, None), (9, None)]
    rgb, labels, meta = read_shard(shard_path(tmp_path, "train", 3))
    direct = render_scene(3, config, 4, 64, "train", clip=2)
    assert np.array_equal(rgb, direct.rgb) and np.array_equal(labels, direct.labels)
    assert meta["objects"] == direct.names and meta["steps"] == direct.steps
    second = list(render_many([3, 9, 10], config, workers=1, **options))
    assert [r.job.seed for r in second] == [10]
    assert not list(tmp_path.glob(".*"))
    with pytest.raises(ValueError, match="written with other options"):
        list(render_many([3], config, workers=1, **{**options, "size": 96}))


def test_a_seed_that_fails_is_reported_and_the_others_go_on(tmp_path: Path) -> None:
    results = list(render_many([1, -5, 2], training_config(1), 1, 64, "train", tmp_path, 1))
    errors = {r.job.seed: r.error for r in results}
    assert errors[1] is None and errors[2] is None
    assert errors[-5] is not None and "seed is -5" in errors[-5]


def test_jobs_that_crash_or_hang_do_not_stop_the_rest() -> None:
    hang, crash = "__import__('time').sleep(60)", "__import__('os')._exit(3)"
    jobs = ["1 + 1", crash, hang, "1 / 0", "2 + 2", "3 + 3"]
    results = {r.job: r for r in run_jobs(eval, jobs, workers=2, timeout=8)}
    assert set(results) == set(jobs)
    assert [results[j].value for j in ("1 + 1", "2 + 2", "3 + 3")] == [2, 4, 6]
    assert "exit code 3" in (results[crash].error or "")
    assert "timeout: longer than 8 s" in (results[hang].error or "")
    assert "ZeroDivisionError" in (results["1 / 0"].error or "")
    with pytest.raises(ValueError, match="workers is 0"):
        list(run_jobs(eval, jobs, workers=0))
