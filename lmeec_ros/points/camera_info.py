"""What a sensor_msgs/CameraInfo says of the camera: its lens, and where it stands."""

from __future__ import annotations

from typing import Any

import numpy as np

from lmeec_core.calibration import intrinsics
from lmeec_core.geometry import GeometryError, Intrinsics, Vector


def lens_of(info: Any, rectified: bool) -> Intrinsics:
    """The intrinsics in a CameraInfo message, of the raw or of the rectified image.

    K and P are those of the whole sensor; the image is its region of interest. Its size is that of
    the region before binning, since an image of another size and the same shape will do.

    Raises:
        GeometryError: if it is not calibrated, or its region or binning cannot be.
    """
    region, full = info.roi, (int(info.width), int(info.height))
    size, corner = full, (int(region.x_offset), int(region.y_offset))
    if region.width or region.height:  # all 0 is the whole image, as is that of its size
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
            f"CameraInfo with binning or a region of another shape given ({binning[0]} x "
            f"{binning[1]} pixels are one); the same in both directions expected, or put the lens "
            "of the image as it is into the calibration file",
        )
    matrix = np.array(info.p).reshape(3, 4)[:, :3] if rectified else np.array(info.k).reshape(3, 3)
    matrix[:2, 2] -= corner
    if rectified:
        return intrinsics(size, matrix.ravel(), [], "plumb_bob")
    return intrinsics(size, matrix.ravel(), info.d, info.distortion_model)


def centre_of(info: Any, rectified: bool) -> Vector:
    """Where the camera stands in the frame of its header: (3,), in that frame's unit.

    It is the origin, but for the second camera of a rectified stereo pair, whose P = [.. Tx ..]
    refers to the first one's frame: Tx = -fx * baseline.
    """
    if not rectified:
        return np.zeros(3)
    p = np.array(info.p).reshape(3, 4)
    return np.array([-p[0, 3] / p[0, 0], -p[1, 3] / p[1, 1], 0.0])
