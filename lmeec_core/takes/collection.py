"""Takes in any form on disk, opened one at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from lmeec_core.takes.annotation import ANNOTATION
from lmeec_core.takes.errors import TakeError
from lmeec_core.takes.folders import looks_like_take
from lmeec_core.takes.keys import look_alike
from lmeec_core.takes.relations import RelationsFile
from lmeec_core.takes.splits import read_split, split_names
from lmeec_core.takes.take import Take

SPLIT_FILE = "split.json"


class Takes:
    """The takes of a path, opened one at a time; see :func:`open_takes`.

        takes = open_takes("EgoExo4D/relations_val.json")
        for take in takes:
            ...
        if takes.broken: ...

    Iterating skips broken takes and collects them in ``broken``. Callers pass errors found later
    (an image that cannot be decoded) to :meth:`report`.

    Attributes:
        path: the path that was opened.
        kind: "take", "dataset" (a folder of takes) or "relations" (a file of many takes).
        names: ids of the takes, in order.
        broken: one error for each take or file found to be unreadable so far.
        on_error: called with each of these errors when it is found.
    """

    def __init__(
        self,
        path: Path,
        kind: str,
        openers: dict[str, Callable[[], Take]],
        on_error: Callable[[TakeError], None] | None = None,
    ) -> None:
        self.path, self.kind, self.on_error = path, kind, on_error
        self.names = tuple(openers)
        self.broken: list[TakeError] = []
        self._openers = openers

    def __len__(self) -> int:
        """Number of takes, broken ones included."""
        return len(self.names)

    def __iter__(self) -> Iterator[Take]:
        for name in self.names:
            try:
                take = self.open(name)
            except TakeError as error:
                self.report(error)
            else:
                yield take

    def open(self, name: str) -> Take:
        """Open one take and parse its annotations.

        Raises:
            TakeError: there is no such take, or it is broken.
        """
        if name not in self._openers:
            raise unknown_take(self.path, name, self.names)
        take = self._openers[name]()
        take.annotation  # noqa: B018  raises now for a broken file, not during processing
        return take

    def report(self, error: TakeError) -> None:
        """Count a broken take."""
        self.broken.append(error)
        if self.on_error is not None:
            self.on_error(error)


def open_takes(
    path: str | os.PathLike[str],
    split: str | None = None,
    *,
    names: tuple[str, ...] = (),
    videos: str | os.PathLike[str] | None = None,
    on_error: Callable[[TakeError], None] | None = None,
) -> Takes:
    """Find the takes at a path; none is opened yet.

    Args:
        path: a take (folder with annotation.json); a dataset (folder of takes, or of train/, val/,
            test/ with takes, with or without split.json); a raw relations file, or EgoExo4D's
            folder with annotations/relations_{split}.json; the benchmark's truth file.
        split: only the takes of this split.
        names: only these takes.
        videos: for a relations file, the folder of the takes' videos.
        on_error: called with each broken take when it is found.

    Raises:
        TakeError: there are no takes at the path, or the split or a name is unknown.
    """
    here = Path(path)
    if split is not None and (here.is_file() or (here / ANNOTATION).is_file()):
        raise TakeError(here, f"split {split!r} given, but this is not a folder with splits")
    if here.is_file():
        takes = _of_relations(here, None, videos, on_error)
    elif (here / ANNOTATION).is_file():
        takes = Takes(here, "take", {here.resolve().name: lambda: Take.open(here)}, on_error)
    elif not here.is_dir():
        raise TakeError(here, "there is no such file or folder of takes")
    elif found := _relations_files(here, split):
        if len(found) > 1:
            listed = ", ".join(file.name for file in found)
            raise TakeError(here, f"contains {listed}; give one of them, or a split")
        takes = _of_relations(found[0], here, videos, on_error)
    else:
        takes = _of_dataset(here, split, on_error)
    unknown = sorted(set(names) - set(takes.names))
    if unknown:
        raise unknown_take(here, unknown[0], takes.names)
    if names:
        takes.names = tuple(name for name in takes.names if name in names)
    return takes


def open_one(
    path: str | os.PathLike[str],
    split: str | None = None,
    name: str | None = None,
    videos: str | os.PathLike[str] | None = None,
) -> Take:
    """Open the take at a path, or the take with this name if there are several.

    Raises:
        TakeError: as for :func:`open_takes`, or there are several takes and no name is given.
    """
    takes = open_takes(path, split, names=() if name is None else (name,), videos=videos)
    if len(takes.names) > 1:
        listed = ", ".join(takes.names[:8])
        raise TakeError(path, f"has {len(takes)} takes; choose one with --take: {listed}")
    return takes.open(takes.names[0])


def unknown_take(path: Path, name: str, known: Collection[str]) -> TakeError:
    """The error for a requested take that does not exist."""
    alike = look_alike(name, known)
    return TakeError(path, f"no take {name!r} among the {len(known)} takes{alike}")


def _relations_files(folder: Path, split: str | None) -> list[Path]:
    pattern = f"relations_{split or '*'}.json"
    return sorted([*folder.glob(pattern), *folder.glob(f"annotations/{pattern}")])


def _of_relations(
    path: Path,
    root: Path | None,
    videos: str | os.PathLike[str] | None,
    on_error: Callable[[TakeError], None] | None,
) -> Takes:
    if videos is None and root is not None and (root / "takes").is_dir():
        videos = root / "takes"
    file = RelationsFile(path, videos)

    def opener(name: str) -> Callable[[], Take]:
        return lambda: file.open(name)

    takes = Takes(path, "relations", {name: opener(name) for name in file.names}, on_error)
    if file.broken is not None:
        takes.report(file.broken)
    return takes


def _of_dataset(
    root: Path, split: str | None, on_error: Callable[[TakeError], None] | None
) -> Takes:
    """Takes of a folder; takes listed in split.json but missing are reported when opened."""
    places: dict[str, Path] = {}

    def place(name: str, folder: Path) -> None:
        if places.setdefault(name, folder) != folder:
            raise TakeError(
                root, f"take {name!r} occurs more than once; choose a split, or one of the folders"
            )

    index = root / SPLIT_FILE
    if index.is_file():
        for part in split_names(index) if split is None else (split,):
            for name in read_split(index, part):
                flat = root / name
                place(name, flat if flat.is_dir() else root / part / name)
    else:
        folder = root if split is None else root / split
        pattern = (f"*/{ANNOTATION}", f"*/*/{ANNOTATION}")[: 2 if split is None else 1]
        takes = {file.parent for glob in pattern for file in folder.glob(glob)}
        others = {p for glob in pattern for p in folder.glob(os.path.dirname(glob)) if p.is_dir()}
        hidden = {p for p in others if p.name.startswith(".") or p.parent in takes}
        takes |= {p for p in others - takes - hidden if looks_like_take(p)}  # reported when opened
        for one in sorted(takes):
            place(one.name, one)

    if not places:
        what = "" if split is None else f" of split {split!r}"
        raise TakeError(
            root, f"no takes{what} here; a take is a folder with {ANNOTATION} and <camera>/*.jpg"
        )

    def opener(folder: Path) -> Callable[[], Take]:
        return lambda: Take.open(folder)

    return Takes(root, "dataset", {name: opener(p) for name, p in places.items()}, on_error)
