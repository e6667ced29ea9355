"""The table of the node's parameters: a dataclass for each group, a field for each parameter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar, get_args

import lmeec_core as lm
from lmeec_core.config import ENGINES, EngineName, PrecisionName
from lmeec_core.methods import METHODS
from lmeec_core.methods.candidates.settings import CandidateSettings
from lmeec_core.methods.omama.settings import OMaMaSettings
from lmeec_ros.parameters.spec import Spec

QOS = ("auto", "sensor_data", "reliable")
TRANSPORTS = ("raw", "compressed")
TEXT = "text.{object}"
"""Name of the parameter that describes an object in words."""

C = TypeVar("C")


def parameter(*row: Any, name: str = "", **options: Any) -> Any:
    """Define a field for a parameter, named like the field; the arguments are those of Spec."""
    return field(metadata={"spec": Spec(name, *row, **options)})


def group(kind: type, prefix: str = "") -> Any:
    """Define a field for a group of parameters.

    Args:
        kind: dataclass of the group.
        prefix: beginning of their names; default: the name of the field and a dot.
    """
    return field(metadata={"group": kind, "prefix": prefix})


# fmt: off
@dataclass(frozen=True, kw_only=True)
class CameraConfig:
    """Input of one camera. `topic` and `camera_info` are filled in if the parameters are empty.

    Attributes:
        name: name of the camera.
        address: absolute name of `topic`.
        other: the topic as given, used if compressed images come on it and not on `topic`; or "".
    """

    name: str
    address: str
    other: str
    topic: str = parameter("", "Image topic; empty: <name>/image_raw. With the transport "
        "compressed it is <topic>/compressed, unless compressed images are published on the topic "
        "itself")
    transport: str = parameter("raw", "raw: sensor_msgs/Image; compressed: "
        "sensor_msgs/CompressedImage with JPEG or PNG", TRANSPORTS)
    qos: str = parameter("auto", "auto: as the publishers; sensor_data: best effort; reliable", QOS)
    time_offset: float = parameter(0.0, "Added to the camera's stamps for pairing and for the "
        "lookup of its pose in tf, seconds: -0.167 if stamps are 0.167 s (five frames at 30 Hz) "
        "later than the exposure. `lmeec info --offsets` estimates it (policy nearest)",
        minimum=-60.0, maximum=60.0)
    camera_info: str = parameter("", "Topic of the camera's sensor_msgs/CameraInfo, used if "
        "output.points is set and the calibration file lacks its intrinsics; empty: camera_info "
        "beside the image topic")
    rectified: bool = parameter(False, "The images are rectified: the projection matrix of "
        "CameraInfo is used, without distortion; its Tx is the camera's offset from its frame")
    depth: str = parameter("", "Topic of depth images that are registered to the camera's images, "
        "for ~/clouds (output.points); 16UC1 in millimetres or 32FC1 in metres; empty: none")
    depth_transport: str = parameter("raw", "raw: sensor_msgs/Image; compressedDepth: "
        "sensor_msgs/CompressedImage of that transport, with PNG", ("raw", "compressedDepth"))


@dataclass(frozen=True, kw_only=True)
class QueryMasksConfig:
    """Input of the query masks; `address` and `other` as in CameraConfig."""

    address: str
    other: str
    source: str = parameter("topic", "topic: query masks arrive on a topic, one message per image; "
        "prompts: objects are marked once (~/prompt, ~/mark_object, a click) and tracked from "
        "there",
        ("topic", "prompts"))
    topic: str = parameter("", "Topic of the query masks; empty: <query camera>/label_image or "
        "<query camera>/masks, by type")
    type: str = parameter("label_image", "label_image: an image whose values are labels, 0 = "
        "background; mask_array: lmeec/CorrespondenceMaskArray", ("label_image", "mask_array"))
    transport: str = parameter("raw", "Transport of a label image; compressed is PNG", TRANSPORTS)
    qos: str = parameter("auto", "As cameras.<name>.qos", QOS)
    max_delay: float = parameter(0.0, "How long images wait for late masks, seconds; the "
        "queues grow accordingly. 0: until pairing.queue is full", minimum=0.0, maximum=60.0,
        live=True)


@dataclass(frozen=True, kw_only=True)
class ClickParameters:
    """Clicks published by other tools, with query_masks.source prompts."""

    topic: str = parameter("clicked_point", "Topic of geometry_msgs/PointStamped in pixels of an "
        "image; header.frame_id is a camera's name or the frame_id of its images; \"\": none")
    camera: str = parameter("", "Camera of a click without frame_id; empty: query_camera",
        live=True)
    object: str = parameter("", "Object that clicks mark or correct; empty: the first of "
        "`objects`, else object_1", live=True)
    tolerance: float = parameter(0.5, "Maximum time between a click and its image, seconds: many "
        "tools stamp a click with the current time", minimum=0.0, maximum=10.0, live=True)
    mouse: bool = parameter(True, "Also use clicks of rqt_image_view: geometry_msgs/Point on "
        "<image topic>_mouse_left of each camera, applied to its newest image")


@dataclass(frozen=True, kw_only=True)
class DetectionParameters:
    """Boxes of a detector, with query_masks.source prompts."""

    topic: str = parameter("", "Topic of vision_msgs/Detection2DArray: a box marks the object "
        "named by its id, or by its class, unless that object is visible already; empty: none")
    min_score: float = parameter(0.5, "Boxes with a lower score are ignored", minimum=0.0,
        maximum=1.0, live=True)


@dataclass(frozen=True, kw_only=True)
class PromptParameters:
    """How objects are marked, with query_masks.source prompts."""

    preset: str = parameter("same", "Network that tracks a marked object in the camera in which "
        "it was marked; same: that of model.preset", ("same", *lm.PRESETS))
    checkpoint: str | None = parameter("", "Weights file of this network; empty: the weights "
        "bundled with the preset, if any", path=True)
    hold: int = parameter(8, "Images per camera that are kept for late prompts", minimum=1,
        maximum=64)
    wait: float = parameter(2.0, "Maximum time that a prompt waits for its image, seconds",
        minimum=0.0, maximum=60.0, live=True)
    handover: bool = parameter(False, "If an object is lost in its query view, continue tracking "
        "it in another view in which it was found with confidence", live=True)
    clicks: ClickParameters = group(ClickParameters, "prompts.clicks.")
    detections: DetectionParameters = group(DetectionParameters, "prompts.detections.")


@dataclass(frozen=True, kw_only=True)
class ModelParameters:
    """The network. `checkpoint` and `seed` are None if not given."""

    preset: str = parameter("nano", "The network", tuple(lm.PRESETS))
    checkpoint: str | None = parameter("", "Weights file (.pt or .safetensors); empty: the weights "
        "bundled with the preset, if any", path=True)
    device: str = parameter("auto", "auto, cpu or cuda (cuda:1, ...)")
    precision: PrecisionName = parameter("auto", "Number format of the network; auto: bf16 if it "
        "is faster on this machine and gives the same masks, else fp32 (offline always fp32); "
        "fp16: for GPUs without bf16",
        get_args(PrecisionName))
    engine: EngineName = parameter("auto", "The backend that runs the network's stages; auto "
        "measures them once and uses the fastest", ENGINES)
    seed: int | None = parameter(-1, "0 or more, if there is no checkpoint: random weights from "
        "this seed, whose masks mean nothing; -1: none", minimum=-1, maximum=2**31 - 1)
    require_mv_moe: bool = parameter(True, "Refuse a checkpoint without the MV-MoE (plain SAM 2.1)")
    warm_up_steps: int = parameter(2, "Steps on blank images while configuring; the first steps "
        "are the slowest", minimum=0, maximum=100)


@dataclass(frozen=True, kw_only=True)
class MemoryParameters:
    """The tracker's memory; `NodeConfig.memory` is a MemoryConfig of lmeec_core."""

    compression: str = parameter("keep_first", "How a full memory bank makes room for a new frame",
        ("average", "keep_first", "fifo", "iou", "cluster"))
    capacity: int = parameter(6, "Frames in a memory bank", minimum=1, maximum=64)
    query_bank: bool = parameter(True, "Remember past frames of the query camera")
    target_bank: bool = parameter(True, "Remember past frames of each target camera")
    fusion: str = parameter("mv_moe", "How the views are fused", ("mv_moe", "add", "none"))


