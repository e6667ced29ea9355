"""Opens a take for marking, with the prompts that there are already."""

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
    """What tracks: loaded once.

    Attributes:
        method: finds objects in the other views.
        view_tracker: makes the tracker of one camera.
        models: the networks in them, which are never copied.
    """

    method: Method
    view_tracker: Callable[[], ViewTracker]
    models: tuple[object, ...]


def open_marking(take: Take, source: Path, prompts: Path, networks: Networks) -> Recording:
    """Open a take for marking.

    Args:
        take: an open take.
        source: where it was opened, to be named in messages.
        prompts: the file that is written; if it is there, its prompts are the first ones.
        networks: track it.

    Raises:
        InputError: the take has fewer than two cameras or no images, or the file's prompts are not
            of it.
    """
    marks = read_marks(prompts, take.name) if prompts.exists() else {}

    def write(marks: Marks) -> str:
        write_prompts(prompts, placed(marks, take.name))
        return f"{prompts} written. lmeec track {source} --prompts {prompts} tracks from it."

    def make() -> PromptedTracker:
        return PromptedTracker(take.cameras, networks.method, networks.view_tracker, hold=1)

    make()  # refuses a take of one camera
    return Recording(take, Replay(make, networks.models), write, marks)


def read_marks(path: Path, recording: str) -> Marks:
    """The prompts of a file, by image and object.

    Raises:
        TakeError: it cannot be read, is of another recording or of a bag, or has two prompts for
            one object on one frame, which the page cannot show.
    """
    file = read_prompts(path)
    if file.recording not in (None, recording):
        raise TakeError(
            path,
            f"prompts of {file.recording!r} given, of {recording!r} expected; name another file "
            "with --prompts",
        )
    marks: Marks = {}
    for one in file.prompts:
        if one.frame is None:
            raise TakeError(path, f"{one}: a frame expected, a stamp is only for bags")
        on_frame = marks.setdefault(one.frame, {})
        if one.prompt.object_id in {name for _, name in on_frame}:
            raise TakeError(path, f"{one}: it has one there already; one expected, as the page has")
        on_frame[one.camera, one.prompt.object_id] = one.prompt
    return marks


def placed(marks: Marks, recording: str) -> Prompts:
    """The prompts as the file has them."""
    return Prompts(
        recording,
        tuple(
            PlacedPrompt(camera, prompt, frame)
            for frame in sorted(marks)
            for (camera, _), prompt in marks[frame].items()
        ),
    )
