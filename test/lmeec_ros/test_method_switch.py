"""One parameter chooses the method, in the node and in `lmeec track`."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from safetensors.torch import save_file
from std_msgs.msg import Header
from typer.testing import CliRunner

import lmeec_core as lm
from lmeec_core import methods
from lmeec_core.cli.app import app
from lmeec_core.methods.conditions import HashedWords, TextScorer
from lmeec_core.methods.omama.features import EncoderFeatures
from lmeec_core.methods.omama.texts import text_facts
from lmeec_core.methods.pairs import PairMethod, same_place
from lmeec_core.sync.image_set import ImageSet
from lmeec_core.takes import Take, TakeWriter
from lmeec_ros.inference import pipeline
from lmeec_ros.inference.pipeline import TargetOutput, load_processor
from lmeec_ros.io.messages import MESSAGES
from lmeec_ros.parameters import config as parameters

SAMPLE = Path(__file__).parents[1] / "data" / "sample_take"
OBJECTS = {1: "teapot_1", 2: "pail_1"}
runner = CliRunner(env={"COLUMNS": "250", "NO_COLOR": "1", "TERM": "dumb"})


@pytest.fixture(scope="module")
def take(tmp_path_factory: pytest.TempPathFactory) -> Take:
    """Two frames of the sample take."""
    path, sample = tmp_path_factory.mktemp("takes") / "short", Take.open(SAMPLE)
    with TakeWriter(path) as writer:
        for frame in (0, 30):
            for camera in ("aria01", "cam01"):
                writer.image(camera, frame, sample.image(camera, frame))
                for name in OBJECTS.values():
                    mask = sample.mask(name, camera, frame)
                    if mask is not None:
                        writer.mask(name, camera, frame, mask)
    return Take.open(path)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A method that the query mask itself answers: one function and one line."""
    module: Any = ModuleType("toy_method")
    module.load = lambda: PairMethod(same_place)
    monkeypatch.setitem(sys.modules, "toy_method", module)
    monkeypatch.setattr(methods, "_METHODS", dict(methods._METHODS))
    methods.register_method("toy", "toy_method:load")
    yield "toy"


def config(method: str, **more: Any) -> parameters.NodeConfig:
    return parameters.load(
        {
            "method": method,
            "objects": [f"{label}:{name}" for label, name in OBJECTS.items()],
            "model.device": "cpu",
            "model.warm_up_steps": 1,
            "model.engine": "eager",
            **more,
        }
    )


def image_set(take: Take, frame: int) -> ImageSet[Any]:
    """The messages of a frame, with a label image as the query masks."""
    header = Header(frame_id="camera")
    header.stamp.sec = 1 + frame
    labels = np.zeros(take.image("aria01", frame).shape[:2], np.uint8)
    for label, name in OBJECTS.items():
        mask = take.mask(name, "aria01", frame)
        if mask is not None:
            labels[mask] = label
    query, target = (
        MESSAGES.image(header, take.image(camera, frame), "rgb8") for camera in ("aria01", "cam01")
    )
    return ImageSet(query, MESSAGES.image(header, labels, "8UC1"), {"exo": target})


def check(output: TargetOutput, take: Take) -> None:
    """The three outputs of a target say the same of each object."""
    size = take.image("cam01", 0).shape[:2]
    message = output.message
    assert (message.height, message.width) == size
    assert {mask.object_id for mask in message.masks} == set(OBJECTS.values())
    for mask in message.masks:
        assert 0 <= mask.presence <= 1 and 0 <= mask.score <= 1


@pytest.mark.parametrize("name", methods.METHODS)
def test_each_method_in_the_node_and_offline(name: str, take: Take, tmp_path: Path) -> None:
    processor = load_processor(config(name))
    for frame in (0, 30):
        found = processor.process(image_set(take, frame))
        check(found["exo"], take)
    labels = found["exo"].label_image(processor.table, 0.5)
    assert set(np.unique(np.frombuffer(labels.data, np.uint16))) <= {0, 1, 2}
    assert found["exo"].overlay(processor.table, 0.5).encoding == "rgb8"
    out = tmp_path / "found.json"
    command = ["track", str(take.path), "--method", name, "--engine", "eager", "--workers", "1"]
    command += ["--device", "cpu", "--direction", "ego-exo", "--out", str(out)]
    result = runner.invoke(app, command)
    assert result.exit_code == 0, result.output
    assert f"method {name}" in result.output
    masks = json.loads(out.read_text())["ego-exo"]["results"]["short"]["masks"]
    assert set(masks) == set(OBJECTS.values())
    # What a method does not have is named.
    assert ("it has no model.engine; no effect" in result.output) == (
        not methods.has_setting(name, "engine")
    )


