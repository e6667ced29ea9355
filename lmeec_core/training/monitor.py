"""Progress of a training run for the user: progress bar, TensorBoard, overlays, table."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from torch.utils.tensorboard import SummaryWriter

    from lmeec_core.model import LMEEC
    from lmeec_core.training.store import SceneStore


class Monitor:
    """Receives progress of a run; this base class ignores it."""

    def scenes(self, count: int, wanted: int) -> None:
        """``count`` of the ``wanted`` scenes that training waits for are rendered."""

    def record(self, record: dict[str, Any], progress: float) -> None:
        """A new entry in the history; ``progress`` is 0 .. 1."""

    def picture(self, image: NDArray[np.uint8], step: int) -> None:
        """An overlay of the network's predictions, RGB (H, W, 3)."""

    def note(self, text: str) -> None:
        """A message for the user."""

    def phase(self, text: str) -> None:
        """A new phase after training begins."""

    def part(self, done: int, total: int) -> None:
        """Progress within the phase."""


def example_sheet(model: LMEEC, store: SceneStore, count: int = 6) -> NDArray[np.uint8] | None:
    """Correspondences on the first scenes: query views beside target views with predicted masks.

    True masks are shown as white outlines. Each pair of views shows one object; directions
    alternate.

    Returns:
        RGB uint8 (H, W, 3); None if no scene has an object that is in both views.
    """
    from lmeec_core.methods.lm_eec import LmEec
    from lmeec_core.overlay import contact_sheet, draw_masks, side_by_side
    from lmeec_core.training.evaluate import pairs

    tiles: list[NDArray[np.uint8]] = []
    for views in pairs(store, store.count, max(1, store.frames)):
        there = [n for n, area in enumerate(views.area(views.target)) if area]
        if not there:
            continue
        images = [views.scene.image(views.frame, c) for c in (views.query, views.target)]
        asked, truth = (views.masks(c)[there[0]] for c in (views.query, views.target))
        tracker = LmEec(model).tracker("query", ("target",))
        found = tracker.step({"query": images[0], "target": images[1]}, {"it": asked})
        mask = found["target"]["it"].mask()
        drawn = [
            draw_masks(images[0], {"it": asked}),
            draw_masks(images[1], {"it": mask}, truth={"it": truth}),
        ]
        tiles.append(side_by_side(drawn, store.size))
        if len(tiles) == count:
            break
    return contact_sheet(tiles, 2) if tiles else None


class RunMonitor(Monitor):
    """Shows a progress bar on a console and writes TensorBoard files; a context manager.

    Args:
        console: where to show progress.
        folder: TensorBoard's folder; None: no TensorBoard files.

    Raises:
        ImportError: ``folder`` is given, but TensorBoard is not installed.
    """

    def __init__(self, console: Console, folder: Path | None) -> None:
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TimeElapsedColumn

        self.console, self.folder = console, folder
        self._writer: SummaryWriter | None = None
        if folder is not None and importlib.util.find_spec("tensorboard") is None:
            raise ImportError(
                "tensorboard is not installed: pip install 'lmeec[training]', or "
                "--set tensorboard=false"
            )
        columns = ("{task.description}", BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
        self.bar = Progress(*columns, "{task.fields[note]}", console=console)
        self.task = self.bar.add_task("scenes", total=1.0, note="")

    def __enter__(self) -> RunMonitor:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()
        if self._writer is not None:
            self._writer.close()

    def writer(self, step: int) -> SummaryWriter | None:
        """TensorBoard's writer; anything an earlier run wrote from ``step`` on is discarded."""
        if self._writer is None and self.folder is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(self.folder, purge_step=step)
        return self._writer

    def scenes(self, count: int, wanted: int) -> None:
        note = f"{count} of the first {wanted}"
        self.bar.update(self.task, completed=min(1.0, count / max(1, wanted)), note=note)

    def record(self, record: dict[str, Any], progress: float) -> None:
        shown = {k: v for k, v in record.items() if isinstance(v, int | float)}
        named = ("loss", "iou", "presence accuracy", "steps_per_s")
        note = " ".join(f"{k} {shown[k]:.2f}" for k in named if k in shown)
        if note:
            self.bar.update(self.task, note=note)
        self.bar.update(self.task, description=record["stage"], completed=progress)
        scores = [f"{k[5:]} {v:.3f}" for k, v in shown.items() if k.startswith("eval ")]
        if scores or not self.console.is_terminal:  # a log file has no bar
            text = ", ".join(scores) or note
            line = f"{record['minutes']:.1f} min, step {record['step']}: {text}"
            self.console.print(line, highlight=False, markup=False)
        writer = self.writer(record["step"])
        if writer is None:
            return
        for name, value in shown.items():
            if name != "step":
                tag = f"validation/{name[5:]}" if name[:5] == "eval " else f"train/{name}"
                writer.add_scalar(tag, value, record["step"])
        writer.flush()

    def picture(self, image: NDArray[np.uint8], step: int) -> None:
        writer = self.writer(step)
        if writer is not None:
            writer.add_image("validation", image, step, dataformats="HWC")

    def note(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def phase(self, text: str) -> None:
        self.bar.update(self.task, description=text, completed=0.0, note="")
        if not self.console.is_terminal:
            self.console.print(text, highlight=False)

    def part(self, done: int, total: int) -> None:
        self.bar.update(self.task, completed=done / max(1, total), note=f"{done} of {total}")


def results_table(results: dict[str, Any]) -> Table:
    """Scores of single frames and of the tracker, per direction and by size of the object.

    Args:
        results: the results of a finished run (``done.json``).
    """
    from rich.table import Table

    table = Table(title="Held-out scenes")
    for column in ("", "objects", "IoU", "contour accuracy", "existence"):
        table.add_column(column, justify="right" if column else "left")

    def text(value: float | None) -> str:
        return "" if value is None or math.isnan(value) else f"{value:.3f}"

    for kind in ("single frame", "tracker"):
        scores = results[f"test {kind}"]
        for direction in ("ego_to_exo", "exo_to_ego"):
            get = {k.removeprefix(direction + " "): v for k, v in scores["all"].items()}.get
            table.add_row(
                f"{kind}, {direction.replace('_', ' ')}", f"{get('present')} + {get('absent')}",
                text(get("iou")), text(get("contour")), text(get("existence")),
            )  # fmt: skip
        for size, entry in scores["by target area"].items():
            name = f"{kind}, {size} pixels in the target view"
            table.add_row(name, str(entry["count"]), text(entry["iou"]))
        table.add_section()
    table.caption = (
        "Objects: present + absent in the target view. IoU of present ones; of the tracker as it "
        "shows them, so an object wrongly judged absent scores 0. Existence: balanced accuracy."
    )
    return table
