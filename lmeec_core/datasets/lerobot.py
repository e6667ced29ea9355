"""LeRobot datasets, version 3.0, written with pyarrow and PyAV.

Each episode has one Parquet file, and one video per camera. The features of a camera <cam>, with N
object slots, are those of :class:`lmeec_core.datasets.frames.Rows`:

    observation.images.<cam>             video
    observation.stamp.<cam>              int64, the image's own stamp in nanoseconds; -1: no image
    observation.objects.<cam>.<field>    known, visible, score, bbox, centroid, area
    observation.objects.<cam>.mask_rle   text, a JSON list of N COCO run lengths or nulls
    observation.objects.<field>          position and position_valid if the cameras are calibrated,
                                         moves and contact if one of the objects is a hand
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmeec_core.datasets.episode import Part
from lmeec_core.datasets.frames import Episode, Plan, Tick
from lmeec_core.datasets.images import link
from lmeec_core.datasets.stats import ImageStats, column_stats, merged
from lmeec_core.datasets.videos import VideoWriter

VERSION = "v3.0"
CHUNK = 1000
"""Files per folder."""
ROWS = 256
"""Ticks per row group of a Parquet file, which are held in memory."""
FILE = "chunk-{chunk_index:03d}/file-{file_index:03d}"
AUTOMATIC = {
    "timestamp": "float32", "frame_index": "int64", "episode_index": "int64", "index": "int64",
    "task_index": "int64",
}  # fmt: skip
FIELDS: dict[str, tuple[str, tuple[int, ...]]] = {
    "known": ("bool", ()), "visible": ("bool", ()), "score": ("float32", ()),
    "bbox": ("float32", (4,)), "centroid": ("float32", (2,)), "area": ("float32", ()),
}  # fmt: skip
"""The fields of the objects in each camera: type, and shape per object."""


def key_of(camera: str) -> str:
    """A camera's name for use in a feature's key, which may not contain "/"."""
    return camera.replace("/", "_")


def features_of(plan: Plan) -> dict[str, dict[str, Any]]:
    """The features listed in info.json, by key, without the automatic ones."""
    features: dict[str, dict[str, Any]] = {}
    slots, count = list(plan.slots), len(plan.slots)
    for camera in plan.cameras:
        name, (height, width) = key_of(camera), plan.sizes[camera]
        features[f"observation.images.{name}"] = {
            "dtype": "video", "shape": [height, width, 3], "names": ["height", "width", "channels"],
        }  # fmt: skip
        features[f"observation.stamp.{name}"] = {"dtype": "int64", "shape": [1], "names": ["ns"]}
        for field, (dtype, shape) in FIELDS.items():
            features[f"observation.objects.{name}.{field}"] = {
                "dtype": dtype, "shape": [count, *shape], "names": slots,
            }  # fmt: skip
        features[f"observation.objects.{name}.mask_rle"] = {
            "dtype": "string", "shape": [1], "names": slots,
        }  # fmt: skip
    for field, (dtype, shape) in plan.object_fields.items():
        features[f"observation.objects.{field}"] = {
            "dtype": dtype, "shape": [count, *shape], "names": slots,
        }  # fmt: skip
    return features


@dataclass(frozen=True)
class LeRobot:
    """A :class:`~lmeec_core.datasets.episode.Format`."""

    name: str = "lerobot"

    def check(self) -> None:
        """See :class:`~lmeec_core.datasets.episode.Format`."""
        import av  # noqa: F401
        import pyarrow  # noqa: F401

    def writer(self, folder: Path, plan: Plan, episode: Episode) -> LeRobotWriter:
        """See :class:`~lmeec_core.datasets.episode.Format`."""
        return LeRobotWriter(folder, plan)

    def finish(
        self, out: Path, plan: Plan, parts: Sequence[Part], notes: Mapping[str, Any]
    ) -> None:
        """See :class:`~lmeec_core.datasets.episode.Format`."""
        tasks = list(dict.fromkeys(part.episode.task for part in parts))
        rows, start = [], 0
        for number, part in enumerate(parts):
            place = dict(zip(("chunk_index", "file_index"), divmod(number, CHUNK), strict=True))
            task = tasks.index(part.episode.task)
            own = _number(part, out / "data" / f"{FILE.format(**place)}.parquet", number, start,
                          task)  # fmt: skip
            for index, camera in enumerate(plan.cameras):
                key = f"observation.images.{key_of(camera)}"
                video = out / "videos" / key / f"{FILE.format(**place)}.mp4"
                link(part.folder / f"{index}.mp4", video)
            rows.append(_episode_row(plan, part, number, start, place, own))
            start += part.facts["length"]
        listed = [{k: v for k, v in row.items() if k != "stats"} for row in rows]
        first = FILE.format(chunk_index=0, file_index=0)
        _write_rows(out / "meta" / "episodes" / f"{first}.parquet", listed)
        _write_tasks(out / "meta" / "tasks.parquet", tasks)
        keys = rows[0]["stats"]
        write_json(out / "meta" / "stats.json",
                    {key: merged([row["stats"][key] for row in rows]) for key in keys})  # fmt: skip
        write_json(out / "meta" / "info.json", _info(plan, parts, start, len(tasks)))
        for name, content in notes.items():
            write_json(out / "meta" / f"{name}.json", content)


class LeRobotWriter:
    """Writes an episode: data.parquet, and <camera number>.mp4.

    Args:
        folder: the folder to write to; must exist and be empty.
        plan: the plan of the dataset.
        videos: whether to write the videos.
    """

    def __init__(self, folder: Path, plan: Plan, videos: bool = True) -> None:
        import pyarrow as arrow
        from pyarrow import parquet

        self._plan = plan
        self._features = {k: f for k, f in features_of(plan).items() if f["dtype"] != "video"}
        cameras = plan.cameras if videos else ()
        columns: list[tuple[str, str, list[int]]]
        columns = [(name, dtype, []) for name, dtype in AUTOMATIC.items()]
        columns += [(k, f["dtype"], _inner(f["shape"])) for k, f in self._features.items()]
        self._schema = arrow.schema([arrow.field(name, _type(d, s)) for name, d, s in columns])
        self._parquet: Any = parquet.ParquetWriter(folder / "data.parquet", self._schema)
        self._videos = [
            VideoWriter(folder / f"{index}.mp4", plan.sizes[camera], plan.fps)
            for index, camera in enumerate(cameras)
        ]
        self._images = [ImageStats() for _ in cameras]
        self._waiting: dict[str, list[Any]] = {name: [] for name in self._schema.names}
        self._columns: dict[str, list[NDArray[Any]]] = {}

    def add(self, tick: Tick) -> None:
        """See :class:`~lmeec_core.datasets.episode.EpisodeWriter`."""
        row: dict[str, Any] = {
            "timestamp": np.float32(tick.number / self._plan.fps), "frame_index": tick.number,
            "episode_index": 0, "index": tick.number, "task_index": 0,
        }  # fmt: skip
        for seen, video, stats in zip(
            tick.cameras.values(), self._videos, self._images, strict=False
        ):
            video.add(seen.image)
            stats.add(seen.image)
        for camera, seen in tick.cameras.items():
            name = key_of(camera)
            row[f"observation.stamp.{name}"] = seen.stamp_ns
            for field in FIELDS:
                row[f"observation.objects.{name}.{field}"] = getattr(seen.rows, field)
            text = json.dumps(seen.rows.rles, separators=(",", ":"))
            row[f"observation.objects.{name}.mask_rle"] = text
        row |= {f"observation.objects.{field}": values for field, values in tick.objects.items()}
        for name, value in row.items():
            self._waiting[name].append(value)
        if len(self._waiting["index"]) == ROWS:
            self._flush()

    def close(self) -> dict[str, Any]:
        """See :class:`~lmeec_core.datasets.episode.EpisodeWriter`."""
        self._flush()
        self._parquet.close()
        for video in self._videos:
            video.close()
        stats = {name: column_stats(np.concatenate(v)) for name, v in self._columns.items()}
        for camera, images in zip(self._plan.cameras, self._images, strict=False):
            stats[f"observation.images.{key_of(camera)}"] = images.result()
        return {"stats": stats, "pixels": [video.pixels for video in self._videos]}

    def abort(self) -> None:
        """See :class:`~lmeec_core.datasets.episode.EpisodeWriter`."""
        self._parquet.close()
        for video in self._videos:
            video.abort()

    def _flush(self) -> None:
        import pyarrow as arrow

        if not self._waiting["index"]:
            return
        arrays = []
        for field in self._schema:
            values = self._waiting[field.name]
            one = self._features.get(field.name)
            if one is not None and one["dtype"] == "string":
                arrays.append(arrow.array(values, field.type))
                continue
            dtype = AUTOMATIC.get(field.name) or (one or {})["dtype"]
            block = np.asarray(values, dtype).reshape(
                len(values), *_inner((one or {}).get("shape"))
            )
            arrays.append(_nested(block, field.type))
            # LeRobot treats every key that contains "image" as an image.
            if "image" not in field.name:
                self._columns.setdefault(field.name, []).append(block)
        self._parquet.write_table(arrow.Table.from_arrays(arrays, schema=self._schema))
        for values in self._waiting.values():
            values.clear()


def _inner(shape: Sequence[int] | None) -> list[int]:
    """The shape of a feature's value in one row: [] for a scalar."""
    return [] if shape is None or list(shape) == [1] else list(shape)


