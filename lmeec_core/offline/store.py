"""The work folder: finished units, one file each, written atomically."""

from __future__ import annotations

import fcntl
import json
import os
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from lmeec_core.errors import InputError
from lmeec_core.files import replacing
from lmeec_core.offline.records import UnitData, parse
from lmeec_core.offline.units import Settings, Unit

SUFFIX = ".jsonl"
_MAX_TEXT = 120


class UnitStore:
    """Finished units in a folder. Use it in a with statement; one process at a time.

    A file is written under a temporary name and renamed once it is on disk, so a process or a
    machine that stops leaves only complete files; partial files are never read.

    Args:
        folder: the work folder; created if it does not exist.
        settings: units computed with other settings are not used.

    Raises:
        InputError: another process is using the folder.
    """

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.folder = folder
        self.settings = settings.identity()
        self.changed: Counter[str] = Counter()
        """Why stored units could not be used, with the number of units; shown to the user."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "progress").mkdir(exist_ok=True)
        self._lock = (folder / "lock").open("ab")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise InputError(
                f"{folder}: in use by another process; wait for it, or choose another --out"
            ) from error
        for left in (*folder.glob("*.partial"), *(folder / "progress").iterdir()):
            left.unlink(missing_ok=True)  # from a process that was stopped

    def head(self, unit: Unit) -> dict[str, Any]:
        """The first line of the unit's file."""
        return {"unit": unit.identity(), "settings": self.settings}

    def has(self, unit: Unit) -> bool:
        """Whether the unit was finished with these settings and inputs; else counts the reason."""
        path = self._path(unit)
        try:
            with path.open("rb") as file:
                head = json.loads(file.readline())
                file.seek(max(0, file.seek(0, os.SEEK_END) - 8))
                whole = file.read().endswith(b"}\n")
        except FileNotFoundError:
            return False
        except ValueError:
            head, whole = None, False
        reason = _difference(head, self.head(unit)) if whole else "not readable"
        if reason:
            self.changed[reason] += 1
        return not reason

    def load(self, unit: Unit) -> UnitData:
        """A finished unit.

        Raises:
            InputError: the file is missing, damaged, or from other settings; names the file.
        """
        path = self._path(unit)
        try:
            data = parse(path.read_bytes())
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: {error}; delete it and run the command again") from error
        reason = _difference(data.head, self.head(unit))
        if reason:
            raise InputError(f"{path}: {reason}; run the command again")
        return data

    def put(self, unit: Unit, data: bytes) -> None:
        """Store a finished unit."""
        with replacing(self._path(unit)) as partial, partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def progress_file(self, unit: Unit) -> Path:
        """The file to which a worker process writes its progress."""
        return self.folder / "progress" / unit.key

    def close(self) -> None:
        """Release the lock on the folder."""
        self._lock.close()

    def __enter__(self) -> UnitStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _path(self, unit: Unit) -> Path:
        return self.folder / f"{unit.key}{SUFFIX}"


def engines_before(folder: Path, settings: Settings) -> dict[Any, Any] | None:
    """The engines that ``auto`` chose for the units in a work folder.

    Args:
        folder: the work folder; may not exist.
        settings: the current settings, without a choice of engines.

    Returns:
        The engine of each stage; None if no stored unit has these settings.
    """
    now = {k: v for k, v in settings.identity().items() if k != "engines"}
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        with suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
            with path.open("rb") as file:
                before = dict(json.loads(file.readline())["settings"])
            engines = before.pop("engines")
            if before == now and engines:
                return dict(engines)
    return None


def _difference(found: Any, wanted: dict[str, Any]) -> str:
    """Why a stored unit cannot be used, as text; "" if it can."""
    if not isinstance(found, dict) or not isinstance(found.get("settings"), dict):
        return "from another version"
    before, now = found["settings"], wanted["settings"]
    changes = [
        f"{name} was {_short(before.get(name))}, is now {_short(now.get(name))}"
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name)
    ]
    if changes:
        return "; ".join(changes[:3]) + ("; ..." if len(changes) > 3 else "")
    if found.get("unit") != wanted["unit"]:
        return "the recording has changed"
    return ""


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}..."
