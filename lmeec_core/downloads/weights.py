"""From the web, or from a file, into the cache: checked, whole, and with what is known of it."""

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
    """What the cache has of released weights."""

    path: Path
    """Where they are, or would be."""
    size: int | None
    """Bytes of the file; None: it is not there."""
    partial: int
    """Bytes that a download which was stopped has left."""


@dataclass(frozen=True)
class Kept:
    """Weights in the cache that were checked: whole, and loadable as their preset."""

    path: Path
    size: int
    sha256: str
    known: bool
    """Whether the SHA-256 is known from elsewhere; else it is that of the first download."""


def weights_folder() -> Path:
    """The folder of released weights in the cache; it need not be there.

    Raises:
        InputError: there is no home folder, and $LMEEC_CACHE is not set.
    """
    folder = cache_folder()
    if folder is None:
        raise InputError(f"no home folder to keep weights in: let {VARIABLE} name a folder")
    return folder / "weights"


def held(weights: Released) -> Held:
    """What the cache has of these weights, by its name and size: nothing is read.

    Raises:
        InputError: there is no cache folder.
    """
    path = weights_folder() / weights.file
    return Held(path, _size(path), _size(_partial(path)) or 0)


def obtain(weights: Released, base: str | None, show: Show, say: Say) -> Kept:
    """Download weights, unless they are in the cache, and check them.

    Args:
        weights: which.
        base: see :meth:`Released.url`.
        show: told of progress: bytes so far, and bytes in all or None.
        say: told in words of what the user would not expect.

    Raises:
        InputError: there is no address to download from, a wrong base, or no cache folder.
        CheckpointError: what arrived is not a checkpoint of the preset; it is not kept.
        DownloadError: see :class:`lmeec_core.downloads.http.Download`; also a wrong checksum.
        OSError: the cache folder cannot be written; names it.
    """
    path = weights_folder() / weights.file
    expected = weights.sha256 or _recorded(path)
    if path.is_file():
        if expected is None or _sha256(path) == expected:
            return _checked(weights, path, expected)
        say(f"{path} is not what it was (its SHA-256 differs); it is fetched again")
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
        InputError: no such file, a wrong checksum, or no checkpoint of the preset.
        OSError: it cannot be read, or the cache cannot be written; names the file.
    """
    if not file.is_file():
        raise InputError(f"--file {file}: no such file")
    got = _sha256(file)
    if weights.sha256 not in (None, got):
        raise InputError(
            f"--file {file}: its SHA-256 is {got}, {weights.sha256} expected for {weights.name}: "
            f"a damaged file, or another one"
        )
    _check(weights, file)
    path = weights_folder() / weights.file
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        shutil.copyfile(file, partial)
    return _recording(weights, path, got)


def _by_hand(weights: Released) -> str:
    return (
        f"{weights.name}: its authors ({weights.page}) have it in a Google Drive folder, from "
        f"which only a browser downloads. Open {weights.source} , click on the checkpoint (.pt), "
        f"then on the arrow (Download), and give the file that arrives: "
        f"lmeec weights get {weights.name} --file ~/Downloads/checkpoint.pt"
    )


def _retrieve(
    weights: Released, url: str, path: Path, expected: str | None, show: Show, say: Say
) -> None:
    import pooch

    from lmeec_core.downloads.http import Download, DownloadError

    pooch.get_logger().setLevel("WARNING")  # the address and the progress are ours to show
    instead = (
        f"get {weights.file} by other means (see {weights.page}) and give it with --file, or give "
        f"the address of another folder that has it with --url-base"
    )
    download = Download(_partial(path), weights.size, instead, show, say)
    known = f"sha256:{expected}" if expected else None
    try:
        pooch.retrieve(url, known, path.name, path.parent, downloader=download)
    except ValueError as error:
        got = re.search("[0-9a-f]{64}", str(error).replace(expected or "", ""))
        raise DownloadError(
            f"{url}: the checksum is wrong: SHA-256 {got[0] if got else 'unknown'} came, "
            f"{expected} expected. It was damaged on the way, or is another file. "
            f"Nothing was kept. Try once more; or {instead}"
        ) from error


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a lock beside a file, so that no two processes write the same part."""
    with path.with_name(f".{path.name}.lock").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(
                f"{path}: another process is downloading it; wait for that one to finish"
            ) from error
        yield


def _checked(weights: Released, path: Path, expected: str | None) -> Kept:
    _check(weights, path)
    return _recording(weights, path, expected or _sha256(path))


def _recording(weights: Released, path: Path, sha256: str) -> Kept:
    """Put a checksum that is not known from elsewhere beside the file, as sha256sum does."""
    if weights.sha256 is None:
        write_text(_record(path), f"{sha256}  {path.name}\n")
    return Kept(path, path.stat().st_size, sha256, weights.sha256 is not None)


def _check(weights: Released, path: Path) -> None:
    """Refuse what is not a checkpoint of the weights' preset."""
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
