"""The interface of what the page shows: a recording, or the cameras of a running node."""

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
        mask: bool (H, W); None where it is not visible.
        presence: probability that it is in the view, 0 .. 1.
        score: the network's own estimate of the mask's IoU, 0 .. 1; None where it is not known.
        marked: whether this is its query view, in which it was marked.
        skipped: why it was not searched for; None if it was.
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
        key: what a prompt on this image refers to: the frame's number, or the stamp in ns.
        version: differs whenever the image or the masks differ.
        seen: by object.
    """

    key: int
    version: str
    seen: Mapping[str, Seen] = field(default_factory=dict)


@dataclass(frozen=True)
class Work:
    """What is being computed: ``done`` of ``total`` frames; ``total`` 0: not known."""

    text: str
    done: int = 0
    total: int = 0


class MarkSource(Protocol):
    """What the page shows and marks. Every method may be called from any thread, and returns at
    once: what takes time is done in a thread of the source's own.

    Attributes:
        title: name of the recording or the node.
        cameras: names.
        frames: numbers of a recording's frames; empty for a live source.
    """

    title: str
    cameras: tuple[str, ...]
    frames: tuple[int, ...]

    @property
    def version(self) -> int:
        """Grows whenever there is something new to show."""

    @property
    def work(self) -> Work | None:
        """What is being computed; None: nothing."""

    @property
    def notices(self) -> tuple[str, ...]:
        """All that the user has to be told, oldest first; it only grows."""

    @property
    def objects(self) -> Mapping[str, str]:
        """Marked objects, each with the camera of its last prompt."""

    @property
    def prompted(self) -> tuple[int, ...]:
        """A recording's frames with prompts."""

    @property
    def tracked(self) -> int:
        """Number of a recording's frames whose masks are known."""

    @property
    def unsaved(self) -> bool:
        """Whether prompts have changed since they were last saved."""

    def view(self, camera: str, frame: int | None) -> View:
        """A camera at one of ``frames``; None is the newest image of a live source."""

    def image(self, camera: str, frame: int | None) -> Image | None:
        """RGB uint8 (H, W, 3); None where the camera has none."""

    def prompts(self, frame: int | None) -> Mapping[tuple[str, str], Prompt]:
        """The prompts on one frame, by camera and object."""

    def mark(self, camera: str, key: int, prompt: Prompt) -> None:
        """Set the prompt of an object on one image; an earlier one on it is replaced."""

    def unmark(self, camera: str, key: int, object_id: str) -> None:
        """Take the prompt of an object on one image back."""

    def forget(self, object_id: str) -> None:
        """Forget an object and all its prompts."""

    def track(self) -> None:
        """Track through the whole recording."""

    def stop(self) -> None:
        """Stop what is being computed."""

    def save(self) -> str:
        """Write the prompts; returns where they are and what may be done with them.

        Raises:
            InputError, OSError: they cannot be written.
        """

    def close(self) -> None:
        """End the source's thread."""
