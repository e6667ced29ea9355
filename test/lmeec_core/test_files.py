"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from lmeec_core.files import replacing, write_text


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_a_new_file_has_the_permissions_of_any_new_file(umask: int, tmp_path: Path) -> None:
    """Also where the writer makes a private one, as some libraries do."""
    before = os.umask(umask)
    try:
        write_text(tmp_path / "text", "a")
        with replacing(tmp_path / "private") as partial:
            partial.unlink()
            partial.touch(0o600)
        (tmp_path / "plain").write_text("a")
    finally:
        os.umask(before)
    modes = {mode(tmp_path / name) for name in ("text", "private", "plain")}
    assert modes == {0o666 & ~umask}


def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path: Path) -> None:
    path = tmp_path / "text"
    for wanted in (0o640, 0o444, 0o755):
        path.write_text("a") if not path.exists() else None
        path.chmod(wanted)
        write_text(path, "b")
        assert mode(path) == wanted and path.read_text() == "b"


def test_contents_are_on_the_disk_before_they_get_their_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[tuple[str, str]] = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        done.append(("sync", "folder" if path == tmp_path else path.read_text()))
        fsync(descriptor)

    def replaced(source: Path, target: Path) -> None:
        done.append(("replace", Path(target).name))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    write_text(tmp_path / "text", "contents")
    assert done == [("sync", "contents"), ("replace", "text"), ("sync", "folder")]


def test_threads_that_write_one_file_do_not_mix(tmp_path: Path) -> None:
    path, barrier, failed = tmp_path / "text", threading.Barrier(8), []

    def write(number: int) -> None:
        try:
            with replacing(path) as partial, partial.open("w") as file:
                barrier.wait(10)  # all are open at once
                file.write(str(number) * 1000)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    text = path.read_text()
    assert not failed and len(text) == 1000 and len(set(text)) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["text"]


def test_long_names_and_what_is_no_file(tmp_path: Path) -> None:
    write_text(tmp_path / ("\u00e9" * 120), "a")  # 240 bytes of at most 255
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    write_text(pipe, "through the pipe")
    reader.join(10)
    assert read == ["through the pipe"] and pipe.is_fifo()
    with pytest.raises(OSError, match=f"not written.*{tmp_path.name}"):
        write_text(tmp_path, "a folder")
