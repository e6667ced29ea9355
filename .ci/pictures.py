"""Make the pictures of the node's topics in docs/images: python .ci/pictures.py

A simulated take with depth goes through the installed node, over DDS. What it publishes of one set
is drawn, a panel for each topic (panels.py). Topics without a panel are refused.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import runpy
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import yaml

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # with -P it is not there

import panels  # noqa: E402

from lmeec_core.bags.bag import BagReader  # noqa: E402
from lmeec_core.bags.take_bags import (  # noqa: E402
    RecordingInfo,
    bag_from_take,
    frame_of,
    node_parameters,
)
from lmeec_core.calibration import Calibration, calibration_text, read_calibration  # noqa: E402
from lmeec_core.depth.images import read_depth  # noqa: E402
from lmeec_core.takes import Take  # noqa: E402

matplotlib.use("Agg")
NODE = "lmeec"
QUERY, TARGET, OTHER = "cam01", "cam03", "cam02"
"""Cameras that stand still: the poses of others come from tf, which not every machine has."""
PATIENCE = 300.0
TITLE: dict[str, Any] = {"fontsize": 12, "weight": "bold", "family": "monospace"}
OWN = ("/parameter_events", "/rosout", f"/{NODE}/transition_event")
"""What every ROS node publishes."""


def main() -> int:
    """Make both pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE.parent / "docs" / "images")
    parser.add_argument("--seed", type=int, default=13, help="of the simulated take")
    parser.add_argument("--frames", type=int, default=8, help="that are played")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        shown = published(Path(folder), given.seed, given.frames)
    for name, topics, columns, space in (
        ("topics_images", panels.IMAGES, 4, False),
        ("topics_space", panels.SPACE, 3, True),
    ):
        path = given.out / f"{name}.jpg"
        draw(path, shown, topics, columns, space)
        print(f"{path}: {path.stat().st_size // 1000} kB")
    return 0


def published(folder: Path, seed: int, frames: int) -> panels.Shown:
    """Simulate a take, play it to the node, and return what is published of the fullest set."""
    subprocess.run(
        ["lmeec", "simulate", str(folder / "takes"), "--train", "1", "--val", "0", "--test", "0",
         "--frames", str(frames), "--seed", str(seed), "--exo-cameras", "3", "--tight-share", "0",
         "--depth", "--workers", "1"], check=True,
    )  # fmt: skip
    take = Take.open(next(p.parent for p in folder.glob("takes/train/*/annotation.json")))
    cameras = (QUERY, TARGET, OTHER)
    objects = mostly_seen(take, cameras)
    info = bag_from_take(
        take, folder / "bag", query=QUERY, targets=[TARGET, OTHER], objects=objects
    )
    known = read_calibration(take.calibration_path)
    lenses = {name: known.lenses[name] for name in cameras}
    poses = {name: known.poses[name] for name in cameras}
    still = Calibration(known.frame, lenses, poses)
    (folder / "calibration.yaml").write_text(calibration_text(still), encoding="utf-8")
    parameters = parameter_file(folder, info)
    sets, others = run(folder, take, info, still, parameters)
    stamp, found = max(
        sets.items(), key=lambda item: len(item[1]["~/clouds/detections"].detections)
    )
    print(f"frame {frame_of(stamp)}: {len(found['~/clouds/detections'].detections)} objects placed")
    image = take.image(TARGET, frame_of(stamp))
    scene = surroundings(take, frame_of(stamp), still)
    return panels.Shown({**others, **found}, image, still, *scene, TARGET)


def mostly_seen(take: Take, cameras: tuple[str, ...], most: int = 5) -> list[str]:
    """The objects with the largest masks in the camera where each is smallest."""

    def smallest(name: str) -> int:
        return min(sum(mask.sum() for frame in take.frames(camera)
                       if (mask := take.mask(name, camera, frame)) is not None)
                   for camera in cameras)  # fmt: skip

    return sorted(take.objects, key=smallest)[-most:]


def parameter_file(folder: Path, info: RecordingInfo) -> Path:
    """Parameters with which the node publishes everything."""
    values = node_parameters(info)
    for name in info.cameras:
        values["cameras"][name]["depth"] = f"/{name}/depth"
    values["output"] = {"points": True}
    values["geometry"] = {"calibration": str(folder / "calibration.yaml")}
    path = folder / "node.yaml"
    path.write_text(yaml.safe_dump({NODE: {"ros__parameters": values}}), encoding="utf-8")
    return path


