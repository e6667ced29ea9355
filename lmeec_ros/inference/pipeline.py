"""Process the messages of a synchronised set into masks of each target camera, without a node."""

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
"""Sets after which a warning names the objects that have a text but never appeared."""


@dataclass(frozen=True)
class TargetOutput:
    """Result of one step for one target camera."""

    message: CorrespondenceMaskArray
    image: images.Array
    """The target image, uint8 (H, W, 3)."""
    found: Mapping[str, CorrespondenceLike]
    header: Header

    def label_image(self, table: messages.LabelTable, threshold: float) -> Image:
        """Return the label image (16UC1) of objects whose presence is at least `threshold`.

        lm.exclusive_masks resolves overlaps.
        """
        masks = lm.exclusive_masks(self.found, threshold)
        by_label = {table.label_of(name): mask for name, mask in masks.items()}
        labels, _ = label_image(by_label, self.image.shape[:2], np.uint16)
        return messages.MESSAGES.image(self.header, labels, "16UC1")

    def overlay(self, table: messages.LabelTable, threshold: float) -> Image:
        """Return the target image with the masks drawn over it (rgb8); arguments as above."""
        from lmeec_core import overlay

        masks = {name: found.mask(threshold) for name, found in self.found.items()}
        colours = {name: overlay.colour(table.label_of(name) - 1) for name in masks}
        lines = [f"{name} {found.presence:.2f}" for name, found in self.found.items()]
        drawn = overlay.draw_masks(self.image, masks, colours=colours)
        drawn = overlay.caption(drawn, lines, [colours[name] for name in self.found])
        return messages.MESSAGES.image(self.header, drawn, "rgb8")


