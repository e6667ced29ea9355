"""Images and masks of a bag for `lmeec view`, and bags of masks as predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lmeec_core.bags import take_bags
from lmeec_core.bags.bag import MASKS_TYPE, BagError, BagReader
from lmeec_core.bags.take_bags import RecordingInfo
from lmeec_core.errors import InputError
from lmeec_core.preprocessing import check_mask
from lmeec_core.sync.image_set import ImageSet
from lmeec_core.takes import decode_mask, encode_mask
from lmeec_core.viewing.moments import (
    Camera,
    Mask,
    Moment,
    Predictions,
    Shown,
    View,
    drop_misshapen,
    target_view,
)
from lmeec_ros.inference.pipeline import image_readers, read_image, read_query_masks
from lmeec_ros.io import images
from lmeec_ros.io.messages import LabelTable, masks_from_array
from lmeec_ros.io.synchronizer import stamp_of
from lmeec_ros.offline.bag_sets import RecordedSets
from lmeec_ros.offline.bag_units import camera_names
from lmeec_ros.parameters.config import NodeConfig


class MaskBagPredictions:
    """Predictions in a bag of masks, recorded from the node or written by `lmeec track --bag`.

    Args:
        path: the bag.

    Attributes:
        lost: texts about what could not be read.

    Raises:
        BagError: if the bag cannot be read, or contains no masks.
    """

    def __init__(self, path: Path) -> None:
        self._found: dict[tuple[int, str, str], dict[str, tuple[Any, float, float]]] = {}
        with BagReader(path) as bag:
            topics = [topic.name for topic in bag.topics.values() if topic.type == MASKS_TYPE]
            if not topics:
                raise BagError(f"{path}: no masks ({MASKS_TYPE}); it has {sorted(bag.topics)}")
            for topic, _, data in bag.messages(topics):
                self._keep(bag.decode(topic, data))
            self.lost = list(bag.lost)

    def _keep(self, message: Any) -> None:
        masks = masks_from_array(message, LabelTable())
        key = (stamp_of(message), message.query_camera, message.target_camera)
        kept = self._found.setdefault(key, {})
        for entry in message.masks:
            mask = masks[entry.object_id]
            rle = None if mask is None else encode_mask(mask)
            kept[entry.object_id] = (rle, float(entry.presence), float(entry.score))

    @property
    def objects(self) -> list[str]:
        """See :class:`lmeec_core.viewing.moments.Predictions`."""
        return list(dict.fromkeys(name for found in self._found.values() for name in found))

    @property
    def tracked(self) -> bool:
        """See :class:`lmeec_core.viewing.moments.Predictions`."""
        return any(query == target for _, query, target in self._found)

    def query_masks(self, frame: int, stamp_ns: int, query: Camera) -> dict[str, Mask | None]:
        """See :class:`lmeec_core.viewing.moments.Predictions`."""
        return {name: one.mask for name, one in self.find(frame, stamp_ns, query, query).items()}

    def find(self, frame: int, stamp_ns: int, query: Camera, target: Camera) -> dict[str, Shown]:
        """See :class:`lmeec_core.viewing.moments.Predictions`."""
        found = self._found.get((stamp_ns, query.message_name, target.message_name), {})
        return {
            name: Shown(None if rle is None else decode_mask(rle), presence, score)
            for name, (rle, presence, score) in found.items()
        }


def bag_moments(
    path: Path,
    config: NodeConfig,
    predictions: Predictions,
    problem: Callable[[str], None],
    note: Callable[[str], None],
) -> Iterator[Moment]:
    """Return the moments of a bag, one for each set as paired by the node.

    Args:
        path: the bag.
        config: topics and cameras. If objects are marked by prompts, the query masks come from the
            predictions, too.
        predictions: masks to show in the target cameras.
        problem: called with sets that cannot be shown, and with the reason if there are few.
        note: called with the numbers of messages that are in no set.

    Raises:
        BagError: if the bag cannot be read.
    """
    with BagReader(path) as bag:
        info = RecordingInfo.read(bag)
    names = {key: Camera(name, key) for key, name in camera_names(config, info).items()}
    query, targets = names[config.query_camera], [names[key] for key in config.target_cameras]
    table = LabelTable(config.objects, config.ignore_labels)
    readers = image_readers(config)

    def read(camera: str, message: Any) -> images.Array:
        return read_image(config, camera, message, readers[camera])

    first: int | None = None
    sets = RecordedSets(path, config)
    for _, given in sets:
        try:
            image, masks, pictures = _decoded(given, config, table, read)
        except InputError as error:
            problem(f"{path}: {error}")
            continue
        stamp = stamp_of(given.query)
        first = stamp if first is None else first
        frame = take_bags.frame_of(stamp) if info else stamp
        if config.prompted:
            masks = dict(predictions.query_masks(frame, stamp, query))
        views = []
        for camera in targets:
            found, name, own = {}, camera.message_name, None
            picture = pictures.get(name)
            if picture is not None:
                own = stamp_of(given.targets[name])
                found = predictions.find(frame, own, query, camera)
                where = f"{path}: frame {frame}, prediction for {camera.name}"
                found = drop_misshapen(found, picture, where, problem)
            views.append(target_view(camera.name, picture, list(masks), found, stamp_ns=own))
        asked = View(query.name, image, masks, stamp_ns=stamp)
        yield Moment(frame, (stamp - first) / 1e9, asked, views)
    _report_left_out(sets, config, problem, note)
    for text in table.ignored_text():
        note(f"{path}: {text}")


def _decoded(
    given: ImageSet[Any],
    config: NodeConfig,
    table: LabelTable,
    read: Callable[[str, Any], images.Array],
) -> tuple[images.Array, dict[str, Any], dict[str, images.Array]]:
    """The query image, the query masks if they are on a topic, and the target images.

    Raises:
        InputError: a message of the set cannot be used.
    """
    broken = [one for one in given if isinstance(one, InputError)]
    if broken:
        raise broken[0]
    image = read(config.query_camera, given.query)
    masks = {} if config.prompted else read_query_masks(config, table, given.masks)
    for name, mask in masks.items():
        if mask is not None:
            check_mask(name, mask, image.shape[:2])  # as the node does
    return image, masks, {name: read(name, message) for name, message in given.targets.items()}


def _report_left_out(
    sets: RecordedSets,
    config: NodeConfig,
    problem: Callable[[str], None],
    note: Callable[[str], None],
) -> None:
    """Say what of the bag is in no set."""
    for text in sets.lost:
        problem(text)
    for name in config.target_cameras:
        for text, tell in ((sets.problem(name), problem), (sets.account(name), note)):
            if text:
                tell(text)
