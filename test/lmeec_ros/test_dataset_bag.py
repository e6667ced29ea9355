"""Datasets made from bags: the same as from the take, and as LeRobot itself reads them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from lmeec_core.cli.app import app
from lmeec_core.takes import Results, Take, TakeWriter, write_results

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "test" / "data" / "sample_take"
OBJECTS = ("camera_1", "pail_1")
runner = CliRunner(env={"COLUMNS": "250", "NO_COLOR": "1", "TERM": "dumb"})


def run(*arguments: object, code: int = 0) -> str:
    result = runner.invoke(app, list(map(str, arguments)))
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Eight frames of the sample take, a bag of them, and a result file with the true masks."""
    folder, sample = tmp_path_factory.mktemp("recorded"), Take.open(SAMPLE)
    found = Results("ego-exo")
    with TakeWriter(folder / "take") as writer:
        for name in OBJECTS:
            writer.add_object(name)
        for frame in sample.frames("aria01")[:8]:
            for camera in sample.cameras:
                writer.image(camera, frame, sample.image_bytes(camera, frame))
                for name in OBJECTS:
                    mask = sample.mask(name, camera, frame)
                    if mask is not None:
                        writer.mask(name, camera, frame, mask)
                    if camera != "aria01":
                        shown = np.zeros((320, 320), bool) if mask is None else mask
                        found.add("take", name, "aria01", camera, frame, shown, 0.75)
    write_results(folder / "found.json", found)
    run("bag", folder / "take", folder / "bag")
    return folder / "take", folder / "bag", folder / "found.json"


def test_a_bag_gives_the_dataset_of_its_take(
    recorded: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    take, bag, found = recorded
    run("dataset", take, found, "--out", tmp_path / "a", "--task", "tidy up")
    run("dataset", bag, found, "--out", tmp_path / "b", "--task", "tidy up")
    files = [
        path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*") if path.is_file()
    ]
    assert sorted(path.suffix for path in files) == [".json"] * 5 + [".mp4"] * 3 + [".parquet"] * 3
    for path in files:
        if path.name != "provenance.json":  # names the source
            assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes()
    said = run("dataset", bag, "--out", tmp_path / "c", code=1)
    assert "camera cam01 has no masks" in said


@pytest.mark.slow
def test_lerobot_loads_a_bags_dataset_and_trains_on_it(
    recorded: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    python = os.environ.get("LMEEC_LEROBOT")
    if python is None:
        pytest.skip("LeRobot is not installed; `make test-lerobot` does that")
    take, bag, found = recorded
    run("dataset", bag, take, found, "--out", tmp_path / "set")
    own = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf"), "OMP_NUM_THREADS": "1"}
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | own
    command = [python, str(ROOT / ".ci" / "lerobot_check.py"), str(tmp_path / "set")]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-4000:]
    assert "2 episodes, 16 frames, 3 cameras; one step of ACT" in result.stdout
    print(result.stdout)
