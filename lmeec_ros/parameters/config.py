"""Declare and check the node's parameters, and load them into a frozen NodeConfig."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import lmeec_core as lm
from lmeec_core.bags.object_rows import read_object_row
from lmeec_core.errors import InputError
from lmeec_core.methods import METHODS, has_setting, method_name
from lmeec_core.methods.candidates.settings import CandidateSettings
from lmeec_core.methods.omama.settings import OMaMaSettings
from lmeec_ros.parameters import combinations, video
from lmeec_ros.parameters import files as parameter_files
from lmeec_ros.parameters.files import ParameterError as ParameterError
from lmeec_ros.parameters.spec import Spec, Value, suggestion
from lmeec_ros.parameters.table import (
    TABLE,
    TEXT,
    CameraConfig,
    CandidateMasksConfig,
    CandidateParameters,
    MemoryParameters,
    ModelParameters,
    NodeConfig,
    OMaMaParameters,
    PromptParameters,
    QueryMasksConfig,
    section,
)

if TYPE_CHECKING:
    from rclpy.node import Node
    from rclpy.parameter import Parameter

NAME = "lmeec"
"""Name of the node."""
CANDIDATES = "<camera>/candidates"
"""Topic of a target camera's candidate masks, unless another one is given."""


_FOREIGN = re.compile(r"^(use_sim_time|start_type_description_service|qos_overrides\..*)$")
_CAMERA_NAME = re.compile(r"^[A-Za-z][A-Za-z0-9_-]*$")


def topic_token(name: str) -> str:
    """Return a camera's name as part of a topic name, which may not contain hyphens."""
    return name.replace("-", "_")


def table_for(cameras: Sequence[str], described: Iterable[str] = ()) -> dict[str, Spec]:
    """Return the table by parameter name, with the rows of cameras and described objects expanded.

    Args:
        cameras: names of the cameras.
        described: ids of the objects that have a text.
    """
    rows: dict[str, Spec] = {}
    for spec in TABLE:
        for mark, each in (("{camera}", cameras), ("{object}", described)):
            if mark in spec.name:
                names = [spec.name.replace(mark, one) for one in each]
                break
        else:
            names = [spec.name]
        rows |= {name: replace(spec, name=name) for name in names}
    return rows


def absolute(topic: str, node: str = f"/{NAME}") -> str:
    """Return a topic's absolute name, resolved as ROS does but without remappings.

    Args:
        topic: topic name.
        node: name of the node with its namespace.
    """
    if topic.startswith("/"):
        return topic
    if topic.startswith("~"):
        return f"{node}/{topic.removeprefix('~').lstrip('/')}"
    return f"{node.rpartition('/')[0]}/{topic}"


def load(values: Mapping[str, Any], resolve: Callable[[str], str] = absolute) -> NodeConfig:
    """Check parameter values and return the configuration; missing values have their defaults.

    Args:
        values: full parameter name to value.
        resolve: returns the absolute name of a topic.

    Raises:
        ParameterError: for the first wrong value or unknown name.
    """
    cameras = _camera_names(values)
    prefix = TEXT.format(object="")
    described = [n.removeprefix(prefix) for n in values if n.startswith(prefix) and n != prefix]
    table = table_for(cameras, described)
    _check_names(values, cameras, table)
    checked: dict[str, Any] = {
        name: spec.check(values.get(name, spec.default)) for name, spec in table.items()
    }
    query, targets = str(checked["query_camera"]), tuple(_texts(checked["target_cameras"]))
    combinations.check_cameras(query, targets, cameras)
    combinations.check_settings(checked, cameras)
    objects = _objects(checked["objects"])
    if checked["query_masks.source"] != "prompts" and checked["query_masks.type"] == "label_image":
        combinations.check_described(described, objects)
    return section(
        NodeConfig,
        "",
        checked,
        camera_names=tuple(cameras),
        cameras={name: _camera(name, checked, resolve) for name in cameras},
        target_cameras=targets,
        query_masks=_query_masks(query, checked, resolve),
        prompts=section(
            PromptParameters,
            "prompts.",
            checked,
            checkpoint=checked["prompts.checkpoint"] or None,
        ),
        objects=objects,
        method=_method(str(checked["method"])),
        model=section(
            ModelParameters,
            "model.",
            checked,
            checkpoint=checked["model.checkpoint"] or None,
            seed=None if checked["model.seed"] < 0 else checked["model.seed"],
        ),
        memory=lm.MemoryConfig(**vars(section(MemoryParameters, "memory.", checked))),
        candidate_masks=_candidate_masks(targets, checked, resolve),
        candidates=CandidateSettings(**vars(section(CandidateParameters, "candidates.", checked))),
        omama=OMaMaSettings(**vars(section(OMaMaParameters, "omama.", checked))),
        text={name: str(checked[prefix + name]) for name in described},
        values=checked,
    )


