"""What a click or a box on the page of `lmeec mark` does to the prompts, and how both are drawn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lmeec_core as lm
from lmeec_core.errors import InputError
from lmeec_core.marking.drawing import picture, prompts_svg
from lmeec_core.marking.editing import Editor, is_box
from lmeec_core.marking.source import Seen
from lmeec_core.overlay import Colours
from lmeec_core.prompts import Prompt

CAMERAS = ("aria01", "cam01")


class Marked:
    """The part of a source that an editor needs."""

    def __init__(self) -> None:
        self.marks: dict[int, dict[tuple[str, str], Prompt]] = {}

    @property
    def objects(self) -> dict[str, str]:
        return {name: camera for prompts in self.marks.values() for camera, name in prompts}

    def prompts(self, frame: int) -> dict[tuple[str, str], Prompt]:
        return dict(self.marks.get(frame, {}))

    def mark(self, camera: str, key: int, prompt: Prompt) -> None:
        self.marks.setdefault(key, {})[camera, prompt.object_id] = prompt

    def unmark(self, camera: str, key: int, object_id: str) -> None:
        self.marks.get(key, {}).pop((camera, object_id), None)

    def forget(self, object_id: str) -> None:
        for prompts in self.marks.values():
            for key in [key for key in prompts if key[1] == object_id]:
                del prompts[key]


def seen_by(source: Marked) -> list:
    return sorted(
        (frame, camera, name, prompt.points, prompt.labels, prompt.box)
        for frame, prompts in source.marks.items()
        for (camera, name), prompt in prompts.items()
    )


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["point", "box", "remove", "remove box"]),
            st.sampled_from(CAMERAS),
            st.sampled_from(["cup", "knife"]),
            st.integers(0, 3),
        ),
        max_size=12,
    )
)
def test_undo_takes_back_every_change_in_turn(edits: list) -> None:
    source = Marked()
    editor, states = Editor(source, ""), []  # type: ignore[arg-type]
    for what, camera, name, n in edits:
        editor.object_id, before = name, seen_by(source)
        if what == "point":
            editor.point(camera, 0, n, n + 1, n % 2 == 0)
        elif what == "box":
            editor.box(camera, 0, (9, n), (n, 9))
        else:
            editor.remove(camera, 0, name, n if what == "remove" else None)
        states.append(before)
    while editor.undo():
        assert seen_by(source) in states
    assert seen_by(source) == []


def test_points_of_one_image_are_one_prompt() -> None:
    source = Marked()
    editor = Editor(source, " cup ")  # type: ignore[arg-type]
    editor.point("aria01", 0, 10.04, 20, True)
    editor.point("aria01", 0, 30, 40, False)
    editor.box("aria01", 0, (50, 60), (5, 6))
    prompt = source.prompts(0)["aria01", "cup"]
    assert prompt.points == ((10.0, 20.0), (30.0, 40.0)) and prompt.labels == (1, 0)
    assert prompt.box == (5, 6, 50, 60)
    editor.remove("aria01", 0, "cup", 0)
    assert source.prompts(0)["aria01", "cup"].points == ((30.0, 40.0),)
    editor.object_id = "  "
    with pytest.raises(InputError, match="no name"):
        editor.point("aria01", 0, 1, 1, True)
    source.mark("aria01", 0, Prompt("plate", mask=np.ones((4, 4), bool)))
    editor.object_id = "plate"
    with pytest.raises(InputError, match="remove the mask first"):
        editor.point("aria01", 0, 1, 1, True)
    assert editor.free_name() == "object 1"


def test_a_shaken_click_is_no_box() -> None:
    assert not is_box((100, 100), (103, 104), 640)
    assert not is_box((100, 100), (300, 101), 640)  # a line
    assert is_box((100, 100), (80, 130), 640)


def test_pictures_show_masks_in_the_colours_of_the_list() -> None:
    colours = Colours(cup=(230, 75, 53))
    image = np.zeros((64, 96, 3), np.uint8)
    mask = np.zeros((64, 96), bool)
    mask[16:48, 16:48] = True
    seen = {"cup": Seen(mask, 0.9, 0.8), "knife": Seen(None, 0.1, None)}
    drawn = lm.takes.decode_image(picture(image, seen, colours))
    assert drawn.shape == image.shape
    assert np.abs(drawn[30, 30].astype(int) - np.array([115, 37, 26])).max() < 12
    assert drawn[60, 90].max() < 8
    assert picture(None, {}, colours)[:2] == b"\xff\xd8"
    svg = prompts_svg({"cup": Prompt("cup", ((1, 2), (3, 4)), (1, 0), (5, 6, 70, 80))}, colours, 96)
    assert svg.count("<circle") == 2 and svg.count("<rect") == 1 and "#e64b35" in svg
