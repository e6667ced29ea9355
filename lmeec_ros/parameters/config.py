"""The node's parameters: one typed table, declared, checked and loaded into a frozen NodeConfig."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import lmeec_core as lm
from lmeec_core.bags.object_rows import read_object_row
from lmeec_core.config import ENGINES
from lmeec_ros.parameters import files as parameter_files
from lmeec_ros.parameters.files import ParameterError as ParameterError
from lmeec_ros.parameters.spec import Spec, Value, suggestion

if TYPE_CHECKING:
    from rclpy.node import Node
    from rclpy.parameter import Parameter

QOS = ("auto", "sensor_data", "reliable")
TRANSPORTS = ("raw", "compressed")


NAME = "lmeec"
"""Name of the node."""


# fmt: off
TABLE = (
    Spec("camera_names", ["ego", "exo"], "Names of the cameras; each has cameras.<name>.*"),
    Spec("cameras.{camera}.topic", "", "Image topic; empty: /<name>/image_raw, or "
         "/<name>/image_raw/compressed with the transport compressed"),
    Spec("cameras.{camera}.transport", "raw", "raw: sensor_msgs/Image; compressed: "
         "sensor_msgs/CompressedImage with JPEG or PNG", TRANSPORTS),
    Spec("cameras.{camera}.qos", "auto", "auto: what the publishers offer; sensor_data: best "
         "effort; reliable", QOS),
    Spec("cameras.{camera}.camera_info", "", "Topic of the camera's sensor_msgs/CameraInfo, read "
         "if output.points is set and the calibration file has no lens of it; empty: camera_info "
         "beside the image topic"),
    Spec("cameras.{camera}.rectified", False, "The images are rectified: the projection matrix of "
         "CameraInfo holds, without distortion; its Tx says how far from its frame the camera is"),
    Spec("query_camera", "ego", "Camera in whose images the query masks lie"),
    Spec("target_cameras", ["exo"], "Cameras in whose images the objects are searched"),
    Spec("query_masks.topic", "", "Topic of the query masks; empty: "
         "/<query camera>/label_image or /<query camera>/masks, by type"),
    Spec("query_masks.type", "label_image", "label_image: an image whose values are labels, "
         "0 = background; mask_array: lmeec/CorrespondenceMaskArray",
         ("label_image", "mask_array")),
    Spec("query_masks.transport", "raw", "Transport of a label image; compressed is PNG",
         TRANSPORTS),
    Spec("query_masks.qos", "auto", "As cameras.<name>.qos", QOS),
    Spec("query_masks.max_delay", 0.0, "Images wait so long for query masks that come late, "
         "seconds; the queues are longer by as much. 0: until pairing.queue is full",
         minimum=0.0, maximum=60.0, live=True),
    Spec("objects", [""], "Objects known by name, each \"label:id\", as \"1:cup\"; a label without "
         "a name becomes the id object_<label>"),
    Spec("ignore_labels", [255], "Labels that mark what is to be ignored and become no object, "
         "unless objects names them; 255 counts in 8-bit label images only. [0]: none",
         minimum=0, maximum=65535),
    Spec("max_objects", 32, "Most objects followed at a time", minimum=1, maximum=1024),
    Spec("max_image_pixels", 64_000_000, "Larger images (width x height) are refused",
         minimum=1, maximum=1_000_000_000),
    Spec("model.preset", "nano", "The network", tuple(lm.PRESETS)),
    Spec("model.checkpoint", "", "File of weights (.pt or .safetensors); empty: those that come "
         "with the preset, if any", path=True),
    Spec("model.device", "auto", "auto, cpu or cuda (cuda:1, ...)"),
    Spec("model.precision", "fp32", "Number format of the network", ("fp32", "bf16")),
    Spec("model.engine", "auto", "Who computes the network's stages; auto measures once", ENGINES),
    Spec("model.seed", -1, "0 or more, without a checkpoint: random weights of this seed, whose "
         "masks mean nothing; -1: none", minimum=-1, maximum=2**31 - 1),
    Spec("model.require_mv_moe", True, "Refuse a checkpoint without the MV-MoE (plain SAM 2.1)"),
    Spec("model.warm_up_steps", 2, "Steps on blank images while configuring; the first steps are "
         "the slowest", minimum=0, maximum=100),
    Spec("memory.compression", "keep_first", "What leaves a full memory bank",
         ("average", "keep_first", "fifo", "iou", "cluster")),
    Spec("memory.capacity", 6, "Frames in a memory bank", minimum=1, maximum=64),
    Spec("memory.query_bank", True, "Remember past frames of the query camera"),
    Spec("memory.target_bank", True, "Remember past frames of each target camera"),
    Spec("memory.fusion", "mv_moe", "How the views are fused", ("mv_moe", "add", "none")),
    Spec("memory_folder", "", "Folder of the files of ~/save_memory and ~/load_memory; empty: "
         "$ROS_HOME/lmeec, which is ~/.ros/lmeec", path=True),
    Spec("pairing.policy", "nearest", "nearest: ours; approximate and exact: those of "
         "message_filters, where installed", ("nearest", "approximate", "exact")),
    Spec("pairing.tolerance", 0.02, "Largest distance in time between the query image and what "
         "belongs to it, seconds", minimum=0.0, maximum=10.0, live=True),
    Spec("pairing.queue", 10, "Messages kept per input while waiting for the others",
         minimum=1, maximum=1000),
    Spec("pairing.partial", True, "With several targets: go on with those that have an image, so "
         "that a silent camera does not stop the others; false: wait for all (policy nearest)",
         live=True),
    Spec("pairing.partial_wait", 0.2, "Longest wait for a target's image while another target's "
         "is there, seconds", minimum=0.0, maximum=10.0, live=True),
    Spec("mailbox.depth", 2, "Sets that may wait for the inference; the oldest is dropped",
         minimum=1, maximum=100),
    Spec("presence_threshold", 0.5, "Presence from which on an object counts as visible",
         minimum=0.0, maximum=1.0, live=True),
    Spec("output.masks", True, "Publish ~/<target>/masks", live=True),
    Spec("output.label_image", True, "Publish ~/<target>/label_image while someone listens",
         live=True),
    Spec("output.overlay", True, "Publish ~/<target>/overlay while someone listens", live=True),
    Spec("output.exclusive", False, "Give each pixel to one object only, the likeliest",
         live=True),
    Spec("output.lazy", False, "Subscribe to a target camera only while someone listens to its "
         "outputs; its memory has a gap after each pause (policy nearest)", live=True),
    Spec("output.points", False, "Publish ~/points: where the objects are in space"),
    Spec("geometry.calibration", "", "File of the cameras' lenses and poses; what it lacks comes "
         "from CameraInfo and tf", path=True),
    Spec("geometry.frame", "", "Frame of ~/points; empty: the calibration file's"),
    Spec("geometry.max_error", 10.0, "Largest reprojection error of a point, pixels of the "
         "calibrated images", minimum=0.0, maximum=1000.0, live=True),
    Spec("geometry.min_angle", 3.0, "Smallest angle between two cameras' rays to a point, degrees",
         minimum=0.0, maximum=90.0, live=True),
    Spec("output.qos_depth", 5, "Depth of the publishers (reliable)", minimum=1, maximum=1000),
    Spec("autostart", True, "Configure and activate at the start; else wait for lifecycle calls"),
    Spec("silence_warning", 5.0, "Warn when an input is silent for so long, seconds; 0: never",
         minimum=0.0, maximum=3600.0, live=True),
)
# fmt: on

_FOREIGN = re.compile(r"^(use_sim_time|start_type_description_service|qos_overrides\..*)$")
_CAMERA_NAME = re.compile(r"^[A-Za-z][A-Za-z0-9_-]*$")


@dataclass(frozen=True)
class CameraConfig:
    """One camera's input."""

    name: str
    topic: str
    transport: str
    qos: str
    camera_info: str
    rectified: bool


