"""The demo: the installed node as a process, a take through it, and what is left and said."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import lmeec_core as lm
from lmeec_core.bags.bag import BagError, BagReader
from lmeec_core.bags.take_bags import bag_from_take, stamp_of_frame
from lmeec_core.errors import InputError
from lmeec_core.prompts import PlacedPrompt, Prompt, Prompts, write_prompts
from lmeec_core.takes import Results, Take, TakeWriter
from lmeec_ros.tools import demo_report
from lmeec_ros.tools.demo import (
    DemoOptions,
    expected_pairs,
    marks_of,
    node_parameters,
    sample_take,
)
from lmeec_ros.tools.demo_run import Played
from lmeec_ros.tools.node_process import NodeError, NodeProcess

PRESET = "mini" if "mini" in lm.PRESETS else "nano"


def disc(row: int, column: int) -> np.ndarray:
    mask = np.zeros((96, 128), np.uint8)
    cv2.circle(mask, (column, row), 14, 1, -1)
    return mask.astype(bool)


@pytest.fixture
def take(tmp_path: Path) -> Path:
    """Five frames; two exo cameras, one of which lacks frame 60; an object missing at times."""
    path = tmp_path / "small take"
    rng = np.random.default_rng(3)
    noise = rng.integers(0, 60, (96, 128, 3)).astype(np.uint8)
    with TakeWriter(path) as writer:
        for index, frame in enumerate(range(0, 150, 30)):
            for camera, shift in (("aria01_214-1", 0), ("cam-1", 10), ("cam-2", 30)):
                if camera == "cam-2" and frame == 60:
                    continue
                image = noise.copy()
                image[disc(40, 30 + shift + 4 * index)] = (230, 60, 30)
                writer.image(camera, frame, image)
                writer.mask("red disc", camera, frame, disc(40, 30 + shift + 4 * index))
                if index < 3:
                    writer.mask("no/thing", camera, frame, disc(70, 90))
    return path


def lmeec(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lmeec_core.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        env={
            **os.environ,
            "COLUMNS": "120",
            "ROS_DOMAIN_ID": str(int(os.environ["ROS_DOMAIN_ID"]) + 12),
            "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
            **environment,
        },
    )


def test_demo_leaves_all_results_and_accounts_for_every_pair(take: Path, tmp_path: Path) -> None:
    """Each object is marked by one click; a second one, in another camera, is named."""
    out = tmp_path / "out"
    clicks = [("aria01_214-1", "red disc", (30, 40)), ("aria01_214-1", "no/thing", (90, 70))]
    clicks.append(("cam-1", "red disc", (44, 40)))
    marks = [
        PlacedPrompt(camera, Prompt(name, (point,), (1,)), 0) for camera, name, point in clicks
    ]
    write_prompts(tmp_path / "prompts.json", Prompts(None, tuple(marks)))
    given = ("--take", str(take), "--prompts", str(tmp_path / "prompts.json"))
    done = lmeec("demo", *given, "--preset", PRESET, "--out", str(out))
    assert done.returncode == 1, done.stdout + done.stderr  # for the prompt that was left out
    assert "left out prompt for 'red disc' in camera 'cam-1', frame 0" in done.stdout
    trained = lm.bundled_weights(PRESET) is not None
    assert ("masks mean nothing" in " ".join(done.stdout.split())) != trained

    report = json.loads((out / "report.json").read_text())
    assert report["sets"] == 4 and report["pairs"] == 12  # frame 60 is not in all cameras
    assert report["mask_messages"] == 12 and report["objects_answered"] >= 18
    # 24, but for the first set where a prompt overtakes it: it is used all the same
    assert report["prompts"] == 2 and 0 <= report["query_view_iou"] <= 1
    assert report["pairs_unaccounted"] == 0 and report["drops"] == {}
    assert report["latency_ms"]["p50"] > 0 and report["weights_mean_something"] == trained

    results = Results.read(out / "masks.json")
    assert results.direction == "ego-exo"
    opened = Take.open(take)
    for target in opened.exos:
        found = results.get(opened.name, "red disc", opened.ego, target, 90)
        assert found is not None and found.mask.shape == (360, 480)
    assert results.get(opened.name, "no/thing", opened.ego, "cam-1", 120) is not None

    with BagReader(out / "input_bag") as bag:
        assert bag.topics["/lmeec/prompt"].count == 2
        assert not [topic for topic in bag.topics if "label" in topic or "mask" in topic]
    with BagReader(out / "masks_bag") as bag:
        assert bag.topics["/lmeec/aria01_214_1/masks"].count == 4
        assert bag.topics["/lmeec/cam_1/masks"].count == 4
        assert bag.topics["/lmeec/cam_2/masks"].count == 4
    sheet = cv2.imread(str(out / "contact_sheet.png"))
    assert sheet is not None and sheet.shape[1] > 500
    assert (out / "overlay.mp4").stat().st_size > 1000
    assert "configure" in (out / "node.log").read_text()


def test_prompts_of_the_demo(take: Path, tmp_path: Path) -> None:
    """Those in the take's folder, unless they are for another camera; every object needs one."""
    opened, both = Take.open(take), ("red disc", "no/thing")
    assert marks_of(opened, DemoOptions()) == (opened.objects, [], [])
    one = PlacedPrompt("aria01_214-1", Prompt("red disc", ((30, 40),), (1,)), 0)
    write_prompts(take / "prompts.json", Prompts(None, (one,)))
    with pytest.raises(InputError, match=r"no prompt for no/thing in camera .*lmeec mark"):
        marks_of(opened, DemoOptions(objects=both))
    assert marks_of(opened, DemoOptions(masks=True)).prompts == []
    assert marks_of(opened, DemoOptions(query="cam-1")).prompts == []
    found = marks_of(opened, DemoOptions())
    assert found.objects == ("red disc",) and found.prompts[0].prompt.points == ((30, 40),)
    with pytest.raises(InputError, match="--masks and --prompts"):
        marks_of(opened, DemoOptions(masks=True, prompts=take / "prompts.json"))
    write_prompts(tmp_path / "other.json", Prompts("another take", (one,)))
    with pytest.raises(
        InputError, match="for the recording 'another take' given, 'small take' expected"
    ):
        marks_of(opened, DemoOptions(prompts=tmp_path / "other.json"))
    late = PlacedPrompt("aria01_214-1", Prompt("red disc", ((30, 40),), (1,)), 7)
    with pytest.raises(BagError, match=r"frame 7: the query camera aria01_214_1 with an image"):
        bag_from_take(opened, tmp_path / "bag", prompts=[late])


