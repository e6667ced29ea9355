"""The node's parameters: declared, checked and loaded into a frozen NodeConfig."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import lmeec_core as lm
from lmeec_core.bags.object_rows import read_object_row
from lmeec_core.errors import InputError
from lmeec_core.methods import METHODS, method_name
from lmeec_core.methods.candidates.settings import CandidateSettings
from lmeec_core.methods.omama.settings import OMaMaSettings
from lmeec_ros.parameters import files as parameter_files
from lmeec_ros.parameters.files import ParameterError as ParameterError
from lmeec_ros.parameters.spec import Spec, Value, suggestion
from lmeec_ros.parameters.table import (
    TABLE,
    CameraConfig,
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


_FOREIGN = re.compile(r"^(use_sim_time|start_type_description_service|qos_overrides\..*)$")
_CAMERA_NAME = re.compile(r"^[A-Za-z][A-Za-z0-9_-]*$")


def topic_token(name: str) -> str:
    """Return a camera's name in a form that topic names allow (no hyphens)."""
    return name.replace("-", "_")


def table_for(cameras: Sequence[str]) -> dict[str, Spec]:
    """Return the table with the rows of a camera repeated for each camera."""
    rows: dict[str, Spec] = {}
    for spec in TABLE:
        for camera in cameras if "{camera}" in spec.name else ("",):
            name = spec.name.replace("{camera}", camera)
            rows[name] = replace(spec, name=name)
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
    checked: dict[str, Any] = {
        name: spec.check(values.get(name, spec.default)) for name, spec in table.items()
    }
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
    prompted = checked["query_masks.source"] == "prompts"
    if checked["output.lazy"] and prompted:
        raise ParameterError(
            "output.lazy: true given with query_masks.source 'prompts', where an object may be "
            "tracked in any camera; false expected"
        )
    if checked["prompts.checkpoint"] and checked["prompts.preset"] == "same":
        raise ParameterError(
            f"prompts.checkpoint: {checked['prompts.checkpoint']!r} given; prompts.preset, the "
            "network that it belongs to, is expected as well"
        )
    return section(
        NodeConfig,
        "",
        checked,
        camera_names=tuple(cameras),
        cameras={name: _camera(name, checked) for name in cameras},
        target_cameras=targets,
        query_masks=_query_masks(query, checked),
        prompts=section(
            PromptParameters,
            "prompts.",
            checked,
            checkpoint=checked["prompts.checkpoint"] or None,
        ),
        objects=_objects(checked["objects"]),
        method=_method(str(checked["method"])),
        model=section(
            ModelParameters,
            "model.",
            checked,
            checkpoint=checked["model.checkpoint"] or None,
            seed=None if checked["model.seed"] < 0 else checked["model.seed"],
        ),
        memory=lm.MemoryConfig(**vars(section(MemoryParameters, "memory.", checked))),
        candidates=CandidateSettings(**vars(section(CandidateParameters, "candidates.", checked))),
        omama=OMaMaSettings(**vars(section(OMaMaParameters, "omama.", checked))),
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


def _method(given: str) -> str:
    try:
        return method_name(given)
    except InputError as error:
        raise ParameterError(f"method: {error}{suggestion(given, METHODS)}") from error


def _camera(name: str, values: Mapping[str, Any]) -> CameraConfig:
    given = section(CameraConfig, f"cameras.{name}.", values, name=name)
    topic, info = given.topic, given.camera_info
    if not topic:
        compressed = given.transport == "compressed"
        topic = f"/{topic_token(name)}/image_raw" + "/compressed" * compressed
    if not info:  # image_transport's convention
        folder = topic.removesuffix("/compressed").rpartition("/")[0]
        info = f"{folder}/camera_info" if "/" in topic else "camera_info"
    return replace(given, topic=topic, camera_info=info)


def _query_masks(query: str, values: Mapping[str, Any]) -> QueryMasksConfig:
    given = section(QueryMasksConfig, "query_masks.", values)
    kind, transport = given.type, given.transport
    if kind == "mask_array" and transport != "raw":
        raise ParameterError(
            "query_masks.transport: 'compressed' given, which only label images have; "
            "'raw' expected"
        )
    topic = given.topic
    if not topic:
        last = "masks" if kind == "mask_array" else "label_image"
        topic = f"/{topic_token(query)}/{last}" + "/compressed" * (transport == "compressed")
    return replace(given, topic=topic)


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
