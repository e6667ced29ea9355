"""What is marked on the page of `lmeec mark`: what is tracked from it, and its files."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import lmeec_core as lm
from lmeec_core.cli.app import app
from lmeec_core.errors import InputError
from lmeec_core.marking.opening import Networks, open_marking, read_marks
from lmeec_core.marking.recorded import Marks, Recording
from lmeec_core.marking.replay import Replay
from lmeec_core.methods.lm_eec import LmEec
from lmeec_core.prompts import Prompt, PromptedTracker
from lmeec_core.takes import Take, TakeError, TakeWriter

CAMERAS = ("aria01", "cam01")
FRAMES = (0, 30, 60, 90)
CUP = Prompt("cup", ((12.0, 20.0),), (1,))


class Images:
    """A recording of noise; cam01 has no frame 60."""

    name = "noise"
    cameras = CAMERAS

    def frames(self, camera: str) -> tuple[int, ...]:
        return FRAMES if camera == "aria01" else (0, 30, 90)

    def image(self, camera: str, frame: int) -> np.ndarray:
        rng = np.random.default_rng([frame, CAMERAS.index(camera)])
        return np.kron(rng.integers(0, 256, (8, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)


@pytest.fixture(scope="module")
def networks(golden_model: Callable[..., lm.LMEEC]) -> Networks:
    model = golden_model("mini", 3.0)  # which judges everything present
    return Networks(LmEec(model), lambda: lm.PromptTracker(model), (model,))


@pytest.fixture
def make(networks: Networks) -> Callable[[], PromptedTracker]:
    return lambda: PromptedTracker(CAMERAS, networks.method, networks.view_tracker, hold=1)


@pytest.fixture
def opened(networks: Networks, make: Callable) -> Iterator[Callable[..., Recording]]:
    made: list[Recording] = []

    def build(marks: Marks | None = None, images: object = None) -> Recording:
        replay = Replay(make, networks.models)
        made.append(Recording(images or Images(), replay, repr, marks))  # type: ignore[arg-type]
        return made[-1]

    yield build
    for recording in made:
        recording.close()


def settled(recording: Recording) -> Recording:
    """Once nothing is being computed any more."""
    end = time.monotonic() + 30
    while recording._target is not None:
        assert time.monotonic() < end
        time.sleep(0.005)
    return recording


def masks(recording: Recording) -> dict:
    """All that is known: frame, camera and object to area and presence."""
    return {
        (frame, camera, name): (0 if seen.mask is None else int(seen.mask.sum()), seen.presence)
        for frame in FRAMES
        for camera in CAMERAS
        for name, seen in recording.view(camera, frame).seen.items()
    }


def same(ours: dict, theirs: dict) -> bool:
    """But for the last bits."""
    return ours.keys() == theirs.keys() and all(
        abs(a - b) <= 2 and p == pytest.approx(q, abs=2e-4)
        for (a, p), (b, q) in ((ours[k], theirs[k]) for k in ours)
    )


# -- a recording --------------------------------------------------------------------------------


def test_a_click_shows_the_object_in_every_view_of_its_frame(opened: Callable) -> None:
    recording = opened()
    recording.mark("aria01", 30, CUP)
    found = masks(settled(recording))
    assert set(found) == {(30, "aria01", "cup"), (30, "cam01", "cup")}
    assert found[30, "aria01", "cup"][0] > 0
    assert recording.view("aria01", 30).seen["cup"].marked
    assert not recording.view("cam01", 30).seen["cup"].marked
    assert recording.objects == {"cup": "aria01"}
    assert (recording.prompted, recording.tracked) == ((30,), 1)


Edit = tuple[str, int, str, str, int]  # what, frame, camera, object, place; done at once if even
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["mark", "mark", "mark", "unmark", "track", "forget"]),
        st.sampled_from(FRAMES),
        st.sampled_from(CAMERAS),
        st.sampled_from(["cup", "knife"]),
        st.integers(4, 60),
    ),
    min_size=2,
    max_size=6,
)
MARK: Edit = ("mark", 0, "aria01", "cup", 21)
TRACK: Edit = ("track", 0, "aria01", "cup", 21)


@pytest.mark.parametrize(
    "edits",
    [
        [MARK, ("mark", 90, "aria01", "cup", 5), ("mark", 90, "aria01", "cup", 55)],
        [MARK, TRACK, ("mark", 0, "aria01", "cup", 55)],
        [MARK, ("mark", 0, "aria01", "cup", 56), TRACK],
        [MARK, *(("mark", 90, "aria01", "cup", x) for x in (5, 55, 15))],
        [MARK, ("mark", 60, "aria01", "cup", 5), ("mark", 30, "aria01", "cup", 55)],
        [MARK, ("mark", 90, "aria01", "cup", 5), ("mark", 30, "aria01", "cup", 55),
         ("mark", 90, "aria01", "cup", 15)],
        [MARK, ("mark", 30, "aria01", "cup", 55), TRACK, ("unmark", 30, "aria01", "cup", 21)],
        [MARK, ("mark", 0, "aria01", "knife", 41), TRACK, ("forget", 0, "aria01", "cup", 21)],
        [MARK, ("mark", 30, "cam01", "cup", 41), TRACK, ("unmark", 0, "aria01", "cup", 21)],
        [MARK[:4] + (22,), TRACK[:4] + (22,), ("mark", 0, "aria01", "cup", 55)],
    ],
)  # fmt: skip
def test_the_masks_are_those_of_a_new_tracker(edits: list[Edit], networks: Networks) -> None:
    check_against_a_new_tracker(edits, networks)


@pytest.mark.fuzz
@settings(max_examples=max(5, settings().max_examples // 10))
@given(edits=EDITS)
def test_after_any_edits_the_masks_are_those_of_a_new_tracker(
    edits: list[Edit], networks: Networks
) -> None:
    check_against_a_new_tracker(edits, networks)


def check_against_a_new_tracker(edits: list[Edit], networks: Networks) -> None:
    """Whatever was computed before, kept, dropped or interrupted."""

    def new() -> PromptedTracker:
        return PromptedTracker(CAMERAS, networks.method, networks.view_tracker, hold=1)

    edited = Recording(Images(), Replay(new, networks.models), repr)
    try:
        for what, frame, camera, name, x in edits:
            if what == "mark" and frame in Images().frames(camera):
                edited.mark(camera, frame, Prompt(name, ((x, x / 2),), (1,)))
            elif what == "unmark":
                edited.unmark(camera, frame, name)
            elif what == "forget":
                edited.forget(name)
            else:
                edited.track()
            if x % 2:
                settled(edited)
        edited.track()
        ours = masks(settled(edited))
        marks = {frame: dict(edited.prompts(frame)) for frame in edited.prompted}
    finally:
        edited.close()
    images, tracker, theirs = Images(), new(), {}
    for frame in FRAMES:
        given = [(camera, prompt) for (camera, _), prompt in marks.get(frame, {}).items()]
        has = {c: images.image(c, frame) for c in CAMERAS if frame in images.frames(c)}
        for camera, objects in tracker.step(has, given).items():
            for name, one in objects.items():
                theirs[frame, camera, name] = int(one.mask().sum()), one.presence
    assert same(ours, theirs)


def test_a_second_click_computes_one_frame(opened: Callable, make: Callable) -> None:
    """The state before the marked frame is kept."""
    recording = opened({0: {("aria01", "cup"): CUP}})
    recording.mark("aria01", 90, CUP)
    settled(recording)
    stepped: list[int] = []
    step = recording._replay.step

    def counted(position: int, *rest: object, **more: object) -> object:
        stepped.append(position)
        return step(position, *rest, **more)

    recording._replay.step = counted
    recording.mark("aria01", 90, Prompt("cup", ((12.0, 20.0), (40.0, 40.0)), (1, 0)))
    settled(recording)
    assert stepped == [3]
    other = opened({0: dict(recording.prompts(0)), 90: dict(recording.prompts(90))})
    other.track()
    assert same(masks(recording), masks(settled(other)))


def test_what_is_marked_while_tracking_counts(opened: Callable) -> None:
    recording = opened({0: {("aria01", "cup"): CUP}})
    recording.track()
    recording.mark("cam01", 30, Prompt("knife", box=(4.0, 4.0, 40.0, 40.0)))
    settled(recording)
    assert recording.tracked == len(FRAMES)
    assert {name for _, _, name in masks(recording)} == {"cup", "knife"}
    recording.forget("cup")
    settled(recording)
    assert {name for _, _, name in masks(recording)} == {"knife"}
    assert recording.objects == {"knife": "cam01"}


def test_a_click_while_the_last_one_is_computed(opened: Callable) -> None:
    """What was under way is of prompts that are no longer these."""
    recording = opened()
    gate, entered, image = threading.Event(), threading.Event(), recording._images.image

    def slow(camera: str, frame: int) -> np.ndarray:
        entered.set()
        assert gate.wait(20)
        return image(camera, frame)

    recording._images.image = slow
    recording.mark("aria01", 0, CUP)
    assert entered.wait(20)
    recording.mark("aria01", 0, Prompt("cup", ((50.0, 50.0),), (1,)))
    gate.set()
    settled(recording)
    other = opened({0: dict(recording.prompts(0))})
    assert same(masks(recording), masks(settled(other)))
    assert masks(recording)


def test_stop_keeps_what_there_is(opened: Callable) -> None:
    recording = opened()
    gate, entered, image = threading.Event(), threading.Event(), recording._images.image

    def slow(camera: str, frame: int) -> np.ndarray:
        if frame == 60:
            entered.set()
            assert gate.wait(20)
        return image(camera, frame)

    recording._images.image = slow
    recording.mark("aria01", 0, CUP)
    recording.track()
    assert entered.wait(20)
    assert recording.work.total == len(FRAMES)
    recording.stop()
    gate.set()
    settled(recording)
    time.sleep(0.05)
    assert recording.tracked in (2, 3)  # with or without the frame that was being computed
    recording.track()
    settled(recording)
    assert recording.tracked == len(FRAMES)


def test_a_prompt_that_the_tracker_refuses_is_taken_back_and_named(opened: Callable) -> None:
    recording = opened()
    recording.mark("aria01", 0, CUP)
    recording.mark("aria01", 0, Prompt("knife", ((5000.0, 20.0),), (1,)))
    settled(recording)
    assert set(recording.objects) == {"cup"}
    (told,) = recording.notices
    assert "knife" in told and "5000" in told and "removed" in told


def test_a_damaged_image_is_named_once_and_left_out(opened: Callable) -> None:
    class Damaged(Images):
        def image(self, camera: str, frame: int) -> np.ndarray:
            if (camera, frame) == ("cam01", 0):
                raise InputError("cam01/0.jpg: cut off")
            return super().image(camera, frame)

    recording = opened(images=Damaged())
    recording.mark("aria01", 0, CUP)
    settled(recording)
    assert recording.image("cam01", 0) is None
    assert recording.notices == ("left out: cam01/0.jpg: cut off",)
    assert set(masks(recording)) == {(0, "aria01", "cup")}


def test_what_cannot_be_marked(opened: Callable) -> None:
    recording = opened()
    with pytest.raises(InputError, match="no frame 31; one of 4 frames from 0 to 90 expected"):
        recording.mark("aria01", 31, CUP)
    with pytest.raises(InputError, match="'cam01' has no image on frame 60; one of aria01"):
        recording.mark("cam01", 60, CUP)
    recording.track()
    assert "click on one in any view" in recording.notices[-1]
    recording.mark("aria01", 0, CUP)
    recording.mark("cam01", 0, CUP)
    assert "now marked in cam01, no longer in aria01" in recording.notices[-1]
    assert list(recording.prompts(0)) == [("cam01", "cup")]


# -- files ---------------------------------------------------------------------------------------


@pytest.fixture
def take(tmp_path: Path) -> Path:
    path = tmp_path / "take_7"
    with TakeWriter(path) as writer:
        for camera in CAMERAS:
            for frame in (0, 30):
                writer.image(camera, frame, Images().image(camera, frame))
        writer.mask("cup", "aria01", 0, np.ones((64, 64)))
    return path


def test_saved_prompts_are_shown_the_next_time(
    take: Path, networks: Networks, tmp_path: Path
) -> None:
    file = tmp_path / "prompts.json"
    recording = open_marking(Take.open(take), take, file, networks)
    recording.mark("aria01", 30, CUP)
    recording.mark("cam01", 0, Prompt("knife", box=(4.0, 4.0, 40.0, 40.0)))
    assert recording.unsaved
    told = recording.save()
    assert not recording.unsaved
    recording.close()
    assert str(file) in told and f"lmeec track {take} --prompts" in told
    again = open_marking(Take.open(take), take, file, networks)
    settled(again)
    assert again.objects == {"knife": "cam01", "cup": "aria01"}
    assert again.prompts(30)["aria01", "cup"].points == CUP.points
    assert again.tracked == 1  # the first marked frame, to begin with
    again.close()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('"recording": "take_8", "prompts": []', "for 'take_8' given, for 'take_7' expected"),
        ('"prompts": [{"camera": "aria01", "object": "cup", "stamp": 5, "points": [[1, 1]]}]',
         "a stamp is only for bags"),
        ('"prompts": [{"camera": "aria01", "object": "cup", "frame": 0, "points": [[1, 1]]}, '
         '{"camera": "cam01", "object": "cup", "frame": 0, "points": [[1, 1]]}]',
         "another prompt on this frame"),
        ('"prompts": [{"camera": "aria01", "object": "cup", "frame": 7, "points": [[1, 1]]}]',
         "no frame 7"),
        ('"prompts": [{"camera": "cam99", "object": "cup", "frame": 0, "points": [[1, 1]]}]',
         "camera 'cam99' has no image on frame 0; one of aria01, cam01 expected"),
    ],
)  # fmt: skip
def test_files_of_prompts_that_do_not_fit(
    content: str, said: str, take: Path, networks: Networks, tmp_path: Path
) -> None:
    file = tmp_path / "prompts.json"
    file.write_text(f'{{"version": 1, {content}}}')
    with pytest.raises(InputError, match=said):
        open_marking(Take.open(take), take, file, networks)


def test_a_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "prompts.json").write_text("{")
    with pytest.raises(TakeError, match=r"prompts\.json"):
        read_marks(tmp_path / "prompts.json", "take_7")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "neither a recording nor --live given"),
        (["take_7", "--live"], "both a recording and --live given"),
        (["bag"], "is a bag, a take expected. Play the bag to a node"),
        (["take_8"], "there is no such file or folder of takes"),
        (["take_7", "--prompt-checkpoint", "x.pt"], "without --prompt-preset"),
        (["take_7", "--preset", "nanno"], "nanno"),
    ],
)
def test_what_the_command_refuses(
    arguments: list[str], said: str, take: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(take.parent)
    (take.parent / "bag").mkdir()
    (take.parent / "bag" / "metadata.yaml").write_text("rosbag2_bagfile_information: {}")
    result = CliRunner(env={"COLUMNS": "300"}).invoke(app, ["mark", *arguments, "--port", "0"])
    assert result.exit_code == 1 and said in result.output, result.output
