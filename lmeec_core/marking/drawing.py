"""The pictures of the page: images with masks, and prompts as SVG."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lmeec_core.marking.source import Seen
from lmeec_core.overlay import BACKGROUND, Colour, draw_masks
from lmeec_core.prompts import Prompt
from lmeec_core.prompts.prompt import Point
from lmeec_core.takes.images import encode_jpeg
from lmeec_core.tracker import Image

POSITIVE, NEGATIVE = "#2ee66b", "#ff4545"


def picture(image: Image | None, seen: Mapping[str, Seen], colours: Mapping[str, Colour]) -> bytes:
    """An image with its masks as JPEG; a dark image if there is none."""
    if image is None:
        image = np.full((270, 480, 3), BACKGROUND, dtype=np.uint8)
    masks = {name: one.mask for name, one in seen.items()}
    return encode_jpeg(draw_masks(image, masks, colours=colours), 85)


def css(colour: Colour) -> str:
    """A colour in CSS notation."""
    return f"#{colour[0]:02x}{colour[1]:02x}{colour[2]:02x}"


def prompts_svg(prompts: Mapping[str, Prompt], colours: Mapping[str, Colour], width: float) -> str:
    """The points and boxes on one image, as SVG elements.

    Args:
        prompts: by object.
        colours: by object.
        width: width of the image in pixels; points and lines are scaled with it.
    """
    unit = width / 480
    parts = []
    for name, prompt in prompts.items():
        colour = css(colours[name])
        if prompt.box is not None:
            parts.append(box_svg(prompt.box[:2], prompt.box[2:], colour, width))
        for (x, y), label in zip(prompt.points, prompt.labels, strict=True):
            sign = f"M{x - 3 * unit:.1f} {y:.1f}h{6 * unit:.1f}"
            sign += f"M{x:.1f} {y - 3 * unit:.1f}v{6 * unit:.1f}" if label else ""
            parts.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{6 * unit:.1f}" fill="{colour}" '
                f'stroke="{POSITIVE if label else NEGATIVE}" stroke-width="{2 * unit:.1f}"/>'
                f'<path d="{sign}" stroke="white" stroke-width="{1.6 * unit:.1f}"/>'
            )
    return "".join(parts)


def box_svg(start: Point, end: Point, colour: str, width: float) -> str:
    """A box between two opposite corners, as an SVG element."""
    (x0, x1), (y0, y1) = (sorted(pair) for pair in zip(start, end, strict=True))
    return (
        f'<rect x="{x0:.1f}" y="{y0:.1f}" width="{x1 - x0:.1f}" height="{y1 - y0:.1f}" '
        f'fill="none" stroke="{colour}" stroke-width="{2 * width / 480:.1f}"/>'
    )