@dataclass(frozen=True)
class QueryMasksConfig:
    """The input of the query masks."""

    topic: str
    type: str
    transport: str
    qos: str


@dataclass(frozen=True)
class NodeConfig:
    """The node's checked configuration; the fields are named like the parameters."""

    cameras: dict[str, CameraConfig]
    query_camera: str
    target_cameras: tuple[str, ...]
    query_masks: QueryMasksConfig
    objects: dict[int, str]
    values: Mapping[str, Any]
    """Every parameter by its full name."""

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    @property
    def checkpoint(self) -> str | None:
        """Path of the checkpoint, None for the preset's own."""
        return self.values["model.checkpoint"] or None

    @property
    def seed(self) -> int | None:
        """Seed of random weights, None for none."""
        seed = int(self.values["model.seed"])
        return None if seed < 0 else seed

    def memory(self) -> lm.MemoryConfig:
        """Return the tracker's memory configuration."""
        prefix = "memory."
        return lm.MemoryConfig(
            **{k.removeprefix(prefix): v for k, v in self.values.items() if k.startswith(prefix)}
        )


def topic_token(name: str) -> str:
    """Return a camera's name in a form that topic names allow (no hyphens)."""
    return name.replace("-", "_")


def table_for(cameras: Sequence[str]) -> dict[str, Spec]:
    """Return the table with the rows of a camera repeated for each camera."""
    rows: dict[str, Spec] = {}
    for spec in TABLE:
        for camera in cameras if "{camera}" in spec.name else ("",):
            name = spec.name.replace("{camera}", camera)
            rows[name] = Spec(**{**spec.__dict__, "name": name})
    return rows


