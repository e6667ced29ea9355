"""How a picture shows each of the node's topics; see pictures.py.

What a panel shows is read from its message, but for the background: the camera's image, and in
space the cameras, and the pale surroundings, which come from the depth images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from lmeec_core import overlay
from lmeec_core.calibration import Calibration
from lmeec_ros.points.depth import POINT

Numbers = NDArray[Any]
MARGIN = 0.12
"""Metres around the objects that a panel in space shows."""


@dataclass(frozen=True)
class Shown:
    """What the node published of one set, and what is behind it.

    Attributes:
        messages: topic, as the table in docs/interface.md writes it, to its message.
        image: the target camera's, RGB (H, W, 3).
        calibration: of all cameras.
        surroundings: points (N, 3) that the depth images show.
        colours: of these (N, 3), from 0 to 1.
        target: name of the camera.
    """

    messages: Mapping[str, Any]
    image: Numbers
    calibration: Calibration
    surroundings: Numbers
    colours: Numbers
    target: str


def pixels_of(image: Any, dtype: Any, channels: int = 1) -> Numbers:
    """The pixels of a sensor_msgs/Image: (H, W), or (H, W, channels)."""
    shape = (image.height, image.width) + ((channels,) if channels > 1 else ())
    return np.frombuffer(bytes(image.data), dtype).reshape(shape)


def shade(label: int) -> tuple[float, float, float]:
    """The colour of a label, as matplotlib has it."""
    red, green, blue = overlay.colour(label - 1)
    return red / 255, green / 255, blue / 255


# -- panels of images ----------------------------------------------------------------------------


def draw_overlay(axes: Any, shown: Shown, message: Any) -> None:
    axes.imshow(pixels_of(message, np.uint8, 3))


def draw_masks(axes: Any, shown: Shown, message: Any) -> None:
    """The masks where their boxes say, the centroids, and presence and score of each object."""
    canvas = np.full((message.height, message.width, 3), 0.93)
    for one in message.masks:
        if one.visible:
            box, inside = one.roi, pixels_of(one.mask, np.uint8) > 0
            rows = slice(box.y_offset, box.y_offset + box.height)
            canvas[rows, box.x_offset : box.x_offset + box.width][inside] = shade(one.label)
            left, top = box.x_offset - 0.5, box.y_offset - 0.5
            axes.add_patch(
                Rectangle((left, top), box.width, box.height, fill=False, lw=0.6, ls=":")
            )
            axes.plot(one.centroid_x, one.centroid_y, "+", color="black", markersize=7)
    axes.imshow(canvas)
    for row, one in enumerate(message.masks):
        seen = f"visible, score {one.score:.2f}" if one.visible else "not visible"
        text = f"{one.object_id}: presence {one.presence:.2f}, {seen}"
        plate = {"facecolor": shade(one.label), "alpha": 0.6, "pad": 1.2, "lw": 0}
        axes.text(8, 20 + 21 * row, text, fontsize=8, va="center", clip_on=True, bbox=plate)


def draw_label_image(axes: Any, shown: Shown, message: Any) -> None:
    """The image's values, written at the place of each."""
    labels = pixels_of(message, np.uint16)
    canvas = np.zeros((*labels.shape, 3))
    for label in np.unique(labels[labels > 0]):
        canvas[labels == label] = shade(int(label))
    axes.imshow(canvas)
    for label in np.unique(labels[labels > 0]):
        rows, columns = np.nonzero(labels == label)
        middle, plate = (columns.mean(), rows.mean()), {"color": "white", "alpha": 0.8, "pad": 1}
        axes.text(*middle, str(label), ha="center", va="center", weight="bold", bbox=plate)
    axes.text(8, labels.shape[0] - 12, "0", color="white", fontsize=10, weight="bold")


def draw_label_info(axes: Any, shown: Shown, message: Any) -> None:
    rows = [(one.class_id, one.class_name) for one in message.class_map]
    step = min(0.1, 0.9 / max(1, len(rows)))
    for row, (label, name) in enumerate(rows):
        y = 0.93 - step * row
        axes.add_patch(Rectangle((0.06, y - 0.028), 0.08, 0.056, color=shade(label)))
        axes.text(0.2, y, f"{label}   {name}", va="center", fontsize=10)
    axes.text(0.06, 0.02, f"threshold {message.threshold:.2f}", fontsize=8)


def draw_detections(axes: Any, shown: Shown, message: Any) -> None:
    axes.imshow(shown.image)
    labels = {one.class_name: one.class_id for one in shown.messages[LABEL_INFO].class_map}
    for one in message.detections:
        middle, width, height = one.bbox.center.position, one.bbox.size_x, one.bbox.size_y
        left, top, colour = middle.x - width / 2, middle.y - height / 2, shade(labels[one.id])
        axes.add_patch(Rectangle((left, top), width, height, fill=False, color=colour, lw=2))
        _name(axes, left, top, f"{one.id}  {one.results[0].hypothesis.score:.2f}", colour)


