"""Ablations: variants, statistics, a small run through the command line, and its resume."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from lmeec_core.checkpoint import seeded_model
from lmeec_core.cli.app import app
from lmeec_core.config import preset
from lmeec_core.experiments.ablation import report, statistics
from lmeec_core.experiments.ablation.fusion import FRESH, start_weights
from lmeec_core.experiments.ablation.units import Unit
from lmeec_core.experiments.ablation.variants import (
    LINES,
    REFERENCE,
    TABLES,
    Variant,
    variants_of,
)
from lmeec_core.training.output import export


def unit(take: str, ious: list[float], query: str = "aria01", **facts: Any) -> dict[str, Any]:
    """A scored unit as it lies on disk."""
    base = {"variant": "reference", "seed": None, "take": take, "query": query, "frames": 60}
    return base | facts | {"iou": ious, "location": ious, "contour": ious}


def test_banks_are_named_by_camera() -> None:
    no_ego = Variant("x", ego_bank=False)
    assert not no_ego.memory(query_is_ego=True).query_bank
    assert no_ego.memory(query_is_ego=True).target_bank
    assert no_ego.memory(query_is_ego=False).query_bank
    assert not no_ego.memory(query_is_ego=False).target_bank


def test_tables_share_the_reference_and_names_are_unique() -> None:
    variants = variants_of(TABLES)
    assert len({v.name for v in variants}) == len(variants) == len(set(variants))
    assert [t for t in TABLES if REFERENCE in {line.variant for line in LINES[t]}] == [
        "stores", "size", "compression", "length",
    ]  # fmt: skip


def test_takes_of_other_lengths_have_files_of_their_own(weights: Path, tmp_path: Path) -> None:
    files = {
        Unit(REFERENCE, weights, None, tmp_path / folder / "test" / "sim_test_300000", "aria01",
             ("cup_1",), 1, "cpu", tmp_path).file
        for folder in ("takes_120", "takes_400", "takes_700")
    }  # fmt: skip
    assert len(files) == 3  # the takes are called alike, their seed is the same


def test_the_mean_is_over_frames_and_the_interval_over_takes() -> None:
    units = [unit("a", [1.0, 1.0, 1.0]), unit("b", [0.0]), unit("b", [0.0], query="cam01")]
    found = statistics.estimate(units, "iou")
    assert found is not None
    assert (found.mean, found.takes, found.frames) == (pytest.approx(0.6), 2, 5)
    assert (found.low, found.high) == (0.0, 1.0)
    wide = statistics.estimate([unit(str(i), [i % 2]) for i in range(100)], "iou")
    assert wide is not None
    expected = 1.96 * 0.5 / np.sqrt(100)
    assert wide.high - wide.mean == pytest.approx(expected, rel=0.15)
    assert statistics.estimate([unit("a", [])], "iou") is None
    assert statistics.estimate([unit("a", [0.4, 0.6])], "association").mean == 0.5  # type: ignore[union-attr]


def test_differences_are_paired_by_take() -> None:
    mine = [unit("a", [0.5, 0.5]), unit("b", [0.9]), unit("alone", [0.0])]
    theirs = [unit("a", [0.4, 0.4]), unit("b", [0.8])]
    found = statistics.difference(mine, theirs, "iou")
    assert found is not None
    assert found.mean == pytest.approx(0.1) and found.takes == 2
    assert found.low == pytest.approx(0.1) and found.high == pytest.approx(0.1)


def test_spread_over_training_seeds() -> None:
    units = [unit("a", [0.2], seed=0), unit("a", [0.5], seed=1)]
    assert statistics.seed_spread(units, "iou") == (0.2, 0.5)
    assert statistics.seed_spread(units[:1], "iou") is None


def test_a_report_of_all_tables(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    results: Any = {}
    for table in TABLES:
        names = {line.variant.name for line in LINES[table]}
        results[table] = [
            unit(f"t{i}", rng.random(5).tolist(), variant=name, seed=i % 2, frames=frames)
            for name in names
            for i in range(3)
            for frames in ((100, 300, 700) if table == "length" else (60,))
        ]
    files = report.write(results, {"weights": "x"}, tmp_path)
    text = files[1].read_text()
    assert "0.5925 / 0.0198 / 0.8006" in text and "0.6150" in text
    assert text.count("| no exo bank |") == 1 and "3 takes only" in text
    content = json.loads(files[0].read_text())
    assert set(content["tables"]) == set(TABLES)
    assert files[2].read_bytes().startswith(b"\x89PNG")
    assert len(list(tmp_path.iterdir())) == 3


def run(work: Path, checkpoint: Path, *options: str) -> Any:
    sizes = ("--takes", "1", "--frames", "2", "--objects", "1", "--workers", "1")
    arguments = ["ablate", str(work), "--checkpoint", str(checkpoint), *sizes, *options]
    return CliRunner().invoke(app, arguments)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "nano.safetensors"
    export(seeded_model(preset("nano"), 0), path, {})
    return path


def test_a_small_run_and_its_resume(tmp_path: Path, weights: Path) -> None:
    result = run(tmp_path, weights, "--table", "stores")
    assert result.exit_code == 0, result.output
    units = sorted((tmp_path / "units").iterdir())
    assert len(units) == 6  # three variants, two query cameras
    before = {path: path.stat().st_mtime_ns for path in units}
    units[0].unlink()
    result = run(tmp_path, weights, "--table", "stores", "--table", "size")
    assert result.exit_code == 0, result.output
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "units").iterdir()}
    assert len(after) == 10 and all(after[p] == before[p] for p in units[1:])
    assert "Frames in each bank" in (tmp_path / "ablation.md").read_text()


@pytest.mark.slow
def test_fusion_variants_are_trained_alike(tmp_path: Path, weights: Path) -> None:
    """Each with its fusion and seed; what a variant does not use stays as it was drawn."""
    options = ("--table", "fusion", "--seeds", "2", "--steps", "1", "--scenes", "2")
    result = run(tmp_path, weights, *options)
    assert result.exit_code == 0, result.output
    trained = {f.parent.name: load_file(f) for f in tmp_path.glob("*/weights_1.safetensors")}
    assert sorted(trained) == ["add_0", "add_1", "mv_moe_0", "mv_moe_1", "none_0", "none_1"]
    # The tensors, not the files, whose metadata name the variant.
    used = [{n: t for n, t in one.items() if not n.startswith(FRESH)} for one in trained.values()]
    for one, other in combinations(used, 2):
        assert one.keys() == other.keys() and any(not torch.equal(one[n], other[n]) for n in one)
    for name, state in trained.items():
        drawn = start_weights(weights, int(name[-1]))
        fresh = [n for n in state if n.startswith(FRESH)]
        kept = all(torch.equal(state[n], drawn[n].to(state[n].dtype)) for n in fresh)
        assert fresh and kept == (not name.startswith("mv_moe")), name
    assert " to " in (tmp_path / "ablation.md").read_text()


@pytest.mark.parametrize(
    ("options", "text"),
    [(("--table", "colour"), "expected one of fusion"), (("--takes", "0"), "greater than")],
)
def test_wrong_options(tmp_path: Path, weights: Path, options: tuple[str, ...], text: str) -> None:
    result = run(tmp_path, weights, *options)
    assert result.exit_code == 2 and text in result.output


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    result = run(tmp_path, tmp_path / "none.safetensors")
    assert result.exit_code == 2 and "none.safetensors: no such file" in result.output
