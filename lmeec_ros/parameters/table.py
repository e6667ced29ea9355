"""The table of the node's parameters: one dataclass a group, one field a parameter."""

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
"""Name of the parameter of each object that has a text."""

C = TypeVar("C")


def parameter(*row: Any, name: str = "", **options: Any) -> Any:
    """A field for a parameter; the arguments are those of Spec, the name is the field's."""
    return field(metadata={"spec": Spec(name, *row, **options)})


def group(kind: type, prefix: str = "") -> Any:
    """A field for the parameters of a dataclass; their names begin with `prefix` (its own name)."""
    return field(metadata={"group": kind, "prefix": prefix})


# fmt: off
@dataclass(frozen=True, kw_only=True)
class CameraConfig:
    """One camera's input; the topics are those taken if the parameters are empty, too.

    Attributes:
        name: of the camera.
        address: its topic, resolved.
        other: the topic as it is given, if the transport compressed looks beside it first; or "".
    """

    name: str
    address: str
    other: str
    topic: str = parameter("", "Image topic; empty: <name>/image_raw. With the transport "
        "compressed it is <topic>/compressed, unless compressed images come on the topic itself")
    transport: str = parameter("raw", "raw: sensor_msgs/Image; compressed: "
        "sensor_msgs/CompressedImage with JPEG or PNG", TRANSPORTS)
    qos: str = parameter("auto", "auto: what the publishers offer; sensor_data: best effort; "
        "reliable", QOS)
    time_offset: float = parameter(0.0, "Added to the camera's stamps for pairing, and to look up "
        "its pose in tf, seconds: -0.167 for images that show what happened five frames of 30 Hz "
        "before their stamps. `lmeec info --offsets` estimates it (policy nearest)",
        minimum=-60.0, maximum=60.0)
    camera_info: str = parameter("", "Topic of the camera's sensor_msgs/CameraInfo, read if "
        "output.points is set and the calibration file lacks its lens; empty: camera_info beside "
        "the image topic")
    rectified: bool = parameter(False, "The images are rectified: the projection matrix of "
        "CameraInfo applies, without distortion; its Tx gives the camera's distance from its frame")
    depth: str = parameter("", "Topic of a depth image that is aligned with the camera's image, "
        "for ~/clouds (output.points); 16UC1 in millimetres or 32FC1 in metres; empty: none")
    depth_transport: str = parameter("raw", "raw: sensor_msgs/Image; compressedDepth: "
        "sensor_msgs/CompressedImage of that transport, with PNG", ("raw", "compressedDepth"))


