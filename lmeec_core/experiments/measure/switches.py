"""Switches off parts of the small network without changing the network's code.

Nothing is retrained: the scores show how much the network as trained relies on a part.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lmeec_core.compact import CompactLMEEC
from lmeec_core.compact.surroundings import SURROUNDINGS_SIZE
from lmeec_core.config import MemoryConfig
from lmeec_core.errors import InputError
from lmeec_core.methods.lm_eec import LmEec
from lmeec_core.model import LMEEC


@dataclass(frozen=True)
class Switch:
    """A way to run the network.

    Attributes:
        what: description of what is off.
        change: modifies the network in place.
        memory: settings of the trackers' memory.
    """

    what: str
    change: Callable[[CompactLMEEC], None] = lambda model: None
    memory: MemoryConfig | None = None

    def method(self, model: LMEEC) -> LmEec:
        """The switched network as a method; ``model`` is modified permanently.

        Raises:
            InputError: ``model`` is not a small network.
        """
        if not isinstance(model, CompactLMEEC):
            raise InputError(f"network {type(model).__name__}: a small network (nano) expected")
        self.change(model)
        return LmEec(model, self.memory)


def _replace(owner: Any, name: str, function: Callable[..., Any]) -> None:
    """Replace a method on one object; ``function`` gets the old method as its first argument."""
    before = getattr(owner, name)
    object.__setattr__(owner, name, lambda *given, **named: function(before, *given, **named))


def _without_memory(model: CompactLMEEC) -> None:
    """Decode every frame like the first one."""
    width = model.config.hidden_dim
    _replace(model, "attend_memory", lambda _, prepared, *rest: prepared[..., :width])
    _replace(
        model,
        "predict",
        lambda predict, aware, specific, has_memory, *rest: predict(
            aware, specific, torch.zeros_like(has_memory), *rest
        ),
    )


def _without_prompts(model: CompactLMEEC) -> None:
    """Decode without match prompts; the presence verdict still gets its figures."""
    decoder = model.sam_mask_decoder
    _replace(
        decoder,
        "decode",
        lambda decode, image, fine, middle, position, prompt, maps: decode(
            image,
            fine,
            middle,
            position,
            prompt[:, :-1],
            maps,  # the token is the last
        ),
    )
    _replace(
        decoder,
        "upscale_with",
        lambda upscale, image, fine, middle, maps: upscale(
            image, fine, middle, torch.zeros_like(maps)
        ),
    )
    _replace(model.matching, "dense_prompt", lambda dense, maps: torch.zeros_like(dense(maps)))


def _without_second_look(model: CompactLMEEC) -> None:
    _replace(model.matching, "verify", lambda verify, logits, iou, presence, match: presence)


def _without_guided_filter(model: CompactLMEEC) -> None:
    model.config = model.config.model_copy(update={"refinement": None})


def _without_surroundings(model: CompactLMEEC) -> None:
    """Replace the figures of the surroundings by the mean of those seen so far."""
    seen = torch.zeros(SURROUNDINGS_SIZE, dtype=torch.float64)
    count = 0

    def even(module: Any, given: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        nonlocal count
        evidence, presence = given
        seen.add_(evidence[:, -SURROUNDINGS_SIZE:].double().sum(dim=0).cpu())
        count += len(evidence)
        mean = (seen / count).to(evidence).expand(len(evidence), -1)
        return torch.cat((evidence[:, :-SURROUNDINGS_SIZE], mean), dim=1), presence

    model.matching.verification.register_forward_pre_hook(even)


WHOLE = "whole"
SWITCHES: dict[str, Switch] = {
    WHOLE: Switch("nothing"),
    "memory": Switch("memory attention: each frame by itself", _without_memory),
    "prompts": Switch("match prompts of the mask decoder", _without_prompts),
    "second_look": Switch("second look: presence as the decoder tells it", _without_second_look),
    "filter": Switch("guided filter", _without_guided_filter),
    "surroundings": Switch("surroundings in the second look", _without_surroundings),
    "moe": Switch("MV-MoE: addition in its place", memory=MemoryConfig(fusion="add")),
}
"""Switches by name; a switch is named after what it switches off."""
