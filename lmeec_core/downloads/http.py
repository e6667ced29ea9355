"""Resumable downloads: a partial file is kept until it is complete."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import requests

from lmeec_core.errors import ExplainedError
from lmeec_core.files import write_text

__all__ = ["Download", "DownloadError"]

TRIES = 3
"""Number of consecutive attempts without progress after which a download fails."""
PAUSE = 2.0
"""Seconds between two attempts."""
TIMEOUT = 30.0
"""Seconds without data after which a connection counts as lost."""
CHUNK = 1 << 16
ARCHIVE = b"PK"
"""The first bytes of every file written by torch.save, which is a zip archive."""
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class DownloadError(ExplainedError):
    """A file could not be downloaded; the text says why and what to do."""


class _Cut(Exception):
    """The connection ended before the file did."""


@dataclass
class Download:
    """The download of one checkpoint; a downloader for pooch.

    Attributes:
        partial: the partial file; if a run is stopped, the next one resumes it. It is resumed only
            if the server confirms that its file has not changed (If-Range).
        size: expected size in bytes; None: unknown.
        instead: alternatives to the download, for messages.
        show: called with the progress: bytes so far, and total bytes or None.
        say: called with texts about unexpected events.
    """

    partial: Path
    size: int | None
    instead: str
    show: Callable[[int, int | None], None]
    say: Callable[[str], None]

    def __call__(self, url: str, output_file: str, pooch: Any) -> None:
        """Download a file.

        Args:
            url: the URL.
            output_file: the final path of the complete file.
            pooch: not used.

        Raises:
            DownloadError: no connection, no such file, the file is not a checkpoint, the connection
                was lost repeatedly, or the disk is full.
        """
        longest, failures = -1, 0
        while not self._whole(url):
            try:
                self._transfer(url)
                break
            except _Cut as cut:
                there = self._there()
                longest, failures = max(longest, there), 0 if there > longest else failures + 1
                if failures >= TRIES:
                    raise DownloadError(
                        f"{url}: the connection was lost repeatedly ({cut}); {self._kept()}"
                    ) from cut
            time.sleep(PAUSE)
        os.replace(self.partial, output_file)
        self._note.unlink(missing_ok=True)

    @property
    def _note(self) -> Path:
        return self.partial.with_name(self.partial.name + ".json")

    def _there(self) -> int:
        return self.partial.stat().st_size if self.partial.exists() else 0

    def _kept(self) -> str:
        if not self._there():
            return "run the same command again"
        return (
            f"the first {self._there():,} bytes are kept ({self.partial}): run the same command "
            f"again to resume"
        )

    def _noted(self, url: str) -> dict[str, Any]:
        """The note about the partial file: the server's identifier of the file, and its size."""
        try:
            noted = json.loads(self._note.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return noted if isinstance(noted, dict) and noted.get("url") == url else {}

    def _whole(self, url: str) -> bool:
        """Whether an earlier run downloaded everything, but could not rename the file."""
        size = self._noted(url).get("size")
        return size is not None and self._there() == size

    def _transfer(self, url: str) -> None:
        """Download over one connection, resuming the partial file if the server allows it."""
        start, mark = self._there(), self._noted(url).get("mark")
        headers = {"Accept-Encoding": "identity", "User-Agent": "lmeec"}
        if start and mark:
            headers |= {"Range": f"bytes={start}-", "If-Range": mark}
        try:
            response = requests.get(url, headers=headers, stream=True, timeout=TIMEOUT)
        except requests.RequestException as error:
            raise DownloadError(self._unreachable(url, error)) from error
        with response:
            begin = self._begin(response, start)
            if start and not begin:
                self.say(
                    f"the server cannot resume after the first {start:,} bytes: starting again"
                )
            size = self._expected(response, begin)
            self._room(size, begin)
            try:
                self._receive(response, url, begin, size)
            except requests.RequestException as error:
                raise _Cut(_reason(error)) from error
            except OSError as error:
                what = "the disk is full" if error.errno in _FULL else "it cannot be written"
                raise DownloadError(
                    f"{self.partial}: {what} ({error.strerror}); free some space, or set "
                    f"LMEEC_CACHE to a folder with more; {self._kept()}"
                ) from error

    def _begin(self, response: requests.Response, start: int) -> int:
        """The offset in the file at which the response begins.

        Raises:
            DownloadError: the response is not the file.
        """
        if response.status_code == 416:  # the file is shorter than the partial file
            self.partial.unlink(missing_ok=True)
            raise _Cut("the file on the server has changed")
        if response.status_code not in (200, 206):
            raise DownloadError(self._refused(response))
        if response.headers.get("Content-Type", "").startswith("text/html"):
            raise DownloadError(self._no_checkpoint(response.url, "a web page (text/html)"))
        if response.status_code == 200:
            return 0
        given = response.headers.get("Content-Range", "")
        if not re.match(rf"bytes {start}-", given):
            self.partial.unlink(missing_ok=True)
            raise _Cut(f"bytes from {start} were requested, {given or 'an unknown part'} received")
        return start

    def _expected(self, response: requests.Response, begin: int) -> int | None:
        """The size of the complete file, from the server or as known."""
        length = response.headers.get("Content-Length", "")
        size = begin + int(length) if length.isdecimal() else None
        if size is not None and self.size is not None and size != self.size:
            raise DownloadError(
                f"{response.url}: the server has a file of {size:,} bytes, {self.size:,} expected: "
                f"it is a different file; {self.instead}"
            )
        return size if size is not None else self.size

    def _room(self, size: int | None, begin: int) -> None:
        free = shutil.disk_usage(self.partial.parent).free
        if size is not None and size - begin > free:
            raise DownloadError(
                f"{self.partial.parent}: the disk is full: {size - begin:,} bytes are needed and "
                f"{free:,} are free; free some space, or set LMEEC_CACHE to a folder with more"
            )

    def _receive(self, response: requests.Response, url: str, begin: int, size: int | None) -> None:
        """Write the response's content after the first ``begin`` bytes of the partial file."""
        etag = response.headers.get("ETag", "")
        mark = response.headers.get("Last-Modified") if etag[:2] in ("", "W/") else etag
        chunks = response.iter_content(CHUNK)
        first = next(chunks, b"")
        if not first:
            raise _Cut("no data received")
        if not begin and not first.startswith(ARCHIVE):
            begins = first[:40].decode("ascii", "replace").strip()
            raise DownloadError(self._no_checkpoint(url, f"something that begins with {begins!r}"))
        done = begin
        with self.partial.open("ab", buffering=0) as partial:
            partial.truncate(begin)
            write_text(self._note, json.dumps({"url": url, "mark": mark, "size": size}))
            for chunk in chain((first,), chunks):
                rest = memoryview(chunk)
                while rest:
                    rest = rest[partial.write(rest) :]
                done += len(chunk)
                self.show(done, size)
            os.fsync(partial.fileno())
        if size is not None and done != size:
            raise _Cut(f"{done:,} of {size:,} bytes")

    def _no_checkpoint(self, url: str, what: str) -> str:
        return (
            f"{url}: the server sent {what} instead of a checkpoint, probably from a proxy or a "
            f"login page: open the URL in a browser to see it, log in, or set HTTPS_PROXY; "
            f"otherwise {self.instead}"
        )

    def _refused(self, response: requests.Response) -> str:
        status = response.status_code
        if status in (404, 410):
            what = f"there is no such file; {self.instead}"
        elif status == 407:
            what = "the proxy needs a name and a password: HTTPS_PROXY=http://name:password@host"
        elif status in (401, 403):
            what = f"access is denied by the server or by a proxy; {self.instead}"
        elif status == 429 or status >= 500:
            what = f"the server is busy or has an error; try again later. {self._kept()}"
        else:
            what = f"200 or 206 expected; {self.instead}"
        return f"{response.url}: HTTP {status} {response.reason}: {what}"

    def _unreachable(self, url: str, error: requests.RequestException) -> str:
        if isinstance(error, requests.exceptions.ProxyError):
            return f"{url}: the proxy does not answer ({_reason(error)}); check HTTPS_PROXY"
        if isinstance(error, requests.exceptions.SSLError):
            return (
                f"{url}: no trusted connection ({_reason(error)}); check the clock of this "
                f"machine and, behind a company's proxy, set REQUESTS_CA_BUNDLE to its certificates"
            )
        return (
            f"{url}: cannot be reached ({_reason(error)}). Check the network (behind a proxy: "
            f"HTTPS_PROXY) and run the same command again; or {self.instead}"
        )


def _reason(error: BaseException) -> str:
    """The innermost cause of an error of requests, without the names of Python objects."""
    seen = error
    while True:
        inner = getattr(seen, "reason", None)
        if not isinstance(inner, BaseException):
            inner = next((a for a in seen.args if isinstance(a, BaseException)), None)
        if inner is None:
            break
        seen = inner
    text = re.sub(r"^(<[^<>]*>|\w+\(host=[^()]*\))[:,] *", "", str(seen))
    return text or type(seen).__name__
