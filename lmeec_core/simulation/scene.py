"""A scene: a MuJoCo model, objects and a motion plan, all generated from a seed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmeec_core.errors import InputError
from lmeec_core.geometry import Intrinsics, Pose
from lmeec_core.simulation.backend import load_mujoco
from lmeec_core.simulation.builder import PERSON_GROUPS, SceneBuilder
from lmeec_core.simulation.camera import (
    CameraEffects,
    add_exo_cameras,
    camera_names,
    draw_exo_cameras,
)
from lmeec_core.simulation.config import SPLITS, SimulationConfig
from lmeec_core.simulation.motion import MotionPlan, draw_motion
from lmeec_core.simulation.objects import ObjectSpec, draw_objects
from lmeec_core.simulation.person import PersonPose, about, add_person, multiply
from lmeec_core.simulation.room import (
    add_clutter,
    add_containers,
    add_lights,
    add_room,
    add_surface,
    draw_layout,
)

PERSON = 255
"""Label of the person in label images; 0 is the background, 1..n are the objects."""


class Scene:
    """A scene without its images; determined by (seed, split, config, size, steps).

    Attributes:
        objects: N object specs; object i has label i + 1.
        moved: number of objects that the person moves (the first ones).
        plan: the motion plan of `steps` steps.
        model, data: MuJoCo model and state.
        cameras: camera names, ego first (`aria01`, `cam01`, ...).
        effects: image effects of each camera.
    """

    def __init__(
        self, seed: int, config: SimulationConfig, split: str, size: int, steps: int
    ) -> None:
        if split not in SPLITS:
            raise InputError(f"unknown split {split!r}, expected one of {', '.join(SPLITS)}")
        if size < 32 or steps < 1:
            raise InputError(f"size is {size}, steps is {steps}; expected at least 32 and 1")
        if seed < 0:
            raise InputError(f"seed is {seed}, expected 0 or more")
        self.seed, self.config, self.split, self.size = seed, config, split, size
        streams = [self.random(i) for i in range(4)]
        self.layout = draw_layout(streams[0], config)
        self.objects: list[ObjectSpec]
        self.objects, self.moved = draw_objects(streams[1], config, split)
        self.plan: MotionPlan = draw_motion(
            streams[2], config, self.layout, self.objects, self.moved, steps
        )
        self.model = self._build(streams[3])
        self.cameras = camera_names(config.exo_cameras)
        self.effects = [
            CameraEffects.draw(self.random(10, c), config, c == 0, size)
            for c in range(len(self.cameras))
        ]
        self._prepare()

    def random(self, *key: int) -> np.random.Generator:
        """The scene's random stream for the purpose given by `key`."""
        return np.random.default_rng([self.seed, SPLITS.index(self.split), *key])

    def _build(self, rng: np.random.Generator) -> Any:
        config, layout, split = self.config, self.layout, self.split
        shadows = bool(rng.random() < config.shadow_share)
        mirror = bool(rng.random() < config.reflect_share)
        build = SceneBuilder(self.size, config.multisamples, 2048 if shadows else 256)
        add_room(rng, build, layout, split)
        add_surface(rng, build, layout, split, mirror)
        add_containers(rng, build, layout, split)
        exo = draw_exo_cameras(self.random(4), layout, config)
        add_clutter(rng, build, layout, config, split, [(e.position, e.aim) for e in exo])
        add_lights(rng, build, layout, shadows)
        add_person(rng, build, split, float(rng.uniform(72, 106)))
        add_exo_cameras(build, exo)
        for number, spec in enumerate(self.objects):
            build.add_object(spec, f"object{number}")
        return build.compile()

    def _prepare(self) -> None:
        mujoco = load_mujoco()
        model = self.model
        self.data = mujoco.MjData(model)
        self._person = PersonPose(model)
        bodies = [model.body(f"object{i}") for i in range(len(self.objects))]
        self._mocap = np.array([int(b.mocapid[0]) for b in bodies])
        table = np.zeros(model.ngeom + 1, np.uint8)  # the last entry is for index -1: background
        table[:-1][np.isin(model.geom_group, PERSON_GROUPS)] = PERSON
        for number, body in enumerate(bodies):
            table[:-1][model.geom_bodyid == body.id] = number + 1
        self.label_of_geometry: NDArray[np.uint8] = table
        self._roll = float(self.random(5).uniform(0, 6.28))

    def camera_id(self, camera: int) -> int:
        """MuJoCo's id of a camera (0: ego)."""
        return int(self.model.camera("ego" if camera == 0 else f"exo{camera - 1}").id)

    def lens(self, camera: int) -> Intrinsics:
        """The lens of a camera (0: ego), the same at every step."""
        field_of_view = float(self.model.cam_fovy[self.camera_id(camera)])
        return self.effects[camera].lens(field_of_view, self.size)

    def camera_pose(self, camera: int) -> Pose:
        """Pose of a camera (0: ego) at the step last posed; metres, in the scene's frame."""
        number = self.camera_id(camera)
        # MuJoCo's camera axes are right, up, backward.
        turn = self.data.cam_xmat[number].reshape(3, 3) @ np.diag([1.0, -1.0, -1.0])
        return Pose(turn, np.array(self.data.cam_xpos[number]))

    def hidden(self, number: int) -> bool:
        """Whether an object is hidden from every view at the step last posed."""
        return bool(self.data.mocap_pos[self._mocap[number]][2] < -1)

    def kind_of_geometry(self, geometry: int) -> str:
        """MuJoCo's name for the type of a geometry: box, sphere, mesh, ..."""
        kind = load_mujoco().mjtGeom(int(self.model.geom_type[geometry]))
        return str(kind.name).removeprefix("mjGEOM_").lower()

    def pose(self, step: int) -> None:
        """Set all poses to those at a step."""
        mujoco = load_mujoco()
        plan, data = self.plan, self.data
        for number, mocap in enumerate(self._mocap):
            data.mocap_pos[mocap] = plan.positions[step, number]
            data.mocap_quat[mocap] = multiply(
                about((0, 1, 0), plan.tilt[step, number]), about((0, 0, 1), plan.yaw[step, number])
            )
        other = np.array([plan.head[0, 0] + 0.16, 0.3, self.layout.height + 0.03])
        roll = 2.0 * math.sin(self._roll + step * 0.13)
        self._person.set(
            data, plan.head[step], plan.gaze[step], plan.hand[step], other, plan.grip[step], roll
        )
        mujoco.mj_kinematics(self.model, data)
        mujoco.mj_comPos(self.model, data)
        mujoco.mj_camlight(self.model, data)
