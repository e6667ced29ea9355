"""The table of parameters: defaults, checks, errors, and the file that comes with the package."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lmeec_core.bags.object_rows import object_row
from lmeec_ros.parameters import config as parameters
from lmeec_ros.parameters.config import ParameterError, load


def test_defaults() -> None:
    config = load({})
    assert list(config.cameras) == ["ego", "exo"]
    assert config.cameras["exo"].topic == "exo/image_raw"
    assert config.query_masks.topic == "ego/label_image"
    assert (config.query_camera, config.target_cameras) == ("ego", ("exo",))
    assert (config.model.checkpoint, config.model.seed, config.objects) == (None, None, {})
    assert config.pairing.tolerance == 0.02
    assert config.memory.capacity == 6


def test_a_full_configuration() -> None:
    config = load(
        {
            "camera_names": ["head", "left-1"],
            "cameras.head.transport": "compressed",
            "cameras.left-1.topic": "cam/left",
            "query_camera": "left-1",
            "target_cameras": ["head"],
            "query_masks.type": "mask_array",
            "objects": ["1: cup", " 20 :bread knife", ""],
            "memory.compression": "fifo",
            "memory.capacity": 3,
            "memory.fusion": "add",
            "model.seed": 4,
            "model.checkpoint": "/a/b.pt",
            "pairing.tolerance": 1,
            "use_sim_time": True,
        }
    )
    assert config.cameras["head"].topic == "head/image_raw/compressed"
    assert config.cameras["left-1"].topic == "cam/left"
    assert config.query_masks.topic == "left_1/masks"
    assert config.objects == {1: "cup", 20: "bread knife"}
    assert (config.memory.compression, config.memory.fusion) == ("fifo", "add")
    assert (config.model.seed, config.model.checkpoint) == (4, "/a/b.pt")
    assert config.pairing.tolerance == 1.0 and isinstance(config.pairing.tolerance, float)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"pairing.tolerence": 0.1}, "unknown parameter; did you mean 'pairing.tolerance'"),
        ({"presence_treshold": 0.1}, "did you mean 'presence_threshold'"),
        ({"utterly wrong": 1}, "unknown parameter$"),
        ({"cameras.exx.topic": "/x"}, "camera 'exx' is not in camera_names.*did you mean 'exo'"),
        ({"cameras.exo.topics": "/x"}, "did you mean 'cameras.exo.topic'"),
        ({"cameras.exo.transport": "compresed"}, "raw, compressed expected; did you mean 'compre"),
        ({"model.preset": "base-plus"}, "did you mean 'base_plus'"),
        ({"pairing.tolerance": -0.1}, r"-0.1 given, 0.0 to 10.0 expected"),
        ({"pairing.tolerance": "wide"}, "'wide' given, a number expected"),
        ({"pairing.queue": 2.5}, "2.5 given, a whole number expected"),
        ({"autostart": 1}, "1 given, true or false expected"),
        ({"mailbox.depth": 0}, "0 given, 1 to 100 expected"),
        ({"camera_names": ["ego"]}, "two or more different names"),
        ({"camera_names": ["ego", "ego"]}, "two or more different names"),
        ({"camera_names": ["a-b", "a_b"]}, "two or more different names"),
        ({"camera_names": ["ego", "/exo"]}, "'/exo' given, a letter followed by"),
        ({"query_camera": "egg"}, "did you mean 'ego'"),
        ({"target_cameras": ["ex"]}, "did you mean 'exo'"),
        ({"target_cameras": ["ego"]}, "other than the query camera"),
        ({"target_cameras": [""]}, "at least one"),
        ({"target_cameras": ["exo", "exo"]}, "each once"),
        ({"objects": ["cup"]}, "'cup' given, \"label:id\""),
        ({"objects": ["0:cup"]}, "label from 1 to 65535"),
        ({"objects": ["70000:cup"]}, "label from 1 to 65535"),
        ({"objects": ["1:cup", "1:knife"]}, "already in use"),
        ({"objects": ["1:cup", "2:cup"]}, "already in use"),
        ({"text.cup": "a mug", "objects": ["1:cip"]}, "text.cup: .*objects .cip.*mean 'cip'"),
        ({"text.cup": 3, "objects": ["1:cup"]}, "text.cup: 3 given, a text expected"),
        ({"text": "a mug"}, "text: unknown parameter"),
        (
            {"query_masks.type": "mask_array", "query_masks.transport": "compressed"},
            "for label images only",
        ),
    ],
)
def test_what_is_wrong_is_named(values: dict[str, Any], text: str) -> None:
    with pytest.raises(ParameterError, match=text):
        load(values)


def test_texts_about_objects_are_given_by_their_ids() -> None:
    tree = {"method": "omama", "text": {"cup": "a blue mug", "object_7": "a pan"},
            "objects": ["1:cup"]}  # fmt: skip
    config = load(parameters.flatten(tree))
    assert config.text == {"cup": "a blue mug", "object_7": "a pan"}
    assert config.method_settings()["text"] == config.text
    assert {"text.cup", "text.object_7"} <= set(config.changed_settings())
    # Which ids such messages have is not known beforehand.
    assert load({"text.any.id": "x", "query_masks.type": "mask_array"}).text == {"any.id": "x"}
    assert load({}).text == {} and "text.{object}" not in load({}).values


def test_the_table_is_sound() -> None:
    for spec in parameters.TABLE:
        assert spec.check(spec.default) == spec.default
        assert spec.description and spec.description[0] != " "
        descriptor = spec.descriptor()
        assert descriptor.read_only is not spec.live
        assert (spec.minimum is None) == (spec.maximum is None)
    live = {spec.name for spec in parameters.TABLE if spec.live}
    assert live == {
        "presence_threshold",
        "prompts.clicks.camera",
        "prompts.clicks.object",
        "prompts.clicks.tolerance",
        "prompts.detections.min_score",
        "prompts.handover",
        "prompts.wait",
        "pairing.tolerance",
        "pairing.partial",
        "pairing.partial_wait",
        "query_masks.max_delay",
        "output.lazy",
        "silence_warning",
        "output.masks",
        "output.label_image",
        "output.overlay",
        "output.exclusive",
        "geometry.max_error",
        "geometry.min_angle",
        "geometry.max_disagreement",
        "geometry.depth_tolerance",
    }


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            values.update(flat(value, f"{prefix}{key}."))
        else:
            values[prefix + key] = value
    return values


def test_the_file_of_the_package_names_every_parameter_and_its_default(tools: Any) -> None:
    text = (tools.REPOSITORY / "config" / "lmeec.yaml").read_text()
    values = flat(yaml.safe_load(text)["/**"]["ros__parameters"])
    config = load(values)
    names = set(parameters.table_for(list(config.cameras)))
    assert set(values) == names
    for name, default in load({}).values.items():
        if name in values and name not in ("objects", "cameras.ego.topic", "cameras.exo.topic"):
            assert config.values[name] == default or name == "query_masks.topic", name


@given(st.dictionaries(st.integers(1, 65535), st.text(min_size=1, max_size=6), max_size=4))
def test_ids_of_objects_are_kept_as_they_are(objects: dict[int, str]) -> None:
    objects = {label: name for label, name in objects.items() if "\0" not in name}
    if len(set(objects.values())) == len(objects):
        rows = [object_row(label, name) for label, name in objects.items()]
        assert parameters.load({"objects": [*rows, ""]}).objects == objects


def test_one_blank_after_the_colon_is_notation() -> None:
    rows = ["1: cup", "2:cup ", " 3 :  cup", "4:чашка"]
    assert parameters.load({"objects": rows}).objects == {
        1: "cup", 2: "cup ", 3: " cup", 4: "чашка"
    }  # fmt: skip
    for row in ("1:", "1: ", "cup", "0:cup", "x:cup"):
        with pytest.raises(ParameterError, match="objects"):
            parameters.load({"objects": [row]})


@pytest.mark.parametrize("value", [["255"], [1.0], [True], [-1], [65536], 255, "255"])
def test_labels_to_ignore_are_a_list_of_labels(value: Any) -> None:
    with pytest.raises(ParameterError, match="ignore_labels"):
        parameters.load({"ignore_labels": value})
