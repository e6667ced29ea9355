"""Checkpoints of a small network, a server of them, and a cache that knows them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from lmeec_core.checkpoint import MV_MOE_PREFIX, seeded_model
from lmeec_core.config import PRESETS
from lmeec_core.downloads import http
from lmeec_core.downloads.catalogue import CATALOGUE, Released
from weights_server import Handler, Served, sha


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
