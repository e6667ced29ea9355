"""Turns clicks and drags into prompts, with undo."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from lmeec_core.errors import InputError
from lmeec_core.marking.source import MarkSource
from lmeec_core.prompts import Prompt
from lmeec_core.prompts.prompt import Point

DRAG = 0.015
"""Minimum size of a drag that draws a box, as a share of the image's width; else it is a click."""


@dataclass
class Editor:
    """Edits the prompts of a source.

    Attributes:
        source: the recording or node to mark objects in.
        object_id: the object that is being marked.
    """

    source: MarkSource
    object_id: str
    _undo: list[tuple[str, int, str, Prompt | None]] = field(default_factory=list)

    def point(self, camera: str, key: int, x: float, y: float, positive: bool) -> None:
        """Add a point to the object's prompt on this image.

        Args:
            camera, key: the image, see :class:`lmeec_core.marking.source.View`.
            x, y: in pixels of the image.
            positive: whether the point is on the object.

        Raises:
            InputError: the object has no name, or is already marked by a mask on this image.
        """
        old = self._present(camera, key)
        points = (*old.points, (round(x, 1), round(y, 1)))
        labels = (*old.labels, int(positive))
        self._set(camera, key, replace(old, points=points, labels=labels))

    def box(self, camera: str, key: int, start: Point, end: Point) -> None:
        """Set the box of the object's prompt on this image, from two opposite corners in pixels.

        Raises:
            InputError: as for :meth:`point`.
        """
        (x0, x1), (y0, y1) = (sorted(pair) for pair in zip(start, end, strict=True))
        old = self._present(camera, key)
        corners = (round(x0, 1), round(y0, 1), round(x1, 1), round(y1, 1))
        self._set(camera, key, replace(old, box=corners))

    def remove(self, camera: str, key: int, object_id: str, index: int | None) -> None:
        """Remove a point by its index; None removes the box or mask."""
        old = self._prompt(camera, key, object_id)
        if old is None:
            return
        if index is None:
            new = replace(old, box=None, mask=None)
        else:
            keep = [i for i in range(len(old.points)) if i != index]
            new = replace(
                old,
                points=tuple(old.points[i] for i in keep),
                labels=tuple(old.labels[i] for i in keep),
            )
        self._set(camera, key, new)

    def undo(self) -> bool:
        """Undo the last change; returns whether there was one."""
        if not self._undo:
            return False
        camera, key, object_id, before = self._undo.pop()
        self._apply(camera, key, object_id, before)
        return True

    def forget(self, object_id: str) -> None:
        """Forget an object; this cannot be undone."""
        self._undo = [change for change in self._undo if change[2] != object_id]
        self.source.forget(object_id)

    def free_name(self) -> str:
        """A name that is not in use."""
        number = 1
        while f"object {number}" in self.source.objects:
            number += 1
        return f"object {number}"

    def _present(self, camera: str, key: int) -> Prompt:
        name = self.object_id.strip()
        if not name:
            raise InputError("the object has no name: enter one in the field 'Object'")
        old = self._prompt(camera, key, name)
        if old is not None and old.mask is not None:
            raise InputError(f"{name!r} is marked by a mask on this image: remove the mask first")
        return old or Prompt(name)

    def _prompt(self, camera: str, key: int, object_id: str) -> Prompt | None:
        return self.source.prompts(key).get((camera, object_id))

    def _set(self, camera: str, key: int, prompt: Prompt) -> None:
        before = self._prompt(camera, key, prompt.object_id)
        self._undo.append((camera, key, prompt.object_id, before))
        self._apply(camera, key, prompt.object_id, prompt)

    def _apply(self, camera: str, key: int, object_id: str, prompt: Prompt | None) -> None:
        if prompt is None or not (prompt.points or prompt.box or prompt.mask is not None):
            self.source.unmark(camera, key, object_id)
        else:
            self.source.mark(camera, key, prompt)


def is_box(start: Point, end: Point, width: float) -> bool:
    """Whether a drag draws a box, because it is wide and high enough."""
    return min(abs(end[0] - start[0]), abs(end[1] - start[1])) > DRAG * width
