"""Marked objects in all views: tracked in their query view, found in the other views."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lmeec_core.correspondence import CorrespondenceLike, Mask, Method, Tracker
from lmeec_core.encoded import Encode, SharedViews
from lmeec_core.errors import InputError
from lmeec_core.preprocessing import check_image
from lmeec_core.prompts.handover import Handover
from lmeec_core.prompts.prompt import Prompt, ViewTracker
from lmeec_core.tracker import Image

FoundEverywhere = dict[str, dict[str, CorrespondenceLike]]
"""The result for each object, by camera with an image and then by object."""


@dataclass
class _Camera:
    """A camera's images, and the tracker of the objects that were marked in it."""

    held: deque[tuple[int, SharedViews]]  # frame and its images, oldest first
    tracker: ViewTracker | None = None  # None while no object is marked in this camera
    frames: dict[int, int] = field(default_factory=dict)  # frame to the tracker's own number
    found: dict[str, CorrespondenceLike] = field(default_factory=dict)  # on the current frame


class PromptedTracker:
    """Tracks marked objects in the view in which they were marked, and finds them in the others.

    The camera of an object's last prompt is its query camera. The mask tracked there is the query
    mask of the method, so one prompt replaces a mask on every frame.

    A frame is processed with three methods: :meth:`look`, :meth:`prompt` for each prompt on it, and
    :meth:`find`; :meth:`step` calls all three.

    Args:
        cameras: names of all cameras, two or more.
        method: finds objects in the other views.
        view_tracker: makes the tracker of one camera.
        num_frames: number of frames of the recording, if known.
        max_objects: maximum number of objects.
        hold: number of images kept per camera, for prompts that arrive late; images that were
            encoded are kept as encoded views.
        encode: encodes views, if the method and the view trackers use the same network
            (:func:`lmeec_core.encoded.encode_views`); each image is then encoded only once.
        handover: whether to continue in another camera with an object that is lost in its query
            camera, if it was reliably seen there until then (:mod:`lmeec_core.prompts.handover`).

    Raises:
        InputError: fewer than two cameras, two with the same name, or a number below 1.
    """

    def __init__(
        self,
        cameras: Sequence[str],
        method: Method,
        view_tracker: Callable[[], ViewTracker],
        num_frames: int | None = None,
        max_objects: int = 32,
        hold: int = 8,
        encode: Encode | None = None,
        handover: bool = False,
    ) -> None:
        self.cameras = tuple(cameras)
        if len(self.cameras) < 2 or len(set(self.cameras)) != len(self.cameras):
            raise InputError(
                f"cameras {self.cameras!r} given, two or more different names expected"
            )
        if hold < 1 or max_objects < 1:
            raise InputError(f"hold {hold}, max_objects {max_objects}: 1 or more expected")
        self._hold, self._encode = hold, encode
        self.handover = handover
        self._method, self._view_tracker = method, view_tracker
        self._num_frames, self._max_objects = num_frames, max_objects
        self.reset()

    def reset(self) -> None:
        """Forget every object."""
        self._frame = -1
        self._views = SharedViews({})
        self._cameras = {name: _Camera(deque(maxlen=self._hold)) for name in self.cameras}
        self._trackers: dict[str, Tracker] = {}  # by query camera
        self._query: dict[str, str] = {}  # object to its query camera
        self._sights = Handover()

    @property
    def frame(self) -> int:
        """Number of the current frame, from 0; -1 before the first."""
        return self._frame

    @property
    def objects(self) -> dict[str, str]:
        """The query camera of each object, in the order in which the objects were marked."""
        return dict(self._query)

    @property
    def lost(self) -> tuple[str, ...]:
        """Objects that are not visible in their query camera, although it has an image."""
        return tuple(
            name
            for name, camera in self._query.items()
            if self._shows(camera) and not _visible(self._cameras[camera].found.get(name))
        )

    def held_frames(self, camera: str) -> tuple[int, ...]:
        """Numbers of the frames on which objects can be marked in a camera, oldest first."""
        view = self._cameras[camera]
        held = tuple(number for number, _ in view.held)
        if view.tracker is None:
            return held
        known = view.tracker.held_frames
        return tuple(number for number in held if view.frames.get(number) in known)

    def forget(self, object_id: str) -> bool:
        """Forget one object; returns whether it was known."""
        camera = self._query.pop(object_id, None)
        if camera is not None:
            self._leave(camera, object_id)
            self._sights.forget(object_id)
        return camera is not None

    def look(self, images: Mapping[str, Image | None]) -> None:
        """Take the images of the next frame, and track the objects in their query cameras.

        Args:
            images: RGB uint8 (H, W, 3) of any size, by camera; None or left out for a camera
                without an image on this frame. Unknown cameras are ignored.

        Raises:
            InputError: an image is invalid; the tracker is unchanged.
        """
        views = {
            name: check_image(name, image)
            for name in self.cameras
            if (image := images.get(name)) is not None
        }
        self._frame += 1
        self._views = SharedViews(views, self._encode)
        for name, camera in self._cameras.items():
            camera.found = {}
            if name in views:
                camera.held.append((self._frame, self._views))
                if camera.tracker is not None:
                    self._step(name, camera.tracker)
        if self.handover:
            self._hand_over()

    def prompt(self, camera: str, prompt: Prompt, frame: int | None = None) -> CorrespondenceLike:
        """Mark an object, or correct its mask.

        The camera becomes the object's query camera.

        Args:
            camera: the camera in whose image the object is marked.
            prompt: the object, and where it is in the image.
            frame: number of a frame whose image is still held; None: the current frame.

        Returns:
            the object on the newest frame of this camera.

        Raises:
            InputError: the prompt cannot be used; says why. The tracker is unchanged.
        """
        view, frame = self._check(camera, prompt, self._frame if frame is None else frame)
        tracker = view.tracker
        if tracker is None:  # starts with the image of the prompt
            tracker = self._view_tracker()
            views = next(views for number, views in view.held if number == frame)
            tracker.step(views.of([camera])[camera])
            found = tracker.prompt(prompt.object_id, **prompt.arguments)
            view.tracker, view.frames, view.found = tracker, {frame: 0}, {prompt.object_id: found}
            if frame != view.held[-1][0]:
                self._step(camera, tracker)
        else:
            found = tracker.prompt(prompt.object_id, **prompt.arguments, frame=view.frames[frame])
            view.found[prompt.object_id] = found
        before = self._query.get(prompt.object_id, camera)
        if before != camera:
            self._leave(before, prompt.object_id)
            self._sights.forget(prompt.object_id)
        self._query[prompt.object_id] = camera
        return view.found[prompt.object_id]

    def find(self) -> FoundEverywhere:
        """Find the objects in the other views of the current frame.

        Returns:
            the objects in each camera with an image: tracked in their query camera, found in the
            others. An object whose query camera has no image is left out.
        """
        images = {name: image for name, image in self._views.images.items() if self._shows(name)}
        found: FoundEverywhere = {name: {} for name in images}
        for query, camera in self._cameras.items():
            if query not in images or not camera.found:
                continue
            found[query].update(camera.found)
            masks = {name: _shown(one) for name, one in camera.found.items()}
            sought = any(mask is not None for mask in masks.values())
            views: Mapping[str, Any] = self._views.of(images) if sought else images
            given = {name: views.get(name) for name in self.cameras}
            for target, objects in self._tracker(query).step(given, masks).items():
                found[target].update(objects)
        if self.handover:
            self._sights.saw(self._frame, self._query, found)
        order = self._query
        return {
            name: {o: objects[o] for o in order if o in objects} for name, objects in found.items()
        }

    def step(
        self,
        images: Mapping[str, Image | None],
        prompts: Sequence[tuple[str, Prompt]] = (),
    ) -> FoundEverywhere:
        """:meth:`look`, :meth:`prompt` for each camera and prompt, :meth:`find`."""
        self.look(images)
        for camera, prompt in prompts:
            self.prompt(camera, prompt)
        return self.find()

    def _check(self, camera: str, prompt: Prompt, frame: int) -> tuple[_Camera, int]:
        name = prompt.object_id
        if camera not in self._cameras:
            raise InputError(
                f"prompt for {name!r}: camera {camera!r} given, one of {', '.join(self.cameras)} "
                "expected"
            )
        held = list(self.held_frames(camera))
        if frame not in held:
            raise InputError(
                f"prompt for {name!r}: frame {frame} of camera {camera!r} is not held; "
                + (f"one of {held} expected" if held else "the camera has had no image yet")
            )
        if name not in self._query and len(self._query) >= self._max_objects:
            raise InputError(
                f"{len(self._query) + 1} objects, at most {self._max_objects} expected; forget "
                "some, or raise max_objects"
            )
        return self._cameras[camera], frame

    def _hand_over(self) -> None:
        """Move objects that are lost in their query view to another view."""
        lost = self.lost
        for name, query in self.objects.items():
            if not self._shows(query):
                continue
            sight = self._sights.lost(name, name in lost)
            if sight is None or not self._shows(sight.camera):
                continue
            if sight.frame in self.held_frames(sight.camera):
                self.prompt(sight.camera, Prompt(name, mask=sight.found.mask()), sight.frame)

    def _shows(self, camera: str) -> bool:
        """Whether a camera has an image on the current frame."""
        held = self._cameras[camera].held
        return bool(held) and held[-1][0] == self._frame

    def _step(self, name: str, tracker: ViewTracker) -> None:
        camera = self._cameras[name]
        frame, views = camera.held[-1]
        camera.found = dict(tracker.step(views.of([name])[name]))
        numbers = {number for number, _ in camera.held}
        camera.frames = {k: v for k, v in camera.frames.items() if k in numbers}
        camera.frames[frame] = tracker.held_frames[-1]

    def _tracker(self, query: str) -> Tracker:
        """The tracker from a query camera to all others."""
        if query not in self._trackers:
            targets = [name for name in self.cameras if name != query]
            self._trackers[query] = self._method.tracker(
                query, targets, self._num_frames, self._max_objects
            )
        return self._trackers[query]

    def _leave(self, camera: str, object_id: str) -> None:
        """Stop tracking an object in a camera; without objects, its view tracker is dropped."""
        view = self._cameras[camera]
        view.found.pop(object_id, None)
        if camera in self._trackers:
            self._trackers[camera].forget(object_id)
        if view.tracker is not None:
            view.tracker.forget(object_id)
            if not view.tracker.objects:
                view.tracker, view.frames = None, {}


def _shown(found: CorrespondenceLike) -> Mask | None:
    """The query mask for the other views; None if the object is not visible."""
    mask = found.mask()
    return mask if mask.any() else None


def _visible(found: CorrespondenceLike | None) -> bool:
    return found is not None and found.visible()
