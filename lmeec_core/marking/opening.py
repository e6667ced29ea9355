"""Opens a take for marking, with the prompts that were saved before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from lmeec_core.correspondence import Method
from lmeec_core.marking.recorded import Marks, Recording
from lmeec_core.marking.replay import Replay
from lmeec_core.prompts import PromptedTracker, ViewTracker
from lmeec_core.prompts.file import PlacedPrompt, Prompts, read_prompts, write_prompts
from lmeec_core.takes import Take, TakeError


class Networks(NamedTuple):
    """The networks that track marked objects; loaded once.

    Attributes:
        method: finds objects in the other views.
        view_tracker: makes the tracker of one camera.
        models: the networks used by both; shared, never copied.
    """

    method: Method
    view_tracker: Callable[[], ViewTracker]
    models: tuple[object, ...]


def open_marking(take: Take, source: Path, prompts: Path, networks: Networks) -> Recording:
    """Open a take for marking.

    Args:
        take: an open take.
        source: the path that was opened, for messages.
        prompts: the file to write; if it exists, its prompts are loaded.
        networks: the networks that track marked objects.

    Raises:
        InputError: the take has fewer than two cameras or no images, or the prompts in the file
            are for another take.
    """
    marks = read_marks(prompts, take.name) if prompts.exists() else {}

    def write(marks: Marks) -> str:
        write_prompts(prompts, placed(marks, take.name))
        return f"{prompts} written. To use it: lmeec track {source} --prompts {prompts}"

    def make() -> PromptedTracker:
        return PromptedTracker(take.cameras, networks.method, networks.view_tracker, hold=1)

    make()  # raises for a take with one camera
    return Recording(take, Replay(make, networks.models), write, marks)


def read_marks(path: Path, recording: str) -> Marks:
    """The prompts of a file, by image and object.

    Raises:
        TakeError: the file cannot be read, is for another recording or for a bag, or has two
            prompts for one object on one frame, which the page cannot show.
    """
    file = read_prompts(path)
    if file.recording not in (None, recording):
        raise TakeError(
            path,
            f"prompts for {file.recording!r} given, for {recording!r} expected; choose another "
            "file with --prompts",
        )
    marks: Marks = {}
    for one in file.prompts:
        if one.frame is None:
            raise TakeError(path, f"{one}: a frame expected, a stamp is only for bags")
        on_frame = marks.setdefault(one.frame, {})
        if one.prompt.object_id in {name for _, name in on_frame}:
            raise TakeError(
                path,
                f"{one}: the object has another prompt on this frame; lmeec mark can show only one",
            )
        on_frame[one.camera, one.prompt.object_id] = one.prompt
    return marks


def placed(marks: Marks, recording: str) -> Prompts:
    """The prompts in the form in which they are saved."""
    return Prompts(
        recording,
        tuple(
            PlacedPrompt(camera, prompt, frame)
            for frame in sorted(marks)
            for (camera, _), prompt in marks[frame].items()
        ),
    )
