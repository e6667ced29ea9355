"""From the messages of a set to the masks of each target camera, without a node."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from lmeec.msg import CorrespondenceMaskArray
from sensor_msgs.msg import Image
from std_msgs.msg import Header

import lmeec_core as lm
from lmeec_core.bags.mask_messages import label_image
from lmeec_core.correspondence import CorrespondenceLike, Method, Tracker
from lmeec_core.engine import Improvement, engines_in_use
from lmeec_core.errors import InputError
from lmeec_core.methods import has_setting, load_with, without_effect
from lmeec_core.methods.candidates.given import TakesCandidates
from lmeec_core.prompts import Prompt, PromptedTracker, ViewTracker, view_tracker
from lmeec_core.sync.image_set import ImageSet
from lmeec_ros.inference.marks import Marks
from lmeec_ros.io import images, messages
from lmeec_ros.io.reading import image_readers as image_readers
from lmeec_ros.io.reading import read_candidates
from lmeec_ros.io.reading import read_image as read_image
from lmeec_ros.io.reading import read_query_masks as read_query_masks
from lmeec_ros.io.synchronizer import stamp_of
from lmeec_ros.parameters.config import NodeConfig

logger = logging.getLogger(__name__)

WARM_UP_SIZE = (480, 640)
LATE = 100
"""Sets after which objects that have a text and never came are named."""


@dataclass(frozen=True)
class TargetOutput:
    """What one step found in one target camera."""

    message: CorrespondenceMaskArray
    image: images.Array
    """The target image, uint8 (H, W, 3)."""
    found: Mapping[str, CorrespondenceLike]
    header: Header

    def label_image(self, table: messages.LabelTable, threshold: float) -> Image:
        """Return the label image (16UC1); see lm.exclusive_masks for where they overlap."""
        masks = lm.exclusive_masks(self.found, threshold)
        by_label = {table.label_of(name): mask for name, mask in masks.items()}
        labels, _ = label_image(by_label, self.image.shape[:2], np.uint16)
        return messages.MESSAGES.image(self.header, labels, "16UC1")

    def overlay(self, table: messages.LabelTable, threshold: float) -> Image:
        """Return the target image with the masks drawn over it (rgb8)."""
        from lmeec_core import overlay

        masks = {name: found.mask(threshold) for name, found in self.found.items()}
        colours = {name: overlay.colour(table.label_of(name) - 1) for name in masks}
        lines = [f"{name} {found.presence:.2f}" for name, found in self.found.items()]
        drawn = overlay.draw_masks(self.image, masks, colours=colours)
        drawn = overlay.caption(drawn, lines, [colours[name] for name in self.found])
        return messages.MESSAGES.image(self.header, drawn, "rgb8")


class SetProcessor:
    """Decodes the messages of a set, steps the tracker and builds the messages to publish.

    It has no thread and no node: the node's worker calls it, and so does `lmeec track` on bags.

    Args:
        tracker: its query and targets are those of the configuration; a PromptedTracker where
            objects are marked by prompts.
        config: topics, transports and limits.
        table: labels of the objects.
        several: whether a set has several targets, more than the tracker's perhaps: with
            pairing.partial a bad image of one then does not stop the others.
        network: the method's, where the tracker does not tell.

    Attributes:
        marks: takes the prompts; None where query masks come on a topic.
        missed: objects that have a text, to be named if they do not come in :data:`LATE` sets.
    """

    def __init__(
        self,
        tracker: Tracker | PromptedTracker,
        config: NodeConfig,
        table: messages.LabelTable,
        several: bool | None = None,
        network: lm.LMEEC | None = None,
    ) -> None:
        self.tracker = tracker
        self.marks = Marks(tracker) if isinstance(tracker, PromptedTracker) else None
        self._network = network
        self.config = config
        self.table = table
        self.several = len(config.target_cameras) > 1 if several is None else several
        self.query_masks: Mapping[str, messages.Mask | None] = {}  # of the last set
        self._readers = image_readers(config)
        self.step_seconds = 0.0
        """Time that the tracker's last step took."""
        self._improvement: Improvement | None = None
        self.missed: set[str] = set()
        self._sets = 0

    def process(
        self,
        given: ImageSet[Any],
        refused: Callable[[str, InputError], object] = lambda *_: None,
    ) -> dict[str, TargetOutput]:
        """Take the tracker one step further.

        Args:
            given: the messages. An InputError counts as a message that cannot be used.
            refused: called with the camera whose image is left out of a partial set, and why.

        Returns:
            target camera with an image to output, every target with the same objects. Where objects
            are marked by prompts, all cameras, and no object whose query camera lacks an image.

        Raises:
            InputError: if a message cannot be used; the tracker's memory is unchanged.
        """
        config = self.config
        pictures: dict[str, images.Array | None] = {
            config.query_camera: self._read(config.query_camera, given.query)
        }
        for name in config.target_cameras:
            msg = given.targets.get(name)
            try:
                pictures[name] = None if msg is None else self._read(name, msg)
            except InputError as error:
                if not (self.several and config.pairing.partial):
                    raise
                refused(name, error)
                pictures[name] = None
        if self.marks is None:
            self.query_masks = read_query_masks(config, self.table, given.masks)
            self._offer(pictures, given, refused)
        if self._improvement is not None:
            self._improvement.take()
        started = time.monotonic()
        try:
            found = self._find(pictures, given)
        except InputError as error:
            raise InputError(f"set at {_seconds(given.query)}: {error}") from error
        self.step_seconds = time.monotonic() - started
        self._name_missed()
        if self._improvement is not None:
            self._improvement.stepped(self.step_seconds, self.objects_seen)
        return {
            name: self._output(name, one, picture, given)
            for name, one in found.items()
            if (picture := pictures[name]) is not None
        }

    @property
    def device(self) -> str:
        """The device that the network runs on; cpu for a method without one."""
        return "cpu" if self.network is None else str(self.network.device)

    @property
    def network(self) -> lm.LMEEC | None:
        """The method's network, if it has one."""
        return self._network or getattr(self.tracker, "model", None)

    @property
    def engines(self) -> str:
        """What computes the network, in words; "none" without one."""
        return "none" if self.network is None else engines_in_use(self.network)

    @property
    def precision(self) -> str:
        """In which the network computes; "" without one."""
        return "" if self.network is None else self.network.precision

    @property
    def improving(self) -> str:
        """What is made for engine auto, in words; "" if nothing is."""
        return "" if self._improvement is None else self._improvement.state

    @property
    def objects_seen(self) -> int:
        """How many objects are in the last set's query masks, or seen where they are tracked."""
        if isinstance(self.tracker, PromptedTracker):
            return len(self.tracker.objects) - len(self.tracker.lost)
        return sum(mask is not None and bool(mask.any()) for mask in self.query_masks.values())

    def warm_up(self) -> None:
        """Step on blank images (the first steps are the slowest), then forget them."""
        blank = np.zeros((*WARM_UP_SIZE, 3), np.uint8)
        mask = np.zeros(WARM_UP_SIZE, np.bool_)
        mask[100:200, 100:200] = True
        pictures = dict.fromkeys(self.config.views, blank)
        names = list(self.config.objects.values())[: self.config.max_objects] or ["object"]
        for _ in range(self.config.model.warm_up_steps):
            if isinstance(self.tracker, PromptedTracker):
                query = self.config.query_camera
                self.tracker.step(pictures, [(query, Prompt(name, mask=mask)) for name in names])
            else:
                self.tracker.step(pictures, dict.fromkeys(names, mask))
        self.tracker.reset()

    def improve(self) -> None:
        """Have made in the background what engine auto lacks."""
        if self.config.model.engine == "auto" and self.network is not None:
            self._improvement = Improvement(self.network, self.config.memory)
            self._improvement.start()

    def close(self) -> None:
        """End what is made in the background, and give back the GPU's free memory."""
        if self._improvement is not None:
            self._improvement.stop()
        if self.device.startswith("cuda"):
            import torch

            torch.cuda.empty_cache()

    def begin(self) -> None:
        """There was a pause: images of before do not count as the newest ones."""
        if self.marks is not None:
            self.marks.begin()

    @property
    def marked(self) -> dict[str, str]:
        """Objects that were marked by prompts, each with the camera that it is tracked in."""
        return self.tracker.objects if isinstance(self.tracker, PromptedTracker) else {}

    def reset(self) -> None:
        """Forget every object, and refuse the prompts that wait."""
        self.tracker.reset()
        if self.marks is not None:
            self.marks.refuse_all("reset", "all objects were forgotten meanwhile")
            self.marks.begin()

    def _find(
        self, pictures: Mapping[str, images.Array | None], given: ImageSet[Any]
    ) -> Mapping[str, Mapping[str, CorrespondenceLike]]:
        """The objects of the query masks, or those marked, with the prompts that belong here."""
        if not isinstance(self.tracker, PromptedTracker):
            return self.tracker.step(pictures, self.query_masks)
        assert self.marks is not None
        self.tracker.handover = self.config.prompts.handover
        self.tracker.look(pictures)
        sent = {self.config.query_camera: given.query, **given.targets}
        seen = {name: one for name, one in pictures.items() if one is not None}
        self.marks.look(
            {name: stamp_of(sent[name]) for name in seen},
            {name: one.shape[:2] for name, one in seen.items()},
            {name: sent[name].header.frame_id for name in seen},
        )
        self.marks.settle(self.config)
        return self.tracker.find()

    def _name_missed(self) -> None:
        """Warn once of texts about objects that never came."""
        if not self.missed:
            return
        asked = self.query_masks if self.marks is None else self.marked
        self.missed -= asked.keys()
        self._sets += 1
        if self._sets >= LATE and self.missed:
            logger.warning(
                f"text: {', '.join(map(repr, sorted(self.missed)))}: not among the objects of the "
                f"first {LATE} sets ({', '.join(map(repr, sorted(asked))) or 'none'} in the last); "
                "the texts have no effect unless they come"
            )
            self.missed = set()

    def _offer(
        self,
        pictures: dict[str, images.Array | None],
        given: ImageSet[Any],
        refused: Callable[[str, InputError], object],
    ) -> None:
        """Give the tracker the candidates that came; an image whose own are bad is left out."""
        if not isinstance(self.tracker, TakesCandidates) or not self.config.candidate_masks:
            return
        found = {}
        for name in self.config.target_cameras:
            picture = pictures[name]
            if picture is None:
                continue
            try:
                size = (picture.shape[0], picture.shape[1])
                found[name] = read_candidates(self.config, name, given.candidates[name], size)
            except InputError as error:
                if not (self.several and self.config.pairing.partial):
                    raise
                refused(name, error)
                pictures[name] = None
        self.tracker.offer(found)

    def _read(self, camera: str, msg: Any) -> images.Array:
        return read_image(self.config, camera, msg, self._readers[camera])

    def _output(
        self,
        target: str,
        found: Mapping[str, CorrespondenceLike],
        picture: images.Array,
        given: ImageSet[Any],
    ) -> TargetOutput:
        query = given.query.header
        header = query if target == self.config.query_camera else given.targets[target].header
        threshold = self.config.presence_threshold
        if self.config.output.exclusive:
            masks = lm.exclusive_masks(found, threshold)
        else:
            masks = {name: one.mask(threshold) for name, one in found.items()}
        message = messages.mask_array_message(
            found,
            masks,
            self.table,
            header,
            query,
            (self.config.query_camera, target),
            picture.shape[:2],
        )
        return TargetOutput(message, picture, found, header)