def _type(dtype: str, shape: Sequence[int]) -> Any:
    """The Parquet type: lists of fixed length for vectors, lists of lists for arrays."""
    import pyarrow as arrow

    names = {"bool": arrow.bool_(), "string": arrow.string()}
    made = names.get(dtype) or getattr(arrow, dtype)()
    if len(shape) == 1:
        return arrow.list_(made, shape[0])
    for _ in shape:
        made = arrow.list_(made)
    return made


def _nested(block: NDArray[Any], kind: Any) -> Any:
    """An array (T, ...) as a Parquet column."""
    import pyarrow as arrow

    if block.ndim == 1:
        return arrow.array(block, kind)
    values = block.tolist() if block.ndim > 2 else list(block)
    return arrow.array(values, kind)


def _number(part: Part, target: Path, number: int, start: int, task: int) -> dict[str, Any]:
    """Copy an episode's data, setting the columns with its place in the dataset; returns the
    statistics of these columns."""
    import pyarrow as arrow
    from pyarrow import parquet

    target.parent.mkdir(parents=True, exist_ok=True)
    columns: dict[str, list[NDArray[Any]]] = {"episode_index": [], "index": [], "task_index": []}
    with parquet.ParquetFile(part.folder / "data.parquet") as file, parquet.ParquetWriter(
        target, file.schema_arrow
    ) as writer:  # fmt: skip
        for group in range(file.num_row_groups):
            table = file.read_row_group(group)
            own = {
                "episode_index": np.full(len(table), number, np.int64),
                "index": table["index"].to_numpy() + start,
                "task_index": np.full(len(table), task, np.int64),
            }
            for name, values in own.items():
                place = table.schema.get_field_index(name)
                table = table.set_column(place, table.schema.field(name), arrow.array(values))
                columns[name].append(values)
            writer.write_table(table)
    return {name: column_stats(np.concatenate(values)) for name, values in columns.items()}