def test_demo_with_a_bad_checkpoint_shows_the_nodes_log(take: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "bad.safetensors"
    checkpoint.write_bytes(b"no weights")
    out = tmp_path / "out"
    (out / "masks_bag").mkdir(parents=True)
    (out / "masks.json").write_text("of an earlier run")
    done = lmeec(
        "demo",
        *("--take", str(take), "--preset", PRESET, "--out", str(out)),
        *("--checkpoint", str(checkpoint)),
    )
    assert done.returncode == 1
    text = "".join(done.stderr.split())
    assert (
        "didnotstart" in text
        and "headertoolarge" in text
        and "Traceback(most" not in "".join(done.stdout.split())
    )
    assert not (out / "masks.json").exists()
    assert not list(out.glob(".*"))  # no half-written bag


def test_demo_without_an_installed_node_says_so(take: Path, tmp_path: Path) -> None:
    prefix = os.environ["AMENT_PREFIX_PATH"]
    done = lmeec(
        *("demo", "--take", str(take), "--preset", PRESET, "--out", str(tmp_path / "out")),
        AMENT_PREFIX_PATH=":".join(p for p in prefix.split(":") if "install" not in p),
    )
    assert done.returncode == 1
    assert "make build" in done.stderr


def test_parameters_name_cameras_topics_and_objects(take: Path, tmp_path: Path) -> None:
    opened = Take.open(take)
    info = bag_from_take(opened, tmp_path / "bag", query="cam-1")
    values = node_parameters(info, DemoOptions(preset="mini", device="cpu"), trained=False)
    assert values["query_camera"] == "cam_1" and values["target_cameras"] == ["aria01_214_1"]
    assert values["cameras"]["cam_1"]["topic"] == "/cam_1/image_raw/compressed"
    assert values["objects"] == ["1:red disc", "2:no/thing"]
    assert values["model"]["seed"] == 0 and values["model"]["checkpoint"] == ""
    options = DemoOptions(preset="mini", checkpoint=Path("w.pt"))
    values = node_parameters(info, options, trained=True)
    assert values["model"]["seed"] == -1
    assert values["model"]["checkpoint"] == str(Path("w.pt").resolve())


def outcome(take: Path, tmp_path: Path) -> demo_report.DemoRun:
    opened = Take.open(take)
    info = bag_from_take(opened, tmp_path / "bag")
    expected = expected_pairs(opened, info)
    played = Played(sent={stamp_of_frame(f): 1.0 for f in info.frames})
    return demo_report.DemoRun(opened, info, played, expected, "mini", False, False)


def test_a_pair_that_is_neither_answered_nor_counted_is_found(take: Path, tmp_path: Path) -> None:
    run = outcome(take, tmp_path)
    for target in run.info.targets:
        for stamp in run.expected[:2]:
            run.played.arrived[target, stamp] = 1.25
    run.played.diagnostics = {
        "lmeec: inference": {"dropped_mailbox": "1", "dropped_discarded": "0", "sets_failed": "0"},
        "lmeec: pairing": {f"{run.info.query}_paired": "4 of 5", "dropped_no_partner": "3"},
    }
    results = Results("ego-exo")
    report = demo_report.measure(run, {}, [], results)
    assert report["drops"] == {"mailbox": 1}  # frame 60 cannot be paired, so it is no drop
    assert report["pairs_missing"] == 4 and report["pairs_unaccounted"] == 2
    assert report["latency_ms"] == {"p50": 250.0, "p95": 250.0}
    run.played.diagnostics["lmeec: pairing"][f"{run.info.query}_paired"] = "3 of 5"
    assert demo_report.measure(run, {}, [], results)["pairs_unaccounted"] == 0


def test_the_copied_query_mask_is_a_baseline(take: Path, tmp_path: Path) -> None:
    opened = Take.open(take)
    values = demo_report.copied_mask_ious(opened, "no/thing", opened.ego, "cam-1")
    assert values == pytest.approx([1.0] * 3, abs=1e-6)
    assert np.mean(demo_report.copied_mask_ious(opened, "red disc", opened.ego, "cam-2")) < 0.2


def test_the_sample_take_is_small_and_complete() -> None:
    take = Take.open(sample_take())
    assert len(take.common_frames()) >= 10 and take.exos
    size = sum(file.stat().st_size for file in take.path.rglob("*") if file.is_file())
    assert size <= 2_000_000


def test_a_node_that_ends_shows_the_end_of_its_log(tmp_path: Path) -> None:
    parameters = tmp_path / "parameters.yaml"
    parameters.write_text("{")
    with NodeProcess(parameters, tmp_path / "node.log") as process:
        process.process.wait(60)
        with pytest.raises(NodeError, match=r"(?s)exit code.*node\.log"):
            process.check()
        assert process.stop() != 0