@dataclass(frozen=True, kw_only=True)
class CandidateParameters:
    """Candidates of omama; `NodeConfig.candidates` is a CandidateSettings of lmeec_core."""

    source: str = parameter("auto", "Source of omama's candidate masks. regions: areas of uniform "
        "colour; sam2: SAM 2.1's automatic masks, for networks with point prompts; auto: the one "
        "that suits the network; topic: label images of another program, see "
        "candidate_masks.topic",
        ("auto", "regions", "sam2", "topic"))
    most: int = parameter(100, "Maximum number of candidates per image", minimum=1, maximum=1000)
    min_area: float = parameter(0.0003, "Area of the smallest candidate, as a fraction of the "
        "image", minimum=0.0, maximum=1.0)
    max_area: float = parameter(0.5, "Area of the largest candidate, as a fraction of the image",
        minimum=0.0, maximum=1.0)
    crop_layers: int = parameter(0, "With sam2: layers of overlapping crops, to find smaller "
        "objects; layer n has 2^n x 2^n crops, each as slow as the whole image",
        minimum=0, maximum=3)


@dataclass(frozen=True, kw_only=True)
class CandidateMasksConfig:
    """Input of a target camera's candidate masks; `address` and `other` as in CameraConfig."""

    address: str
    other: str
    topic: str = parameter("", "With candidates.source topic: topic of label images in which each "
        "label is a candidate, one message per target image, with the same stamp; <camera> is "
        "replaced by the target camera's name. Empty: <camera>/candidates")
    transport: str = parameter("raw", "Transport of these label images; compressed is PNG",
        TRANSPORTS)
    qos: str = parameter("auto", "As cameras.<name>.qos", QOS)


