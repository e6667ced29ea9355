"""Cameras: their placement, and the effects of lens and sensor on an image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from lmeec_core.geometry import Intrinsics, Vector
from lmeec_core.simulation.builder import SceneBuilder
from lmeec_core.simulation.config import SimulationConfig
from lmeec_core.simulation.person import look_at
from lmeec_core.simulation.room import CENTRE_X, Layout

Image = NDArray[np.uint8]
_NOISE_MAPS: dict[int, NDArray[np.int16]] = {}


def camera_names(exo_cameras: int) -> tuple[str, ...]:
    """Names as in EgoExo4D: `aria01` (ego), `cam01`, `cam02`, ..."""
    return ("aria01", *(f"cam{i + 1:02d}" for i in range(exo_cameras)))


@dataclass(frozen=True)
class ExoPose:
    """A fixed camera: position and aim (metres), roll and field of view (degrees)."""

    position: NDArray[np.float64]
    aim: NDArray[np.float64]
    roll: float
    field_of_view: float


def draw_exo_cameras(
    rng: np.random.Generator, layout: Layout, config: SimulationConfig
) -> list[ExoPose]:
    """Draw fixed cameras around the surface, some of which show only part of it."""
    walled = layout.far_wall < layout.room
    spread = 75.0 if walled else 115.0
    start = rng.uniform(-spread, spread)
    step = rng.choice([-1, 1]) * rng.uniform(40, 110)
    poses = []
    for number in range(config.exo_cameras):
        azimuth = start + number * step
        azimuth = math.radians((azimuth + spread) % (2 * spread) - spread)
        if walled and abs(azimuth) < math.radians(40):
            azimuth = math.copysign(math.radians(rng.uniform(45, 100)), azimuth)
        away = rng.uniform(0.85, min(1.8, layout.room - 0.2))
        height = layout.height + rng.uniform(0.3, 1.1)
        x, y = CENTRE_X + away * math.cos(azimuth), away * math.sin(azimuth)
        x = float(np.clip(x, 0.1 - layout.room, layout.far_wall - 0.08))
        y = float(np.clip(y, 0.1 - layout.room, layout.room - 0.1))
        aim = np.array([rng.normal(-0.05, 0.1), rng.normal(0, 0.13), layout.height + 0.08])
        view = rng.uniform(40, 62)
        if rng.random() < config.tight_share:
            aim[:2] = rng.uniform(-0.2, 0.25), rng.uniform(-0.35, 0.35)
            view = rng.uniform(18, 32)
        position = np.array([x, y, height])
        poses.append(ExoPose(position, aim, float(rng.normal(0, 3)), float(view)))
    return poses


def add_exo_cameras(build: SceneBuilder, poses: list[ExoPose]) -> None:
    """Add the cameras `exo0`, `exo1`, ..."""
    for number, pose in enumerate(poses):
        turn = look_at(pose.position, pose.aim, pose.roll)
        build.camera(f"exo{number}", pose.field_of_view, pose.position, turn)


def _noise_map(index: int) -> NDArray[np.int16]:
    """Standard normal noise times 64, (600, 600), the same in every process."""
    if index not in _NOISE_MAPS:
        rng = np.random.default_rng([index, 79])
        _NOISE_MAPS[index] = (64 * rng.standard_normal((600, 600))).astype(np.int16)
    return _NOISE_MAPS[index]


@dataclass(frozen=True)
class CameraEffects:
    """Exposure, colour, vignetting, blur, noise and distortion of one camera over a take."""

    tables: NDArray[np.uint8]  # (256, 3) maps input to output levels
    shading: NDArray[np.float32] | None  # (S, S, 1) vignetting
    blur: float
    noise: float
    motion_blur: float
    jpeg: float
    maps: tuple[NDArray[np.float32], NDArray[np.float32]] | None  # source of each pixel
    bend: float = 0.0  # distortion; 0 without maps

    @classmethod
    def draw(
        cls, rng: np.random.Generator, config: SimulationConfig, ego: bool, size: int
    ) -> CameraEffects:
        """Draw the effects of a camera with images of `size` x `size` pixels."""
        gamma, gain = rng.uniform(0.7, 1.3), rng.uniform(0.8, 1.25)
        balance = rng.uniform(0.88, 1.12, 3)
        grey = np.arange(256)[:, None] / 255
        tables = np.clip(255 * balance * gain * grey**gamma + rng.uniform(-8, 12), 0, 255)
        y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j].astype(np.float32)
        square = x * x + y * y
        dark = rng.uniform(0, 0.4) if ego else rng.uniform(0, 0.2)
        shading = (1 - dark * square / 2)[..., None].astype(np.float32) if dark > 0.08 else None
        bend = rng.uniform(0, config.distortion) if ego else 0.0
        maps = None
        if bend > 0.01:  # barrel: corners stay in place, the centre is magnified
            scale = (1 + bend * square) / (1 + 2 * bend)
            maps = tuple(((v * scale + 1) * (size - 1) / 2).astype(np.float32) for v in (x, y))
        unit = size / 256
        return cls(
            tables.astype(np.uint8), shading,
            blur=float(unit * config.blur * rng.uniform(0.3, 1.3) * (1.2 if ego else 1.0)),
            noise=float(rng.uniform(*config.noise)),
            motion_blur=config.motion_blur if ego else config.motion_blur / 5,
            jpeg=config.jpeg_share, maps=maps,  # type: ignore[arg-type]
            bend=0.0 if maps is None else float(bend),
        )  # fmt: skip

    def labels(self, labels: NDArray[Any]) -> NDArray[Any]:
        """Apply the lens to labels or depth (S, S); nearest neighbour, so nothing is mixed."""
        if self.maps is None:
            return labels
        return cv2.remap(labels, *self.maps, cv2.INTER_NEAREST)

    def lens(self, field_of_view: float, size: int) -> Intrinsics:
        """The lens in the form used by a calibration.

        Args:
            field_of_view: vertical, degrees, before distortion.
            size: side of the image, pixels.
        """
        half = math.tan(math.radians(field_of_view) / 2)
        middle = (size - 1) / 2
        # Without distortion, the outer edges of the border pixels are at `half`.
        focal = size / 2 / half
        if not self.bend:
            return Intrinsics((size, size), _matrix(focal, middle), np.zeros(0))
        focal *= 1 + 2 * self.bend
        return Intrinsics(
            (size, size), _matrix(focal, middle), _bent(self.bend, middle / focal),
            "rational_polynomial",
        )  # fmt: skip

    def image(self, rgb: Image, rng: np.random.Generator) -> Image:
        """An ideal image (S, S, 3) as this camera would record it."""
        size = rgb.shape[0]
        if self.maps is not None:
            rgb = cv2.remap(rgb, *self.maps, cv2.INTER_LINEAR)  # type: ignore[assignment]
        if rng.random() < self.motion_blur:
            rgb = _smear(rgb, rng.uniform(2, 6) * size / 256, rng.uniform(0, 180))
        if self.blur > 0.15:
            rgb = cv2.GaussianBlur(rgb, (0, 0), self.blur)  # type: ignore[assignment]
        out: Any = cv2.LUT(rgb, self.tables[:, None, :].transpose(1, 0, 2))
        if self.shading is not None:
            out = (out * self.shading).astype(np.uint8)
        if self.noise > 0.3:
            # A window of a stored map, tiled above 300 px: far cheaper than new noise.
            side, tile = min(size, 300), _noise_map(int(rng.integers(6)))
            row, column = (int(v) for v in rng.integers(0, 600 - side, 2))
            window = tile[row : row + side, column : column + side]
            repeats = -(-size // 300)
            grain = np.tile(window, (repeats, repeats))[:size, :size].astype(np.float32)
            grain *= self.noise / 64
            out = np.clip(out + grain[..., None], 0, 255).astype(np.uint8)
        if rng.random() < self.jpeg:
            quality = int(rng.integers(55, 95))
            data = cv2.imencode(".jpg", out[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
            decoded: Any = cv2.imdecode(data, cv2.IMREAD_COLOR)
            out = np.ascontiguousarray(decoded[..., ::-1])
        return np.asarray(out, np.uint8)


def _matrix(focal: float, middle: float) -> Vector:
    return np.array([[focal, 0, middle], [0, focal, middle], [0, 0, 1.0]])


def _bent(bend: float, edge: float) -> Vector:
    """OpenCV's rational polynomial for the lens of :meth:`CameraEffects.draw`.

    There, the distorted point p (1 at the image's edge) comes from p (1 + b |p|^2) / (1 + 2 b).
    OpenCV's model maps the other way, from r to r (1 + k1 r^2 + ..) / (1 + k4 r^2 + ..), so its
    coefficients are fitted.

    Args:
        bend: b.
        edge: tangent of the angle at the edge of the distorted image.
    """
    seen = np.linspace(0.01, 1.5, 200)  # beyond the corners, at the root of 2
    factor = 1 + bend * seen**2
    square = (seen * edge * factor) ** 2  # r^2, undistorted
    powers = np.stack([square, square**2, square**3], axis=1)
    # 1 / factor = (1 + P) / (1 + Q), linear in the coefficients: P factor - Q = 1 - factor.
    system = np.concatenate([powers * factor[:, None], -powers], axis=1)
    found = np.linalg.lstsq(system, 1 - factor, rcond=None)[0]
    return np.array([found[0], found[1], 0, 0, found[2], *found[3:]])


def _smear(rgb: Image, length: float, angle: float) -> Image:
    """Blur along a line of `length` pixels at `angle` degrees."""
    half = max(1, round(length / 2))
    kernel = np.zeros((2 * half + 1, 2 * half + 1), np.float32)
    dx, dy = math.cos(math.radians(angle)) * half, math.sin(math.radians(angle)) * half
    ends = [(round(half + s * dx), round(half + s * dy)) for s in (-1, 1)]
    cv2.line(kernel, ends[0], ends[1], 1.0)
    return cv2.filter2D(rgb, -1, kernel / kernel.sum())  # type: ignore[return-value]
