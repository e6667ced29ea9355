"""Datasets made from bags: the same as from the take, and as LeRobot itself reads them."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from lmeec_core.bags.bag import MASKS_TYPE, BagReader, BagWriter
from lmeec_core.bags.mask_messages import BAG
from lmeec_core.bags.take_bags import (
    RecordingInfo,
    bag_from_take,
    node_parameters,
    stamp_of_frame,
)
from lmeec_core.cli.app import app
from lmeec_core.prompts import PlacedPrompt, Prompt
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


def test_a_bag_is_calibrated_by_its_parameter_file(
    recorded: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    _, bag, found = recorded
    with BagReader(bag) as opened:
        info = RecordingInfo.read(opened)
    assert info is not None
    values = node_parameters(info)
    values["geometry"] = {"calibration": str(tmp_path / "cameras.yaml")}
    (tmp_path / "my.yaml").write_text(yaml.safe_dump({"lmeec": {"ros__parameters": values}}))
    sample = Take.open(SAMPLE)
    cameras = {}
    for number, name in enumerate(sample.cameras):
        height, width = sample.image(name, sample.frames(name)[0]).shape[:2]
        cameras[name] = {
            "width": width, "height": height, "k": [400, 0, width / 2, 0, 400, height / 2, 0, 0, 1],
            "position": [number, 0, 0], "orientation": [0, 0, 0, 1],
        }  # fmt: skip
    (tmp_path / "cameras.yaml").write_text(yaml.safe_dump({"frame": "table", "cameras": cameras}))
    command = ("dataset", bag, found, "--params", tmp_path / "my.yaml", "--format", "webdataset")
    run(*command, "--out", tmp_path / "set")
    written = json.loads((tmp_path / "set/cameras.json").read_text())
    assert written["frame"] == "table"
    poses = [one["pose"]["position"][0] for one in written["cameras"].values()]
    assert poses == list(range(len(sample.cameras)))


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A take without annotations, a bag of it without query masks, and what was found of a mug that
    was marked: 8 pixels farther right with each frame, in aria01 from frame 30 on."""
    folder, found = tmp_path_factory.mktemp("marked"), Results("ego-exo")
    with TakeWriter(folder / "take") as writer:
        writer.add_object("cup")
        for number, frame in enumerate(MARKED):
            for camera in ("aria01", "cam01"):
                image = np.full((60, 80, 3), 40 + 20 * number, np.uint8)
                writer.image(camera, frame, image)
            if frame >= 30:
                found.add_query("take", "mug", "aria01", frame, mug(number, 10), 0.9)
            found.add("take", "mug", "aria01", "cam01", frame, mug(number, 30), 0.8)
    write_results(folder / "found.json", found)
    click = PlacedPrompt("aria01", Prompt("cup", ((18.0, 20.0),), (1,)), frame=30)
    bag_from_take(Take.open(folder / "take"), folder / "bag", prompts=[click])
    return folder / "take", folder / "bag", folder / "found.json"


MARKED = (0, 30, 60)


def mug(number: int, top: int) -> np.ndarray:
    mask = np.zeros((60, 80), bool)
    mask[top : top + 20, 8 * number : 8 * number + 20] = True
    return mask


def test_marked_objects_are_in_the_dataset_of_a_take_and_of_its_bag(
    marked: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    import h5py

    take, bag, found = marked
    for name, source in (("take", take), ("bag", bag)):
        run("dataset", source, found, "--out", tmp_path / name, "--format", "hdf5", "--object",
            "mug")  # fmt: skip
        with h5py.File(tmp_path / name / "data.hdf5") as file:
            assert json.loads(file["data"].attrs["objects"]) == ["mug"]
            obs = file["data/demo_0/obs"]
            for camera, top, first in (("aria01", 10, 1), ("cam01", 30, 0)):
                masks = obs[f"{camera}_mask_0"][:]
                expected = np.stack([mug(number, top) for number in range(3)])
                expected[:first] = False
                assert np.array_equal(masks, expected), (name, camera)
                assert obs[f"{camera}_visible"][:, 0].tolist() == [first == 0, True, True]


def test_masks_that_a_node_published_of_marked_objects(
    marked: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    """The node publishes those of the query camera, too, where objects are marked."""
    import h5py

    _, bag, _ = marked
    with BagWriter(tmp_path / "masks") as masks:
        for camera in ("aria01", "cam01"):
            masks.add_topic(f"/lmeec/{camera}/masks", MASKS_TYPE)
        for number, frame in enumerate(MARKED):
            stamp = stamp_of_frame(frame)
            for camera, top in (("aria01", 10), ("cam01", 30)):
                own = BAG.header(stamp, camera)
                entry = BAG.mask("mug", 1, mug(number, top), own, 0.9, 0.8)
                message = BAG.masks(own, own, ("aria01", camera), (60, 80), [entry])
                masks.write(f"/lmeec/{camera}/masks", stamp, message)
    run("dataset", bag, tmp_path / "masks", "--out", tmp_path / "set", "--format", "hdf5")
    with h5py.File(tmp_path / "set/data.hdf5") as file:
        for camera, top in (("aria01", 10), ("cam01", 30)):
            expected = np.stack([mug(number, top) for number in range(3)])
            assert np.array_equal(file[f"data/demo_0/obs/{camera}_mask_0"][:], expected)


def test_a_bag_without_query_masks_and_without_marked_objects_is_refused(
    marked: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    _, bag, _ = marked
    given = Results("ego-exo")
    given.add("take", "mug", "aria01", "cam01", 0, mug(0, 30), 0.8)
    write_results(tmp_path / "given.json", given)
    for predictions in ((), (tmp_path / "given.json",)):
        said = run("dataset", bag, *predictions, "--out", tmp_path / "set", code=1)
        assert "given for a bag, but no prompts" in said


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