@dataclass(frozen=True, kw_only=True)
class OMaMaParameters:
    """How omama compares candidates; `NodeConfig.omama` is an OMaMaSettings of lmeec_core."""

    features: str = parameter("auto", "Image features. network: those of model.preset; dinov2: "
        "those of the publication; auto: those that the matcher was trained with",
        ("auto", "network", "dinov2"))
    weights: str = parameter("", "File or folder of DINOv2's weights; empty: the user's cache",
        path=True)
    matcher: str = parameter("", "Checkpoint of the matcher; bundled: the one in this package; "
        "empty: features are compared directly, without a matcher")
    follow: bool = parameter(False, "Remember the appearance of objects in each target view")
    text_weights: str = parameter("", "Weights file for comparing texts with candidates; required "
        "if there are texts", path=True)
    text_encoder: str = parameter("", "Folder of the text model that text_weights were trained "
        "with; empty: they were trained on plain words, without a text model", path=True)


@dataclass(frozen=True, kw_only=True)
class PairingParameters:
    """How messages are paired into synchronised sets."""

    policy: str = parameter("nearest", "nearest: lmeec's own; approximate and exact: those of "
        "message_filters, if installed", ("nearest", "approximate", "exact"))
    tolerance: float = parameter(0.02, "Maximum difference between the stamps of the query image "
        "and of the other messages of its set, seconds", minimum=0.0, maximum=10.0, live=True)
    queue: int = parameter(10, "Messages kept per input while waiting for the others", minimum=1,
        maximum=1000)
    partial: bool = parameter(True, "With several targets: form sets from those that have an "
        "image, so that a silent camera does not stop the others; false: wait for all (policy "
        "nearest)", live=True)
    partial_wait: float = parameter(0.2, "Maximum wait for a target's image once another target's "
        "image has arrived, seconds", minimum=0.0, maximum=10.0, live=True)