def messages_of_vision() -> dict[str, str]:
    """What this process and the node need to know vision_msgs, where ROS does not bring it."""
    if importlib.util.find_spec("vision_msgs") is not None:
        return {}
    build = runpy.run_path(str(HERE.parent / "test" / "lmeec_ros" / "vision_msgs" / "build.py"))
    install = build["installed"]()
    places = {"PYTHONPATH": build["modules"](install), "LD_LIBRARY_PATH": install / "lib"}
    return {key: f"{place}{os.pathsep}{os.environ.get(key, '')}" for key, place in places.items()}


def run(
    folder: Path, take: Take, info: RecordingInfo, calibration: Calibration, parameters: Path
) -> tuple[dict[int, dict[str, Any]], dict[str, Any]]:
    """Play the bag to the node: what is published of each set (by the query's stamp), and the last
    messages of topics that do not belong to a set."""
    from lmeec_ros.tools.node_process import NodeProcess
    from lmeec_ros.tools.node_watch import NodeWatch
    from lmeec_ros.tools.play import Player
    from lmeec_ros.tools.ros_session import ros_node, spinning

    with (
        NodeProcess(parameters, folder / "node.log") as process,
        ros_node("pictures") as (node, _),
        BagReader(folder / "bag") as bag,
        spinning(node),
    ):
        heard, watch, player = Heard(node), NodeWatch(node, NODE), Player(node, bag)
        beside = Beside(node, take, calibration)

        def wait(what: str, condition: Callable[[], Any]) -> None:
            end = time.monotonic() + PATIENCE
            while not condition():
                process.check()
                if time.monotonic() > end:
                    raise TimeoutError(f"{what}: not within {PATIENCE:.0f} s; {process.tail()}")
                time.sleep(0.05)

        wait("an active node", lambda: watch.ready(player.published) and not player.unsubscribed())
        heard.subscribe()
        wait("the node's wish for depth", beside.heard)
        before: list[int] = []

        def pace(stamp: int) -> bool:
            if stamp not in before:
                if before:
                    wait("the answer to a set", lambda: heard.complete(before[-1]))
                before.append(stamp)
                beside.publish(stamp)
            return True

        player.play(pace=pace)
        wait("the answer to the last set", lambda: heard.complete(before[-1]))
        return heard.sets, heard.others  # of the last second


class Beside:
    """Publishes what the bag lacks: depth images and CameraInfo of the cameras."""

    def __init__(self, node: Any, take: Take, calibration: Calibration) -> None:
        from sensor_msgs.msg import CameraInfo, Image

        self._take, self._calibration = take, calibration
        self._depth = {
            n: node.create_publisher(Image, f"/{n}/depth", 20) for n in calibration.poses
        }
        self._infos = {
            n: node.create_publisher(CameraInfo, f"/{n}/camera_info", 20) for n in calibration.poses
        }

    def heard(self) -> bool:
        """Whether the node has subscribed to all that it needs."""
        wanted = [*self._depth.values(), self._infos[TARGET]]
        return all(one.get_subscription_count() for one in wanted)

    def publish(self, stamp: int) -> None:
        """Of the frame of a stamp."""
        from builtin_interfaces.msg import Time
        from sensor_msgs.msg import CameraInfo, Image
        from std_msgs.msg import Header

        for name in self._depth:
            sec, nanosec = divmod(stamp, 1_000_000_000)
            header = Header(stamp=Time(sec=sec, nanosec=nanosec), frame_id=name)
            lens = self._calibration.lenses[name]
            info = CameraInfo(
                header=header, width=lens.size[0], height=lens.size[1], d=lens.distortion.tolist(),
                distortion_model=lens.model, k=lens.matrix.ravel().tolist(),
            )  # fmt: skip
            self._infos[name].publish(info)
            metres = read_depth(self._take.depth_path(name, frame_of(stamp)))
            pixels = np.nan_to_num(metres * 1000).round().astype("<u2")
            image = Image(
                header=header, encoding="16UC1", height=len(pixels), width=pixels.shape[1]
            )
            image.step, image.data = pixels.strides[0], pixels.tobytes()
            self._depth[name].publish(image)
        time.sleep(0.1)  # that the depth is there before the masks