def draw_camera_info(axes: Any, shown: Shown, message: Any) -> None:
    masks, k = shown.messages[MASKS].header, message.k
    same = "that of the masks" if message.header == masks else "NOT that of the masks"
    _write(axes, [
        f"header.stamp: {message.header.stamp.sec}.{message.header.stamp.nanosec:09d}",
        f"header.frame_id: {message.header.frame_id}", f"   ({same})", "",
        f"width, height: {message.width}, {message.height}",
        f"distortion_model: {message.distortion_model}",
        "k:", *("   " + "  ".join(f"{v:8.2f}" for v in k[i : i + 3]) for i in (0, 3, 6)),
        f"d: {[round(float(v), 4) for v in message.d]}",
    ])  # fmt: skip


def draw_status(axes: Any, shown: Shown, message: Any) -> None:
    _write(axes, [f"level: {_level(message)}", f"message: {message.message}", "",
                  *(f"{one.key}: {one.value}" for one in message.values)])  # fmt: skip


def draw_diagnostics(axes: Any, shown: Shown, message: Any) -> None:
    lines: list[str] = []
    for one in message.status:
        lines += [f"{_level(one)}  {one.name}", f"      {one.message}"]
    _write(axes, lines)


def _level(status: Any) -> str:
    return ("OK", "WARN", "ERROR", "STALE")[ord(status.level)]


def _name(axes: Any, x: float, y: float, text: str, colour: Any) -> None:
    x = min(x, max(axes.get_xlim()) - 9.5 * len(text))  # all of it within the image
    plate = {"facecolor": colour, "alpha": 0.75, "pad": 1.2, "edgecolor": "none"}
    axes.text(x, max(y, 26) - 3, text, fontsize=8, va="bottom", clip_on=True, bbox=plate)


def _write(axes: Any, lines: list[str], most: int = 22, width: int = 54) -> None:
    left = len(lines) - most
    lines = [line if len(line) <= width else line[: width - 3] + "..." for line in lines[:most]]
    lines += [f"... and {left} lines more"] if left > 0 else []
    axes.text(0.03, 0.97, "\n".join(lines), va="top", fontsize=7.5, family="monospace")


# -- panels in space -----------------------------------------------------------------------------


def draw_points(axes: Any, shown: Shown, message: Any) -> None:
    """Every camera, and a ray from each that was used to each point."""
    places = {one.object_id: _place(one.point.point) for one in message.points}
    cameras = shown.calibration.poses
    corners = np.stack([*places.values(), *(pose.position for pose in cameras.values())])
    _frame(axes, shown, corners.min(0) - 0.2, corners.max(0) + 0.2, size=0.5, zoom=0.95)
    for name, pose in cameras.items():
        _camera(axes, shown, name)
        axes.text(*(pose.position + [0, 0, 0.13]), name, fontsize=9, weight="bold", ha="center")
    for one in message.points:
        at, colour = places[one.object_id], shade(one.label)
        for camera in one.cameras:
            axes.plot(*np.stack([cameras[camera].position, at]).T, color=colour, lw=0.9)
        axes.scatter(*at[:, None], s=30, color=[colour], edgecolors="black", linewidths=0.6)


def draw_markers(axes: Any, shown: Shown, message: Any) -> None:
    """Spheres, boxes and texts, of the size and colour that each marker says."""
    drawn = [one for one in message.markers if one.action == one.ADD]
    objects = [one for one in drawn if one.type in (one.SPHERE, one.CUBE)]
    _near_objects(axes, shown)
    for one in objects:
        at, size = _place(one.pose.position), _place(one.scale)
        colour = (one.color.r, one.color.g, one.color.b)
        if one.type == one.CUBE:
            _box(axes, at, size, colour, one.color.a)
        else:
            u, v = np.mgrid[0 : 2 * np.pi : 17j, 0 : np.pi : 9j]
            ball = np.stack([np.cos(u) * np.sin(v), np.sin(u) * np.sin(v), np.cos(v)])
            axes.plot_surface(*(at + ball.T * size / 2).T, color=colour, alpha=one.color.a, lw=0)
    for one in drawn:
        if one.type == one.TEXT_VIEW_FACING:
            axes.text(*_place(one.pose.position), one.text, fontsize=8, ha="center", zorder=99)


def draw_space_detections(axes: Any, shown: Shown, message: Any) -> None:
    """Each detection's box, or a cross where it has no size, with its id and score."""
    labels = {one.class_name: one.class_id for one in shown.messages[LABEL_INFO].class_map}
    _near_objects(axes, shown)
    for one in message.detections:
        at, size = _place(one.bbox.center.position), _place(one.bbox.size)
        if size.any():
            _box(axes, at, size, shade(labels[one.id]), 0.1)
        else:
            axes.scatter(
                *at[:, None], s=60, marker="x", color=[shade(labels[one.id])], linewidths=2
            )
        text = f"{one.id}  {one.results[0].hypothesis.score:.2f}"
        axes.text(*(at + [0, 0, size[2] / 2 + 0.03]), text, fontsize=8, ha="center", zorder=99)