@dataclass(frozen=True, kw_only=True)
class MailboxParameters:
    """Queue of sets before inference."""

    depth: int = parameter(2, "Maximum number of sets waiting for inference; the oldest is dropped",
        minimum=1, maximum=100)


@dataclass(frozen=True, kw_only=True)
class OutputParameters:
    """Outputs."""

    masks: bool = parameter(True, "Publish ~/<target>/masks", live=True)
    label_image: bool = parameter(True, "Publish ~/<target>/label_image while it has subscribers",
        live=True)
    overlay: bool = parameter(True, "Publish ~/<target>/overlay while it has subscribers",
        live=True)
    exclusive: bool = parameter(False, "Assign each pixel to one object only, the most likely one",
        live=True)
    lazy: bool = parameter(False, "Subscribe to a target camera only while its outputs have "
        "subscribers; each pause leaves a gap in its memory (policy nearest)", live=True)
    points: bool = parameter(False, "Publish ~/points: the objects' positions in space")
    standard: bool = parameter(True, "Also publish the results as standard messages, while these "
        "have subscribers: ~/<target>/detections, label_info and camera_info, ~/points/markers "
        "and detections")
    qos_depth: int = parameter(5, "Queue depth of the publishers (reliable)", minimum=1,
        maximum=1000)


@dataclass(frozen=True, kw_only=True)
class GeometryParameters:
    """Locating objects in space."""

    calibration: str = parameter("", "Calibration file with the cameras' intrinsics and poses; "
        "missing ones come from CameraInfo and tf", path=True)
    frame: str = parameter("", "Frame of ~/points; empty: that of the calibration file")
    max_error: float = parameter(10.0, "Maximum reprojection error of a point, pixels of the "
        "calibrated images", minimum=0.0, maximum=1000.0, live=True)
    min_angle: float = parameter(3.0, "Minimum angle between two cameras' rays to a point, "
        "degrees", minimum=0.0, maximum=90.0, live=True)
    max_disagreement: float = parameter(0.1, "Maximum distance between an object's positions from "
        "two cameras' depth, or from depth and triangulation, metres", minimum=0.0, maximum=1000.0,
        live=True)
    depth_tolerance: float = parameter(0.02, "Maximum difference between the stamps of an image "
        "and its depth image, seconds", minimum=0.0, maximum=10.0, live=True)


