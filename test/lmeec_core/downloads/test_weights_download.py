"""`lmeec weights`, against a real HTTP server on this machine that fails in every way."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from lmeec_core.cli.app import app
from lmeec_core.downloads import http
from weights_server import Behave, Handler, Served, get, names, sha, weights


def test_a_whole_download(served: Served, folder: Path) -> None:
    code, said = get(served)
    path = folder / "small.pt"
    assert code == 0, said
    assert path.read_bytes() == served.content and names(folder) == {"small.pt"}
    assert oct(path.stat().st_mode & 0o777) == oct(0o666 & ~umask())
    assert [one["path"] for one in served.asked] == ["/mirror/small.pt"]
    assert "Range" not in served.asked[0]
    assert f"SHA-256 {sha(served.content)} (matches the known one)" in said
    assert get(served)[0] == 0 and len(served.asked) == 1  # it is there


def umask() -> int:
    old = os.umask(0)
    os.umask(old)
    return old


def test_a_connection_that_is_cut_goes_on_where_it_was(served: Served, folder: Path) -> None:
    served.cuts = [150_000, 0, 70_000]
    code, said = get(served)
    assert code == 0, said
    assert (folder / "small.pt").read_bytes() == served.content
    begins = [int(one.get("Range", "bytes=0-")[6:-1]) for one in served.asked]
    assert len(begins) == 4 and begins[0] == 0 < begins[1] == begins[2] < begins[3]
    assert begins[1] > 150_000 - 2 * http.CHUNK  # no more is lost than what was under way
    assert {one.get("If-Range") for one in served.asked[1:]} == {'"one"'}


@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    cuts=st.lists(st.integers(0, 400_000), max_size=6),
    ranges=st.booleans(),
    etag=st.sampled_from(['"one"', 'W/"one"', None]),
)
def test_wherever_it_is_cut_the_file_is_right_or_the_part_is_kept(
    served: Served, folder: Path, cuts: list[int], ranges: bool, etag: str | None
) -> None:
    folder.mkdir(exist_ok=True)
    for path in folder.glob("*"):
        path.unlink()
    partial, path = folder / "a.partial", folder / "a"
    served.content = b"PK" + bytes(range(251)) * 1300
    shown: list[int] = []
    download = http.Download(
        partial, len(served.content), "", lambda done, _: shown.append(done), lambda _: None
    )
    served.cuts, served.ranges, served.etag = list(cuts), ranges, etag
    url = f"{served.base}/a"
    try:
        download(url, str(path), None)
    except http.DownloadError as error:
        assert not path.exists() and "lost repeatedly" in str(error)
        left = partial.read_bytes() if partial.exists() else b""
        assert served.content.startswith(left) and (str(partial) in str(error)) == bool(left)
        served.cuts = []
        download(url, str(path), None)
    assert path.read_bytes() == served.content and shown[-1] == len(served.content)
    assert names(folder) == {"a"}


def test_the_part_of_an_earlier_run_is_used(served: Served, folder: Path) -> None:
    served.cuts = [200_000, 0, 0, 0, 0]
    code, said = get(served)
    partial = folder / "small.pt.partial"
    kept = partial.stat().st_size
    assert code == 1 and not (folder / "small.pt").exists()
    assert f"the first {kept:,} bytes are kept ({partial})" in said
    assert 0 < kept <= 200_000 and partial.read_bytes() == served.content[:kept]
    assert "kB of it, `get` resumes" in weights("list")[1]
    served.cuts, before = [], len(served.asked)
    code, said = get(served)
    assert code == 0, said
    assert [one.get("Range") for one in served.asked[before:]] == [f"bytes={kept}-"]
    assert names(folder) == {"small.pt"}


@pytest.mark.parametrize("change", ["no ranges", "no mark", "another file"])
def test_a_part_that_cannot_be_continued_is_begun_anew(
    served: Served, folder: Path, checkpoints: dict[str, bytes], change: str
) -> None:
    served.cuts = [200_000]
    if change == "no ranges":
        served.ranges = False
    elif change == "no mark":
        served.etag = None
    else:

        def change_file(handler: Handler) -> bool:
            if len(served.asked) == 2:
                served.etag, served.content = '"two"', checkpoints["moe"]
            return False

        served.content = served.content[::-1]
        served.content = b"PK" + served.content[2:]
        served.behave = change_file
    code, said = get(served, "moe" if change == "another file" else "small")
    assert code == 0, said
    assert "the server cannot resume after the first" in said and "starting again" in said
    path = folder / ("moe.pt" if change == "another file" else "small.pt")
    assert path.read_bytes() == served.content and len(served.asked) == 2


def test_a_part_that_is_whole_is_only_named(served: Served, folder: Path) -> None:
    """As after a kill between the last byte and the rename."""
    served.cuts = [200_000, 0, 0, 0, 0]
    assert get(served)[0] == 1
    (folder / "small.pt.partial").write_bytes(served.content)
    before = len(served.asked)
    assert get(served)[0] == 0 and len(served.asked) == before
    assert (folder / "small.pt").read_bytes() == served.content


def test_a_wrong_checksum(served: Served, folder: Path) -> None:
    right = served.content
    served.content = right[:-1000] + bytes([right[-1000] ^ 1]) + right[-999:]
    code, said = get(served)
    assert code == 1 and "the checksum is wrong" in said
    assert sha(served.content) in said and sha(right) in said and "--file" in said
    assert names(folder) == set()
    served.content = right
    assert get(served)[0] == 0


def test_a_file_of_another_size_is_refused_before_it_is_downloaded(
    served: Served, folder: Path, checkpoints: dict[str, bytes]
) -> None:
    served.content = checkpoints["moe"]
    code, said = get(served)
    assert code == 1 and not names(folder)
    assert f"a file of {len(checkpoints['moe']):,} bytes" in said


def page(handler: Handler) -> bool:
    body = b"<!DOCTYPE html><html><title>Log in to this network</title></html>"
    handler.send_response(200)
    handler.send_header("Content-Type", "text/html; charset=utf-8")
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)
    return True


def nameless_page(handler: Handler) -> bool:
    body = b"<!DOCTYPE html>"
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)
    return True


@pytest.mark.parametrize(
    ("answer", "name", "expected"),
    [
        (page, "small", "a web page (text/html) instead of a checkpoint"),
        (page, "open", "HTTPS_PROXY"),
        (nameless_page, "open", "something that begins with '<!DOCTYPE html>' instead"),
        (404, "small", "HTTP 404 Not Found: there is no such file; get small.pt by other means"),
        (403, "small", "HTTP 403 Forbidden: access is denied"),
        (407, "small", "HTTP 407 Proxy Authentication Required: the proxy needs a name"),
        (503, "small", "HTTP 503 Service Unavailable: the server is busy or has an error"),
        (418, "small", "HTTP 418 I'm a Teapot: 200 or 206 expected"),
    ],
)
def test_another_answer_than_the_file(
    served: Served, folder: Path, answer: Behave | int, name: str, expected: str
) -> None:
    def refuse(handler: Handler) -> bool:
        handler.send_error(int(answer))  # type: ignore[call-overload]
        return True

    served.behave = refuse if isinstance(answer, int) else answer
    code, said = get(served, name)
    assert code == 1 and expected in said, said
    assert f"{served.base}/{name}.pt" in said and "Traceback" not in said
    assert names(folder) == set() and len(served.asked) == 1


def test_an_answer_in_between_leaves_the_part(served: Served, folder: Path) -> None:
    served.cuts = [200_000, 0, 0, 0, 0]
    get(served)
    part = (folder / "small.pt.partial").read_bytes()
    served.cuts, served.behave = [], page
    assert get(served)[0] == 1 and (folder / "small.pt.partial").read_bytes() == part
    served.behave = None
    assert get(served)[0] == 0 and "Range" in served.asked[-1]


def test_no_server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, said = weights("get", "small")  # its own address: a port where nobody listens
    assert code == 1 and "http://127.0.0.1:1/nobody/small.pt: cannot be reached" in said
    assert "Connection refused" in said and "0x" not in said
    code, said = weights("get", "small", "--url-base", "http://no-such-host.invalid/")
    assert code == 1 and "http://no-such-host.invalid/small.pt: cannot be reached" in said
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    code, said = weights("get", "small", "--url-base", "http://somewhere.invalid")
    assert code == 1 and "the proxy does not answer" in said and "HTTPS_PROXY" in said
    assert names(folder) == set()


def test_no_length(served: Served, folder: Path) -> None:
    """Cut or whole, it ends alike: the known size tells."""
    served.length = False
    served.cuts = [200_000]
    code, said = get(served)
    assert code == 0, said
    assert (folder / "small.pt").read_bytes() == served.content and len(served.asked) == 2


def test_two_at_once(served: Served, folder: Path) -> None:
    began, go_on = threading.Event(), threading.Event()

    def wait(handler: Handler) -> bool:
        began.set()
        go_on.wait(20)
        return False

    served.behave = wait
    first: list[tuple[int, str]] = []
    thread = threading.Thread(target=lambda: first.append(get(served)))
    thread.start()
    assert began.wait(20)
    try:
        code, said = get(served)
    finally:
        go_on.set()
        thread.join()
    assert code == 1 and "another process is downloading this file" in said
    assert first[0][0] == 0 and len(served.asked) == 1


def process(served: Served, cache: Path, *before: str) -> subprocess.Popen[str]:
    """`lmeec weights get sam2_tiny` from the server, in a process of its own."""
    command = [sys.executable, "-P", "-m", "lmeec_core.cli", "weights", "get", "sam2_tiny"]
    environment = {**os.environ, "LMEEC_CACHE": str(cache), "LMEEC_WEIGHTS_URL": served.base}
    return subprocess.Popen(
        [*before, *command], env=environment, stdout=-1, stderr=subprocess.STDOUT, text=True
    )


def slow(handler: Handler) -> bool:
    """A megabyte of the 156 that are announced, then nothing more."""
    begin = int(handler.headers.get("Range", "bytes=0-")[6:-1])
    size = 156_008_466
    handler.send_response(206 if begin else 200)
    handler.send_header("Content-Length", str(size - begin))
    handler.send_header("ETag", '"slow"')
    handler.send_header("Content-Range", f"bytes {begin}-{size - 1}/{size}")
    handler.end_headers()
    handler.wfile.write(b"PK" + bytes(1_000_000))
    handler.server.served.base = ""
    while not handler.server.served.cuts:
        time.sleep(0.02)
    return True


def test_a_full_disk_and_a_stop(served: Served, tmp_path: Path) -> None:
    served.behave = slow
    folder = tmp_path / "weights"
    full = process(served, tmp_path, "prlimit", "--fsize=300000")
    base, partial = served.base, folder / "sam2.1_hiera_tiny.pt.partial"
    said = " ".join(full.communicate(timeout=60)[0].split())
    assert full.returncode == 1 and "Traceback" not in said, said
    assert "the disk is full (File too large); free some space, or set LMEEC_CACHE" in said
    assert "the first 300,000 bytes are kept" in said and partial.stat().st_size == 300_000
    assert names(folder) == {partial.name, partial.name + ".json"}
    served.base = base
    stopped = process(served, tmp_path)
    deadline = time.monotonic() + 60
    while partial.stat().st_size < 1_200_000 and time.monotonic() < deadline:
        time.sleep(0.02)
    stopped.send_signal(signal.SIGINT)
    said = " ".join(stopped.communicate(timeout=60)[0].split())
    served.cuts = [1]  # lets the server's threads go
    assert stopped.returncode not in (0, None) and "Traceback" not in said, said
    assert re.search("stopped: 1 MB kept; run the same command again to resume", said), said
    assert served.asked[-1]["Range"] == "bytes=300000-"
    assert names(folder) == {partial.name, partial.name + ".json"}
    assert "1 MB of it" in " ".join(listed(tmp_path).split())


def listed(cache: Path) -> str:
    environment = {"LMEEC_CACHE": str(cache)}
    return CliRunner().invoke(app, ["weights", "list"], env=environment).output