def draw_clouds(axes: Any, shown: Shown, message: Any) -> None:
    points, places = _cloud(message)
    colours = np.stack([points["rgb"] >> shift & 255 for shift in (16, 8, 0)], axis=1) / 255
    _near_objects(axes, shown)
    axes.scatter(*places.T, s=1.8, c=colours, linewidths=0)
    names = {one.class_id: one.class_name for one in shown.messages[LABEL_INFO].class_map}
    for label in np.unique(points["label"]):
        own = places[points["label"] == label]
        top = [*((own.min(0) + own.max(0)) / 2)[:2], own[:, 2].max() + 0.03]
        axes.text(*top, names[int(label)], fontsize=8, ha="center", zorder=99)


def _place(point: Any) -> Numbers:
    return np.array([point.x, point.y, point.z])


def _cloud(message: Any) -> tuple[Numbers, Numbers]:
    """The points of ~/clouds as they are, and their places (N, 3)."""
    points = np.frombuffer(bytes(message.data), POINT)
    return points, np.stack([points[axis] for axis in "xyz"], axis=1)


def _near_objects(axes: Any, shown: Shown) -> None:
    """The part of space that all panels but that of the cameras show: around ~/clouds."""
    _, places = _cloud(shown.messages[CLOUDS])
    _frame(axes, shown, places.min(0) - MARGIN, places.max(0) + MARGIN, size=1.2)


def _frame(
    axes: Any, shown: Shown, low: Numbers, high: Numbers, size: float, zoom: float = 1.2
) -> None:
    """A part of space with its surroundings, seen from where the target camera stands."""
    axes.computed_zorder = False  # by the middle of each: the surroundings would hide the objects
    near = ((shown.surroundings > low) & (shown.surroundings < high)).all(axis=1)
    pale = 1 - 0.4 * (1 - shown.colours[near])
    axes.scatter(*shown.surroundings[near].T, s=size, c=pale, linewidths=0, zorder=0)
    for name, start, end in zip("xyz", low, high, strict=True):
        getattr(axes, f"set_{name}lim")(start, end)
        getattr(axes, f"set_{name}label")(f"{name} [m]", fontsize=7, labelpad=-6)
    away = shown.calibration.poses[shown.target].position - (low + high) / 2
    axes.view_init(elev=32, azim=float(np.degrees(np.arctan2(away[1], away[0]))) + 12)
    axes.set_box_aspect(high - low, zoom=zoom)
    axes.tick_params(labelsize=6, pad=-3)
    axes.locator_params(nbins=4)


def _camera(axes: Any, shown: Shown, name: str, depth: float = 0.16) -> None:
    """A pyramid from a camera's centre to the corners of its image."""
    pose, lens = shown.calibration.poses[name], shown.calibration.lenses[name]
    width, height = lens.size
    rays = lens.rays(np.array([(0, 0), (width, 0), (width, height), (0, height)]))
    corners = rays / rays[:, 2:] * depth @ pose.rotation.T + pose.position
    for one, other in zip(corners, np.roll(corners, 1, axis=0), strict=True):
        axes.plot(*np.stack([one, other]).T, color="black", lw=0.9)
        axes.plot(*np.stack([pose.position, one]).T, color="black", lw=0.9)


def _box(axes: Any, at: Numbers, size: Numbers, colour: Any, alpha: float) -> None:
    from mpl_toolkits.mplot3d.art3d import Poly3DCollection

    corner = (
        np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) * size / 2 + at
    )
    faces = ((0, 1, 3, 2), (4, 5, 7, 6), (0, 1, 5, 4), (2, 3, 7, 6), (0, 2, 6, 4), (1, 3, 7, 5))
    axes.add_collection3d(Poly3DCollection(
        [corner[list(face)] for face in faces], facecolor=(*colour, alpha), edgecolor=colour, lw=1.2
    ))  # fmt: skip


MASKS, LABEL_INFO, CLOUDS = "~/<target>/masks", "~/<target>/label_info", "~/clouds"
Draw = Callable[[Any, Shown, Any], None]
IMAGES: dict[str, Draw] = {
    "~/<target>/overlay": draw_overlay,
    MASKS: draw_masks,
    "~/<target>/label_image": draw_label_image,
    LABEL_INFO: draw_label_info,
    "~/<target>/detections": draw_detections,
    "~/<target>/camera_info": draw_camera_info,
    "~/status": draw_status,
    "/diagnostics": draw_diagnostics,
}
SPACE: dict[str, Draw] = {
    "~/points": draw_points,
    "~/points/markers": draw_markers,
    "~/points/detections": draw_space_detections,
    CLOUDS: draw_clouds,
    "~/clouds/markers": draw_markers,
    "~/clouds/detections": draw_space_detections,
}
