"""The person: a mannequin with two arms, five moving fingers, and a head with the ego camera."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmeec_core.simulation.backend import load_mujoco
from lmeec_core.simulation.builder import SceneBuilder
from lmeec_core.simulation.textures import colour, draw_texture, value_noise

Vector = NDArray[np.float64]
Point = tuple[float, float, float]

_SKINS = ((236, 188, 160), (198, 140, 105), (141, 90, 62), (90, 58, 40), (224, 172, 140))
_FINGERS = (  # y and x of the knuckle in the hand's frame, length of the first link; metres
    (-0.032, 0.045, 0.036), (-0.011, 0.05, 0.042), (0.011, 0.048, 0.04), (0.031, 0.042, 0.032),
    (0.04, -0.005, 0.038),
)  # fmt: skip
_CLOTHES = ("plain", "plain", "stripes", "checker", "noise", "dots", "plaid")
UPPER_ARM, FOREARM, WRIST = 0.28, 0.25, 0.055


def add_person(
    rng: np.random.Generator, build: SceneBuilder, split: str, field_of_view: float
) -> None:
    """Add the bodies `hand`, `hand2`, `fore`, `upper`, `torso`, `head` (with camera `ego`)..."""
    shade = (1 + 0.25 * (value_noise(rng)[..., None] - 0.5)) * _SKINS[int(rng.integers(5))]
    skin = build.textured(np.clip(shade, 0, 255).astype(np.uint8), (1, 1), 0.15, 0.15)
    glove = build.flat(colour(rng), 0.1, 0.1) if rng.random() < 0.2 else skin
    shirt = build.textured(draw_texture(rng, split, _CLOTHES), (2, 2), 0.05, 0.05)
    hair = build.flat(colour(rng, (0.1, 0.6), (0.05, 0.5)), 0.1, 0.1)
    hand = build.body("hand")
    build.geometry("ellipsoid", glove, (0.052, 0.044, 0.018), body=hand, group=1)
    for i, (y, x, length) in enumerate(_FINGERS):
        # The last finger is the thumb, which points inwards.
        turn = about((0, 0, 1), math.radians(55.0 if i == 4 else (i - 1.5) * 4.0))
        first = build.body("", hand, pos=[x, y, 0], quat=turn)
        first.add_joint(name=f"finger{i}a", axis=[0, 1, 0])
        _capsule(build, glove, 0.0095, (length, 0, 0), first)
        second = build.body("", first, pos=[length, 0, 0])
        second.add_joint(name=f"finger{i}b", axis=[0, 1, 0])
        _capsule(build, glove, 0.0085, (0.75 * length, 0, 0), second)
    sleeve = skin if rng.random() < 0.5 else shirt
    stout = float(rng.uniform(0.85, 1.15))
    for suffix in ("", "2"):
        for name, length, radius, material in (
            ("fore", FOREARM, 0.033, sleeve), ("upper", UPPER_ARM, 0.042, shirt),
        ):  # fmt: skip
            _capsule(build, material, radius * stout, (0, 0, length), build.body(name + suffix))
    build.geometry("ellipsoid", glove, (0.07, 0.044, 0.02), body=build.body("hand2"), group=1)
    torso = build.body("torso")
    build.geometry("ellipsoid", shirt, (0.13 * stout, 0.2 * stout, 0.3), body=torso, group=2)
    build.geometry("capsule", skin, (0.05,), ends=((0, 0, 0.25), (0, 0, 0.38)), body=torso, group=2)
    head = build.body("head")
    build.geometry("ellipsoid", skin, (0.085, 0.12, 0.1), (0, -0.01, 0.08), body=head, group=2)
    build.geometry("ellipsoid", hair, (0.09, 0.11, 0.1), (0, 0.03, 0.1), body=head, group=2)
    build.camera("ego", field_of_view, body=head)


def _capsule(build: SceneBuilder, material: str, radius: float, end: Point, body: Any) -> None:
    """Add a capsule of an arm or finger, from its body's origin to `end`."""
    build.geometry("capsule", material, (radius,), ends=((0, 0, 0), end), body=body, group=1)


def about(axis: Point, angle: float) -> Vector:
    """Unit quaternion (w, x, y, z) of a rotation about a unit axis; `angle` in radians."""
    return np.array([math.cos(angle / 2), *(math.sin(angle / 2) * np.array(axis))])


