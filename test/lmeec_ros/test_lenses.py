"""The lens that a CameraInfo describes, and the topic where it is looked for."""

from __future__ import annotations

import numpy as np
import pytest
from sensor_msgs.msg import RegionOfInterest

from lmeec_core.geometry import GeometryError
from lmeec_ros.parameters import config as parameters
from lmeec_ros.points import points as geometry
from located_scene import info


def test_the_lens_in_a_camera_info() -> None:
    raw = geometry.lens_of(info(), rectified=False)
    assert raw.size == (80, 60) and raw.matrix[0, 0] == 70 and raw.distortion[0] == 0.1
    flat = geometry.lens_of(info(), rectified=True)
    assert flat.matrix[0, 0] == 50 and flat.matrix[0, 2] == 39 and not flat.distortion.size
    with pytest.raises(GeometryError, match="not calibrated"):
        geometry.lens_of(info([0.0] * 9), rectified=False)
    with pytest.raises(GeometryError, match="equal binning"):
        geometry.lens_of(info(binning_x=2), rectified=False)


def region(x: int, y: int, width: int, height: int) -> RegionOfInterest:
    return RegionOfInterest(x_offset=x, y_offset=y, width=width, height=height)


@pytest.mark.parametrize("rectified", [False, True])
def test_a_region_of_interest_is_a_part_of_the_same_lens(rectified: bool) -> None:
    full = geometry.lens_of(info(), rectified)
    for whole in (region(0, 0, 0, 0), region(0, 0, 80, 60)):
        one = geometry.lens_of(info(roi=whole), rectified)
        assert one.size == full.size and (one.matrix == full.matrix).all()
    part = geometry.lens_of(info(roi=region(10, 4, 40, 30)), rectified)
    points = np.array([[0.05, -0.02, 1.0], [-0.1, 0.1, 0.7]])
    np.testing.assert_allclose(part.project(points), full.project(points) - [10, 4])
    assert part.size == (40, 30)
    # Binning: fewer pixels of the same image, as for any other size.
    binned = geometry.lens_of(info(roi=region(10, 4, 40, 30), binning_x=2, binning_y=2), rectified)
    np.testing.assert_allclose(binned.scaled(np.zeros(2), (20, 15)), [0.5, 0.5])
    for wrong in (region(50, 4, 40, 30), region(0, 1, 80, 60), region(0, 0, 0, 30)):
        with pytest.raises(GeometryError, match="one inside the image of 80 x 60"):
            geometry.lens_of(info(roi=wrong), rectified)


def test_the_second_camera_of_a_stereo_pair() -> None:
    p = [50.0, 0.0, 39.0, -5.0, 0.0, 50.0, 29.0, 2.5, 0.0, 0.0, 1.0, 0.0]
    second = info(p=p)
    place = geometry.centre_of(second, rectified=True)
    np.testing.assert_allclose(place, [0.1, -0.05, 0])  # B = -Tx / fx
    # By the definition of P, for a point in the first camera's frame.
    point = np.array([0.2, 0.1, 2.0])
    u, v, w = np.array(p).reshape(3, 4) @ [*point, 1.0]
    lens = geometry.lens_of(second, rectified=True)
    np.testing.assert_allclose(lens.project((point - place)[None])[0], [u / w, v / w])
    assert not geometry.centre_of(second, rectified=False).any()


def test_where_camera_info_is_looked_for() -> None:
    values = {"cameras.ego.topic": "/head/image_raw", "cameras.exo.topic": "side/image/compressed"}
    values["cameras.exo.transport"] = "compressed"
    cameras = parameters.load(values).cameras
    assert cameras["ego"].camera_info == "/head/camera_info"
    assert cameras["exo"].camera_info == "side/camera_info"
    given = parameters.load({"cameras.exo.camera_info": "/info", "cameras.exo.topic": "image"})
    assert given.cameras["exo"].camera_info == "/info"
    assert parameters.load({"cameras.exo.topic": "image"}).cameras["exo"].camera_info == (
        "camera_info"
    )