def load_processor(config: NodeConfig) -> SetProcessor:
    """Load the method, make its tracker, and warm both up.

    Raises:
        lmeec_core.CheckpointError: if there are no weights, or they do not fit.
        ValueError: if the device is not there.
    """
    model = config.model
    seeded = model.seed is not None and model.checkpoint is None
    if seeded and lm.bundled_weights(model.preset) is None:
        text = f"no checkpoint: random weights of model.seed {model.seed}; the masks mean nothing"
        logger.warning(text)
    method = load_with(config.method, config.method_settings())
    if unused := without_effect(config.method, config.changed_settings()):
        logger.warning(unused)
    for note in getattr(method, "notes", ()):
        logger.warning(note)
    tracker: Tracker | PromptedTracker
    if config.prompted:
        tracker = prompted_tracker(method, config)
    else:
        tracker = method.tracker(
            config.query_camera, config.target_cameras, max_objects=config.max_objects
        )
    table = messages.LabelTable(config.objects, config.ignore_labels, logger.warning)
    network = getattr(method, "model", None)
    processor = SetProcessor(tracker, config, table, network=network)
    if has_setting(config.method, "text"):
        processor.missed = set(config.text)
    processor.warm_up()
    processor.improve()
    return processor


def prompted_tracker(method: Method, config: NodeConfig) -> PromptedTracker:
    """A tracker of marked objects, by the method's network or by one of its own.

    Raises:
        InputError: the method has no network, and no other is named; or as `load_processor`.
    """
    given, model = config.prompts, getattr(method, "model", None)
    encode = getattr(method, "encode", None)
    if given.preset != "same":
        same = config.model
        model = lm.load_model(
            given.preset, given.checkpoint, same.device, same.precision, same.seed, False,
            same.engine,
        )  # fmt: skip
        encode = None  # the two networks need views of their own
    if model is None:
        raise InputError(
            f"prompts.preset: 'same' given, but the method {config.method} has no network; the "
            "preset of one that tracks marked objects expected, as nano"
        )

    def in_one_view() -> ViewTracker:
        return view_tracker(model, max_objects=config.max_objects, hold=given.hold)

    return PromptedTracker(
        config.views, method, in_one_view, max_objects=config.max_objects, hold=given.hold,
        encode=encode,
    )  # fmt: skip


def _seconds(msg: Any) -> str:
    return f"{msg.header.stamp.sec}.{msg.header.stamp.nanosec:09d}"