def _episode_row(
    plan: Plan,
    part: Part,
    number: int,
    start: int,
    place: Mapping[str, int],
    own: Mapping[str, Any],
) -> dict[str, Any]:
    """The row of an episode in meta/episodes; "stats" has its statistics by feature."""
    length = part.facts["length"]
    row: dict[str, Any] = {
        "episode_index": number, "tasks": [part.episode.task], "length": length,
        "data/chunk_index": place["chunk_index"], "data/file_index": place["file_index"],
        "dataset_from_index": start, "dataset_to_index": start + length,
    }  # fmt: skip
    for camera in plan.cameras:
        key = f"videos/observation.images.{key_of(camera)}"
        row |= {f"{key}/{name}": value for name, value in place.items()}
        row |= {f"{key}/from_timestamp": 0.0, f"{key}/to_timestamp": length / plan.fps}
    stats = {**part.facts["written"]["stats"], **own}
    for key, values in stats.items():
        row |= {f"stats/{key}/{name}": value for name, value in values.items()}
    row |= {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0, "stats": stats}
    return row


def _info(plan: Plan, parts: Sequence[Part], frames: int, tasks: int) -> dict[str, Any]:
    features: dict[str, Any] = features_of(plan)
    pixels = parts[0].facts["written"]["pixels"]
    for camera, kind in zip(plan.cameras, pixels, strict=True):
        one = features[f"observation.images.{key_of(camera)}"]
        one["info"] = {
            "video.height": one["shape"][0], "video.width": one["shape"][1], "video.codec": "h264",
            "video.pix_fmt": kind, "video.is_depth_map": False, "video.fps": plan.fps,
            "video.channels": 3, "has_audio": False,
        }  # fmt: skip
    for name, dtype in AUTOMATIC.items():
        features[name] = {"dtype": dtype, "shape": [1], "names": None}
    return {
        "codebase_version": VERSION,
        "robot_type": None,
        "total_episodes": len(parts),
        "total_frames": frames,
        "total_tasks": tasks,
        "chunks_size": CHUNK,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": plan.fps,
        "splits": {"train": f"0:{len(parts)}"},
        "data_path": f"data/{FILE}.parquet",
        "video_path": f"videos/{{video_key}}/{FILE}.mp4",
        "features": features,
    }


def _write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    import pyarrow as arrow
    from pyarrow import parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(arrow.Table.from_pylist([dict(row) for row in rows]), path)


def _write_tasks(path: Path, tasks: Sequence[str]) -> None:
    """Write the table of tasks, whose pandas index is the task's sentence."""
    import pyarrow as arrow
    from pyarrow import parquet

    index = "__index_level_0__"
    column = {"metadata": None, "numpy_type": "int64", "pandas_type": "int64"}
    text = {"metadata": None, "numpy_type": "object", "pandas_type": "unicode"}
    pandas = {
        "index_columns": [index],
        "column_indexes": [{**text, "name": None, "field_name": None,
                            "metadata": {"encoding": "UTF-8"}}],
        "columns": [{**column, "name": "task_index", "field_name": "task_index"},
                    {**text, "name": None, "field_name": index}],
        "pandas_version": "2.0.0",
    }  # fmt: skip
    table = arrow.table({
        "task_index": arrow.array(range(len(tasks)), arrow.int64()),
        index: arrow.array(tasks, arrow.string()),
    })  # fmt: skip
    parquet.write_table(table.replace_schema_metadata({"pandas": json.dumps(pandas)}), path)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, creating its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")
