"""An evaluation as JSON, CSV and one self-contained HTML page."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lmeec_core.evaluation import plots
from lmeec_core.evaluation.evaluate import Evaluation
from lmeec_core.evaluation.published import SOURCE, TABLE_1, TABLE_7
from lmeec_core.evaluation.scores import FrameScore, Scores
from lmeec_core.evaluation.strips import Strip
from lmeec_core.files import write_text

MEASURES = (
    "iou",
    "location_error",
    "contour_accuracy",
    "existence_balanced_accuracy",
    "existence_accuracy",
    "association_accuracy",
)
LISTED_PROBLEMS = 30
TITLES = {"ego-exo": "Ego to exo", "exo-ego": "Exo to ego"}


@dataclass
class Report:
    """The content of a report about a result file.

    Attributes:
        predictions, truth: the paths of the compared files.
        protocol: name of the protocol.
        evaluations: one for each direction.
        strips: pictures of the worst takes, by direction.
        void: reasons by direction, for directions without scores.
        others: evaluations of further result files on the same truth, by direction and path.
    """

    predictions: str
    truth: str
    protocol: str
    evaluations: Sequence[Evaluation]
    strips: dict[str, list[Strip]] = field(default_factory=dict)
    void: dict[str, str] = field(default_factory=dict)
    others: dict[str, Mapping[str, Evaluation]] = field(default_factory=dict)

    def files(self, evaluation: Evaluation) -> dict[str, Evaluation]:
        """The evaluations of all result files for a direction, by path, in order."""
        return {self.predictions: evaluation, **self.others.get(evaluation.direction, {})}

    @property
    def compared(self) -> list[str]:
        """Paths of the further result files."""
        return list(dict.fromkeys(path for own in self.others.values() for path in own))

    def write(self, folder: Path) -> dict[str, Path]:
        """Write report.json, scores.csv, frames.csv and report.html, each atomically."""
        texts = {
            "report.json": json.dumps(self.data(), indent=1, ensure_ascii=False) + "\n",
            "scores.csv": self.scores_csv(),
            "frames.csv": self.frames_csv(),
            "report.html": self.html(),
        }
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            write_text(folder / name, text)
        return {name: folder / name for name in texts}

    def data(self) -> dict[str, Any]:
        """The numbers, for JSON; shares in [0, 1], None if there is nothing to average."""
        return {
            "predictions": self.predictions,
            "truth": self.truth,
            "protocol": self.protocol,
            "published": {"source": SOURCE, "association_accuracy_by_length": TABLE_7},
            "skipped": [str(error) for error in self._skipped()],
            "without_score": self.void,
            "directions": {e.direction: self._direction(e) for e in self.evaluations},
        }

    def _direction(self, evaluation: Evaluation) -> dict[str, Any]:
        groups = evaluation.groups()
        strips = self.strips.get(evaluation.direction, [])
        return {
            "overall": evaluation.scores.summary(),
            "iou_interval_over_takes": evaluation.iou_interval,
            "other_result_files": {
                path: {
                    "overall": one.scores.summary(),
                    "iou_interval_over_takes": one.iou_interval,
                    "problems": [problem._asdict() for problem in one.problems],
                    "not_scored": one.notes,
                }
                for path, one in self.others.get(evaluation.direction, {}).items()
            },
            "published": [row._asdict() for row in TABLE_1[evaluation.direction]],
            "by": {
                kind: {name: scores.summary() for name, scores in group.items()}
                for kind, group in groups.items()
            },
            "takes": {name: info._asdict() for name, info in evaluation.takes.items()},
            "problems": [problem._asdict() for problem in evaluation.problems],
            "predictions_missing": evaluation.missing,
            "not_scored": evaluation.notes,
            "takes_without_annotated_frames": evaluation.unlisted,
            "query_masks_tracked": _tracked(evaluation),
            "worst": [
                {
                    "take": s.take, "take_iou": s.take_iou, "object": s.object_name,
                    "query": s.query, "target": s.target, "iou": s.iou,
                }
                for s in strips
            ],
        }  # fmt: skip

    def scores_csv(self) -> str:
        """One line per direction, result file and group, "all" first."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        head = ["direction", "protocol", "group", "name", "frames", "missing"]
        writer.writerow([*head, *MEASURES, "predictions"])
        for path, evaluation in self._all():
            groups = {"all": {"all": evaluation.scores}, **evaluation.groups()}
            for kind, group in groups.items():
                for name, scores in group.items():
                    summary = scores.summary()
                    head = [evaluation.direction, self.protocol, kind, name]
                    counts = [summary["frames"], summary["frames_missing"]]
                    writer.writerow([*head, *counts, *(summary[m] for m in MEASURES), path])
        return out.getvalue()

    def frames_csv(self) -> str:
        """One line per scored frame of each result file."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["direction", "protocol", *FrameScore._fields, "predictions"])
        for path, evaluation in self._all():
            for record in evaluation.scores.records:
                cells = [int(v) if isinstance(v, bool) else v for v in record]
                writer.writerow([evaluation.direction, self.protocol, *cells, path])
        return out.getvalue()

    def _all(self) -> Iterator[tuple[str, Evaluation]]:
        for evaluation in self.evaluations:
            yield from self.files(evaluation).items()

    def html(self) -> str:
        """The page."""
        from jinja2 import Environment, PackageLoader

        pages = Environment(
            loader=PackageLoader("lmeec_core.evaluation", ""), autoescape=True, trim_blocks=True,
            lstrip_blocks=True,
        )  # fmt: skip
        pages.filters.update(percent=percent, number=number, by_frame=plots.by_frame)
        sections = [self._section(evaluation) for evaluation in self.evaluations]
        return pages.get_template("report.html").render(
            report=self,
            sections=sections,
            skipped=self._skipped(),
            source=SOURCE,
            table_7=TABLE_7,
            colours=plots.COLOURS,
        )

    def _section(self, evaluation: Evaluation) -> dict[str, Any]:
        groups = evaluation.groups()
        kinds = [kind for kind in ("object size", "scenario", "take length") if groups[kind]]
        return {
            "direction": evaluation.direction,
            "title": TITLES[evaluation.direction],
            "scores": evaluation.scores,
            "files": self.files(evaluation),
            "published": TABLE_1[evaluation.direction],
            "groups": {kind: groups[kind] for kind in kinds},
            "takes": evaluation.takes,
            "problems": evaluation.problems[:LISTED_PROBLEMS],
            "problem_count": len(evaluation.problems),
            "problem_kinds": Counter(problem.kind for problem in evaluation.problems),
            "missing": evaluation.missing,
            "unlisted": len(evaluation.unlisted),
            "tracked": evaluation.tracked_text(),
            "notes": evaluation.notes[:LISTED_PROBLEMS],
            "plots": self._plots(evaluation.scores, groups) if evaluation.scores.ious else [],
            "strips": self.strips.get(evaluation.direction, []),
        }

    def _plots(self, scores: Scores, groups: dict[str, dict[str, Scores]]) -> list[tuple[str, Any]]:
        what = "take" if len(groups["take"]) > 1 else "object"
        return [
            ("How well masks agree", plots.histogram(scores)),
            ("Over the course of the takes", plots.over_time(scores)),
            (f"By {what}", plots.by_name(groups[what], f"{what}s")),
        ]

    def _skipped(self) -> list[Exception]:
        errors = {str(error): error for e in self.evaluations for error in e.skipped}
        return list(errors.values())


def _tracked(evaluation: Evaluation) -> dict[str, Any] | None:
    """The part of report.json about query masks tracked from prompts; None if there are none."""
    if not evaluation.tracked:
        return None
    ious = evaluation.query_ious
    return {
        "from": "prompts",
        "takes": list(evaluation.tracked),
        "masks": len(ious),
        "iou": sum(ious) / len(ious) if ious else None,
    }


def percent(share: float | None, digits: int = 2) -> str:
    """A share as a percentage without the sign; a dash for nothing to average."""
    return "–" if share is None or share != share else f"{100 * share:.{digits}f}"


def number(value: float | None, digits: int = 3) -> str:
    """A number; a dash for nothing to average."""
    return "–" if value is None or value != value else f"{value:.{digits}f}"
