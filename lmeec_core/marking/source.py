"""The interface of the page to its data: a recording, or the cameras of a running node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from lmeec_core.correspondence import Mask
from lmeec_core.prompts import Prompt
from lmeec_core.tracker import Image


@dataclass(frozen=True)
class Seen:
    """One object in one view.

    Attributes:
        mask: bool (H, W); None if the object is not visible.
        presence: probability that the object is in the view, 0 .. 1.
        score: the network's own estimate of the mask's IoU, 0 .. 1; None if unknown.
        marked: whether this is the object's query view, in which it was marked.
        skipped: why the object was not searched for; None if it was.
    """

    mask: Mask | None
    presence: float
    score: float | None
    marked: bool = False
    skipped: str | None = None


@dataclass(frozen=True)
class View:
    """One camera at one moment, without its image.

    Attributes:
        key: identifies the image in prompts: the frame number, or the stamp in ns.
        version: changes whenever the image or the masks change.
        seen: the objects' masks, by object.
    """

    key: int
    version: str
    seen: Mapping[str, Seen] = field(default_factory=dict)


@dataclass(frozen=True)
class Work:
    """The computation in progress: ``done`` of ``total`` frames; ``total`` 0: unknown."""

    text: str
    done: int = 0
    total: int = 0


class MarkSource(Protocol):
    """The recording or node in which objects are marked.

    Every method may be called from any thread and returns at once; long computations run in a
    thread of the source.

    Attributes:
        title: name of the recording or the node.
        cameras: names of the cameras.
        frames: frame numbers of a recording; empty for a live source.
    """

    title: str
    cameras: tuple[str, ...]
    frames: tuple[int, ...]

    @property
    def version(self) -> int:
        """Increases whenever there is something new to show."""

    @property
    def work(self) -> Work | None:
        """The computation in progress; None if idle."""

    @property
    def notices(self) -> tuple[str, ...]:
        """All messages for the user, oldest first; none is ever removed."""

    @property
    def objects(self) -> Mapping[str, str]:
        """Marked objects, each with the camera of its last prompt."""

    @property
    def prompted(self) -> tuple[int, ...]:
        """Frames of a recording that have prompts."""

    @property
    def tracked(self) -> int:
        """Number of frames of a recording that have been tracked."""

    @property
    def unsaved(self) -> bool:
        """Whether prompts have changed since they were last saved."""

    def view(self, camera: str, frame: int | None) -> View:
        """A camera's view on one of ``frames``; None: the newest image of a live source."""

    def image(self, camera: str, frame: int | None) -> Image | None:
        """RGB uint8 (H, W, 3); None if the camera has no image there."""

    def prompts(self, frame: int | None) -> Mapping[tuple[str, str], Prompt]:
        """The prompts on one frame, by camera and object."""

    def mark(self, camera: str, key: int, prompt: Prompt) -> None:
        """Set the prompt for an object on one image, replacing an earlier one."""

    def unmark(self, camera: str, key: int, object_id: str) -> None:
        """Remove the prompt for an object on one image."""

    def forget(self, object_id: str) -> None:
        """Forget an object and all its prompts."""

    def track(self) -> None:
        """Track through the whole recording."""

    def stop(self) -> None:
        """Stop the computation in progress."""

    def save(self) -> str:
        """Write the prompts; returns a message that says where, and how to use them.

        Raises:
            InputError, OSError: the prompts cannot be written.
        """

    def close(self) -> None:
        """End the source's thread."""