@dataclass(frozen=True, kw_only=True)
class NodeConfig:
    """The node's checked configuration; each attribute has the name of its parameter."""

    camera_names: tuple[str, ...] = parameter(["ego", "exo"], "Names of the cameras; each has "
        "cameras.<name>.*")
    cameras: dict[str, CameraConfig] = group(CameraConfig, "cameras.{camera}.")
    query_camera: str = parameter("ego", "Camera whose images the query masks belong to")
    target_cameras: tuple[str, ...] = parameter(["exo"], "Cameras in which the objects are "
        "searched")
    query_masks: QueryMasksConfig = group(QueryMasksConfig)
    prompts: PromptParameters = group(PromptParameters)
    objects: dict[int, str] = parameter([""], "Names of objects, each \"label:id\", such as "
        "\"1:cup\"; a label without a name gets the id object_<label>")
    ignore_labels: list[int] = parameter([255], "Labels that are ignored, unless `objects` names "
        "them; 255 is ignored in 8-bit label images only. [0]: none", minimum=0, maximum=65535)
    max_objects: int = parameter(32, "Maximum number of objects tracked at the same time",
        minimum=1, maximum=1024)
    max_image_pixels: int = parameter(64_000_000, "Larger images (width x height) are refused",
        minimum=1, maximum=1_000_000_000)
    method: str = parameter("lmeec", f"The method that finds the objects: {', '.join(METHODS)}. "
        "Only lmeec has a memory; the others treat each set separately")
    model: ModelParameters = group(ModelParameters)
    memory: lm.MemoryConfig = group(MemoryParameters)
    candidates: CandidateSettings = group(CandidateParameters)
    candidate_masks: dict[str, CandidateMasksConfig] = group(CandidateMasksConfig)
    omama: OMaMaSettings = group(OMaMaParameters)
    text: dict[str, str] = parameter("", "Description of an object in words, used by omama. One "
        "parameter per object", name=TEXT)
    memory_folder: str = parameter("", "Folder of the files of ~/save_memory and ~/load_memory; "
        "empty: $ROS_HOME/lmeec, by default ~/.ros/lmeec", path=True)
    pairing: PairingParameters = group(PairingParameters)
    mailbox: MailboxParameters = group(MailboxParameters)
    presence_threshold: float = parameter(0.5, "Presence from which an object counts as visible",
        minimum=0.0, maximum=1.0, live=True)
    output: OutputParameters = group(OutputParameters)
    geometry: GeometryParameters = group(GeometryParameters)
    autostart: bool = parameter(True, "Configure and activate at startup; false: wait for "
        "lifecycle transitions")
    silence_warning: float = parameter(5.0, "Warn when an input has been silent for this many "
        "seconds; 0: never", minimum=0.0, maximum=3600.0, live=True)
    values: Mapping[str, Any]
    """Full parameter name to the value declared."""

    @property
    def prompted(self) -> bool:
        """Whether objects are marked by prompts instead of query masks on a topic."""
        return self.query_masks.source == "prompts"

    @property
    def views(self) -> tuple[str, ...]:
        """The query camera and the target cameras."""
        return (self.query_camera, *self.target_cameras)

    @property
    def published(self) -> tuple[str, ...]:
        """The cameras whose masks are published."""
        return self.views if self.prompted else self.target_cameras
# fmt: on

    def method_settings(self) -> dict[str, Any]:
        """Return the settings for :func:`lmeec_core.methods.load_with`, by name."""
        model = {k: v for k, v in vars(self.model).items() if k != "warm_up_steps"}
        return {
            **model, "memory": self.memory, "candidates": self.candidates, "omama": self.omama,
            "text": self.text,
        }

    def changed_settings(self) -> list[str]:
        """Return the full names of method parameters whose values are not the defaults."""
        return [
            spec.name
            for spec in TABLE
            if spec.name.startswith(("model.", "memory.", "candidates.", "omama."))
            and spec.name != "model.warm_up_steps"
            and self.values[spec.name] != spec.default
        ] + [TEXT.format(object=name) for name in self.text]


def _rows(kind: Any, prefix: str = "") -> Iterator[Spec]:
    for one in fields(kind):
        if "spec" in one.metadata:
            spec = one.metadata["spec"]
            yield replace(spec, name=prefix + (spec.name or one.name))
        elif "group" in one.metadata:
            yield from _rows(one.metadata["group"], one.metadata["prefix"] or f"{one.name}.")


TABLE = tuple(_rows(NodeConfig))


def section(kind: type[C], prefix: str, values: Mapping[str, Any], /, **read: Any) -> C:
    """Make the dataclass of the parameters that begin with a prefix.

    Args:
        kind: a dataclass of this table.
        prefix: beginning of the names, such as "pairing."; "" for NodeConfig.
        values: full parameter name to checked value.
        read: values of fields that are not taken from `values`.
    """
    found: dict[str, Any] = {}
    for one in fields(kind):  # type: ignore[arg-type]
        if one.name in read:
            found[one.name] = read[one.name]
        elif "group" in one.metadata:
            inner = one.metadata["prefix"] or f"{one.name}."
            found[one.name] = section(one.metadata["group"], inner, values)
        else:
            found[one.name] = values[prefix + one.name]
    return kind(**found)
