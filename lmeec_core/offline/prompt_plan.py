"""Prompts instead of query masks: which of them a take can use, and their settings."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, NamedTuple

from lmeec_core.errors import InputError
from lmeec_core.methods import has_setting
from lmeec_core.offline.units import PromptSettings, TrackOptions, weights_digest
from lmeec_core.takes import Take
from lmeec_core.takes.keys import look_alike

if TYPE_CHECKING:
    from lmeec_core.prompts import PlacedPrompt, Prompts


class Usable(NamedTuple):
    """The prompts that a recording can use."""

    prompts: tuple[PlacedPrompt, ...]
    problems: tuple[str, ...]
    """A text for each prompt that cannot be used."""
    notes: tuple[str, ...]

    def objects(self, camera: str) -> list[str]:
        """The objects that are marked in a camera."""
        names = (one.prompt.object_id for one in self.prompts if one.camera == camera)
        return list(dict.fromkeys(names))

    def of(self, objects: Collection[str]) -> tuple[PlacedPrompt, ...]:
        """The prompts for these objects."""
        return tuple(one for one in self.prompts if one.prompt.object_id in objects)


def read_given(options: TrackOptions) -> tuple[Prompts | None, PromptSettings | None]:
    """The prompts of the option --prompts, and their settings.

    Raises:
        TakeError, CheckpointError, InputError: the prompts or their network cannot be used.
    """
    from lmeec_core.config import preset
    from lmeec_core.prompts import read_prompts

    name, checkpoint = options.prompt_preset, options.prompt_checkpoint
    if options.prompts is None:
        if name is not None or checkpoint is not None:
            raise InputError(
                "--prompt-preset and --prompt-checkpoint are used only with --prompts FILE, which "
                "is not given"
            )
        return None, None
    prompts = read_prompts(options.prompts)
    if not prompts.prompts:
        raise InputError(f"{options.prompts}: no prompts in it; at least one expected")
    if name is None:
        if checkpoint is not None:
            raise InputError("--prompt-checkpoint given without --prompt-preset; give both")
        if has_setting(options.changes.get("method", "lmeec"), "preset"):
            return prompts, PromptSettings(digest=prompts.digest)
        name = "nano"  # the method has no network to track with
    preset(name)
    file = None if checkpoint is None else str(checkpoint.resolve())
    weights = weights_digest(
        name, file, options.changes.get("model.seed"), option="--prompt-checkpoint"
    )
    return prompts, PromptSettings(
        digest=prompts.digest, preset=name, checkpoint=file, weights=weights
    )


def usable_prompts(
    take: Take, prompts: Prompts, objects: Sequence[str], shown: dict[str, tuple[int, ...]]
) -> Usable:
    """Check for each prompt that the take has its image, and that it lies inside the image.

    Args:
        take: the recording.
        prompts: all prompts.
        objects: only use the prompts for these objects; all if empty.
        shown: the frames of each camera that has images.
    """
    usable: list[PlacedPrompt] = []
    problems: list[str] = []
    for one in prompts.prompts:
        if objects and one.prompt.object_id not in objects:
            continue
        try:
            _check(take, one, shown)
        except InputError as error:
            problems.append(f"{take.path}: {one}: {error}")
        else:
            usable.append(one)
    unknown = [name for name in prompts.objects if name not in take.objects] if take.objects else ()
    notes = tuple(
        f"{take.path}: object {name!r} is not annotated: it can be tracked, but not scored"
        + look_alike(name, take.objects)
        for name in unknown
    )
    return Usable(tuple(usable), tuple(problems), notes)


def _check(take: Take, one: PlacedPrompt, shown: dict[str, tuple[int, ...]]) -> None:
    """Raise InputError if a take cannot use a prompt."""
    from lmeec_core.prompts.checks import check_prompt

    if one.frame is None:
        raise InputError("a stamp is only for bags; a frame number expected")
    if one.camera not in shown:
        raise InputError(
            f"no images of this camera; {', '.join(map(repr, shown))} expected"
            + look_alike(one.camera, shown)
        )
    frames = shown[one.camera]
    if one.frame not in frames:
        raise InputError(
            f"no such image; one of the camera's {len(frames)} frames from {frames[0]} to "
            f"{frames[-1]} expected"
        )
    size = take.image(one.camera, one.frame).shape[:2]
    given = one.prompt.arguments
    check_prompt(
        one.prompt.object_id, given["points"], given["labels"], given["box"], given["mask"], size
    )
