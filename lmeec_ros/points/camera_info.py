"""A camera's intrinsics and position from sensor_msgs/CameraInfo."""

from __future__ import annotations

from typing import Any

import numpy as np

from lmeec_core.calibration import intrinsics
from lmeec_core.geometry import GeometryError, Intrinsics, Vector


def lens_of(info: Any, rectified: bool) -> Intrinsics:
    """Return the intrinsics of the raw or the rectified image from a CameraInfo message.

    K and P refer to the full sensor, the image to its region of interest. The size returned is that
    of the region before binning; images of another size with the same aspect ratio are scaled.

    Args:
        info: the CameraInfo.
        rectified: whether the image is rectified (P is used, without distortion).

    Raises:
        GeometryError: if the camera is not calibrated, or its region or binning is invalid.
    """
    region, full = info.roi, (int(info.width), int(info.height))
    size, corner = full, (int(region.x_offset), int(region.y_offset))
    if region.width or region.height:  # all 0 means the whole image
        size = int(region.width), int(region.height)
    inside = all(s > 0 and c + s <= f for s, c, f in zip(size, corner, full, strict=True))
    if (size != full or corner != (0, 0)) and not inside:
        raise GeometryError(
            "calibration",
            f"CameraInfo with a region of interest of {size[0]} x {size[1]} at {corner} given; one "
            f"inside the image of {full[0]} x {full[1]}, or 0 for the whole image, expected",
        )
    binning = max(1, info.binning_x), max(1, info.binning_y)
    if binning[0] != binning[1]:
        raise GeometryError(
            "calibration",
            f"CameraInfo with binning {binning[0]} x {binning[1]} given; equal binning in both "
            "directions expected (or put the intrinsics of the binned image into the calibration "
            "file)",
        )
    matrix = np.array(info.p).reshape(3, 4)[:, :3] if rectified else np.array(info.k).reshape(3, 3)
    matrix[:2, 2] -= corner
    if rectified:
        return intrinsics(size, matrix.ravel(), [], "plumb_bob")
    return intrinsics(size, matrix.ravel(), info.d, info.distortion_model)


def centre_of(info: Any, rectified: bool) -> Vector:
    """Return the camera's position in the frame of its header: (3,), metres.

    It is the origin, except for the second camera of a rectified stereo pair, whose P = [.. Tx ..]
    refers to the frame of the first camera: Tx = -fx * baseline.

    Args:
        info: the CameraInfo.
        rectified: whether the image is rectified.
    """
    if not rectified:
        return np.zeros(3)
    p = np.array(info.p).reshape(3, 4)
    return np.array([-p[0, 3] / p[0, 0], -p[1, 3] / p[1, 1], 0.0])
