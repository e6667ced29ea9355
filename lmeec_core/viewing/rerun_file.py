"""Moments as a Rerun recording (.rrd): images, masks, presence and scores, and the 3D scene."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmeec_core.calibration import Calibration
from lmeec_core.errors import InputError
from lmeec_core.files import WholeOrNothing
from lmeec_core.overlay import Colour
from lmeec_core.takes import resize_mask
from lmeec_core.viewing.moments import Mask, Moment, View, true_iou
from lmeec_core.viewing.rerun_scene import ROOT, SceneWriter

HINT = "--rerun needs the Rerun SDK: pip install 'lmeec[rerun]'"
QUALITY = 80
APPLICATION = "lmeec"


def import_rerun() -> Any:
    """The Rerun SDK.

    Raises:
        InputError: it is not installed; says how to install it.
    """
    try:
        import rerun
    except ImportError as error:
        raise InputError(f"{HINT} ({error})") from error
    return rerun


class RerunWriter(WholeOrNothing):
    """Write moments into a .rrd file that appears under its name only once it is complete.

    Entities: /query/<camera> and /target/<camera> with image, masks and (targets) truth, and
    /presence, /score and /iou with a curve for each camera and object. Timelines: "time" and
    "frame". With a calibration, also those of
    :class:`~lmeec_core.viewing.rerun_scene.SceneWriter`.

    Args:
        path: the file.
        colours: by object; class ids are assigned in the order in which objects appear, from 1.
        calibration: of the cameras; None: no scene is written.
        problem: called with a text about each error in the calibration.
        note: called with other remarks for the user.

    Raises:
        InputError: the Rerun SDK is not installed.
    """

    def __init__(
        self,
        path: Path,
        colours: Mapping[str, Colour],
        calibration: Calibration | None,
        problem: Callable[[str], None],
        note: Callable[[str], None],
    ) -> None:
        self._rr = import_rerun()
        self.path = path
        self.classes: dict[str, int] = {}
        self._colours = colours
        self._laid_out = False
        self._curves_known: set[tuple[str, ...]] = set()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        self._stream = self._rr.RecordingStream(APPLICATION, recording_id=path.stem)
        self._stream.save(str(self._partial))
        self._scene: SceneWriter | None = None
        if calibration is not None:
            given = self._rr, self._stream, calibration, colours
            self._scene = SceneWriter(*given, problem, note)
        for name in colours:
            self._class(name)

    def add(self, moment: Moment) -> None:
        """Log one moment."""
        if not self._laid_out:
            self._lay_out(moment)
        self._stream.set_time("frame", sequence=moment.frame)
        self._stream.set_time("time", duration=moment.seconds)
        self._view("query", moment.query)
        for view in moment.targets:
            self._view("target", view)
            for name in view.masks:
                self._curves(view, name)
        if self._scene is not None:
            self._scene.add(moment)

    def close(self) -> None:
        """Finish the file and give it its name."""
        if self._scene is not None:
            self._scene.finish()
        self._stream.disconnect()
        os.replace(self._partial, self.path)

    def abort(self) -> None:
        """Remove the unfinished file."""
        self._stream.disconnect()
        self._partial.unlink(missing_ok=True)

    def _lay_out(self, moment: Moment) -> None:
        """Send the viewer's layout: the scene and the cameras side by side, curves below."""
        import rerun.blueprint as layout

        views = [("query", moment.query), *(("target", view) for view in moment.targets)]
        cameras = [
            layout.Spatial2DView(
                origin=self._rr.new_entity_path([kind, view.title]), name=f"{kind} {view.title}"
            )
            for kind, view in views
        ]
        curves = [
            layout.TimeSeriesView(origin=f"/{kind}", name=kind)
            for kind in ("presence", "score", "iou")
        ]
        images = layout.Horizontal(*cameras)
        if self._scene is not None:
            shown = ["+ /query/**", "+ /target/**", f"+ /{ROOT}/**"]
            space = layout.Spatial3DView(origin="/", contents=shown, name="scene")
            images = layout.Horizontal(space, images)
        rows = layout.Vertical(images, layout.Horizontal(*curves), row_shares=[2, 1])
        self._stream.send_blueprint(layout.Blueprint(rows))
        self._laid_out = True

    def _view(self, kind: str, view: View) -> None:
        rr, stream = self._rr, self._stream
        if view.image is None:
            stream.log([kind, view.title], rr.Clear(recursive=True))
            return
        stream.log([kind, view.title, "image"], rr.Image(view.image).compress(QUALITY))
        size = (view.image.shape[0], view.image.shape[1])
        for name, masks in (("masks", view.masks), ("truth", view.truth)):
            if masks is not None:
                labels = self._labels(masks, size)
                stream.log([kind, view.title, name], rr.SegmentationImage(labels))

    def _curves(self, view: View, name: str) -> None:
        scalars = {"presence": view.presence.get(name), "score": view.score.get(name)}
        if view.truth is not None and name in view.presence:
            scalars["iou"] = true_iou(view.masks[name], view.truth.get(name))
        for kind, value in scalars.items():
            path = [kind, view.title, name]
            if value is not None:
                if tuple(path) not in self._curves_known:
                    self._curves_known.add(tuple(path))
                    style = self._rr.SeriesLines(
                        colors=[self._colours[name]], names=[f"{view.title} {name}"]
                    )
                    self._stream.log(path, style, static=True)
                self._stream.log(path, self._rr.Scalars(value))

    def _labels(self, masks: Mapping[str, Mask | None], size: tuple[int, int]) -> NDArray[Any]:
        """Masks as one image of class ids; where they overlap, the later one wins."""
        labels = np.zeros(size, np.uint16)
        for name, mask in masks.items():
            if mask is not None:
                labels[resize_mask(mask, size)] = self._class(name)
        return labels

    def _class(self, name: str) -> int:
        """Class id of an object; a new one is added to the recording's legend."""
        if name not in self.classes:
            self.classes[name] = len(self.classes) + 1
            rows = [(i, known, self._colours[known]) for known, i in self.classes.items()]
            self._stream.log("/", self._rr.AnnotationContext(rows), static=True)
        return self.classes[name]
