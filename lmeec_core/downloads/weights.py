"""Puts released weights into the cache, from the web or from a file, and checks them."""

from __future__ import annotations

import fcntl
import hashlib
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from lmeec_core.cache import VARIABLE, cache_folder
from lmeec_core.checkpoint import check_weights, read_state_dict
from lmeec_core.config import preset
from lmeec_core.downloads.catalogue import Released
from lmeec_core.errors import InputError
from lmeec_core.files import SUFFIX, replacing, write_text
from lmeec_core.networks import build_model

__all__ = ["Held", "Kept", "held", "keep", "obtain", "weights_folder"]

Show = Callable[[int, int | None], None]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Held:
    """The state of released weights in the cache."""

    path: Path
    """The file's path, whether it exists or not."""
    size: int | None
    """Size of the file in bytes; None: it does not exist."""
    partial: int
    """Bytes left by an interrupted download."""


@dataclass(frozen=True)
class Kept:
    """Checked weights in the cache: complete, and loadable with their preset."""

    path: Path
    size: int
    sha256: str
    known: bool
    """Whether the SHA-256 is from the catalogue; else it is that of the first download."""


def weights_folder() -> Path:
    """The folder of released weights in the cache; it may not exist yet.

    Raises:
        InputError: there is no home folder, and $LMEEC_CACHE is not set.
    """
    folder = cache_folder()
    if folder is None:
        raise InputError(f"no home folder to keep weights in: set {VARIABLE} to a folder")
    return folder / "weights"


def held(weights: Released) -> Held:
    """The state of these weights in the cache, by name and size; no file is read.

    Raises:
        InputError: there is no cache folder.
    """
    path = weights_folder() / weights.file
    return Held(path, _size(path), _size(_partial(path)) or 0)


def obtain(weights: Released, base: str | None, show: Show, say: Say) -> Kept:
    """Download weights, unless they are in the cache, and check them.

    Args:
        weights: the weights to download.
        base: see :meth:`Released.url`.
        show: called with the progress: bytes so far, and total bytes or None.
        say: called with texts about unexpected events.

    Raises:
        InputError: there is no URL to download from, a wrong base, or no cache folder.
        CheckpointError: the file is not a checkpoint of the preset; it is deleted.
        DownloadError: see :class:`lmeec_core.downloads.http.Download`; also for a wrong checksum.
        OSError: the cache folder cannot be written; names it.
    """
    path = weights_folder() / weights.file
    expected = weights.sha256 or _recorded(path)
    if path.is_file():
        if expected is None or _sha256(path) == expected:
            return _checked(weights, path, expected)
        say(f"{path} has changed (its SHA-256 differs); it is downloaded again")
    url = weights.url(base)
    if url is None:
        raise InputError(_by_hand(weights))
    path.parent.mkdir(parents=True, exist_ok=True)
    with _alone(path):
        _retrieve(weights, url, path, expected, show, say)
        try:
            return _checked(weights, path, expected)
        except InputError:
            if expected is None:
                path.unlink()
            raise


def keep(weights: Released, file: Path) -> Kept:
    """Check a file that was downloaded by other means, and copy it into the cache.

    Raises:
        InputError: there is no such file, its checksum is wrong, or it is not a checkpoint of the
            preset.
        OSError: the file cannot be read, or the cache cannot be written; names the file.
    """
    if not file.is_file():
        raise InputError(f"--file {file}: no such file")
    got = _sha256(file)
    if weights.sha256 not in (None, got):
        raise InputError(
            f"--file {file}: its SHA-256 is {got}, {weights.sha256} expected for {weights.name}: "
            f"it is damaged, or a different file"
        )
    _check(weights, file)
    path = weights_folder() / weights.file
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        shutil.copyfile(file, partial)
    return _recording(weights, path, got)


def _by_hand(weights: Released) -> str:
    return (
        f"{weights.name}: the authors ({weights.page}) share it in a Google Drive folder, from "
        f"which only a browser can download. Open {weights.source} , click on the checkpoint "
        f"(.pt), then on the arrow (Download), and run: "
        f"lmeec weights get {weights.name} --file ~/Downloads/checkpoint.pt"
    )


def _retrieve(
    weights: Released, url: str, path: Path, expected: str | None, show: Show, say: Say
) -> None:
    import pooch

    from lmeec_core.downloads.http import Download, DownloadError

    pooch.get_logger().setLevel("WARNING")  # URL and progress are shown by this command
    instead = (
        f"get {weights.file} by other means (see {weights.page}) and give it with --file, or give "
        f"the URL of another folder that has it with --url-base"
    )
    download = Download(_partial(path), weights.size, instead, show, say)
    known = f"sha256:{expected}" if expected else None
    try:
        pooch.retrieve(url, known, path.name, path.parent, downloader=download)
    except ValueError as error:
        got = re.search("[0-9a-f]{64}", str(error).replace(expected or "", ""))
        raise DownloadError(
            f"{url}: the checksum is wrong: SHA-256 {got[0] if got else 'unknown'} received, "
            f"{expected} expected. The download was damaged, or is a different file. "
            f"Nothing was kept. Try again; or {instead}"
        ) from error


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Lock a file, so that no two processes download it at the same time."""
    with path.with_name(f".{path.name}.lock").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(
                f"{path}: another process is downloading this file; wait for it to finish"
            ) from error
        yield


def _checked(weights: Released, path: Path, expected: str | None) -> Kept:
    _check(weights, path)
    return _recording(weights, path, expected or _sha256(path))


def _recording(weights: Released, path: Path, sha256: str) -> Kept:
    """Record a checksum that is not in the catalogue next to the file, as sha256sum does."""
    if weights.sha256 is None:
        write_text(_record(path), f"{sha256}  {path.name}\n")
    return Kept(path, path.stat().st_size, sha256, weights.sha256 is not None)


def _check(weights: Released, path: Path) -> None:
    """Raise an error unless the file is a checkpoint of the weights' preset."""
    state = read_state_dict(path)
    with torch.device("meta"):
        model = build_model(preset(weights.preset))
    check_weights(model, state, str(path), require_mv_moe=weights.mv_moe)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _record(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _recorded(path: Path) -> str | None:
    """The checksum of the first download, if it was recorded."""
    try:
        text = _record(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    found = re.match("[0-9a-f]{64}(?= )", text)
    return found[0] if found else None


def _partial(path: Path) -> Path:
    return path.with_name(path.name + SUFFIX)


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None
