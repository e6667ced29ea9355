"""Moments as video frames: the query view next to the target views with their masks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import cv2
import numpy as np

from lmeec_core import overlay
from lmeec_core.viewing.moments import Moment, View, true_iou

LISTED = 10
"""Maximum number of objects named on a view; the others are drawn without a name."""
TITLE_HEIGHT = 26
MAX_COLUMNS = 3
"""Maximum number of views in one row; more are spread over two rows."""


class Painter:
    """Draws moments; every picture has the same size.

    Args:
        colours: by object.
        height: height of a view, pixels.
        title: text above the views.
    """

    def __init__(self, colours: Mapping[str, overlay.Colour], height: int, title: str) -> None:
        self.colours = colours
        self.height = height
        self.title = title
        self._widths: dict[str, int] = {}

    def draw(self, moment: Moment) -> overlay.Image:
        """One picture, RGB uint8 (H, W, 3)."""
        panels = [self._panel(moment.query, self._query_lines(moment))]
        for view in moment.targets:
            panels.append(self._panel(view, [view.title, *self._lines(view)]))
        columns = len(panels) if len(panels) <= MAX_COLUMNS else -(-len(panels) // 2)
        rows = [
            overlay.side_by_side(panels[start : start + columns], self.height)
            for start in range(0, len(panels), columns)
        ]
        width = max(row.shape[1] for row in rows)
        rows = [_widen(row, width) for row in rows]
        return np.concatenate([self._head(moment, width), *rows], axis=0)

    def fit_sizes(self, moment: Moment) -> None:
        """Set the width of each camera's view from its first image. Call before drawing."""
        for view in (moment.query, *moment.targets):
            if view.image is not None and view.camera not in self._widths:
                ratio = view.image.shape[1] / view.image.shape[0]
                self._widths[view.camera] = max(2, round(self.height * ratio))

    def _head(self, moment: Moment, width: int) -> overlay.Image:
        head: overlay.Image = np.full((TITLE_HEIGHT, width, 3), overlay.BACKGROUND, np.uint8)
        text = f"{moment.seconds:7.2f} s   {self.title}".encode("ascii", "replace").decode("ascii")
        cv2.putText(head, text, (6, 18), overlay.FONT, 0.48, overlay.TRUTH, 1, cv2.LINE_AA)
        return head

    def _panel(self, view: View, lines: list[str]) -> overlay.Image:
        width = self._widths.get(view.camera, self.height)
        if view.image is None:
            blank: overlay.Image = np.full(
                (self.height, width, 3), overlay.BACKGROUND, dtype=np.uint8
            )
            return overlay.caption(blank, [view.title, "no image"])
        colours = {name: self.colours[name] for name in view.masks}
        drawn = overlay.draw_masks(view.image, view.masks, colours=colours, truth=view.truth)
        shades = [overlay.TRUTH, *colours.values()]
        return overlay.caption(overlay.fit(drawn, self.height, width), lines, shades)

    def _query_lines(self, moment: Moment) -> list[str]:
        names = [
            name if mask is not None else f"{name} (no mask)"
            for name, mask in moment.query.masks.items()
        ]
        return [f"{moment.query.camera} (query)", *names[:LISTED], *_more(names)]

    def _lines(self, view: View) -> list[str]:
        lines = [self._line(name, view) for name in view.masks] if view.presence else []
        return [*lines[:LISTED], *_more(lines)]

    @staticmethod
    def _line(name: str, view: View) -> str:
        parts = [f"p {view.presence[name]:.2f}" if name in view.presence else "-"]
        if name in view.score:
            parts.append(f"score {view.score[name]:.2f}")
        if view.truth is not None and name in view.presence:
            value = true_iou(view.masks[name], view.truth.get(name))
            parts.append("not in truth" if value is None else f"IoU {value:.2f}")
        return " ".join(parts)


def pictures(moments: Iterable[Moment], painter: Painter) -> Iterator[overlay.Image]:
    """Draw moments; up to 30 moments are read ahead to find the image size of every camera."""
    waiting: list[Moment] = []
    for moment in moments:
        painter.fit_sizes(moment)
        waiting.append(moment)
        if len(waiting) < 30 and any(
            view.image is None for view in (moment.query, *moment.targets)
        ):
            continue
        yield from map(painter.draw, waiting)
        waiting.clear()
    yield from map(painter.draw, waiting)


def _more(lines: list[str]) -> list[str]:
    return [f"and {len(lines) - LISTED} more"] if len(lines) > LISTED else []


def _widen(row: overlay.Image, width: int) -> overlay.Image:
    spare = width - row.shape[1]
    return np.pad(row, ((0, 0), (0, spare), (0, 0)), constant_values=overlay.BACKGROUND)
