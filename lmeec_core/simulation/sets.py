"""The sets of simulated scenes: a single list of which seeds are used for what.

Within a split, a seed always gives the same scene, so sets must use different seeds. The scenes of
a set count up from its first seed. Only the split ``test`` has held-out shapes and textures.

Four sets are used to develop a network: it is trained on ``training``; its thresholds and presence
verdict are fitted on ``fitting_presence`` and ``fitting``; choices between networks are made on
``development``; and ``sealed`` is scored once for each published network.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from lmeec_core.errors import InputError

SetName = Literal[
    "training", "fitting_presence", "fitting", "development", "sealed",
    "ablation", "ablation_training", "prompts", "click_training",
    "methods", "space_time", "space_time_training",
]  # fmt: skip


class SceneSet(NamedTuple):
    """Seeds ``first`` .. ``first + most - 1`` of a split."""

    split: str
    first: int
    most: int

    def seeds(self, count: int, start: int = 0) -> range:
        """Seeds of the scenes ``start`` .. ``count - 1`` of the set.

        Raises:
            InputError: the set has fewer scenes.
        """
        if count > self.most:
            raise InputError(
                f"{count} scenes asked for, the set of seeds from {self.first} has {self.most}"
            )
        return range(self.first + start, self.first + count)


SETS: dict[SetName, SceneSet] = {
    "training": SceneSet("train", 0, 5_000_000),
    "fitting_presence": SceneSet("train", 5_000_000, 5_000_000),
    "fitting": SceneSet("val", 10_000_000, 10_000_000),
    "development": SceneSet("test", 20_000_000, 10_000_000),
    "sealed": SceneSet("test", 60_000_000, 10_000_000),
    # for experiments and the click head
    "ablation": SceneSet("test", 300_000, 1_000_000),
    "ablation_training": SceneSet("train", 30_000_000, 10_000_000),
    "prompts": SceneSet("test", 30_000_000, 10_000_000),
    "click_training": SceneSet("train", 40_000_000, 10_000_000),
    "space_time": SceneSet("test", 50_000_000, 10_000_000),
    "space_time_training": SceneSet("train", 50_000_000, 10_000_000),
    "methods": SceneSet("test", 70_000_000, 10_000_000),  # comparison in docs/results.md
}

PROTOTYPE_SEEDS = 9000
"""First seed of the other generator's scenes for comparing networks."""
