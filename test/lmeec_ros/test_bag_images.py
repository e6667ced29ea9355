"""Images and query masks of every encoding, from bags by another maker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from foreign_bags import (
    COMPRESSED,
    compressed,
    found,
    labels,
    one_set,
    picture,
    raw,
    track,
    values,
    write,
)
from lmeec_ros.inference.pipeline import read_image, read_query_masks
from lmeec_ros.offline import bag_units
from lmeec_ros.parameters import config as parameters

GREY = cv2.cvtColor(picture(50), cv2.COLOR_RGB2GRAY)
DEEP = (GREY.astype(np.uint16) << 8) | 0x5A
RGB = picture(50)
ALPHA = np.dstack([RGB, np.full(RGB.shape[:2], 9, np.uint8)])
COLOUR = {
    "rgb8": raw(RGB, "rgb8"),
    "rgb8, padded rows": raw(RGB, "rgb8", pad=5),
    "bgr8": raw(RGB[:, :, ::-1], "bgr8"),
    "8UC3": raw(RGB[:, :, ::-1], "8UC3"),
    "rgba8": raw(ALPHA, "rgba8"),
    "bgra8": raw(ALPHA[:, :, [2, 1, 0, 3]], "bgra8"),
    "PNG": compressed(RGB, ".png"),
}
MONO = {
    "mono8": raw(GREY, "mono8", pad=3),
    "8UC1": raw(GREY, "8UC1"),
    "mono16": raw(DEEP, "mono16"),
    "mono16, big endian": raw(DEEP, "mono16", big=True),
    "16UC1": raw(DEEP, "16UC1", pad=2),
    "grey PNG": compressed(GREY, ".png"),
    "16 bit PNG": compressed(DEEP, ".png"),
}


@pytest.mark.parametrize("name", [*COLOUR, *MONO, "JPEG"])
def test_images_of_every_encoding(tmp_path: Path, name: str) -> None:
    make = {**COLOUR, **MONO, "JPEG": compressed(RGB, ".jpg")}[name]
    bag = write(tmp_path / "bag", one_set(exo=make))
    transport = "compressed" if make(0).__msgtype__ == COMPRESSED else "raw"
    config = parameters.load(values(cameras__exo__transport=transport))
    ((_, messages),) = bag_units.RecordedSets(bag, config)
    expected = RGB if name not in MONO else np.repeat(GREY[:, :, None], 3, axis=2)
    image = read_image(config, "exo", messages.targets["exo"])
    assert image.shape == (60, 80, 3) and image.dtype == np.uint8
    assert np.abs(image.astype(int) - expected).max() <= (24 if name == "JPEG" else 0)


@pytest.mark.parametrize("name", ["bgra8", "PNG", "16UC1", "JPEG"])
def test_tracking_sees_the_same_pixels(tmp_path: Path, name: str) -> None:
    make = {**COLOUR, **MONO, "JPEG": compressed(RGB, ".jpg")}[name]
    transport = "compressed" if make(0).__msgtype__ == COMPRESSED else "raw"
    results = []
    for number, (content, kind) in enumerate(((make, transport), (None, "raw"))):
        if content is None:  # the pixels as they have to be read, as plain rgb8
            config = parameters.load(values(cameras__exo__transport=transport))
            content = raw(read_image(config, "exo", make(0)), "rgb8")
        bag = write(tmp_path / f"bag{number}", one_set(exo=content))
        out = tmp_path / f"{number}.json"
        result = track(bag, out, cameras__exo__transport=kind)
        assert result.exit_code == 0, result.output
        results.append(found(out))
    assert results[0] == results[1] and len(results[0]) == 1


WIDE = labels(0).astype(np.uint16) * 300


@pytest.mark.parametrize(
    ("make", "label"),
    [
        (raw(labels(0), "8UC1", pad=7), 1),
        (raw(labels(0), "mono8"), 1),
        (raw(WIDE, "16UC1"), 300),
        (raw(WIDE, "mono16", big=True), 300),
        (compressed(labels(0), ".png"), 1),
        (compressed(WIDE, ".png"), 300),
    ],
)
def test_query_masks_of_every_encoding(tmp_path: Path, make: Any, label: int) -> None:
    bag = write(tmp_path / "bag", one_set(masks=make))
    transport = "compressed" if make(0).__msgtype__ == COMPRESSED else "raw"
    config = parameters.load(
        values(query_masks__transport=transport, objects=[f"{label}:cup", "9:knife"])
    )
    ((_, messages),) = bag_units.RecordedSets(bag, config)
    masks = read_query_masks(config, bag_units.LabelTable(config.objects), messages.masks)
    assert masks["knife"] is None and list(masks) == ["cup", "knife"]
    np.testing.assert_array_equal(masks["cup"], labels(0) == 1)
