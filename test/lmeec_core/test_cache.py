"""Where graphs are kept, and that everything goes on where they cannot be."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

import lmeec_core as lm
from lmeec_core import cache
from lmeec_core.cache import cache_folder, stand_in
from lmeec_core.engine import step_calls
from lmeec_core.engine.graphs import GraphStore, probe


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LMEEC_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    cache._temporary.cache_clear()
    cache._warn.cache_clear()


def test_the_folder_is_the_variables_or_the_users(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "lmeec"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own" / "lmeec"
    monkeypatch.setenv("LMEEC_CACHE", "~/graphs")
    assert cache_folder() == tmp_path / "graphs"
    monkeypatch.setenv("LMEEC_CACHE", "graphs")
    assert cache_folder() == Path.cwd() / "graphs"


def test_without_a_home_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda uid: (_ for _ in ()).throw(KeyError(uid)))
    assert cache_folder() is None


def test_what_stands_in_is_private_said_once_and_gone_afterwards() -> None:
    code = (
        "from lmeec_core.cache import stand_in\n"
        "one = [stand_in(reason) for reason in ('a disk is full', 'a disk is full', 'other')]\n"
        "assert len(set(one)) == 1\n"
        "(one[0] / 'graph').touch()\n"
        "print(one[0], oct(one[0].stat().st_mode & 0o777))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    folder, mode = ran.stdout.split()
    assert mode == "0o700" and not Path(folder).exists()
    assert ran.stderr.count("a disk is full") == 1 and ran.stderr.count("LMEEC_CACHE") == 2


def exported(model: lm.LMEEC, call: object, path: Path, few: bool) -> dict:
    path.write_bytes(b"a graph")
    from lmeec_core.engine.records import describe_inputs, file_hash

    return {"inputs": describe_inputs(call), "sha256": file_hash(path)}  # type: ignore[arg-type]


@pytest.mark.parametrize("place", ["", "/proc/nobody/graphs", "/sys/graphs", "file"])
def test_graphs_are_made_elsewhere_where_the_cache_cannot_be_written(
    place: str,
    mini: lm.LMEEC,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("lmeec_core.engine.onnx_export.export_graph", exported)
    if place == "file":
        (tmp_path / "file").touch()
        place = str(tmp_path / "file" / "graphs")
    if place:
        monkeypatch.setenv("LMEEC_CACHE", place)
    else:
        monkeypatch.setattr("lmeec_core.engine.graphs.cache_folder", lambda: None)
    store = GraphStore(mini)
    call = step_calls(mini)[0].for_graph(1)
    assert not store.is_valid(call) and not store.batches(call)
    with caplog.at_level(logging.WARNING):
        path = store.get(call)
    assert path.is_relative_to(stand_in("again")) and path.read_bytes() == b"a graph"
    assert store.is_valid(call) and store.path(call) == path == store.get(call)
    assert store.batches(call) == [1]


def test_graphs_of_a_read_only_cache_are_used(
    mini: lm.LMEEC, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an image of a container brings them; what is missing or damaged is made elsewhere."""
    monkeypatch.setattr("lmeec_core.engine.onnx_export.export_graph", exported)
    monkeypatch.setenv("LMEEC_CACHE", str(tmp_path))
    first, damaged, absent = (call.for_graph(1) for call in step_calls(mini)[:3])
    there = [GraphStore(mini).get(call) for call in (first, damaged)]
    there[1].write_bytes(b"damaged")

    def refuse(dir: Path) -> None:
        if dir.is_relative_to(tmp_path):
            raise OSError(errno.EROFS, "Read-only file system", str(dir))
        probe(dir)

    monkeypatch.setattr("lmeec_core.engine.graphs.probe", refuse)
    store = GraphStore(mini)
    assert store.get(first) == there[0]
    for call in (absent, damaged):
        assert store.get(call).is_relative_to(stand_in("again"))
        assert store.is_valid(call) and store.path(call) == store.get(call)
    assert store.get(first) == there[0]
    assert len(store.files("*.onnx")) == 4
    assert there[1].read_bytes() == b"damaged"


def test_a_folder_that_was_asked_for_is_not_replaced(mini: lm.LMEEC, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = GraphStore(mini, tmp_path / "file" / "graphs")
    with pytest.raises(OSError, match="file/graphs"):
        store.get(step_calls(mini)[0].for_graph(1))


CODE = """
import sys, torch, lmeec_core as lm
from lmeec_core.engine import EngineError
lm.load_model("mini", seed=0, device="cpu", engine="auto")
for name in sys.argv[1:]:
    try:
        lm.load_model("mini", seed=0, device="cpu", engine=name)
    except EngineError as error:
        assert "HOME" in str(error), error
        print(name, "says that it needs a home folder")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user without a home")
def test_engines_start_for_a_user_who_is_not_known_here(tmp_path: Path) -> None:
    """As in a container with another user id: no HOME, no entry of passwd, nothing writable."""
    pytest.importorskip("openvino")
    (tmp_path / "code.py").write_text(CODE)
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(folder.stat().st_mode | 0o555)
    command = ["setpriv", "--reuid", "12345", "--regid", "12345", "--clear-groups"]
    command += ["--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"]
    environment = {k: v for k, v in os.environ.items() if k not in ("HOME", "LMEEC_CACHE")}
    ran = subprocess.run(
        [*command, sys.executable, "-P", str(tmp_path / "code.py"), "openvino"],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