@dataclass(frozen=True, kw_only=True)
class QueryMasksConfig:
    """The input of the query masks, with its topics as for the cameras."""

    address: str
    other: str
    source: str = parameter("topic", "topic: query masks come on a topic, one message an image; "
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
    """Clicks that other tools publish, with query_masks.source prompts."""

    topic: str = parameter("clicked_point", "Topic of geometry_msgs/PointStamped in pixels of an "
        "image; header.frame_id is a camera's name or the frame_id of its images; \"\": none")
    camera: str = parameter("", "Camera that a click without frame_id is for; empty: query_camera",
        live=True)
    object: str = parameter("", "Object that clicks mark or correct; empty: the first of "
        "`objects`, else object_1", live=True)
    tolerance: float = parameter(0.5, "Largest distance in time between a click and its image, "
        "seconds: many tools stamp a click when it is made", minimum=0.0, maximum=10.0, live=True)
    mouse: bool = parameter(True, "Read clicks of rqt_image_view, too: geometry_msgs/Point on "
        "<image topic>_mouse_left of each camera, for its newest image")


@dataclass(frozen=True, kw_only=True)
class DetectionParameters:
    """Boxes of a detector, with query_masks.source prompts."""

    topic: str = parameter("", "Topic of vision_msgs/Detection2DArray: a box marks the object of "
        "its id, or of its class, unless that is seen; empty: none")
    min_score: float = parameter(0.5, "Boxes with a lower score are ignored", minimum=0.0,
        maximum=1.0, live=True)


@dataclass(frozen=True, kw_only=True)
class PromptParameters:
    """How objects are marked, with query_masks.source prompts."""

    preset: str = parameter("same", "Network that tracks marked objects in the view that they "
        "were marked in; same: that of model.preset", ("same", *lm.PRESETS))
    checkpoint: str | None = parameter("", "File of its weights; empty: those that come with the "
        "preset, if any", path=True)
    hold: int = parameter(8, "Images per camera that are kept for late prompts", minimum=1,
        maximum=64)
    wait: float = parameter(2.0, "Longest wait of a prompt for its image, seconds", minimum=0.0,
        maximum=60.0, live=True)
    handover: bool = parameter(False, "Track an object that is lost in its query view on in "
        "another view in which it was seen with confidence", live=True)
    clicks: ClickParameters = group(ClickParameters, "prompts.clicks.")
    detections: DetectionParameters = group(DetectionParameters, "prompts.detections.")


@dataclass(frozen=True, kw_only=True)
class ModelParameters:
    """The network. A checkpoint or seed that is not given is None."""

    preset: str = parameter("nano", "The network", tuple(lm.PRESETS))
    checkpoint: str | None = parameter("", "File of weights (.pt or .safetensors); empty: those "
        "that come with the preset, if any", path=True)
    device: str = parameter("auto", "auto, cpu or cuda (cuda:1, ...)")
    precision: PrecisionName = parameter("auto", "Number format of the network; auto: bf16 where "
        "that is faster here and finds the same masks, else fp32 (offline always fp32); fp16: for "
        "GPUs without bf16",
        get_args(PrecisionName))
    engine: EngineName = parameter("auto", "The backend that runs the network's stages; auto "
        "measures them once and takes the fastest", ENGINES)
    seed: int | None = parameter(-1, "0 or more, without a checkpoint: random weights of this "
        "seed, whose masks mean nothing; -1: none", minimum=-1, maximum=2**31 - 1)
    require_mv_moe: bool = parameter(True, "Refuse a checkpoint without the MV-MoE (plain SAM 2.1)")
    warm_up_steps: int = parameter(2, "Steps on blank images while configuring; the first steps "
        "are the slowest", minimum=0, maximum=100)


@dataclass(frozen=True, kw_only=True)
class MemoryParameters:
    """The tracker's memory; `NodeConfig.memory` is lmeec_core's own class."""

    compression: str = parameter("keep_first", "Which frame leaves a full memory bank",
        ("average", "keep_first", "fifo", "iou", "cluster"))
    capacity: int = parameter(6, "Frames in a memory bank", minimum=1, maximum=64)
    query_bank: bool = parameter(True, "Remember past frames of the query camera")
    target_bank: bool = parameter(True, "Remember past frames of each target camera")
    fusion: str = parameter("mv_moe", "How the views are fused", ("mv_moe", "add", "none"))


@dataclass(frozen=True, kw_only=True)
class CandidateParameters:
    """What omama chooses among; `NodeConfig.candidates` is lmeec_core's own class."""

    source: str = parameter("auto", "Where omama's candidate masks come from: regions of even "
        "colour; sam2, SAM 2.1's automatic masks, with a network that takes points; auto: what "
        "suits the network; topic: label images of another program, see candidate_masks.topic",
        ("auto", "regions", "sam2", "topic"))
    most: int = parameter(100, "Candidates of an image", minimum=1, maximum=1000)
    min_area: float = parameter(0.0003, "Smallest candidate, share of the image", minimum=0.0,
        maximum=1.0)
    max_area: float = parameter(0.5, "Largest candidate, share of the image", minimum=0.0,
        maximum=1.0)
    crop_layers: int = parameter(0, "With sam2: layers of overlapping crops, in which smaller "
        "objects are found; layer n has 2^n x 2^n, each of which takes as long as the image",
        minimum=0, maximum=3)


@dataclass(frozen=True, kw_only=True)
class CandidateMasksConfig:
    """The input of a target camera's candidate masks, with its topics as for the cameras."""

    address: str
    other: str
    topic: str = parameter("", "With candidates.source topic: topic of label images, as those of "
        "query_masks, in which each label is a candidate, one message for each target image, with "
        "its stamp; <camera> in it stands for the target camera's name. Empty: "
        "<camera>/candidates")
    transport: str = parameter("raw", "Their transport; compressed is PNG", TRANSPORTS)
    qos: str = parameter("auto", "As cameras.<name>.qos", QOS)


@dataclass(frozen=True, kw_only=True)
class OMaMaParameters:
    """How omama compares; `NodeConfig.omama` is lmeec_core's own class."""

    features: str = parameter("auto", "network: those of model.preset; dinov2: the published ones; "
        "auto: those of the matcher", ("auto", "network", "dinov2"))
    weights: str = parameter("", "File of DINOv2's weights, or their folder; empty: the "
        "user's cache", path=True)
    matcher: str = parameter("", "The matcher's checkpoint; bundled: the one that comes with the "
        "package; empty: the features are compared themselves")
    follow: bool = parameter(False, "Remember how objects look in each target view")
    text_weights: str = parameter("", "File of how texts and candidates are compared; needed where "
        "there are texts", path=True)
    text_encoder: str = parameter("", "Folder of the text model that text_weights are for; empty: "
        "they are for words themselves", path=True)


@dataclass(frozen=True, kw_only=True)
class PairingParameters:
    """What belongs together."""

    policy: str = parameter("nearest", "nearest: lmeec's own; approximate and exact: those of "
        "message_filters, where installed", ("nearest", "approximate", "exact"))
    tolerance: float = parameter(0.02, "Largest distance in time between the query image and what "
        "belongs to it, seconds", minimum=0.0, maximum=10.0, live=True)
    queue: int = parameter(10, "Messages kept per input while waiting for the others", minimum=1,
        maximum=1000)
    partial: bool = parameter(True, "With several targets: go on with those that have an image, so "
        "that a silent camera does not stop the others; false: wait for all (policy nearest)",
        live=True)
    partial_wait: float = parameter(0.2, "Longest wait for a target's image while another target's "
        "is there, seconds", minimum=0.0, maximum=10.0, live=True)


@dataclass(frozen=True, kw_only=True)
class MailboxParameters:
    """What waits for the inference."""

    depth: int = parameter(2, "Sets that may wait for the inference; the oldest is dropped",
        minimum=1, maximum=100)


@dataclass(frozen=True, kw_only=True)
class OutputParameters:
    """What is published."""

    masks: bool = parameter(True, "Publish ~/<target>/masks", live=True)
    label_image: bool = parameter(True, "Publish ~/<target>/label_image while someone listens",
        live=True)
    overlay: bool = parameter(True, "Publish ~/<target>/overlay while someone listens", live=True)
    exclusive: bool = parameter(False, "Give each pixel to one object only, the likeliest",
        live=True)
    lazy: bool = parameter(False, "Subscribe to a target camera only while someone listens to its "
        "outputs; its memory has a gap after each pause (policy nearest)", live=True)
    points: bool = parameter(False, "Publish ~/points: where the objects are in space")
    standard: bool = parameter(True, "Offer the results in standard messages, too, while someone "
        "listens: ~/<target>/detections, label_info and camera_info, ~/points/markers and "
        "detections")
    qos_depth: int = parameter(5, "Depth of the publishers (reliable)", minimum=1, maximum=1000)


@dataclass(frozen=True, kw_only=True)
class GeometryParameters:
    """Where the objects are in space."""

    calibration: str = parameter("", "File of the cameras' lenses and poses; what it lacks comes "
        "from CameraInfo and tf", path=True)
    frame: str = parameter("", "Frame of ~/points; empty: the calibration file's")
    max_error: float = parameter(10.0, "Largest reprojection error of a point, pixels of the "
        "calibrated images", minimum=0.0, maximum=1000.0, live=True)
    min_angle: float = parameter(3.0, "Smallest angle between two cameras' rays to a point, "
        "degrees", minimum=0.0, maximum=90.0, live=True)
    max_disagreement: float = parameter(0.1, "Largest distance between where two cameras' depth, "
        "or depth and triangulation, place an object, metres", minimum=0.0, maximum=1000.0,
        live=True)
    depth_tolerance: float = parameter(0.02, "Largest difference of the stamps of an image and its "
        "depth image, seconds", minimum=0.0, maximum=10.0, live=True)


@dataclass(frozen=True, kw_only=True)
class NodeConfig:
    """The node's checked configuration; every attribute is named like its parameter."""

    camera_names: tuple[str, ...] = parameter(["ego", "exo"], "Names of the cameras; each has "
        "cameras.<name>.*")
    cameras: dict[str, CameraConfig] = group(CameraConfig, "cameras.{camera}.")
    query_camera: str = parameter("ego", "Camera in whose images the query masks lie")
    target_cameras: tuple[str, ...] = parameter(["exo"], "Cameras in whose images the objects are "
        "searched for")
    query_masks: QueryMasksConfig = group(QueryMasksConfig)
    prompts: PromptParameters = group(PromptParameters)
    objects: dict[int, str] = parameter([""], "Objects known by name, each \"label:id\", as "
        "\"1:cup\"; a label without a name gets the id object_<label>")
    ignore_labels: list[int] = parameter([255], "Labels of pixels that are to be ignored: they "
        "become no object unless `objects` names them; 255 counts in 8-bit label images only. [0]: "
        "none", minimum=0, maximum=65535)
    max_objects: int = parameter(32, "Maximum number of objects tracked at a time", minimum=1,
        maximum=1024)
    max_image_pixels: int = parameter(64_000_000, "Larger images (width x height) are refused",
        minimum=1, maximum=1_000_000_000)
    method: str = parameter("lmeec", f"The method that finds the objects: {', '.join(METHODS)}. "
        "Only lmeec has a memory; the others search in each set anew")
    model: ModelParameters = group(ModelParameters)
    memory: lm.MemoryConfig = group(MemoryParameters)
    candidates: CandidateSettings = group(CandidateParameters)
    candidate_masks: dict[str, CandidateMasksConfig] = group(CandidateMasksConfig)
    omama: OMaMaSettings = group(OMaMaParameters)
    text: dict[str, str] = parameter("", "What an object looks like, in words; omama takes it into "
        "account. One parameter for each object that has a text", name=TEXT)
    memory_folder: str = parameter("", "Folder of the files of ~/save_memory and ~/load_memory; "
        "empty: $ROS_HOME/lmeec, which is ~/.ros/lmeec", path=True)
    pairing: PairingParameters = group(PairingParameters)
    mailbox: MailboxParameters = group(MailboxParameters)
    presence_threshold: float = parameter(0.5, "Presence from which an object counts as visible",
        minimum=0.0, maximum=1.0, live=True)
    output: OutputParameters = group(OutputParameters)
    geometry: GeometryParameters = group(GeometryParameters)
    autostart: bool = parameter(True, "Configure and activate at the start; otherwise wait for "
        "lifecycle calls")
    silence_warning: float = parameter(5.0, "Warn when an input has been silent for this many "
        "seconds; 0: never", minimum=0.0, maximum=3600.0, live=True)
    values: Mapping[str, Any]
    """Every parameter by its full name, as declared."""

    @property
    def prompted(self) -> bool:
        """Whether objects are marked by prompts, and no query masks come."""
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
        """The settings of methods, by name, as :func:`lmeec_core.methods.load_with` takes them."""
        model = {k: v for k, v in vars(self.model).items() if k != "warm_up_steps"}
        return {
            **model, "memory": self.memory, "candidates": self.candidates, "omama": self.omama,
            "text": self.text,
        }

    def changed_settings(self) -> list[str]:
        """Full names of the parameters of methods that do not have their defaults."""
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
    """The dataclass of the parameters that begin with a prefix.

    Args:
        kind: a dataclass of this table.
        prefix: as "pairing."; "" for NodeConfig.
        values: every parameter by its full name, checked.
        read: the fields that are not taken as they stand in `values`.
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
