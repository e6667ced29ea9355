"""The cache folder for graphs, engines and measurements, and its temporary replacement.

The cache only saves time: without a home folder, on a read-only file system or on a full disk
everything works without it, and the log says so.
"""

from __future__ import annotations

import functools
import logging
import os
import tempfile
from pathlib import Path

from platformdirs import user_cache_path

__all__ = ["VARIABLE", "cache_folder", "stand_in"]

logger = logging.getLogger(__name__)

VARIABLE = "LMEEC_CACHE"
"""Environment variable that names the cache's folder."""


def cache_folder() -> Path | None:
    """The cache's folder: $LMEEC_CACHE, else lmeec in the user's cache folder ($XDG_CACHE_HOME,
    ~/.cache). It may not exist or not be writable. None if there is no home folder.
    """
    own = os.environ.get(VARIABLE)
    if own:
        return Path(os.path.expanduser(own)).absolute()
    try:
        folder = user_cache_path("lmeec")
    except RuntimeError:  # older versions give a path that begins with ~
        return None
    return folder if folder.is_absolute() else None


@functools.cache
def _temporary() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="lmeec-cache-", ignore_cleanup_errors=True)


def stand_in(reason: str) -> Path:
    """A temporary folder of this process, deleted when it ends, for when the cache is unusable.

    Args:
        reason: why; it is logged, each reason once.

    Raises:
        OSError: the system's temporary folder cannot be written either.
    """
    folder = Path(_temporary().name)
    _warn(reason, folder)
    return folder


@functools.cache
def _warn(reason: str, folder: Path) -> None:
    logger.warning(
        "graphs and engines are kept in %s, for this run only: %s; set %s to a folder to keep them",
        folder,
        reason,
        VARIABLE,
    )
