"""Parts of a measurement, each scored once and stored: a take from one camera, or a picture."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lmeec_core.checkpoint import load_model
from lmeec_core.evaluation import FrameScore, Scores
from lmeec_core.evaluation.live import track_take
from lmeec_core.experiments.ablation.units import sought_objects
from lmeec_core.experiments.measure.photographs import Picture, score_picture
from lmeec_core.experiments.measure.switches import SWITCHES
from lmeec_core.files import write_text
from lmeec_core.methods.lm_eec import LmEec
from lmeec_core.takes import Take, is_ego
from lmeec_core.takes.json_file import read_json


@functools.cache
def digest(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@dataclass(frozen=True)
class Measured:
    """What is measured, and the folder for the results.

    Attributes:
        weights: weights of the network ``nano``.
        switch: a name in :data:`SWITCHES`.
        folder: where results are stored.
    """

    weights: Path
    switch: str
    folder: Path

    def method(self) -> LmEec:
        """A newly loaded network with the switch applied."""
        return SWITCHES[self.switch].method(load_model("nano", self.weights, device="cpu"))

    def kept(self, name: str, facts: str, score: Callable[[], Scores]) -> Scores:
        """The result of ``score``, read from the folder if it was computed before.

        Args:
            name: name of the part, for the file name.
            facts: everything else that the result depends on.
            score: computes the result.
        """
        key = hashlib.sha256(f"{digest(self.weights)} {self.switch} {facts}".encode()).hexdigest()
        file = self.folder / f"{self.switch}_{name.replace('/', '_')}_{key[:12]}.json"
        if file.is_file():
            content = read_json(file)
            records = [FrameScore(*record) for record in content["records"]]
            return Scores(content["protocol"], records)
        scores = score()
        self.folder.mkdir(parents=True, exist_ok=True)
        content = {"facts": facts, "protocol": scores.protocol, "records": scores.records}
        write_text(file, json.dumps(content))
        return scores

    def take(self, path: Path, query: str, objects: int, frames: int, step: int) -> Scores:
        """Score a take from one query camera; see :func:`track_take`."""
        take = Take.open(path)
        chosen = sought_objects(take, objects)
        facts = f"{path.resolve()} {query} {chosen} {frames} {step}"
        return self.kept(
            f"{take.name}_{query}",
            facts,
            lambda: track_take(self.method(), take, query, chosen, frames, step),
        )

    def picture(self, picture: Picture, others: Sequence[Picture], first: int) -> Scores:
        """Score a photograph; see :func:`score_picture`."""
        facts = f"{picture.name} {hashlib.sha256(picture.image.tobytes()).hexdigest()} "
        facts += f"{list(picture.objects)} {[other.name for other in others]} {first}"
        return self.kept(
            picture.name, facts, lambda: score_picture(self.method(), picture, others, first)
        )


def queries(path: Path) -> list[str]:
    """The query cameras of a take: the ego camera, and one exo camera."""
    take = Take.open(path)
    return [camera for camera in (take.ego, *take.exos[:1]) if camera]


def direction(record: FrameScore) -> str:
    """Direction of a record: ``ego_to_exo`` or ``exo_to_ego``."""
    return "ego_to_exo" if is_ego(record.query) else "exo_to_ego"