def with_full_names(values: Mapping[str, Any], node: str) -> dict[str, Any]:
    """Return the values with the absolute names of all input topics.

    Args:
        values: full parameter name to value.
        node: name of the node with its namespace.

    Raises:
        ParameterError: if a value is wrong.
    """
    config = load(values, lambda topic: absolute(topic, node))
    found = {
        f"cameras.{name}.topic": one.other or one.topic for name, one in config.cameras.items()
    }
    found["query_masks.topic"] = config.query_masks.other or config.query_masks.topic
    if config.candidate_masks:
        found["candidate_masks.topic"] = config.values["candidate_masks.topic"] or CANDIDATES
    return {**values, **{name: absolute(topic, node) for name, topic in found.items()}}


def read_file(path: str | os.PathLike[str], node: str | None = None) -> dict[str, Any]:
    """Return the values for a node in a parameter file (YAML), by full name, as ROS reads them.

    Args:
        path: the file.
        node: name with namespace, such as /robot1/lmeec; None for the node lmeec, in the namespace
            that the file names, if any.

    Raises:
        ParameterError: if there is no such file, ROS would refuse it, or it has no parameters for
            the node.
    """
    file = parameter_files.read(path)
    wanted = file.node_called(NAME) if node is None else f"/{node.strip('/')}"
    values = file.values_for(wanted)
    if values is None:
        raise file.refusal(wanted)
    return values


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Join nested names with dots, as in ROS: {"model": {"preset": x}} to {"model.preset": x}."""
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
        ParameterError: if an override is wrong or its name is unknown.
    """
    # rclpy has no public way to read overrides of undeclared parameters.
    overrides: dict[str, Parameter] = node._parameter_overrides
    given = {name: parameter.value for name, parameter in overrides.items()}
    config = load(given, node.resolve_topic_name)
    for name, spec in table_for(list(config.cameras), config.text).items():
        # ROS cannot infer the type of an empty list, so it is declared as [""] or [0].
        value = config.values[name]
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
                f"camera_names: {name!r} given, a letter followed by letters, digits, _ or - "
                "expected"
            )
    if len(names) < 2 or len(set(tokens)) < len(names):
        raise ParameterError(f"camera_names: {names} given, two or more different names expected")
    return names


def _check_names(
    values: Mapping[str, Any], cameras: Sequence[str], table: Mapping[str, Spec]
) -> None:
    """Refuse unknown names, and transports that are videos."""
    for name in values:
        if name not in table and not _FOREIGN.match(name):
            raise ParameterError(_unknown(name, cameras, table))
    for name, value in values.items():
        if name.endswith(".transport") and video.is_video(str(value)):
            prefix = name.removesuffix("transport")
            topic = str(values.get(f"{prefix}topic") or "<topic>")
            raise ParameterError(
                f"{name}: {value!r} given; {video.remedy(topic, prefix, str(value))}"
            )


def _unknown(name: str, cameras: Sequence[str], table: Mapping[str, Spec]) -> str:
    parts = name.split(".")
    if parts[0] == "cameras" and len(parts) == 3 and parts[1] not in cameras:
        return (
            f"{name}: camera {parts[1]!r} is not in camera_names ({', '.join(cameras)})"
            f"{suggestion(parts[1], cameras)}"
        )
    return f"{name}: unknown parameter{suggestion(name, list(table))}"


