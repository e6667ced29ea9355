"""What the layout of the code promises; the order of imports itself is checked by `make lint`."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import lmeec_core as lm
from lmeec_core.cli import plugins
from lmeec_ros.moved import MOVED

ROOT = Path(__file__).resolve().parent.parent

PUBLIC = """
    LMEEC PRESETS CheckpointError ConvTrunkConfig Correspondence CorrespondenceTracker InputError
    MatchingConfig MemoryConfig MemoryFileError ModelConfig PromptTracker Tracked TrunkConfig
    __version__ build_model bundled_weights exclusive_masks load_memory load_model load_weights
    preset read_state_dict save_memory
"""
"""Names that people import. One that goes is announced in CHANGELOG.rst a version before."""


def test_public_names() -> None:
    assert sorted(lm.__all__) == sorted(PUBLIC.split())
    assert all(getattr(lm, name) is not None for name in lm.__all__)
    assert set(lm.__all__) <= set(dir(lm))


def test_help_does_not_wait_for_torch() -> None:
    code = "import sys, lmeec_core.cli.app; print('torch' in sys.modules)"
    command = [sys.executable, "-P", "-c", code]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "False\n"


def test_the_node_does_not_wait_for_scipy() -> None:
    """Only calibration and training need it; importing it takes the node most of a second."""
    code = "import sys, lmeec_ros.main; print('torch' in sys.modules, 'scipy' in sys.modules)"
    command = [sys.executable, "-P", "-c", code]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "True False\n"


def test_a_plugin_may_add_only_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that knows nothing of bags does not hide the one that does."""
    ours = plugins.plugins()
    monkeypatch.setattr(plugins, "plugins", lambda: (SimpleNamespace(), *ours))
    assert plugins.provider("bag_source") is ours[0]
    monkeypatch.setattr(plugins, "plugins", lambda: (SimpleNamespace(),))
    with pytest.raises(lm.InputError, match="node's package"):
        plugins.provider("bag_source")


@pytest.mark.parametrize("old", sorted(MOVED))
def test_modules_that_have_moved_are_found_by_their_old_names(old: str) -> None:
    with pytest.warns(DeprecationWarning, match=MOVED[old]):
        module = importlib.import_module(old)
    try:
        assert module is importlib.import_module(MOVED[old])
        assert module.__name__ == module.__spec__.name == MOVED[old]
    finally:
        del sys.modules[old]


def test_the_core_does_not_name_the_ros_package() -> None:
    files = (ROOT / "lmeec_core").rglob("*.py")
    assert [str(path) for path in files if "lmeec_ros" in path.read_text(encoding="utf-8")] == []


def test_the_way_of_a_frame_leads_through_short_files_that_are_there() -> None:
    text = (ROOT / "docs" / "development.md").read_text(encoding="utf-8")
    section = text.partition("## The way of a frame")[2].partition("\n## ")[0]
    files = re.findall(r"^\d\. `([^`]+\.py)`", section, flags=re.MULTILINE)
    assert 5 <= len(files) <= 7
    for name in files:
        assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) < 400, name


def test_files_can_be_read_at_a_sitting() -> None:
    """Longer ones have several subjects: give each a file whose name a stranger would look for."""
    folders = ("lmeec_core", "lmeec_ros", "launch", "test", ".ci")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    lengths = {path: len(path.read_bytes().splitlines()) for path in files}
    assert {str(path): length for path, length in lengths.items() if length > 400} == {}
    assert len(files) > 500