def load(values: Mapping[str, Any]) -> NodeConfig:
    """Check parameter values (missing ones take their defaults) and return the configuration.

    Raises:
        ParameterError: for the first value that is wrong, or name that is not known.
    """
    cameras = _camera_names(values)
    table = table_for(cameras)
    for name in values:
        if name not in table and not _FOREIGN.match(name):
            raise ParameterError(_unknown(name, cameras, table))
    checked = {name: spec.check(values.get(name, spec.default)) for name, spec in table.items()}
    query, targets = str(checked["query_camera"]), tuple(_texts(checked["target_cameras"]))
    for parameter, names in (("query_camera", (query,)), ("target_cameras", targets)):
        for name in names:
            if name not in cameras:
                raise ParameterError(
                    f"{parameter}: {name!r} given, one of camera_names ({', '.join(cameras)}) "
                    f"expected{suggestion(name, cameras)}"
                )
    if not targets or query in targets or len(set(targets)) < len(targets):
        raise ParameterError(
            f"target_cameras: {list(targets)} given, cameras other than the query camera "
            f"{query!r}, at least one and each once, expected"
        )
    if checked["output.lazy"] and checked["pairing.policy"] != "nearest":
        raise ParameterError(
            f"output.lazy: true given with pairing.policy {checked['pairing.policy']!r}, which "
            "needs every target; 'nearest' expected"
        )
    return NodeConfig(
        cameras={name: _camera(name, checked) for name in cameras},
        query_camera=query,
        target_cameras=targets,
        query_masks=_query_masks(query, checked),
        objects=_objects(checked["objects"]),
        values=checked,
    )


