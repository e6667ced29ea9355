"""A real HTTP server of checkpoints that fails in every way, and `lmeec weights` that asks it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from lmeec_core.cli.app import app

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
    """Answers as the server's :class:`Served` says."""

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


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def weights(*arguments: object) -> tuple[int, str]:
    """Run `lmeec weights`; its exit code and what it said, in one line."""
    result = CliRunner().invoke(app, ["weights", *map(str, arguments)], env={"COLUMNS": "200"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, " ".join(result.output.split())


def get(served: Served, name: str = "small") -> tuple[int, str]:
    """Run `lmeec weights get` with the server as the mirror."""
    return weights("get", name, "--url-base", served.base)


def names(folder: Path) -> set[str]:
    """The files of a folder, locks apart."""
    return {path.name for path in folder.iterdir() if not path.name.endswith(".lock")}
