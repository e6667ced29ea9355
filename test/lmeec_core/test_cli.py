"""The `lmeec` command: help that teaches, one-line errors, exit codes."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.main import get_command
from typer.testing import CliRunner

from lmeec_core.cli.app import app
from lmeec_core.takes import TakeWriter

COMMANDS = get_command(app).commands  # type: ignore[attr-defined]
runner = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})


@pytest.fixture
def take(tmp_path: Path) -> Path:
    path = tmp_path / "take"
    with TakeWriter(path) as writer:
        for camera in ("aria01", "cam-1", "cam-2"):
            for frame in (0, 30):
                writer.image(camera, frame, np.full((24, 32, 3), frame, np.uint8))
        for camera in ("aria01", "cam-1"):
            writer.mask("cup [red]", camera, 0, np.ones((24, 32)))
    return path


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_of_a_command(name: str) -> None:
    """What it does and every option, for all commands that there are."""
    result = runner.invoke(app, [name, "--help"])
    assert result.exit_code == 0, result.output
    command = COMMANDS[name]
    assert (command.help or "").split("\n")[0].split(".")[0] in result.output
    options = [max(p.opts, key=len) for p in command.params if p.param_type_name == "option"]
    assert [option for option in options if option not in result.output] == []
    texts = [command.help or "", *(getattr(param, "help", None) or "" for param in command.params)]
    placeholders = re.findall(r"<\w+>", " ".join(texts))  # lost outside of backticks
    assert [word for word in placeholders if word not in result.output] == []


def test_the_walk_of_the_help_names_every_command() -> None:
    text = runner.invoke(app, ["--help"]).output
    assert len(COMMANDS) >= 14
    assert [name for name in COMMANDS if f"lmeec {name}" not in text] == []


def test_info_of_a_take(take: Path) -> None:
    result = runner.invoke(app, ["info", str(take)])
    assert result.exit_code == 0, result.output
    assert "3 cameras, 1 objects, 2 frames" in result.output
    assert "32 x 24" in result.output and "cup [red]" in result.output


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("folder", ["take", "."])
def test_info_names_images_that_are_cut_off(take: Path, share: float, folder: str) -> None:
    """Any image, not only the first of a camera; of a take, and of a folder of takes."""
    image = take / "cam-1" / "30.jpg"
    data = image.read_bytes()
    image.write_bytes(data[: int(share * len(data))])
    result = runner.invoke(app, ["info", str(take.parent / folder)])
    assert result.exit_code == 1, result.output
    assert result.output.count("broken:") == 1 and str(image) in result.output
    image.write_bytes(data)
    assert runner.invoke(app, ["info", str(take.parent / folder)]).exit_code == 0


def test_bag_and_info_of_it(take: Path, tmp_path: Path) -> None:
    out = tmp_path / "bag"
    result = runner.invoke(app, ["bag", str(take), str(out)])
    assert result.exit_code == 0, result.output
    assert "/cam_1/image_raw/compressed" in result.output and "1:cup [red]" in result.output
    result = runner.invoke(app, ["info", str(out)])
    assert result.exit_code == 0, result.output
    assert "/aria01/label_image" in result.output and "cam_1, cam_2" in result.output

    again = runner.invoke(app, ["bag", str(take), str(out)])
    assert again.exit_code == 1 and "exists" in again.output
    again = runner.invoke(
        app, ["bag", str(take), str(out), "--overwrite", "--query", "cam-2", "--masks", "array"]
    )
    assert again.exit_code == 0, again.output
    assert "/cam_2/masks" in again.output


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["info", "nowhere"], "nowhere"),
        (["bag", "nowhere", "out"], "nowhere"),
        (["bag", "{take}", "out", "--query", "cam-9"], "cam-9"),
        (["bag", "{take}", "out", "--object", "spoon"], "spoon"),
        (["play", "nowhere"], "nowhere"),
        (["play", "{take}", "--remap", "a"], "FROM:=TO"),
        (["demo", "--take", "nowhere", "--out", "{take}/out"], "nowhere"),
    ],
)
def test_errors_are_one_line_and_name_the_culprit(
    take: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    text: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = runner.invoke(app, [argument.format(take=take) for argument in arguments])
    assert result.exit_code in (1, 2)
    assert text in result.output
    assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists()


def test_runs_as_a_process_without_ros(take: Path, tmp_path: Path) -> None:
    """`lmeec bag` must not need rclpy: an import of it ends this process with an error."""
    code = "import sys; sys.modules['rclpy'] = None; from lmeec_core.cli import app; app.main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "bag", str(take), str(tmp_path / "bag")],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    refused = subprocess.run(
        [sys.executable, "-c", code, "play", str(tmp_path / "bag")],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert refused.returncode == 1
    assert "needs ROS 2" in refused.stderr and "Traceback" not in refused.stderr
