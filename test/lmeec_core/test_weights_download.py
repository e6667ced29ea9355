"""`lmeec weights`, against a real HTTP server on this machine that fails in every way."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import lmeec_core as lm
from lmeec_core.checkpoint import MV_MOE_PREFIX, seeded_model
from lmeec_core.cli.app import app
from lmeec_core.config import PRESETS
from lmeec_core.downloads import http
from lmeec_core.downloads.catalogue import CATALOGUE, Released

Behave = Callable[["Handler"], bool]
"""Answers a request in its own way, or returns False for the usual one."""


@dataclass
class Served:
    """The server's file, what it does, and what it was asked."""

    content: bytes
    etag: str | None = '"one"'
    ranges: bool = True
    length: bool = True
    behave: Behave | None = None
    cuts: list[int] = field(default_factory=list)  # bytes before each connection is cut
    asked: list[dict[str, str]] = field(default_factory=list)
    base: str = ""


class Handler(BaseHTTPRequestHandler):
    server: Any

    def do_GET(self) -> None:
        served: Served = self.server.served
        served.asked.append({"path": self.path, **dict(self.headers.items())})
        if served.behave and served.behave(self):
            return
        begin = 0
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if served.ranges and found and self.headers.get("If-Range") in (None, served.etag):
            begin = int(found[1])
            if begin >= len(served.content):
                return self.send_error(416)
        rest = served.content[begin:]
        self.send_response(206 if begin else 200)
        self.send_header("Content-Type", "application/octet-stream")
        if served.length:
            self.send_header("Content-Length", str(len(rest)))
        if served.etag:
            self.send_header("ETag", served.etag)
        if begin:
            end = len(served.content)
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{end}")
        self.end_headers()
        self.wfile.write(rest[: served.cuts.pop(0)] if served.cuts else rest)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Files of a small network as they are released: plain SAM 2.1, and with the MV-MoE."""
    folder = tmp_path_factory.mktemp("checkpoints")
    state = seeded_model(PRESETS["mini"], 0).state_dict()
    plain = {name: value for name, value in state.items() if not name.startswith(MV_MOE_PREFIX)}
    files = {}
    for name, content in (("plain", plain), ("moe", state)):
        path = folder / f"{name}.pt"
        torch.save({"model": content}, path)
        files[name] = path.read_bytes()
    return files


@pytest.fixture
def served(checkpoints: dict[str, bytes]) -> Iterator[Served]:
    """The server's state; `served.base` is its address."""
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.served = Served(checkpoints["plain"])
    server.served.base = f"http://127.0.0.1:{server.server_address[1]}/mirror"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server.served
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, checkpoints: dict[str, bytes]) -> Path:
    """The cache's folder of weights; weights called `small`, `open` and `moe` are known."""
    monkeypatch.setenv("LMEEC_CACHE", str(tmp_path))
    monkeypatch.setattr(http, "PAUSE", 0.0)
    for name in ("LMEEC_WEIGHTS_URL", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    plain, nobody = checkpoints["plain"], "http://127.0.0.1:1/nobody"
    known = {"source": nobody, "size": len(plain), "sha256": sha(plain)}
    moe = {"source": "http://drive.invalid/x", "direct": False, "mv_moe": True}
    common = {"preset": "mini", "page": "http://authors.invalid", "licence": "Apache-2.0"}
    for one in (
        Released("small", file="small.pt", **common, **known),
        Released("open", file="open.pt", source=nobody, **common),
        Released("moe", file="moe.pt", **common, **moe),
    ):
        monkeypatch.setitem(CATALOGUE, one.name, one)
    return tmp_path / "weights"


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def weights(*arguments: object) -> tuple[int, str]:
    """Run `lmeec weights`; its exit code and what it said, in one line."""
    result = CliRunner().invoke(app, ["weights", *map(str, arguments)], env={"COLUMNS": "200"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, " ".join(result.output.split())


def get(served: Served, name: str = "small") -> tuple[int, str]:
    return weights("get", name, "--url-base", served.base)


def names(folder: Path) -> set[str]:
    """The files of a folder, locks apart."""
    return {path.name for path in folder.iterdir() if not path.name.endswith(".lock")}


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


def test_the_lines_that_it_prints_work(
    served: Served, folder: Path, checkpoints: dict[str, bytes]
) -> None:
    result = CliRunner().invoke(app, ["weights", "get", "small", "--url-base", served.base])
    block = re.search(r"parameter file:\n((?:  .*\n)+)", result.output)
    assert block
    model = yaml.safe_load(block[1])
    network = lm.load_model(
        model["model.preset"],
        model["model.checkpoint"],
        require_mv_moe=model["model.require_mv_moe"],
    )
    python = re.search(r"In Python:\n((?:  .*\n)+)", result.output)
    assert python
    assert python[1].split("\n")[0] == (
        f"  model = lm.load_model('mini', '{folder / 'small.pt'}', require_mv_moe=False)"
    )
    lm.PromptTracker(network)
    served.content = checkpoints["moe"]
    code, said = get(served, "moe")
    assert code == 0 and "require_mv_moe" not in said
    assert f"lmeec track RECORDING --preset mini --checkpoint {folder / 'moe.pt'}" in said
    lm.load_model("mini", folder / "moe.pt")


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
        assert not path.exists() and "cut again and again" in str(error)
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
    assert "the server does not continue the first" in said and "begun anew" in said
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


def test_without_a_known_checksum_the_first_one_is_recorded(served: Served, folder: Path) -> None:
    code, said = get(served, "open")
    assert code == 0 and f"SHA-256 {sha(served.content)} (recorded now: none is" in said
    assert names(folder) == {"open.pt", "open.pt.sha256"}
    done = subprocess.run(["sha256sum", "-c", "open.pt.sha256"], cwd=folder, capture_output=True)
    assert done.returncode == 0
    path = folder / "open.pt"
    path.write_bytes(path.read_bytes()[:-1])
    code, said = get(served, "open")  # the file on the disk was damaged
    assert code == 0 and "is not what it was" in said and path.read_bytes() == served.content
    path.unlink()
    served.content = served.content[:-1]
    code, said = get(served, "open")
    assert code == 1 and "the checksum is wrong" in said and not path.exists()


def test_what_is_no_checkpoint_of_the_preset_is_not_kept(
    served: Served, folder: Path, checkpoints: dict[str, bytes]
) -> None:
    code, said = get(served, "moe")  # without the MV-MoE
    assert code == 1 and "does not fit the model" in said and "MV_MoE" in said
    served.content = checkpoints["moe"][:-5000]  # whole as the server has it, but broken
    code, said = get(served, "moe")
    assert code == 1 and "not a zip archive" in said
    assert names(folder) == set()


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
        (403, "small", "HTTP 403 Forbidden: access is refused"),
        (407, "small", "HTTP 407 Proxy Authentication Required: the proxy wants a name"),
        (503, "small", "HTTP 503 Service Unavailable: the server is busy or out of order"),
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
    assert code == 1 and "http://127.0.0.1:1/nobody/small.pt: not reached" in said
    assert "Connection refused" in said and "0x" not in said
    code, said = weights("get", "small", "--url-base", "http://no-such-host.invalid/")
    assert code == 1 and "http://no-such-host.invalid/small.pt: not reached" in said
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


def test_a_mirror_by_the_environment(
    served: Served, folder: Path, monkeypatch: pytest.MonkeyPatch, checkpoints: dict[str, bytes]
) -> None:
    monkeypatch.setenv("LMEEC_WEIGHTS_URL", served.base + "/")
    assert weights("get", "small")[0] == 0
    served.content = checkpoints["moe"]
    assert weights("get", "moe")[0] == 0
    assert [one["path"] for one in served.asked] == ["/mirror/small.pt", "/mirror/moe.pt"]
    monkeypatch.setenv("LMEEC_WEIGHTS_URL", "ftp://mirror")
    code, said = weights("get", "open")
    assert code == 1 and "LMEEC_WEIGHTS_URL: 'ftp://mirror' given, the address of a folder" in said


def test_what_only_a_browser_gets(folder: Path, tmp_path: Path, checkpoints: dict) -> None:
    code, said = weights("get", "moe")
    assert code == 1 and "http://drive.invalid/x" in said
    assert "lmeec weights get moe --file" in said and not folder.exists()
    file = tmp_path / "checkpoint (1).pt"
    code, said = weights("get", "moe", "--file", file)
    assert code == 1 and f"--file {file}: no such file" in said
    file.write_bytes(checkpoints["plain"])
    code, said = weights("get", "moe", "--file", file)
    assert code == 1 and "does not fit" in said and not folder.exists()
    file.write_bytes(checkpoints["moe"])
    code, said = weights("get", "moe", "--file", file)
    assert code == 0 and f"SHA-256 {sha(checkpoints['moe'])} (recorded now" in said
    assert (folder / "moe.pt").read_bytes() == checkpoints["moe"] and file.exists()
    assert weights("get", "moe")[0] == 0  # it is there
    code, said = weights("get", "small", "--file", file)
    assert code == 1 and "its SHA-256 is" in said and not (folder / "small.pt").exists()


def test_the_list(served: Served, folder: Path) -> None:
    get(served)
    (folder / "sam2.1_hiera_tiny.pt").write_bytes(b"PK")
    result = CliRunner().invoke(app, ["weights", "list"])
    rows = {line.split()[0]: line for line in result.output.splitlines() if line.strip()}
    assert result.exit_code == 0 and set(CATALOGUE) <= set(rows)
    assert "  small.pt  " in rows["small"] and f"The cache: {folder} " in result.output
    assert "sam2.1_hiera_tiny.pt, another file (2 bytes)" in rows["sam2_tiny"]
    assert "898 MB   Apache-2.0  no " in rows["sam2_large"] and "none given" in rows["lm_eec"]
    assert "/092824/sam2.1_hiera_base_plus.pt" in rows["sam2_base_plus"]


def test_the_catalogue() -> None:
    for weights in CATALOGUE.values():
        config = PRESETS[weights.preset]
        assert weights.direct == (weights.sha256 is not None) == (weights.size is not None)
        if weights.size is not None:  # what the network of that preset takes, in float32
            with torch.device("meta"):
                state = lm.build_model(config).state_dict()
            own = sum(v.nbytes for n, v in state.items() if not n.startswith(MV_MOE_PREFIX))
            assert own < weights.size < own * 1.01 + 1_000_000
    code, said = weights_of_no_name()
    assert code == 1 and "'sam2' given, one of ['sam2_tiny'" in said


def weights_of_no_name() -> tuple[int, str]:
    return weights("get", "sam2")


def test_a_folder_that_cannot_be_written(served: Served, folder: Path) -> None:
    folder.parent.joinpath("weights").write_text("a file")
    code, said = get(served)
    assert code == 1 and str(folder) in said and "Traceback" not in said


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
    assert code == 1 and "another process is downloading it" in said
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
    assert "the disk is full (File too large); free space, or let LMEEC_CACHE name" in said
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