def test_a_method_is_one_function_and_one_line(toy: str, take: Take, tmp_path: Path) -> None:
    processor = load_processor(config(toy))
    assert processor.device == "cpu" and processor.engines == "none"
    found = processor.process(image_set(take, 0))["exo"]
    asked = {name: take.mask(name, "aria01", 0) for name in OBJECTS.values()}
    for name, mask in asked.items():
        assert mask is not None and np.array_equal(found.found[name].mask(), mask)
    out = tmp_path / "toy.json"
    result = runner.invoke(
        app, ["track", str(take.path), "--method", toy, "--workers", "1", "--out", str(out)]
    )
    assert result.exit_code == 0, result.output
    assert set(json.loads(out.read_text())) >= {"ego-exo", "exo-ego"}


def test_unknown_methods_are_named(take: Take, tmp_path: Path) -> None:
    with pytest.raises(parameters.ParameterError, match="method: .*'sfit' given.*mean 'sift'"):
        config("sfit")
    assert config("lm-eec").method == "lmeec"
    out = str(tmp_path / "x.json")
    result = runner.invoke(app, ["track", str(take.path), "--method", "sfit", "--out", out])
    assert result.exit_code == 1 and "method 'sfit' given, one of lmeec" in result.output


def test_the_node_names_what_a_method_does_not_have(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    with caplog.at_level(logging.WARNING):
        processor = load_processor(config("sift", **{"memory.capacity": 3}))
    assert "method sift: it has no model.engine, memory.capacity" in caplog.text
    with pytest.raises(lm.MemoryFileError, match="has no memory to save"):
        lm.save_memory(processor.tracker, tmp_path / "m.safetensors")
    with pytest.raises(lm.MemoryFileError, match="only the method lmeec"):
        lm.load_memory(processor.tracker, tmp_path / "m.safetensors")


@dataclass
class Hard:
    """A result without logits."""

    found: np.ndarray
    score: float
    presence: float = 1.0
    skipped: str | None = None

    @property
    def size(self) -> tuple[int, int]:
        return self.found.shape[0], self.found.shape[1]

    def visible(self, threshold: float = 0.5) -> bool:
        return self.presence >= threshold

    def mask(self, threshold: float = 0.5) -> np.ndarray:
        return self.found if self.visible(threshold) else np.zeros_like(self.found)


def test_an_overlap_of_masks_without_logits_goes_to_the_higher_score() -> None:
    row = np.arange(10)[None]
    found = {
        "low": Hard(row < 6, 0.3),
        "high": Hard((row >= 4) & (row < 8), 0.9),
        "as low, but smaller": Hard((row >= 2) & (row < 4), 0.3),
        "absent": Hard(row >= 0, 1.0, presence=0.1),
    }
    masks = {
        name: np.flatnonzero(mask).tolist() for name, mask in lm.exclusive_masks(found).items()
    }
    assert masks == {
        "low": [0, 1],
        "high": [4, 5, 6, 7],
        "as low, but smaller": [2, 3],
        "absent": [],
    }


def test_the_node_takes_texts_about_objects(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    take: Take,
    tmp_path: Path,
) -> None:
    """They reach the tracker; words that have no effect and objects that never come are named."""
    monkeypatch.setattr(pipeline, "LATE", 2)
    features = EncoderFeatures(lm.load_model("nano", device="cpu"))
    scorer = TextScorer("words", features.layout(True).dim, 64)
    facts = text_facts(scorer, features.fingerprint, HashedWords(known=["blue", "pot"]))
    save_file(dict(scorer.state_dict()), tmp_path / "texts.safetensors", facts)
    told = {
        "text": {"teapot_1": "a blue pot", "object_7": "blue"},
        "omama": {"text_weights": str(tmp_path / "texts.safetensors")},
        "model": {"warm_up_steps": 0},
    }
    with caplog.at_level(logging.WARNING):
        processor = load_processor(config("omama", **parameters.flatten(told)))
    assert "text: 'a': not among the words that" in caplog.text
    tracker: Any = processor.tracker
    assert set(tracker._texts.texts) == {"teapot_1", "object_7"}
    missing = "text: 'object_7': not among the objects of the first 2 sets ('pail_1', 'teapot_1' in"
    for k, count in ((0, 0), (1, 1), (2, 1)):
        check(processor.process(image_set(take, 30 * (k % 2)))["exo"], take)
        assert caplog.text.count(missing) == count
