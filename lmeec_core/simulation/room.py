"""Rooms: the work surface, walls and floor, furniture, clutter, lights.

The wearer sits at negative x and looks along +x; y is to the left; z is up; metres.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lmeec_core.simulation.builder import SceneBuilder
from lmeec_core.simulation.config import SimulationConfig
from lmeec_core.simulation.textures import colour, draw_texture

Array = NDArray[np.float64]

LAYOUTS = ("table", "table", "round", "counter", "bench", "island", "floor")
_WALLS = (
    "plain", "noise", "brick", "stripes", "dots", "checker", "wood", "gradient", "tiles", "plaid",
)  # fmt: skip
_FLOORS = ("wood", "wood", "checker", "noise", "brick", "tiles", "marble", "stains")
_SURFACES = ("wood", "wood", "noise", "plain", "marble", "stripes", "stains", "gradient")
_CLUTTER = ("plain", "label", "wood", "stripes", "noise", "checker", "dots", "stains")


@dataclass(frozen=True)
class Layout:
    """Layout of the room and the surface; metres."""

    kind: str
    height: float  # of the surface
    half_x: float
    half_y: float
    room: float  # half width of the room
    far_wall: float  # x of the wall in front of the wearer
    stool: tuple[float, float, float] | None  # top of a side stool
    bin: tuple[float, float] | None  # centre of the open box on the surface
    bin_size: tuple[float, float]  # half width, height

    def inside(self, x: float, y: float, margin: float) -> bool:
        """Whether a point is on the surface, at least `margin` from its edge."""
        if self.kind == "round":
            return math.hypot(x - CENTRE_X, y) < self.half_x - margin
        return abs(x - CENTRE_X) < self.half_x - margin and abs(y) < self.half_y - margin


CENTRE_X = 0.06
"""x of the centre of the surface, in metres."""


def draw_layout(rng: np.random.Generator, config: SimulationConfig) -> Layout:
    """Draw a random layout."""
    kind = LAYOUTS[int(rng.integers(len(LAYOUTS)))]
    height = {"floor": 0.02, "counter": 0.9, "island": 0.88, "bench": 0.85}.get(kind, 0.74)
    height += 0.0 if kind == "floor" else float(rng.uniform(-0.05, 0.05))
    half_x, half_y = float(rng.uniform(0.38, 0.52)), float(rng.uniform(0.55, 0.95))
    if kind == "round":
        half_x = half_y = float(rng.uniform(0.48, 0.62))
    room = float(rng.uniform(1.8, 3.0))
    walled = kind in ("counter", "bench")
    stool = bin_at = None
    if kind != "floor" and rng.random() < 0.5:
        side = float(rng.choice([-1, 1]))
        stool = (-0.15, side * (half_y + 0.28), height - float(rng.uniform(0.1, 0.3)))
    if rng.random() < config.bin_share:
        bin_at = (float(rng.uniform(-0.1, 0.12)), float(rng.uniform(-0.3, 0.3)))
    size = (float(rng.uniform(0.1, 0.13)), float(rng.uniform(0.1, 0.17)))
    far = CENTRE_X + half_x + 0.04 if walled else room
    return Layout(kind, height, half_x, half_y, room, far, stool, bin_at, size)


def add_room(rng: np.random.Generator, build: SceneBuilder, layout: Layout, split: str) -> None:
    """Add the floor and four walls, with a shared texture or one each."""
    w = layout.room
    floor = draw_texture(rng, split, _FLOORS, (0.02, 0.5), (0.2, 0.9))
    build.geometry("plane", build.textured(floor, (float(rng.integers(3, 9)),) * 2, cube=False,
                   specular=0.2, shininess=0.2), (w, w, 0.1))  # fmt: skip
    shared = rng.random() < 0.5
    material = ""
    for number, (x, y) in enumerate([(1, 0), (-1, 0), (0, 1), (0, -1)]):
        if number == 0 or not shared:
            texture = draw_texture(rng, split, _WALLS, (0.0, 0.55), (0.4, 0.98))
            repeat = (float(rng.integers(1, 6)), float(rng.integers(1, 5)))
            material = build.textured(texture, repeat, 0.1, 0.1, cube=False)
        at = layout.far_wall if number == 0 else w
        side = np.array([0, 0, 1.0])
        normal = np.array([-x, -y, 0.0])
        turn = np.stack([np.cross(side, normal), side, normal], axis=1)
        build.geometry(
            "plane", material, (w, 1.5, 0.1), (x * at, y * at, 1.4), rotation_matrix=turn
        )


def add_surface(
    rng: np.random.Generator, build: SceneBuilder, layout: Layout, split: str, mirror: bool
) -> None:
    """Add the table, counter, bench, island or rug, with its support."""
    h, a, b = layout.height, layout.half_x, layout.half_y
    image = draw_texture(rng, split, _SURFACES, (0.0, 0.6), (0.2, 0.95))
    gloss = (float(rng.uniform(0, 0.5)), float(rng.uniform(0.1, 0.7)))
    repeat = float(rng.integers(1, 4))
    shine = float(rng.uniform(0.08, 0.3)) if mirror else 0.0
    top = build.textured(image, (repeat, repeat), *gloss, reflectance=shine, cube=False)
    edge = build.flat(image.reshape(-1, 3).mean(0) * 0.85)
    leg = build.flat(colour(rng, (0.0, 0.4), (0.1, 0.8)))
    if layout.kind == "round":
        disc = build.textured(image, (1, 1), *gloss)
        build.geometry("cylinder", disc, (a, 0.02), (CENTRE_X, 0, h - 0.02))
        build.geometry("cylinder", leg, (0.05, h / 2 - 0.02), (CENTRE_X, 0, h / 2 - 0.02))
        return
    thick = 0.01 if layout.kind == "floor" else 0.02
    build.geometry("box", edge, (a, b, thick), (CENTRE_X, 0, h - thick))
    build.geometry("plane", top, (a - 0.002, b - 0.002, 0.1), (CENTRE_X, 0, h + 0.0008))
    if layout.kind in ("counter", "island"):
        front = build.textured(draw_texture(rng, split, _WALLS, (0, 0.5), (0.3, 0.95)))
        build.geometry(
            "box", front, (a - 0.03, b - 0.02, h / 2 - 0.03), (CENTRE_X, 0, h / 2 - 0.03)
        )
    elif layout.kind in ("table", "bench"):
        for x in (-1, 1):
            for y in (-1, 1):
                at = (CENTRE_X + x * (a - 0.05), y * (b - 0.05), h / 2 - 0.02)
                build.geometry("box", leg, (0.03, 0.03, h / 2 - 0.02), at)


def add_containers(
    rng: np.random.Generator, build: SceneBuilder, layout: Layout, split: str
) -> None:
    """Add the side stool and the open box, if the layout has them."""
    if layout.stool is not None:
        x, y, z = layout.stool
        wood = build.textured(draw_texture(rng, split, _CLUTTER))
        build.geometry("box", wood, (0.17, 0.17, 0.015), (x, y, z - 0.015))
        build.geometry("cylinder", wood, (0.04, z / 2), (x, y, z / 2))
    if layout.bin is not None:
        (x, y), (half, tall) = layout.bin, layout.bin_size
        wall = build.textured(draw_texture(rng, split, _CLUTTER))
        z = layout.height + tall / 2
        for side in (-1, 1):
            build.geometry("box", wall, (0.004, half, tall / 2), (x + side * half, y, z))
            build.geometry("box", wall, (half, 0.004, tall / 2), (x, y + side * half, z))


def add_clutter(
    rng: np.random.Generator, build: SceneBuilder, layout: Layout, config: SimulationConfig,
    split: str, sights: Sequence[tuple[Array, Array]],
) -> None:  # fmt: skip
    """Add furniture and pictures along the walls, a shelf of things, occluders on the surface.

    `sights` are lines (from, to) that furniture must not block: the views of the exo cameras.
    """
    w, pool = layout.room, []
    for _ in range(int(rng.integers(3, 7))):  # a few materials for all clutter in the scene
        pool.append(build.textured(draw_texture(rng, split, _CLUTTER)))
    pool += [build.flat(colour(rng)) for _ in range(4)]

    def pick() -> str:
        return pool[int(rng.integers(len(pool)))]

    for _ in range(int(rng.integers(3, 9))):  # furniture
        angle, away = rng.uniform(0, 2 * np.pi), w * rng.uniform(0.8, 0.95)
        x, y, size = away * math.cos(angle), away * math.sin(angle), rng.uniform(0.08, 0.4, 3)
        size[2] *= 2
        clear = all(_distance(x, y, *line) > 0.3 + max(size[0], size[1]) for line in sights)
        if clear and x + size[0] < layout.far_wall:
            form = "box" if rng.random() < 0.7 else "cylinder"
            dims = size[[0, 2]] if form == "cylinder" else size
            build.geometry(form, pick(), dims, (x, y, size[2]))
    for _ in range(int(rng.integers(0, 5))):  # pictures
        across, up = rng.uniform(-0.8, 0.8) * w, rng.uniform(0.9, 2.0)
        wide, tall = rng.uniform(0.12, 0.5, 2)
        if rng.random() < 0.5:
            build.geometry("box", pick(), (0.01, wide, tall), (layout.far_wall - 0.005, across, up))
        else:
            side = rng.choice([-1, 1])
            build.geometry("box", pick(), (wide, 0.01, tall), (across, side * (w - 0.005), up))
    if rng.random() < 0.5 or layout.kind in ("counter", "bench"):
        _add_shelf(rng, build, layout, pool)
    for _ in range(int(rng.integers(config.occluders[0], config.occluders[1] + 1))):
        tall = rng.uniform(0.06, 0.18)
        y = rng.choice([-1, 1]) * rng.uniform(0.15, max(0.2, layout.half_y - 0.1))
        x = CENTRE_X + rng.uniform(0.5, 0.85) * layout.half_x
        if layout.inside(x, y, 0.05):
            foot = (rng.uniform(0.03, 0.08), rng.uniform(0.03, 0.11), tall)
            at, turn = (x, y, layout.height + tall), (0.0, 0.0, float(rng.uniform(0, 90)))
            build.geometry("box", pick(), foot, at, turn)


def _distance(x: float, y: float, start: Array, end: Array) -> float:
    """Distance of (x, y) from the segment between two points, in the ground plane."""
    along = (end - start)[:2]
    point = np.array([x, y]) - start[:2]
    u = float(np.clip(point @ along / max(float(along @ along), 1e-9), 0, 1))
    return float(np.hypot(*(point - u * along)))


def _add_shelf(
    rng: np.random.Generator, build: SceneBuilder, layout: Layout, pool: list[str]
) -> None:
    """Add a shelf on the far wall with a row of boxes, balls and jars."""
    wide, z = rng.uniform(0.4, 0.9), layout.height + rng.uniform(0.45, 0.8)
    x, y0 = layout.far_wall - 0.1, rng.uniform(-0.4, 0.4)
    build.geometry("box", pool[-1], (0.1, wide, 0.012), (x, y0, z))
    y = -wide + 0.05
    while y < wide - 0.05:
        size = rng.uniform(0.02, 0.07, 3)
        form = ("box", "box", "cylinder", "ellipsoid")[int(rng.integers(4))]
        dims = size[[0, 2]] if form == "cylinder" else size
        material = pool[int(rng.integers(len(pool)))]
        build.geometry(form, material, dims, (x, y0 + y, z + 0.012 + size[2]))
        y += float(2.2 * max(size[0], size[1]) + rng.uniform(0, 0.15))


def add_lights(
    rng: np.random.Generator, build: SceneBuilder, layout: Layout, shadows: bool
) -> None:
    """Add one to three lights above the surface, ambient light and sky."""
    count = int(rng.integers(1, 4))
    warmth = rng.uniform(-1, 1)
    for number in range(count):
        position = np.array([rng.uniform(-1.3, 1.3), rng.uniform(-1.3, 1.3), rng.uniform(1.7, 2.8)])
        aim = np.array([rng.normal(0, 0.15), rng.normal(0, 0.2), layout.height]) - position
        tint = np.array([1 + 0.12 * warmth, 1.0, 1 - 0.2 * warmth]) * rng.uniform(0.85, 1.1, 3)
        diffuse = np.clip(rng.uniform(0.5, 1.1) / count**0.5 * tint, 0, 1)
        build.light(position, aim, diffuse, shadows and number == 0, bool(rng.random() < 0.5),
                    float(rng.uniform(50, 80)))  # fmt: skip
    build.ambience(
        float(rng.uniform(0.18, 0.5)), float(rng.uniform(0.05, 0.3)),
        colour(rng, (0, 0.3), (0.3, 0.95)) / 255,
    )  # fmt: skip