class Heard:
    """Subscribes to all that the node publishes, and sorts it by sets."""

    def __init__(self, node: Any) -> None:
        self._node = node
        self._topics: set[str] = set()
        self._lock = threading.Lock()
        self.sets: dict[int, dict[str, Any]] = defaultdict(dict)
        self.others: dict[str, Any] = {}

    def subscribe(self) -> None:
        """To every topic of the node; names are those of the table in docs/interface.md.

        Raises:
            LookupError: there is no panel for one of them, or no topic for a panel.
        """
        from rclpy.qos import DurabilityPolicy, QoSProfile

        from lmeec_ros.tools.play import message_class

        offered = dict(self._node.get_publisher_names_and_types_by_node(NODE, "/"))
        drawn = {**panels.IMAGES, **panels.SPACE}
        names = {t: table_name(t) for t in offered if t not in OWN and f"/{OTHER}/" not in t}
        if set(names.values()) != set(drawn):
            odd = set(names.values()) ^ set(drawn)
            raise LookupError(f"topics and panels differ: {', '.join(sorted(odd))}")
        self._topics = {n for n in names.values() if n not in ("~/status", "/diagnostics")}
        self._topics -= {panels.LABEL_INFO}
        for topic, name in names.items():
            (qos,) = {
                p.qos_profile.durability for p in self._node.get_publishers_info_by_topic(topic)
            }
            profile = QoSProfile(depth=50, durability=DurabilityPolicy(qos))
            take = self._taker(name)
            self._node.create_subscription(message_class(offered[topic][0]), topic, take, profile)

    def complete(self, stamp: int) -> bool:
        """Whether everything of a set is there."""
        with self._lock:
            return self._topics <= self.sets[stamp].keys()

    def _taker(self, name: str) -> Callable[[Any], None]:
        def take(message: Any) -> None:
            with self._lock:
                if name in self._topics:
                    self.sets[stamp_of(message)][name] = message
                else:
                    self.others[name] = message

        return take


def stamp_of(message: Any) -> int:
    """In nanoseconds; a simulated take's images have the same in all cameras."""
    header = message.markers[0].header if hasattr(message, "markers") else message.header
    return int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)


def table_name(topic: str) -> str:
    """A topic of the node as the table in docs/interface.md writes it."""
    return topic.replace(f"/{NODE}/{TARGET}/", "~/<target>/").replace(f"/{NODE}/", "~/")


def surroundings(
    take: Take, frame: int, calibration: Calibration, step: int = 2, far: float = 2.6
) -> tuple[Any, Any]:
    """Points (N, 3) of the scene from the depth images of the cameras, and their colours (N, 3)."""
    places, colours = [], []
    for name, pose in calibration.poses.items():
        depth = read_depth(take.depth_path(name, frame))[::step, ::step]
        rows, columns = np.nonzero(np.isfinite(depth) & (depth < far))
        rays = calibration.lenses[name].rays(np.stack([columns, rows], axis=1) * np.float64(step))
        seen = rays / rays[:, 2:] * depth[rows, columns, None]
        places.append(seen @ pose.rotation.T + pose.position)
        colours.append(take.image(name, frame)[::step, ::step][rows, columns] / 255)
    return np.concatenate(places), np.concatenate(colours)


def draw(
    path: Path, shown: panels.Shown, topics: Mapping[str, panels.Draw], columns: int, space: bool
) -> None:
    """A picture with a panel for each topic."""
    from matplotlib.figure import Figure

    rows = -(-len(topics) // columns)
    figure = Figure(figsize=(3.7 * columns, 4.25 * rows))
    for number, (topic, panel) in enumerate(topics.items(), start=1):
        axes: Any = figure.add_subplot(rows, columns, number, projection="3d" if space else None)
        message = shown.messages[topic]
        kind = f"{type(message).__module__.split('.')[0]}/{type(message).__name__}"
        write = axes.text2D if space else axes.text
        for y, text, style in ((1.065, topic, TITLE), (1.015, kind, {"color": "0.35"})):
            write(0, y, text, transform=axes.transAxes, **{"fontsize": 9, **style})
        if not space:
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_box_aspect(1)
        panel(axes, shown, message)
    edge = 0.3 / (4.25 * rows)
    figure.subplots_adjust(0.01, edge / 3, 0.99, 1 - 1.5 * edge, wspace=0.03, hspace=0.17)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100, pil_kwargs={"quality": 78, "optimize": True})


if __name__ == "__main__":
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    missing = messages_of_vision()
    if missing and "LMEEC_PICTURES" not in os.environ:
        # The loader reads its search path once, when a process starts.
        environment = {**os.environ, **missing, "LMEEC_PICTURES": "1"}
        raise SystemExit(subprocess.call([sys.executable, *sys.argv], env=environment))
    raise SystemExit(main())
