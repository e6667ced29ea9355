"""The action in a scene: the wearer moves objects, hides them, brings them back, looks around.

A plan covers a number of steps; a step is a frame of a take (one second of the recording).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lmeec_core.simulation.config import SimulationConfig
from lmeec_core.simulation.objects import ObjectSpec
from lmeec_core.simulation.room import CENTRE_X, Layout

Array = NDArray[np.float64]
NOWHERE = np.array([0.0, 0.0, -5.0])
"""Position of hidden objects: below the floor, outside every view."""


@dataclass(frozen=True)
class MotionPlan:
    """Poses of N objects and the wearer over T steps; metres, radians, world frame."""

    positions: Array  # (T, N, 3), bottom centre; NOWHERE while hidden
    yaw: Array  # (T, N)
    tilt: Array  # (T, N)
    hand: Array  # (T, 3)
    grip: Array  # (T,) 0 open, 1 closed
    head: Array  # (T, 3)
    gaze: Array  # (T, 3) the point looked at
    held: NDArray[np.int64]  # (T,) index of the object in the hand, from grasp to release; -1: none


def smooth(u: float) -> float:
    """Minimum-jerk profile from 0 to 1 (Flash and Hogan 1985)."""
    u = min(max(u, 0.0), 1.0)
    return u**3 * (10 - 15 * u + 6 * u * u)


def free_spot(
    rng: np.random.Generator,
    layout: Layout,
    radius: float,
    taken: Sequence[tuple[float, float, float]],
    reach: float,
) -> Array:
    """A position on the surface, if possible clear of the circles `taken` (x, y, radius).

    `reach` limits |y| and the depth to what the wearer can reach.
    """
    spot = np.array([CENTRE_X, 0.0, layout.height])
    for attempt in range(150):
        x = rng.uniform(CENTRE_X - layout.half_x, CENTRE_X + min(layout.half_x, reach))
        y = rng.uniform(-1, 1) * min(layout.half_y, reach)
        shrink = 1.0 if attempt < 90 else 0.75
        if not layout.inside(x, y, min(0.8 * radius, 0.1) + 0.01):
            continue
        spot[:2] = x, y
        if all(math.hypot(x - a, y - b) > shrink * (radius + r) + 0.01 for a, b, r in taken):
            break
    return spot.copy()


class _Planner:
    """Draws one action after another and keeps the state between them."""

    def __init__(
        self, rng: np.random.Generator, config: SimulationConfig, layout: Layout,
        objects: Sequence[ObjectSpec], moved: int, steps: int,
    ) -> None:  # fmt: skip
        count = len(objects)
        self.rng, self.config, self.layout, self.objects = rng, config, layout, objects
        self.moved, self.steps = moved, steps
        self.positions = np.zeros((steps, count, 3))
        self.yaw, self.tilt = np.zeros((steps, count)), np.zeros((steps, count))
        self.hand, self.grip = np.zeros((steps, 3)), np.full(steps, 0.1)
        self.held = np.full(steps, -1)
        self.edge = CENTRE_X - layout.half_x
        self.rest = np.array([self.edge + 0.08, -0.25, layout.height + 0.12])
        self.at = self.rest.copy()
        self.return_step = np.zeros(moved, int)  # first step at which an object may move again
        self.obstacles: list[tuple[float, float, float]] = []
        if layout.bin is not None:
            self.obstacles.append((*layout.bin, layout.bin_size[0] * 1.3))
        self._place_all()

    def _place_all(self) -> None:
        taken = list(self.obstacles)
        for number, spec in enumerate(self.objects):
            reach = 0.42 if number < self.moved else 0.9
            spot = free_spot(self.rng, self.layout, spec.radius, taken, reach)
            taken.append((float(spot[0]), float(spot[1]), spec.radius))
            if number < self.moved and self.moved > 1 and self.rng.random() < 0.12:
                spot = NOWHERE
                self.return_step[number] = int(self.rng.integers(*self.config.absent_steps))
            self.positions[:, number] = spot
            self.yaw[:, number] = self.rng.uniform(-np.pi, np.pi)

    def run(self) -> None:
        """Plan all steps."""
        step = int(self.rng.integers(0, 5))
        self.hand[:step] = self.at
        while step < self.steps:
            ready = [k for k in range(self.moved) if self.return_step[k] <= step]
            if not ready:
                self.hand[step:] = self.at
                step += 1
                continue
            length = int(self.rng.integers(9, 22))
            away = [k for k in ready if self.positions[step, k, 2] < -1]
            if away and self.rng.random() < 0.8:  # bring back what was put away
                ready = away
            number = ready[int(self.rng.integers(len(ready)))]
            self._act(number, step, length)
            step += length
            pause = int(self.rng.integers(0, 5))
            self.hand[step : step + pause] = self.at
            step += pause

    def _pocket(self) -> Array:
        side = self.rng.choice([-1, 1])
        return np.array([self.edge - 0.14, side * 0.28, self.layout.height - 0.12])

    def _goal(self, number: int, step: int) -> tuple[Array, bool]:
        """Where to carry an object, and whether it disappears there."""
        rng, spec, layout = self.rng, self.objects[number], self.layout
        now = self.positions[min(step, self.steps - 1)]
        if now[number, 2] > -1 and rng.random() < self.config.exit_share:
            routes = ["pocket"]
            if layout.stool is not None:
                routes.append("stool")
            if layout.bin is not None and spec.radius < layout.bin_size[0]:
                routes += ["bin", "bin"]
            route = routes[int(rng.integers(len(routes)))]
            if route == "pocket":
                return self._pocket(), True
            if route == "bin" and layout.bin is not None:
                return np.array([*layout.bin, layout.height + 0.002]), False
            if layout.stool is not None:
                return np.array(layout.stool), False
        taken = self.obstacles + [
            (float(now[k, 0]), float(now[k, 1]), o.radius)
            for k, o in enumerate(self.objects)
            if k != number and now[k, 2] > -1
        ]
        return free_spot(rng, layout, spec.radius, taken, 0.45), False

    def _act(self, number: int, start: int, length: int) -> None:
        """Reach, grasp, carry, release and withdraw, in `length` steps from `start`."""
        rng, spec = self.rng, self.objects[number]
        share = rng.uniform(0.7, 1.3, 5) * [0.24, 0.06, 0.42, 0.06, 0.22]
        ends = start + np.round(np.cumsum(share) / share.sum() * length).astype(int)
        goal, vanishes = self._goal(number, start)
        origin = self.positions[start, number].copy()
        if origin[2] < -1:
            origin = self._pocket()
            self.positions[start : ends[1], number] = NOWHERE
        lift = np.array([0, 0, min(0.75 * spec.height, max(spec.height - 0.005, 0.01)) + 0.045])
        via = (origin + goal) / 2
        via += [rng.uniform(-0.12, 0.08), rng.uniform(-0.1, 0.1), rng.uniform(0.15, 0.4)]
        lean, turn, yaw = rng.uniform(-0.9, 0.9), rng.uniform(-1.5, 1.5), self.yaw[start, number]
        back = self.rest + rng.normal(0, 0.05, 3)
        for t in range(start, min(start + length, self.steps)):
            phase = int(np.searchsorted(ends, t, side="right"))
            first = start if phase == 0 else int(ends[phase - 1])
            u = smooth((t - first + 1) / max(1, int(ends[min(phase, 4)]) - first))
            if phase == 0:
                bump = [0, 0, 0.12 * math.sin(math.pi * u)]
                self.hand[t] = self.at + (origin + lift - self.at) * u + bump
                self.grip[t] = 0.2 - 0.2 * u
            elif phase == 1:
                self.hand[t], self.grip[t] = origin + lift, u
                self.held[t] = number
            elif phase == 2:
                spot = (1 - u) ** 2 * origin + 2 * u * (1 - u) * via + u * u * goal
                self.hand[t], self.grip[t] = spot + lift, 1.0
                self.held[t] = number
                self.positions[t:, number] = spot
                self.yaw[t:, number] = yaw + turn * u
                self.tilt[t, number] = lean * math.sin(math.pi * u) ** 2
            elif phase == 3:
                self.positions[t:, number] = NOWHERE if vanishes else goal
                self.hand[t], self.grip[t] = goal + lift, 1 - u
                self.held[t] = -1 if vanishes else number
            else:
                bump = [0, 0, 0.08 * math.sin(math.pi * u)]
                self.hand[t] = (goal + lift) * (1 - u) + back * u + bump
        last = start + length
        self.positions[min(last, self.steps) :, number] = NOWHERE if vanishes else goal
        self.yaw[min(last, self.steps) :, number] = yaw + turn
        self.at = back
        wait = int(rng.integers(*self.config.absent_steps)) if vanishes else 0
        self.return_step[number] = last + wait


def _gaze(
    rng: np.random.Generator, config: SimulationConfig, layout: Layout, hand: Array
) -> tuple[Array, Array]:
    """Positions of the head (T, 3) and of the gaze (T, 3).

    The gaze follows the hand, low-pass filtered, with jitter and glances elsewhere.
    """
    steps = len(hand)
    mean = sum(config.glance_steps) / 2
    start = config.glance_share / max(1e-6, mean * (1 - config.glance_share))
    edge = CENTRE_X - layout.half_x
    base = np.array([edge - rng.uniform(-0.02, 0.08), rng.uniform(-0.1, 0.1),
                     layout.height + rng.uniform(0.42, 0.68)])  # fmt: skip
    look, looked = hand[0].copy(), np.zeros((steps, 3))
    head = np.zeros((steps, 3))
    shake, sway, elsewhere, left = np.zeros(3), np.zeros(3), np.zeros(3), 0
    for t in range(steps):
        if left == 0 and rng.random() < start:
            left = int(rng.integers(config.glance_steps[0], config.glance_steps[1] + 1))
            side = rng.choice([-1, 1]) * rng.uniform(0.7, 2.0)
            elsewhere = np.array([rng.uniform(-0.4, 1.2), side, rng.uniform(0.4, 1.8)])
        target = elsewhere if left > 0 else hand[t] + [0.1, 0, 0.02]
        left = max(0, left - 1)
        look = look + 0.45 * (target - look)
        shake = 0.85 * shake + rng.normal(0, 0.015, 3)
        sway = 0.9 * sway + rng.normal(0, 0.006, 3)
        looked[t] = look + shake
        head[t] = base + sway + 0.12 * np.clip(look, -0.5, 0.5) * [1, 1, 0]
        away = looked[t] - head[t]
        if np.hypot(away[0], away[1]) < 0.12:  # never straight down, where the image would spin
            looked[t, 0] = head[t, 0] + 0.15
    return head, looked


def draw_motion(
    rng: np.random.Generator, config: SimulationConfig, layout: Layout,
    objects: Sequence[ObjectSpec], moved: int, steps: int,
) -> MotionPlan:  # fmt: skip
    """A random plan of `steps` steps; the first `moved` objects are carried around."""
    planner = _Planner(rng, config, layout, objects, moved, steps)
    planner.run()
    head, gaze = _gaze(rng, config, layout, planner.hand)
    return MotionPlan(planner.positions, planner.yaw, planner.tilt, planner.hand, planner.grip,
                      head, gaze, planner.held)  # fmt: skip
