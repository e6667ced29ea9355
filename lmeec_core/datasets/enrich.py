"""Adds objects and their masks to a copy of a LeRobot dataset; its videos are unchanged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmeec_core.datasets.episode import Part
from lmeec_core.datasets.frames import Episode, Plan
from lmeec_core.datasets.images import link
from lmeec_core.datasets.lerobot import LeRobotWriter, features_of, write_json
from lmeec_core.datasets.stats import merged
from lmeec_core.errors import InputError
from lmeec_core.takes.json_file import read_json

INFO = Path("meta") / "info.json"
STATS = Path("meta") / "stats.json"


@dataclass(frozen=True)
class Enrichment:
    """A :class:`~lmeec_core.datasets.episode.Format`: a copy of a dataset with more features.

    Attributes:
        base: absolute path of the existing dataset.
        fps: its frame rate.
        lengths: lengths of its episodes, in ticks.
    """

    base: str
    fps: int
    lengths: tuple[int, ...]
    name: str = "lerobot"

    @classmethod
    def of(cls, path: Path) -> Enrichment:
        """The enrichment of a dataset.

        Raises:
            InputError: it is not a LeRobot dataset of version 3, or already has objects.
        """
        from pyarrow import parquet

        info = read_json(path / INFO)
        version, fps = str(info.get("codebase_version")), info.get("fps")
        features = info.get("features")
        if not version.startswith("v3.") or not isinstance(features, dict):
            raise InputError(
                f"{path / INFO}: codebase_version {version!r}, a LeRobot dataset of version v3.x "
                "expected; LeRobot can convert older ones"
            )
        if type(fps) is not int or fps < 1:
            raise InputError(f"{path / INFO}: fps is {fps!r}, an integer of at least 1 expected")
        there = [key for key in features if key.startswith("observation.objects.")]
        if there:
            raise InputError(f"{path / INFO}: already has objects ({there[0]})")
        lengths: dict[int, int] = {}
        for file in _files(path, "meta/episodes"):
            table = parquet.read_table(file, columns=["episode_index", "length"])
            lengths.update(zip(*table.to_pydict().values(), strict=True))
        if sorted(lengths) != list(range(len(lengths))):
            raise InputError(f"{path}/meta/episodes: the episodes are not 0, 1, 2, ...")
        ordered = tuple(lengths[number] for number in range(len(lengths)))
        return cls(str(path.resolve()), fps, ordered)

    def check(self) -> None:
        """See :class:`~lmeec_core.datasets.episode.Format`."""
        import pyarrow  # noqa: F401

    def writer(self, folder: Path, plan: Plan, episode: Episode) -> LeRobotWriter:
        """See :class:`~lmeec_core.datasets.episode.Format`."""
        return LeRobotWriter(folder, plan, videos=False)

    def finish(
        self, out: Path, plan: Plan, parts: Sequence[Part], notes: Mapping[str, Any]
    ) -> None:
        """See :class:`~lmeec_core.datasets.episode.Format`."""
        self._check_lengths(parts)
        base = Path(self.base)
        info, stats = read_json(base / INFO), read_json(base / STATS)
        added = {k: f for k, f in features_of(plan).items() if f["dtype"] != "video"}
        taken = [key for key in added if key in info["features"]]
        if taken:
            raise InputError(f"{base / INFO}: already has a feature {taken[0]}")
        written = {*_files(base, "data"), *_files(base, "meta/episodes"), base / INFO, base / STATS}
        for path in sorted(base.rglob("*")):
            if path.is_file() and path not in written:
                link(path, out / path.relative_to(base))
        for path in _files(base, "data"):
            _add_columns(path, out / path.relative_to(base), list(added), parts)
        for path in _files(base, "meta/episodes"):
            _add_stats(path, out / path.relative_to(base), list(added), parts)
        own = [part.facts["written"]["stats"] for part in parts]
        new = {key: merged([one[key] for one in own]) for key in added if key in own[0]}
        write_json(out / STATS, {**stats, **new})
        write_json(out / INFO, {**info, "features": {**info["features"], **added}})
        for name, content in notes.items():
            write_json(out / "meta" / f"{name}.json", content)

    def _check_lengths(self, parts: Sequence[Part]) -> None:
        """Check that every episode has a recording of the same length.

        Raises:
            InputError: the numbers or the lengths differ.
        """
        if len(parts) != len(self.lengths):
            raise InputError(
                f"{self.base}: has {len(self.lengths)} episodes, but {len(parts)} recordings were "
                "read; one recording per episode expected, in the same order"
            )
        for number, (part, length) in enumerate(zip(parts, self.lengths, strict=True)):
            if part.facts["length"] != length:
                raise InputError(
                    f"{self.base}: episode {number} has {length} frames, but the recording "
                    f"{part.episode.name} has {part.facts['length']} at {self.fps} Hz; the "
                    "recording of this episode expected, with the same start and end"
                )


def _files(base: Path, folder: str) -> list[Path]:
    return sorted((base / folder).glob("*/*.parquet"))


def _add_columns(source: Path, target: Path, names: list[str], parts: Sequence[Part]) -> None:
    """Copy a data file, adding columns from its episodes; one file is in memory at a time."""
    import pyarrow as arrow
    from pyarrow import parquet

    table = parquet.read_table(source)
    numbers = table["episode_index"].to_pylist()
    order = list(dict.fromkeys(numbers))
    own = [parquet.read_table(parts[number].folder / "data.parquet") for number in order]
    added = arrow.concat_tables([one.select(["frame_index", *names]) for one in own])
    wanted = [number for number, one in zip(order, own, strict=True) for _ in range(len(one))]
    if numbers != wanted or not table["frame_index"].equals(added["frame_index"]):
        raise InputError(f"{source}: rows of complete episodes in order expected")
    for name in names:
        table = table.append_column(added.schema.field(name), added[name])
    kept = {k: v for k, v in (table.schema.metadata or {}).items() if k != b"huggingface"}
    target.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table.replace_schema_metadata(kept), target)


def _add_stats(source: Path, target: Path, names: list[str], parts: Sequence[Part]) -> None:
    """Copy a file of episodes, adding the statistics of the new features."""
    import pyarrow as arrow
    from pyarrow import parquet

    table = parquet.read_table(source)
    stats = [parts[n].facts["written"]["stats"] for n in table["episode_index"].to_pylist()]
    for key in names:
        for measure in stats[0].get(key, ()):
            values = arrow.array([one[key][measure] for one in stats])
            table = table.append_column(f"stats/{key}/{measure}", values)
    kept = {k: v for k, v in (table.schema.metadata or {}).items() if k != b"huggingface"}
    target.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table.replace_schema_metadata(kept), target)
