"""An object that is lost in its query view is tracked on in another, where that is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from lmeec_core.prompts import Prompt, PromptedTracker
from lmeec_core.prompts.handover import LOST_FRAMES, SEEN_FRAMES

SIZE = (8, 12)


@dataclass(frozen=True)
class Found:
    """An object as a picture's first pixel says that it is seen: presence and score in percent."""

    presence: float
    score: float = 0.9
    skipped: str | None = None
    size: tuple[int, int] = SIZE

    def visible(self, threshold: float = 0.5) -> bool:
        return self.presence >= threshold

    def mask(self, threshold: float = 0.5) -> np.ndarray:
        return np.full(SIZE, self.visible(threshold))


def of(image: Any) -> Found:
    pixel = np.asarray(getattr(image, "image", image))[0, 0]
    return Found(pixel[0] / 100, pixel[1] / 100)


class View:
    """Sees what the picture says, of the objects that were marked."""

    def __init__(self) -> None:
        self.marked: dict[str, int] = {}
        self.images: list[Any] = []

    @property
    def objects(self) -> tuple[str, ...]:
        return tuple(self.marked)

    @property
    def held_frames(self) -> tuple[int, ...]:
        return tuple(range(len(self.images)))

    def step(self, image: Any) -> Mapping[str, Found]:
        self.images.append(image)
        return {name: of(image) for name in self.marked}

    def prompt(self, object_id: str, frame: int | None = None, **_: Any) -> Found:
        self.marked[object_id] = len(self.images) - 1 if frame is None else frame
        return of(self.images[-1])

    def forget(self, object_id: str) -> bool:
        return self.marked.pop(object_id, None) is not None


class Searching:
    """Finds in each target what its picture says, if there is a query mask."""

    def tracker(self, query: str, targets: Sequence[str], *_: Any) -> Any:
        self.query, self.targets = query, tuple(targets)
        return type(self)._Tracker(tuple(targets))

    class _Tracker:
        def __init__(self, targets: tuple[str, ...]) -> None:
            self.targets = targets

        def step(self, images: Mapping[str, Any], masks: Mapping[str, Any]) -> Any:
            return {
                target: {
                    name: of(images[target]) if mask is not None else Found(0.0, 0.0, "no mask")
                    for name, mask in masks.items()
                }
                for target in self.targets
                if images[target] is not None
            }

        def forget(self, _: str) -> bool:
            return True


def picture(presence: int, score: int = 90) -> np.ndarray:
    image = np.zeros((*SIZE, 3), np.uint8)
    image[0, 0, :2] = presence, score
    return image


class Play:
    """Three cameras, of which each frame says how well the object is seen."""

    def __init__(self, handover: bool = True, hold: int = 8) -> None:
        self.tracker = PromptedTracker(
            ("ego", "left", "right"), Searching(), View, hold=hold, handover=handover
        )
        self.tracker.look(dict.fromkeys(self.tracker.cameras, picture(99)))
        self.tracker.prompt("ego", Prompt("cup", points=((1.0, 1.0),), labels=(1,)))
        self.tracker.find()

    def go(self, frames: int, **seen: Any) -> str:
        """So many frames; returns the object's query camera."""
        for _ in range(frames):
            given = {"ego": 99, "left": 99, "right": 99, **seen}
            self.tracker.step(
                {k: None if v is None else picture(*np.atleast_1d(v)) for k, v in given.items()}
            )
        return self.tracker.objects["cup"]


def test_the_view_that_saw_it_best_goes_on() -> None:
    play = Play()
    play.go(SEEN_FRAMES, left=85)
    assert play.go(LOST_FRAMES - 1, ego=0) == "ego"
    assert play.go(1, ego=0) == "right"
    assert play.tracker.lost == ()
    found = play.tracker.step({name: picture(99) for name in play.tracker.cameras})
    assert {name: list(objects) for name, objects in found.items()} == {
        "ego": ["cup"], "left": ["cup"], "right": ["cup"],
    }  # fmt: skip
    assert play.go(20, ego=0) == "right"  # its query view sees it


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"left": 79, "right": (99, 50)}, {}),  # not present enough, not good enough
        ({"left": 0, "right": 0}, {}),
        ({}, {"left": None, "right": None}),  # those cameras send nothing
    ],
)
def test_no_view_takes_over_that_is_not_sure_or_not_there(
    before: dict[str, Any], after: dict[str, Any]
) -> None:
    play = Play()
    play.go(SEEN_FRAMES, **before)
    assert play.go(6, ego=0, **after) == "ego"
    assert play.tracker.lost == ("cup",)


def test_a_short_sight_a_flicker_and_a_missing_image_change_nothing() -> None:
    play = Play()
    play.go(1, left=0, right=0)
    play.go(SEEN_FRAMES - 1)
    assert play.go(4, ego=0) == "ego"  # not seen long enough
    play.go(SEEN_FRAMES)
    for _ in range(3):
        play.go(LOST_FRAMES - 1, ego=0)
        assert play.go(1) == "ego"
    play.go(5, ego=None)
    assert play.tracker.lost == () and play.go(1) == "ego"


def test_it_is_off_by_default_and_needs_the_image() -> None:
    for play in (Play(handover=False), Play(hold=1)):  # what was seen last is no longer held
        play.go(SEEN_FRAMES)
        assert play.go(6, ego=0) == "ego"


def test_a_forgotten_object_and_a_new_prompt_start_afresh() -> None:
    play = Play()
    play.go(SEEN_FRAMES)
    play.tracker.prompt("left", Prompt("cup", points=((1.0, 1.0),), labels=(1,)))
    assert play.go(4, left=0) == "left"  # the other views have not seen it from here
    play.go(SEEN_FRAMES + 1)
    play.tracker.forget("cup")
    play.tracker.prompt("ego", Prompt("cup", points=((1.0, 1.0),), labels=(1,)))
    play.tracker.find()
    assert play.go(4, ego=0) == "ego"