def read_file(path: str | os.PathLike[str], node: str | None = None) -> dict[str, Any]:
    """The values that a node's parameter file (YAML) gives a node, by full name, as ROS reads it.

    Args:
        path: the file.
        node: name with namespace, as /robot1/lmeec; None: the node called lmeec, in no namespace or
            in the one that the file has it in.

    Raises:
        ParameterError: no such file, one that ROS would refuse, or nothing for the node in it.
    """
    file = parameter_files.read(path)
    wanted = file.node_called(NAME) if node is None else f"/{node.strip('/')}"
    values = file.values_for(wanted)
    if values is None:
        raise file.refusal(wanted)
    return values


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested names as ROS writes them: {"model": {"preset": x}} gives {"model.preset": x}."""
    flat: dict[str, Any] = {}
    for name, value in nested.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def declare(node: Node) -> NodeConfig:
    """Declare every parameter on the node and return the configuration.

    Raises:
        ParameterError: if an override is wrong or its name is not known.
    """
    # rclpy has no public way to see overrides that nobody declared.
    overrides: dict[str, Parameter] = node._parameter_overrides
    config = load({name: parameter.value for name, parameter in overrides.items()})
    for name, spec in table_for(list(config.cameras)).items():
        # An empty list has no type of its own, so it is declared as one empty text, or a 0.
        value = config[name]
        if isinstance(spec.default, list):
            value = value or [type(spec.default[0])()]
        node.declare_parameter(name, value, spec.descriptor(), ignore_override=True)
    return config


def _texts(value: Value) -> list[str]:
    assert isinstance(value, list)
    return [text.strip() for text in map(str, value) if text.strip()]


def _camera_names(values: Mapping[str, Any]) -> list[str]:
    spec = TABLE[0]
    names = _texts(spec.check(values.get(spec.name, spec.default)))
    tokens = [topic_token(name) for name in names]
    for name in names:
        if not _CAMERA_NAME.match(name):
            raise ParameterError(
                f"camera_names: {name!r} given, a letter and then letters, digits, _ or - expected"
            )
    if len(names) < 2 or len(set(tokens)) < len(names):
        raise ParameterError(f"camera_names: {names} given, two or more different names expected")
    return names


def _unknown(name: str, cameras: Sequence[str], table: Mapping[str, Spec]) -> str:
    parts = name.split(".")
    if parts[0] == "cameras" and len(parts) == 3 and parts[1] not in cameras:
        return (
            f"{name}: there is no camera {parts[1]!r} in camera_names ({', '.join(cameras)})"
            f"{suggestion(parts[1], cameras)}"
        )
    return f"{name}: there is no such parameter{suggestion(name, list(table))}"


def _camera(name: str, values: Mapping[str, Any]) -> CameraConfig:
    transport = values[f"cameras.{name}.transport"]
    topic = values[f"cameras.{name}.topic"]
    if not topic:
        topic = f"/{topic_token(name)}/image_raw" + "/compressed" * (transport == "compressed")
    info = values[f"cameras.{name}.camera_info"]
    if not info:  # image_transport's convention
        folder = topic.removesuffix("/compressed").rpartition("/")[0]
        info = f"{folder}/camera_info" if "/" in topic else "camera_info"
    qos, rectified = values[f"cameras.{name}.qos"], values[f"cameras.{name}.rectified"]
    return CameraConfig(name, topic, transport, qos, info, rectified)


def _query_masks(query: str, values: Mapping[str, Any]) -> QueryMasksConfig:
    kind, transport = values["query_masks.type"], values["query_masks.transport"]
    if kind == "mask_array" and transport != "raw":
        raise ParameterError(
            "query_masks.transport: 'compressed' given, which only label images have; "
            "'raw' expected"
        )
    topic = values["query_masks.topic"]
    if not topic:
        last = "masks" if kind == "mask_array" else "label_image"
        topic = f"/{topic_token(query)}/{last}" + "/compressed" * (transport == "compressed")
    return QueryMasksConfig(topic, kind, transport, values["query_masks.qos"])


def _objects(rows: Value) -> dict[int, str]:
    assert isinstance(rows, list)
    objects: dict[int, str] = {}
    for row in map(str, rows):
        if not row.strip():
            continue
        found = read_object_row(row)
        if found is None:
            raise ParameterError(
                f'objects: {row!r} given, "label:id" with a label from 1 to 65535 expected, '
                'as "1:cup"'
            )
        label, name = found
        if label in objects or name in objects.values():
            raise ParameterError(f"objects: {row!r} given, but its label or its id occurs before")
        objects[label] = name
    return objects