class SetProcessor:
    """Decodes the messages of a set, steps the tracker and builds the messages to publish.

    It needs neither a thread nor a node: the node's worker calls it, and so does `lmeec track`.

    Args:
        tracker: tracker for the configured query and target cameras; a PromptedTracker if objects
            are marked by prompts.
        config: topics, transports and limits.
        table: labels of the objects.
        several: whether a set has several targets (the tracker may have fewer). If so, and with
            pairing.partial, a bad image of one target does not stop the others. Default: whether
            `config` has several targets.
        network: the method's network, if the tracker has no attribute `model`.

    Attributes:
        marks: queue of the prompts; None if query masks come on a topic.
        missed: objects that have a text but have not appeared yet, see :data:`LATE`.
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
        """Run one step of the tracker.

        Args:
            given: the messages. An InputError in place of a message is one that cannot be used.
            refused: called with the camera whose image is left out of a partial set, and why.

        Returns:
            each target camera that has an image, to its result; all with the same objects. If
            objects are marked by prompts, the query camera is included, and an object is left out
            while its query camera has no image.

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
            self._offer_candidates(pictures, given, refused)
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
        """The method's network; None if it has none."""
        return self._network or getattr(self.tracker, "model", None)

    @property
    def engines(self) -> str:
        """Description of the engines that run the network; "none" without a network."""
        return "none" if self.network is None else engines_in_use(self.network)

    @property
    def precision(self) -> str:
        """Precision of the network; "" without a network."""
        return "" if self.network is None else self.network.precision

    @property
    def improving(self) -> str:
        """State of the engines being built for engine auto; "" if there are none."""
        return "" if self._improvement is None else self._improvement.state

    @property
    def objects_seen(self) -> int:
        """Number of objects in the last query masks; of marked ones, those that are not lost."""
        if isinstance(self.tracker, PromptedTracker):
            return len(self.tracker.objects) - len(self.tracker.lost)
        return sum(mask is not None and bool(mask.any()) for mask in self.query_masks.values())

    def warm_up(self) -> None:
        """Run steps on blank images, since the first steps are the slowest; then reset."""
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
        """Start building, in the background, the engines that engine auto lacks."""
        if self.config.model.engine == "auto" and self.network is not None:
            self._improvement = Improvement(self.network, self.config.memory)
            self._improvement.start()

    def close(self) -> None:
        """Stop building engines in the background, and release unused GPU memory."""
        if self._improvement is not None:
            self._improvement.stop()
        if self.device.startswith("cuda"):
            import torch

            torch.cuda.empty_cache()

    def begin(self) -> None:
        """Resume after a pause: earlier images no longer count as the newest ones."""
        if self.marks is not None:
            self.marks.begin()

    @property
    def marked(self) -> dict[str, str]:
        """Object marked by prompts to the camera that it is tracked in."""
        return self.tracker.objects if isinstance(self.tracker, PromptedTracker) else {}

    def reset(self) -> None:
        """Forget every object, and refuse the waiting prompts."""
        self.tracker.reset()
        if self.marks is not None:
            self.marks.refuse_all("reset", "the memory was reset while the prompt was waiting")
            self.marks.begin()

    def _find(
        self, pictures: Mapping[str, images.Array | None], given: ImageSet[Any]
    ) -> Mapping[str, Mapping[str, CorrespondenceLike]]:
        """Find the objects of the query masks, or the marked ones after applying prompts."""
        if not isinstance(self.tracker, PromptedTracker):
            return self.tracker.step(pictures, self.query_masks)
        assert self.marks is not None
        self.tracker.handover = self.config.prompts.handover
        self.tracker.look(pictures)
        sent = {self.config.query_camera: given.query, **given.targets}
        seen = {name: one for name, one in pictures.items() if one is not None}
        self.marks.add_images(
            {name: stamp_of(sent[name]) for name in seen},
            {name: one.shape[:2] for name, one in seen.items()},
            {name: sent[name].header.frame_id for name in seen},
        )
        self.marks.settle(self.config)
        return self.tracker.find()

    def _name_missed(self) -> None:
        """Warn once of texts about objects that never appeared."""
        if not self.missed:
            return
        asked = self.query_masks if self.marks is None else self.marked
        self.missed -= asked.keys()
        self._sets += 1
        if self._sets >= LATE and self.missed:
            logger.warning(
                f"text: {', '.join(map(repr, sorted(self.missed)))}: not among the objects of the "
                f"first {LATE} sets ({', '.join(map(repr, sorted(asked))) or 'none'} in the last); "
                "a text has no effect until its object appears"
            )
            self.missed = set()

    def _offer_candidates(
        self,
        pictures: dict[str, images.Array | None],
        given: ImageSet[Any],
        refused: Callable[[str, InputError], object],
    ) -> None:
        """Pass the received candidates to the tracker; leave out images with bad candidates."""
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
    """Load the configured method, create its tracker, and warm up.

    Raises:
        lmeec_core.CheckpointError: if there are no weights, or they do not fit.
        ValueError: if the device does not exist.
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
    """Create the tracker of marked objects, with the method's network or that of prompts.preset.

    Raises:
        InputError: if the method has no network and prompts.preset names none; otherwise as
            `load_processor`.
    """
    given, model = config.prompts, getattr(method, "model", None)
    encode = getattr(method, "encode", None)
    if given.preset != "same":
        same = config.model
        model = lm.load_model(
            given.preset, given.checkpoint, same.device, same.precision, same.seed, False,
            same.engine,
        )  # fmt: skip
        encode = None  # two networks cannot share encoded images
    if model is None:
        raise InputError(
            f"prompts.preset: 'same' given, but the method {config.method} has no network; the "
            "preset of a network that tracks marked objects expected, such as nano"
        )

    def in_one_view() -> ViewTracker:
        return view_tracker(model, max_objects=config.max_objects, hold=given.hold)

    return PromptedTracker(
        config.views, method, in_one_view, max_objects=config.max_objects, hold=given.hold,
        encode=encode,
    )  # fmt: skip


def _seconds(msg: Any) -> str:
    return f"{msg.header.stamp.sec}.{msg.header.stamp.nanosec:09d}"