def _method(given: str) -> str:
    try:
        return method_name(given)
    except InputError as error:
        raise ParameterError(f"method: {error}{suggestion(given, METHODS)}") from error


def _topics(base: str, transport: str) -> tuple[str, str]:
    """The preferred topic, and the topic as given if that differs, else ""."""
    if transport != "compressed" or base.endswith("/compressed"):
        return base, ""
    return f"{base}/compressed", base  # image_transport's convention


def _resolved(resolve: Callable[[str], str], topic: str, parameter: str) -> str:
    try:
        return resolve(topic)
    except Exception as error:  # classes of rclpy, which may not be installed
        raise ParameterError(
            f"{parameter}: {topic!r} given, a valid topic name expected: {error}"
        ) from error


def _camera(name: str, values: Mapping[str, Any], resolve: Callable[[str], str]) -> CameraConfig:
    given = section(CameraConfig, f"cameras.{name}.", values, name=name, address="", other="")
    base, info = given.topic or f"{topic_token(name)}/image_raw", given.camera_info
    topic, other = _topics(base, given.transport)
    if not info:  # image_transport's convention
        base = base.removesuffix("/compressed")
        folder = base.rpartition("/")[0]
        info = f"{folder}/camera_info" if "/" in base else "camera_info"
    address = _resolved(resolve, topic, f"cameras.{name}.topic")
    return replace(given, topic=topic, other=other, address=address, camera_info=info)


def _query_masks(
    query: str, values: Mapping[str, Any], resolve: Callable[[str], str]
) -> QueryMasksConfig:
    given = section(QueryMasksConfig, "query_masks.", values, address="", other="")
    kind, transport = given.type, given.transport
    if kind == "mask_array" and transport != "raw":
        raise ParameterError(
            "query_masks.transport: 'compressed' given, which is for label images only; "
            "'raw' expected"
        )
    last = "masks" if kind == "mask_array" else "label_image"
    topic, other = _topics(given.topic or f"{topic_token(query)}/{last}", transport)
    address = _resolved(resolve, topic, "query_masks.topic")
    return replace(given, topic=topic, other=other, address=address)


def _candidate_masks(
    targets: Sequence[str], values: Mapping[str, Any], resolve: Callable[[str], str]
) -> dict[str, CandidateMasksConfig]:
    """Target camera to its candidate input; empty unless candidates come on topics."""
    if values["candidates.source"] != "topic":
        return {}
    if not has_setting(_method(str(values["method"])), "candidates"):
        raise ParameterError(
            f"candidates.source: 'topic' given with the method {values['method']!r}, which does "
            "not use candidates; omama expected"
        )
    for name, wrong in (("query_masks.source", "prompts"), ("output.lazy", True)):
        if values[name] == wrong:
            raise ParameterError(
                f"candidates.source: 'topic' given with {name} {wrong!r}; query_masks.source "
                "'topic' and output.lazy false expected"
            )
    given = section(CandidateMasksConfig, "candidate_masks.", values, address="", other="")
    found: dict[str, CandidateMasksConfig] = {}
    for name in targets:
        base = (given.topic or CANDIDATES).replace("<camera>", topic_token(name))
        topic, other = _topics(base, given.transport)
        address = _resolved(resolve, topic, "candidate_masks.topic")
        if any(address == one.address for one in found.values()):
            raise ParameterError(
                f"candidate_masks.topic: {given.topic!r} given, which is the same for all "
                f"{len(targets)} target cameras; a topic that contains <camera> (replaced by the "
                "camera's name) expected"
            )
        found[name] = replace(given, topic=topic, other=other, address=address)
    return found


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
                'such as "1:cup"'
            )
        label, name = found
        if label in objects or name in objects.values():
            raise ParameterError(f"objects: {row!r} given, but its label or id is already in use")
        objects[label] = name
    return objects