def multiply(a: Vector, b: Vector) -> Vector:
    """Product of two quaternions (w, x, y, z)."""
    w, v, q, u = a[0], a[1:], b[0], b[1:]
    return np.array([w * q - v @ u, *(w * u + q * v + np.cross(v, u))])


def look_at(position: Vector, target: Vector, roll: float = 0.0) -> Vector:
    """Camera orientation (3, 3) with columns right, up, backward; `roll` in degrees."""
    back = position - target
    back = back / np.linalg.norm(back)
    right = np.cross([0, 0, 1.0], back)
    right /= max(float(np.linalg.norm(right)), 1e-6)
    up, a = np.cross(back, right), math.radians(roll)
    c, s = math.cos(a), math.sin(a)
    return np.stack([right * c + up * s, -right * s + up * c, back], axis=1)


class PersonPose:
    """Sets the poses of the person's bodies in a MuJoCo state."""

    def __init__(self, model: Any) -> None:
        mujoco = load_mujoco()
        self._mj = mujoco
        names = ("hand", "hand2", "fore", "fore2", "upper", "upper2", "torso", "head")
        self._mocap = {n: int(model.body(n).mocapid[0]) for n in names}
        self._joints = [
            tuple(int(model.joint(f"finger{i}{link}").qposadr[0]) for link in "ab")
            for i in range(len(_FINGERS))
        ]

    def _put(self, data: Any, name: str, position: Vector, quaternion: Vector) -> None:
        data.mocap_pos[self._mocap[name]] = position
        data.mocap_quat[self._mocap[name]] = quaternion

    def _along(self, direction: Vector) -> Vector:
        quaternion = np.zeros(4)
        self._mj.mju_quatZ2Vec(quaternion, direction)
        return quaternion

    def set(
        self,
        data: Any,
        head: Vector,
        gaze: Vector,
        hand: Vector,
        other: Vector,
        grip: float,
        roll: float,
    ) -> None:
        """Set head, point looked at, both hands (3,), grip in [0, 1], head's roll (degrees)."""
        quaternion = np.zeros(4)
        self._mj.mju_mat2Quat(quaternion, look_at(head, gaze, roll).flatten())
        self._put(data, "head", head, quaternion)
        self._put(data, "torso", head + [-0.1, 0, -0.5], np.array([1.0, 0, 0, 0]))
        self._arm(data, head, hand, -1, "", 0.75)
        self._arm(data, head, other, 1, "2", 0.1)
        for first, second in self._joints:
            data.qpos[first], data.qpos[second] = 0.15 + 0.55 * grip, 0.2 + 0.75 * grip

    def _arm(
        self, data: Any, head: Vector, target: Vector, side: int, suffix: str, pitch: float
    ) -> None:
        """Two-link inverse kinematics; the shoulder moves along if the arm is too short."""
        shoulder = head + [-0.06, side * 0.19, -0.22]
        reach = target - shoulder
        flat = np.array([reach[0], reach[1], -0.15])
        wrist = target - flat / np.linalg.norm(flat) * WRIST
        arm = wrist - shoulder
        length = max(float(np.linalg.norm(arm)), 0.06)
        longest = UPPER_ARM + FOREARM - 0.01
        if length > longest:
            shoulder, arm, length = wrist - arm / length * longest, arm / length * longest, longest
        cosine = (UPPER_ARM**2 + length**2 - FOREARM**2) / (2 * UPPER_ARM * length)
        cosine = min(max(cosine, -1.0), 1.0)
        along, down = arm / length, np.array([0, side * 0.6, -1.0])
        down -= along * (down @ along)
        down /= max(float(np.linalg.norm(down)), 1e-6)
        elbow = shoulder + UPPER_ARM * (along * cosine + down * math.sqrt(1 - cosine**2))
        self._put(data, "upper" + suffix, shoulder, self._along(elbow - shoulder))
        self._put(data, "fore" + suffix, elbow, self._along(wrist - elbow))
        heading = math.atan2(wrist[1] - elbow[1], wrist[0] - elbow[0])
        self._put(
            data,
            "hand" + suffix,
            target,
            multiply(about((0, 0, 1), heading), about((0, 1, 0), pitch)),
        )
