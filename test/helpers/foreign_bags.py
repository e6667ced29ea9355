"""Bags by another maker (the rosbags library), and what is read and tracked from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from typer.testing import CliRunner

from lmeec_core.cli.app import app
from lmeec_core.takes import Results
from lmeec_ros.io.synchronizer import stamp_of
from lmeec_ros.offline import bag_units
from lmeec_ros.parameters import config as parameters

runner = CliRunner(env={"COLUMNS": "250", "NO_COLOR": "1", "TERM": "dumb"})
STORE = get_typestore(Stores.ROS2_JAZZY)
TYPES = STORE.types
IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
START = 1_700_000_000_000_000_000
MS = 1_000_000
PERIOD = 100 * MS
EGO, EXO, LABELS = "/head/image", "/wall/image", "/head/labels"


@dataclasses.dataclass
class Message:
    """A message for a bag: recorded at `log`, its header says `stamp` (both ns after START)."""

    topic: str
    stamp: int
    content: Any
    log: int | None = None


def picture(number: int, height: int = 60, width: int = 80) -> np.ndarray:
    """An image of coloured clouds, the same for the same number."""
    coarse = np.random.default_rng(number).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def labels(number: int) -> np.ndarray:
    """A label image with an object 1, which moves with the number."""
    image = np.zeros((60, 80), np.uint8)
    image[10:40, 10 + 2 * number : 45 + 2 * number] = 1
    return image


def header(stamp: int) -> Any:
    """A std_msgs/Header; the stamp in ns after START."""
    sec, nanosec = divmod(START + stamp, 10**9)
    time = TYPES["builtin_interfaces/msg/Time"](sec=sec, nanosec=nanosec)
    return TYPES["std_msgs/msg/Header"](stamp=time, frame_id="camera")


def raw(pixels: np.ndarray, encoding: str, pad: int = 0, big: bool = False) -> Callable[[int], Any]:
    """sensor_msgs/Image; `pad` bytes after every row."""
    rows = np.ascontiguousarray(pixels.astype(pixels.dtype.newbyteorder(">" if big else "<")))
    rows = rows.view(np.uint8).reshape(pixels.shape[0], -1)
    rows = np.pad(rows, ((0, 0), (0, pad)), constant_values=77)

    def make(stamp: int) -> Any:
        return TYPES[IMAGE](
            header=header(stamp),
            height=pixels.shape[0],
            width=pixels.shape[1],
            encoding=encoding,
            is_bigendian=int(big),
            step=rows.shape[1],
            data=rows.reshape(-1),
        )

    return make


def compressed(pixels: np.ndarray, suffix: str) -> Callable[[int], Any]:
    """sensor_msgs/CompressedImage of RGB or single-channel pixels."""
    stored = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if pixels.ndim == 3 else pixels
    data = cv2.imencode(suffix, stored, [cv2.IMWRITE_JPEG_QUALITY, 95])[1]

    def make(stamp: int) -> Any:
        name = "jpeg" if suffix == ".jpg" else f"{pixels.dtype}; png compressed"
        return TYPES[COMPRESSED](header=header(stamp), format=name, data=data.reshape(-1))

    return make


def write(
    path: Path,
    messages: Iterable[Message],
    storage: StoragePlugin = StoragePlugin.MCAP,
    compression: CompressionMode | None = None,
    version: Any = 9,
) -> Path:
    """A bag with these messages, in the order given; returns its folder."""
    writer = Writer(path, version=version, storage_plugin=storage)
    if compression is not None:
        writer.set_compression(compression, CompressionFormat.ZSTD)
    with writer:
        connections: dict[str, Any] = {}
        for message in messages:
            content = message.content(message.stamp)
            kind = content.__msgtype__
            if message.topic not in connections:
                connections[message.topic] = writer.add_connection(
                    message.topic, kind, typestore=STORE
                )
            log = message.stamp if message.log is None else message.log
            data = STORE.serialize_cdr(content, kind)
            writer.write(connections[message.topic], START + log, data)
    return path


def one_set(k: int = 0, masks: Any = None, exo: Any = None) -> list[Message]:
    """The three messages of a set, raw images; label image and target image may be given."""
    return [
        Message(EGO, k * PERIOD, raw(picture(k), "rgb8")),
        Message(LABELS, k * PERIOD, masks or raw(labels(k), "mono8")),
        Message(EXO, k * PERIOD, exo or raw(picture(k + 50), "rgb8")),
    ]


def steady(count: int = 2) -> list[Message]:
    """Three streams in step, raw images."""
    return [message for k in range(count) for message in one_set(k)]


def values(**changes: Any) -> dict[str, Any]:
    """The node's parameters for these bags; names with "__" for dots."""
    given = {
        "cameras.ego.topic": EGO,
        "cameras.exo.topic": EXO,
        "query_masks.topic": LABELS,
        "objects": ["1:cup"],
        "model.preset": "mini",
        "model.seed": 0,
        "model.device": "cpu",
    }
    return given | {name.replace("__", "."): value for name, value in changes.items()}


def track(path: Path, out: Path, **changes: Any) -> Any:
    """`lmeec track` in this process, with :func:`values` as the parameter file; its result."""
    file = out.with_suffix(".yaml")
    content: dict[str, Any] = {}
    for name, value in values(**changes).items():
        *folders, last = name.split(".")
        place = content
        for folder in folders:
            place = place.setdefault(folder, {})
        place[last] = value
    file.write_text(yaml.safe_dump({"/**": {"ros__parameters": content}}))
    command = ["track", str(path), "--params", str(file), "--out", str(out), "--workers", "1"]
    return runner.invoke(app, command)


def found(out: Path) -> list[Any]:
    """Masks and confidences of a result file, whatever the recording is called."""
    return [
        (p.object_name, p.pair, p.frame, p.rle, p.confidence)
        for p in Results.read(out).predictions()
    ]


def pairs(path: Path, **changes: Any) -> list[tuple[int, ...]]:
    """Stamps (ns after START) of the sets: query image, query masks, target image."""
    config = parameters.load(values(**changes))
    return [
        tuple(stamp_of(message) - START for message in messages)
        for _, messages in bag_units.RecordedSets(path, config)
    ]
