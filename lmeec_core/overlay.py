"""Masks drawn on images, contact sheets, and videos of them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from lmeec_core.errors import InputError
from lmeec_core.files import replacing
from lmeec_core.takes import resize_mask

Image = NDArray[np.uint8]
Colour = tuple[int, int, int]

PALETTE: tuple[Colour, ...] = (
    (230, 75, 53),
    (0, 160, 235),
    (255, 190, 30),
    (0, 175, 110),
    (200, 90, 210),
    (125, 205, 40),
    (255, 120, 170),
    (110, 110, 255),
)
TRUTH: Colour = (255, 255, 255)
BACKGROUND = 24
FONT = cv2.FONT_HERSHEY_SIMPLEX


def colour(index: int) -> Colour:
    """RGB colour of an object by its position (0, 1, ...); repeats after eight."""
    return PALETTE[index % len(PALETTE)]


class Colours(dict[str, Colour]):
    """Colours by object: each new object gets the next one."""

    def __missing__(self, name: str) -> Colour:
        self[name] = colour(len(self))
        return self[name]


def draw_masks(
    image: Image,
    masks: Mapping[str, NDArray[Any] | None],
    *,
    colours: Mapping[str, Colour] | None = None,
    truth: Mapping[str, NDArray[Any] | None] | None = None,
    alpha: float = 0.5,
    thickness: int | None = None,
) -> Image:
    """Draw masks over an image.

    Args:
        image: RGB uint8 (H, W, 3); not changed.
        masks: by object; (h, w) of any size, nonzero = object, or None.
        colours: by object; default by position.
        truth: true masks by object, drawn as white outlines.
        alpha: weight of the colour inside a mask, 0 to 1. The outline is opaque.
        thickness: of outlines in pixels; by default one per 240 pixels of the image.

    Returns:
        RGB uint8 (H, W, 3).
    """
    drawn = image.copy()
    size = (image.shape[0], image.shape[1])
    thickness = thickness or max(1, round(min(size) / 240))
    for index, (name, mask) in enumerate(masks.items()):
        if mask is None:
            continue
        inside = resize_mask(mask, size)
        shade = np.asarray((colours or {}).get(name, colour(index)), dtype=np.float32)
        drawn[inside] = (drawn[inside] * (1 - alpha) + shade * alpha).astype(np.uint8)
        _outline(drawn, inside, tuple(int(v) for v in shade), thickness)
    for mask in (truth or {}).values():
        if mask is not None:
            _outline(drawn, resize_mask(mask, size), TRUTH, thickness)
    return drawn


def draw_marks(
    image: Image,
    points: Sequence[tuple[float, float]],
    box: tuple[float, float, float, float] | None,
    shade: Colour,
) -> Image:
    """Draw a prompt on a copy: points as white rings filled with the colour, and a box."""
    drawn = image.copy()
    radius = max(4, round(min(image.shape[:2]) / 70))
    if box is not None:
        x0, y0, x1, y1 = (round(v) for v in box)
        cv2.rectangle(drawn, (x0, y0), (x1, y1), shade, max(1, radius // 3), cv2.LINE_AA)
    for x, y in points:
        place = (round(x), round(y))
        cv2.circle(drawn, place, radius, shade, cv2.FILLED, cv2.LINE_AA)
        cv2.circle(drawn, place, radius, TRUTH, max(2, radius // 3), cv2.LINE_AA)
    return drawn


def caption(image: Image, lines: Sequence[str], colours: Sequence[Colour] = ()) -> Image:
    """Write lines of text on a dark background into the upper left corner of a copy."""
    scale = max(0.42, image.shape[0] / 800)
    thickness = 1 if scale < 0.8 else 2
    height = int(30 * scale) + 2
    drawn = image.copy()
    for index, line in enumerate(lines):
        shade = colours[index] if index < len(colours) else TRUTH
        # OpenCV's fonts only have ASCII, and show other characters as several question marks.
        text = line.encode("ascii", "replace").decode("ascii")
        position = (6, height * (index + 1) - int(6 * scale))
        width = cv2.getTextSize(text, FONT, scale, thickness)[0][0] + 12
        ground = drawn[height * index : height * (index + 1), :width]
        ground[:] = ground // 5
        cv2.putText(drawn, text, position, FONT, scale, shade, thickness, cv2.LINE_AA)
    return drawn


def fit(image: Image, height: int, width: int) -> Image:
    """Scale an image to fit into (height, width), on a dark background; keeps the aspect ratio."""
    factor = min(height / image.shape[0], width / image.shape[1])
    size = (max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor)))
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    scaled = cv2.resize(image, size, interpolation=method)
    canvas: Image = np.full((height, width, 3), BACKGROUND, dtype=np.uint8)
    top, left = (height - size[1]) // 2, (width - size[0]) // 2
    canvas[top : top + size[1], left : left + size[0]] = scaled
    return canvas


def side_by_side(images: Sequence[Image], height: int, gap: int = 4) -> Image:
    """Put images of any sizes side by side at one height (made even, which videos need)."""
    height += height % 2
    parts: list[Image] = []
    for index, image in enumerate(images):
        width = max(2, round(image.shape[1] * height / image.shape[0]))
        if index:
            parts.append(np.full((height, gap, 3), BACKGROUND, dtype=np.uint8))
        parts.append(fit(image, height, width))
    row: Image = np.concatenate(parts, axis=1)
    if row.shape[1] % 2:
        row = np.pad(row, ((0, 0), (0, 1), (0, 0)), constant_values=BACKGROUND)
    return row


def contact_sheet(tiles: Sequence[Image], columns: int, title: Sequence[str] = ()) -> Image:
    """Arrange tiles in rows under a title; each cell has the size of the largest tile.

    Raises:
        ValueError: without tiles.
    """
    if not tiles or columns < 1:
        raise ValueError(f"{len(tiles)} tiles in {columns} columns: nothing to show")
    height = max(tile.shape[0] for tile in tiles)
    width = max(tile.shape[1] for tile in tiles)
    columns = min(columns, len(tiles))
    gap = 6
    blank: Image = np.full((height, width, 3), BACKGROUND, dtype=np.uint8)
    cells = [fit(tile, height, width) for tile in tiles]
    cells += [blank] * (-len(cells) % columns)
    padded = [np.pad(c, ((0, gap), (0, gap), (0, 0)), constant_values=BACKGROUND) for c in cells]
    rows = [
        np.concatenate(padded[start : start + columns], axis=1)
        for start in range(0, len(padded), columns)
    ]
    sheet: Image = np.concatenate(rows, axis=0)
    if title:
        head = np.full((24 * len(title) + 12, sheet.shape[1], 3), BACKGROUND, dtype=np.uint8)
        for index, line in enumerate(title):
            text = line.encode("ascii", "replace").decode("ascii")
            position = (8, 24 * (index + 1))
            cv2.putText(head, text, position, FONT, 0.55, TRUTH, 1, cv2.LINE_AA)
        sheet = np.concatenate([head, sheet], axis=0)
    return sheet


def write_png(path: str | os.PathLike[str], image: Image) -> None:
    """Write RGB uint8 (H, W, 3) as PNG, atomically.

    Raises:
        OSError: it cannot be written; names the file.
    """
    target = Path(path)
    done, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not done:
        raise ValueError(f"{target}: an image of shape {image.shape} could not be encoded")
    with replacing(target) as partial:
        partial.write_bytes(bytes(data))


def write_video(path: str | os.PathLike[str], frames: Iterable[Image], rate: float) -> Path:
    """Write frames as a video, one at a time in memory.

    Args:
        path: the file; its suffix is replaced by .mp4 (H.264, or MPEG-4 if that codec is
            missing) or, without the library av, by .gif.
        frames: RGB uint8 (H, W, 3), all of one size.
        rate: frames per second.

    Returns:
        The file that was written.

    Raises:
        InputError: there are no frames.
        ValueError: the sizes of the frames differ.
        OSError: the file cannot be written; names it.
    """
    try:
        import av  # noqa: F401
    except ImportError:
        return _write_gif(Path(path).with_suffix(".gif"), frames, rate)
    return _write_mp4(Path(path).with_suffix(".mp4"), frames, rate)


def _write_mp4(path: Path, frames: Iterable[Image], rate: float) -> Path:
    from fractions import Fraction

    import av

    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    size: tuple[int, ...] | None = None
    with replacing(path) as partial, av.open(str(partial), "w", format="mp4") as container:
        stream: Any = container.add_stream(codec, rate=Fraction(rate).limit_denominator(1000))
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            even = frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2]
            if size is None:
                size = even.shape
                stream.height, stream.width = size[:2]
                stream.bit_rate = 4_000_000
            if even.shape != size:
                raise ValueError(f"{path}: frames of shapes {size} and {even.shape}")
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
            container.mux(stream.encode(picture))
        if size is None:
            raise InputError(f"{path}: no frames to write")
        container.mux(stream.encode(None))
    return path


def _write_gif(path: Path, frames: Iterable[Image], rate: float) -> Path:
    from PIL import Image as Pillow

    pictures = (Pillow.fromarray(frame).quantize(128) for frame in frames)
    first = next(pictures, None)
    if first is None:
        raise InputError(f"{path}: no frames to write")
    with replacing(path) as partial:
        first.save(
            partial,
            format="GIF",
            save_all=True,
            append_images=pictures,
            duration=max(20, round(1000 / rate)),
            loop=0,
        )
    return path


def _outline(image: Image, mask: NDArray[np.bool_], shade: Any, thickness: int) -> None:
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(image, contours, -1, shade, thickness, cv2.LINE_AA)
