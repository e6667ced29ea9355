"""Centroids of a simulated scene's true masks give the objects' places in the scene."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from lmeec_core.geometry import GeometryError, View, triangulate
from lmeec_core.simulation import config
from lmeec_core.simulation.backend import RenderingError
from lmeec_core.simulation.render import SceneRenderer
from lmeec_core.simulation.scene import Scene
from lmeec_core.simulation.truth import box_of


def seen(scene: Scene, labels: list[np.ndarray]) -> list[list[View]]:
    """Views of each object by every camera that sees it."""
    found = []
    for number in range(len(scene.objects)):
        views = []
        for camera, image in enumerate(labels):
            y, x = np.nonzero(image == number + 1)
            if len(x) >= 20:
                lens, pose = scene.lens(camera), scene.camera_pose(camera)
                views.append(View(lens, pose, np.array([x.mean(), y.mean()])))
        found.append(views)
    return found


def test_true_masks_give_the_true_places() -> None:
    scene = Scene(38, config.level("easy", exo_cameras=2, distortion=0.0), "test", 192, 30)
    try:
        renderer = SceneRenderer(scene)
    except RenderingError as error:
        pytest.skip(str(error))
    with renderer:
        scene.pose(0)
        objects = seen(scene, [renderer.shoot(0, camera)[1] for camera in range(3)])
    shares = []
    for number, views in enumerate(objects):
        found = triangulate(views, max_error=5.0, min_angle=3.0)
        low, high = box_of(scene, number)
        off, diagonal = np.linalg.norm(found.point - (low + high) / 2), np.linalg.norm(high - low)
        shares.append(float(off / diagonal))
    # A mask's centroid is not quite the image of the middle, and other things cover parts of it.
    assert len(shares) >= 3 and max(shares) < 0.11, shares
    assert min(shares) < 0.02  # one lies free
    mixed = list(permutations(range(len(shares)), 2))  # masks that belong to different objects
    refused = 0
    for one, other in mixed:
        try:
            triangulate([objects[one][0], *objects[other][1:]], max_error=5.0, min_angle=3.0)
        except GeometryError as error:
            assert error.kind in ("error", "behind")
            refused += 1
    assert refused > 0.8 * len(mixed)  # some lie on one another's rays


@pytest.mark.slow
def test_how_far_true_masks_lead() -> None:
    """The README's figures (`-s` prints them)."""
    settings = config.level("normal", exo_cameras=3, distortion=0.0)
    distances, errors = [], []
    for seed in range(8):
        scene = Scene(seed, settings, "test", 256, 40)
        try:
            renderer = SceneRenderer(scene)
        except RenderingError as error:
            pytest.skip(str(error))
        with renderer:
            for step in (0, 10, 20, 30, 39):
                scene.pose(step)
                labels = [renderer.shoot(step, camera)[1] for camera in range(4)]
                for number, views in enumerate(seen(scene, labels)):
                    if len(views) >= 2:
                        found = triangulate(views, max_error=1e9, min_angle=3.0)
                        middle = np.mean(box_of(scene, number), axis=0)
                        distances.append(np.linalg.norm(found.point - middle))
                        errors.append(found.error)
    median, most = 1000 * np.percentile(distances, [50, 90])
    within = float(np.mean(np.array(errors) <= 10))
    print(
        f"{len(distances)} points: {median:.0f} mm, 90 % {most:.0f} mm, {within:.0%} <= 10 pixels"
    )
    assert median < 35 and most < 90 and within > 0.9
