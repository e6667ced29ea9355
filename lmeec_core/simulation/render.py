"""Renders scenes to arrays: colour images, exact label images and depth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lmeec_core.depth.images import Depth
from lmeec_core.errors import InputError
from lmeec_core.simulation.backend import load_mujoco, use_gl_context
from lmeec_core.simulation.config import SimulationConfig
from lmeec_core.simulation.scene import Scene

Image = NDArray[np.uint8]


class SceneRenderer:
    """Renders the cameras of a scene. Use it as a context manager, as it holds OpenGL memory.

    Args:
        scene: the scene.
        with_depth: whether :meth:`depth` will be called.
    """

    def __init__(self, scene: Scene, with_depth: bool = False) -> None:
        use_gl_context()
        mujoco = load_mujoco()
        self._mj, self.scene, self.with_depth = mujoco, scene, with_depth
        size = scene.size
        self._context = mujoco.MjrContext(scene.model, mujoco.mjtFontScale.mjFONTSCALE_50)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._view = mujoco.MjvScene(scene.model, maxgeom=scene.model.ngeom + 50)
        self._rect = mujoco.MjrRect(0, 0, size, size)
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._options = []
        for number in range(len(scene.cameras)):
            option = mujoco.MjvOption()
            option.geomgroup[:] = 1
            if number == 0:
                option.geomgroup[2] = 0  # the wearer's own head and torso
            self._options.append(option)
        self._ids = [scene.camera_id(number) for number in range(len(scene.cameras))]
        self._buffer = np.zeros((size, size, 3), np.uint8)
        self._distances = np.zeros((size, size), np.float32)

    def __enter__(self) -> SceneRenderer:
        return self

    def __exit__(self, *_: object) -> None:
        self._context.free()

    def _render(self, segmentation: bool) -> Image:
        flags = self._view.flags
        flags[self._mj.mjtRndFlag.mjRND_SEGMENT] = segmentation
        flags[self._mj.mjtRndFlag.mjRND_IDCOLOR] = segmentation
        self._mj.mjr_render(self._rect, self._view, self._context)
        distances = self._distances if self.with_depth and segmentation else None
        self._mj.mjr_readPixels(self._buffer, distances, self._rect, self._context)
        return self._buffer[::-1].copy()

    def shoot(self, step: int, camera: int) -> tuple[Image, Image]:
        """Render `camera` (0: ego) at a step: rgb (S, S, 3) and labels (S, S), both uint8.

        Call `scene.pose(step)` first.
        """
        scene = self.scene
        self._camera.fixedcamid = self._ids[camera]
        self._mj.mjv_updateScene(
            scene.model, scene.data, self._options[camera], None, self._camera,
            self._mj.mjtCatBit.mjCAT_ALL, self._view,
        )  # fmt: skip
        rgb = self._render(False)
        codes = self._render(True).astype(np.int32)
        codes = codes[..., 0] + (codes[..., 1] << 8) + (codes[..., 2] << 16)
        labels = self._code_table()[codes]
        effects = scene.effects[camera]
        return effects.image(rgb, scene.random(20, camera, step)), effects.labels(labels)

    def depth(self, camera: int) -> Depth:
        """Exact depth of the last image returned by :meth:`shoot`, float32 (S, S).

        Metres along the camera's axis; NaN where there is no surface.

        Args:
            camera: the same camera as in that call.
        """
        model = self.scene.model
        near, far = (float(v) * float(model.stat.extent)
                     for v in (model.vis.map.znear, model.vis.map.zfar))  # fmt: skip
        # Taken in the label pass, which samples pixel centres (no multisampling).
        buffer = self._distances[::-1].astype(np.float64)
        metres = near / (1 - buffer * (1 - near / far))
        metres[buffer >= 1] = np.nan
        return np.asarray(self.scene.effects[camera].labels(metres.astype(np.float32)))

    def _code_table(self) -> Image:
        """Label of each segmentation code; the code is the index of the drawn geometry + 1."""
        count = self._view.ngeom
        table = np.zeros(count + 2, np.uint8)
        for geometry in self._view.geoms[:count]:
            if geometry.objtype == self._mj.mjtObj.mjOBJ_GEOM and geometry.segid >= 0:
                table[geometry.segid + 1] = self.scene.label_of_geometry[geometry.objid]
        return table


def shots(
    scene: Scene, steps: Sequence[int], with_depth: bool = False
) -> Iterator[tuple[int, int, Image, Image, Depth | None]]:
    """Render every camera at the given steps.

    Yields the index of the step, the camera, rgb and labels as from :meth:`SceneRenderer.shoot`,
    and depth as from :meth:`SceneRenderer.depth`, or None without ``with_depth``.
    """
    with SceneRenderer(scene, with_depth) as renderer:
        for index, step in enumerate(steps):
            scene.pose(step)
            for camera in range(len(scene.cameras)):
                rgb, labels = renderer.shoot(step, camera)
                yield index, camera, rgb, labels, renderer.depth(camera) if with_depth else None


@dataclass(frozen=True)
class SceneArrays:
    """A rendered scene: F frames of C cameras (ego first), S x S pixels."""

    rgb: Image  # (F, C, S, S, 3)
    labels: Image  # (F, C, S, S): 0 background, 1..n objects, 255 person
    steps: list[int]  # (F,) motion step of each frame
    names: list[str]  # n object names
    kinds: list[str]
    moved: int  # objects 1..moved are carried around
    cameras: list[str]
    seed: int
    split: str


def pick_steps(
    rng: np.random.Generator, frames: int, total: int, clip: int, stride: int
) -> list[int]:
    """Choose the steps of the frames: runs of `clip` frames, `stride` steps apart within a run.

    Runs are spread randomly over the plan of `total` steps. Raises InputError if `frames` is not a
    multiple of `clip`, or the runs do not fit.
    """
    if clip < 1 or stride < 1 or frames < 1 or frames % clip:
        raise InputError(
            f"frames {frames}, clip {clip}, stride {stride}: expected positive numbers with "
            "frames a multiple of clip"
        )
    span = (clip - 1) * stride + 1
    runs = frames // clip
    if total < runs * span:
        raise InputError(f"{runs} runs of {span} steps do not fit in {total} steps")
    slack = total - runs * span
    starts = np.sort(rng.integers(0, slack + 1, runs)) + span * np.arange(runs)
    return [int(s) + i * stride for s in starts for i in range(clip)]


def render_scene(
    seed: int,
    config: SimulationConfig,
    frames: int,
    size: int,
    split: str,
    clip: int = 1,
    stride: int = 1,
    steps: int = 160,
) -> SceneArrays:
    """Render `frames` frames of a scene from every camera.

    `clip` consecutive frames (`stride` steps apart) form a run; runs are spread over a plan of
    `steps` steps. The result depends only on the arguments. Raises RenderingError if MuJoCo cannot
    render.
    """
    scene = Scene(seed, config, split, size, steps)
    chosen = pick_steps(scene.random(6), frames, steps, clip, stride)
    shape = (frames, len(scene.cameras), size, size)
    rgb, labels = np.empty((*shape, 3), np.uint8), np.empty(shape, np.uint8)
    for f, c, image, label, _ in shots(scene, chosen):
        rgb[f, c], labels[f, c] = image, label
    return SceneArrays(
        rgb, labels, chosen, [o.name for o in scene.objects], [o.kind for o in scene.objects],
        scene.moved, list(scene.cameras), seed, split,
    )  # fmt: skip
