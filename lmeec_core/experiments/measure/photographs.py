"""Pairs of views made from single photographs, with a homography in place of a second camera.

The masks are exact because both views show the same picture. Exposure, colour, blur and noise
differ. Each object is sought in several views of its own picture, and in other pictures, where it
is absent. The photographs come from packages installed on the machine; this module holds only their
paths and a box around each object, in which GrabCut finds the mask.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from lmeec_core.correspondence import Method
from lmeec_core.errors import InputError
from lmeec_core.evaluation import FrameScore, Scores, iou
from lmeec_core.preprocessing import MAX_SIDE
from lmeec_core.takes.json_file import read_json

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]

VIEWS, SIDE = 6, 640
"""Number of views per object; larger pictures are resized to this longer side, in pixels."""
QUERY, VIEW = "picture", "view"


class Package(NamedTuple):
    """Location of a package's photographs, relative to a module's folder or the root directory."""

    module: str | None
    folder: str
    licence: str


PACKAGES = {
    "scikit-image": Package(
        "skimage", "data",
        "astronaut: NASA, public domain; rocket: SpaceX, CC0 1.0",
    ),
    "scikit-learn": Package(
        "sklearn", "datasets/images",
        "CC BY 2.0 (china: danielbuechele, flower: vultilion, both on Flickr)",
    ),
    "opencv-doc": Package(
        None, "usr/share/doc/opencv-doc/examples/data",
        "Apache-2.0 with OpenCV's samples (Debian package opencv-doc)",
    ),
    "lomiri-wallpapers-16.04": Package(
        None, "usr/share/backgrounds",
        "CC BY 4.0 (Picture_0B: Trevor Freespace, Wine: Jakub Mede, friends: Aitzol Berasategi), "
        "CC BY-SA 4.0 (free: Peter Nerlich), CC0 (seeding: Clemens Engelhardt)",
    ),
    "lomiri-wallpapers-20.04": Package(
        None, "usr/share/backgrounds", "CC BY-SA 3.0 (Kleiber: Lukas Baubkus)"
    ),
    "mate-backgrounds": Package(
        None, "usr/share/backgrounds/mate/nature", "GPL-2+ (LadyBird: Charles Barbin)"
    ),
    "plasma-workspace-wallpapers": Package(
        None, "usr/share/wallpapers", "GPL-2+ (ColorfulCups: Dmitri Popov)"
    ),
}  # fmt: skip

Box = tuple[int, int, int, int]
"""x, y, width and height, in pixels of the original picture."""
BOXES: dict[str, dict[str, dict[str, Box]]] = {
    "opencv-doc": {
        "stuff.jpg": {
            "lighter": (305, 300, 67, 172),
            "cap": (178, 12, 100, 95),
            "disc": (322, 110, 145, 155),
        },
        "squirrel_cls.jpg": {"squirrel": (95, 98, 270, 260)},
        "butterfly.jpg": {"butterfly": (3, 65, 485, 232)},
        "smarties.png": {
            "orange one of many": (172, 176, 68, 70),
            "blue one of many": (259, 285, 70, 68),
            "red one of many": (185, 272, 70, 70),
        },
        "fruits.jpg": {"slice": (80, 45, 250, 433), "lime": (345, 115, 166, 190)},
        "rubberwhale1.png": {"teal figure": (200, 80, 118, 108), "wheel": (75, 290, 115, 97)},
        "aloeL.jpg": {"pot": (700, 810, 400, 300)},
    },
    "scikit-image": {
        "astronaut.png": {"helmet": (275, 330, 236, 180)},
        "rocket.jpg": {"rocket": (300, 110, 40, 320)},
    },
    "scikit-learn": {
        "flower.jpg": {"flower": (150, 72, 290, 298)},
        "china.jpg": {"pagoda": (70, 15, 280, 330)},
    },
}

WALLPAPERS: dict[str, dict[str, dict[str, Box]]] = {
    "lomiri-wallpapers-16.04": {
        "Picture_0B_by_freespace.jpg": {
            "fig": (1040, 590, 800, 740),
            "bowl": (560, 190, 2010, 1540),
        },
        "Wine_by_Jakkub_Mede.jpg": {"drum": (110, 1850, 1560, 1050)},
        "free_by_Peter_Nerlich.jpg": {
            "bird": (700, 1230, 1200, 640),
            "lamp": (1330, 260, 980, 780),
        },
        "friends_by_Aitzol_Berasategi.jpg": {"dog": (600, 690, 510, 560)},
        "seeding_by_Clements_Engelhardt.jpg": {"seed head": (640, 200, 1780, 1620)},
    },
    "lomiri-wallpapers-20.04": {
        "Kleiber_by_Lukas_Baubkus.jpg": {"bird": (2380, 1100, 1000, 1250)},
    },
    "mate-backgrounds": {"LadyBird.jpg": {"ladybird": (1640, 680, 300, 260)}},
    "plasma-workspace-wallpapers": {
        "ColorfulCups/contents/images/2560x1600.jpg": {
            "blue one of many": (1010, 890, 720, 600),
            "pink one of many": (1560, 600, 660, 440),
        },
    },
}
"""Photographs of Debian's wallpapers, kept for a verdict; choices are made on :data:`BOXES`."""


class Picture(NamedTuple):
    """A photograph and the masks of its objects, by name."""

    name: str
    image: Image
    objects: dict[str, Mask]


def _read(path: Path) -> Image:
    image = cv2.imread(str(path))
    if image is None or max(image.shape) > MAX_SIDE:
        raise InputError(f"{path}: not readable as a picture of at most {MAX_SIDE} pixels a side")
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)


def grab(image: Image, box: Box) -> Mask:
    """The object in a box: the largest connected part of what GrabCut finds in it.

    Raises:
        InputError: GrabCut finds nothing.
    """
    labels = np.zeros(image.shape[:2], np.uint8)
    cv2.setRNGSeed(0)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.grabCut(image[..., ::-1].copy(), labels, box, *models, 5, cv2.GC_INIT_WITH_RECT)
    count, parts, stats, _ = cv2.connectedComponentsWithStats(labels & 1)
    if count < 2:
        raise InputError(f"box {box}: no object was found in it")
    return np.asarray(parts == 1 + stats[1:, cv2.CC_STAT_AREA].argmax())


def _folder(package: Package, roots: Sequence[Path]) -> list[Path]:
    """Possible folders of a package's pictures: unpacked below one of the roots, or installed."""
    spec = importlib.util.find_spec(package.module) if package.module else None
    installed = [Path(p) / package.folder for p in (spec.submodule_search_locations or ())] \
        if spec else ([] if package.module else [Path("/", package.folder)])  # fmt: skip
    return [Path(r, package.module or "", package.folder) for r in roots] + installed


def of_packages(
    roots: Sequence[Path] = (), boxes: dict[str, dict[str, dict[str, Box]]] | None = None
) -> tuple[list[Picture], list[str]]:
    """The photographs of packages that exist on this machine.

    Args:
        roots: folders into which packages were unpacked, in addition to installed packages.
        boxes: package, file and object to a box; default: :data:`BOXES`.

    Returns:
        the pictures; and a line for each missing one, with the folders that were searched.
    """
    found, missing = [], []
    for name, files in (BOXES if boxes is None else boxes).items():
        folders = _folder(PACKAGES[name], roots)
        for file, own in files.items():
            path = next((f / file for f in folders if (f / file).is_file()), None)
            if path is None:
                places = ", ".join(str(f) for f in folders) or "the package is not installed"
                missing.append(f"{file} of {name} ({places})")
                continue
            image, scale = _shrunk(_read(path))
            objects = {
                key: grab(image, (int(x * scale), int(y * scale), int(w * scale), int(h * scale)))
                for key, (x, y, w, h) in own.items()
            }
            found.append(Picture(f"{name}/{file}", image, objects))
    return found, missing


def _shrunk(image: Image) -> tuple[Image, float]:
    scale = min(1.0, SIDE / max(image.shape[:2]))
    if scale == 1:
        return image, scale
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.uint8), scale


def of_folder(folder: Path) -> list[Picture]:
    """Outlined pictures; outlines.json maps "picture|object" to polygons.

    Raises:
        InputError: the outlines or a picture cannot be read.
    """
    pictures: dict[str, Picture] = {}
    for key, contours in read_json(folder / "outlines.json").items():
        file, _, name = key.partition("|")
        if file not in pictures:
            pictures[file] = Picture(file, _read(folder / file), {})
        mask = np.zeros(pictures[file].image.shape[:2], np.uint8)
        cv2.fillPoly(mask, [np.array(c, np.int32) for c in contours], 1)
        pictures[file].objects[name] = mask > 0
    return list(pictures.values())


def views(image: Image, mask: Mask, seed: int, count: int = VIEWS) -> Iterator[tuple[Image, Mask]]:
    """A picture and a mask as another camera might see them.

    The corners are moved by up to a fifth of the image's side, and the image is rotated by up to 35
    degrees and scaled by 0.7 to 1.3; normally at least half of the object's area stays in view.

    Args:
        image: RGB uint8 (H, W, 3). mask: bool (H, W). seed: for all random choices.
        count: number of views.
    """
    random = np.random.default_rng(seed)
    height, width = mask.shape
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    for _ in range(count):
        for _ in range(50):
            moved = corners + (random.uniform(-0.2, 0.2, (4, 2)) * (width, height)).astype(
                np.float32
            )
            angle, scale = random.uniform(-35, 35), random.uniform(0.7, 1.3)
            turn = cv2.getRotationMatrix2D((width / 2, height / 2), angle, scale)
            matrix = np.vstack((turn, (0, 0, 1))) @ cv2.getPerspectiveTransform(corners, moved)
            seen = cv2.warpPerspective(mask.astype(np.uint8), matrix, (width, height))
            if seen.sum() > 0.5 * mask.sum():
                break
        out: NDArray[Any] = cv2.warpPerspective(
            image, matrix, (width, height), flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REFLECT
        )
        out = 255 * (out / 255.0) ** random.uniform(0.6, 1.6) * random.uniform(0.85, 1.15, 3)
        out = cv2.GaussianBlur(out, (0, 0), random.uniform(0.3, 1.5))
        out = out + random.normal(0, random.uniform(1, 8), out.shape)
        yield np.clip(out, 0, 255).astype(np.uint8), np.asarray(seen > 0)


def score_picture(
    method: Method, picture: Picture, others: Sequence[Picture], first: int, count: int = VIEWS
) -> Scores:
    """Look for each object of a picture in views of it, and in other pictures, where it is absent.

    Args:
        method: makes trackers.
        picture, others: the picture with the objects; pictures without them.
        first: seed for the first object's views, incremented for each following object.
        count: number of views per object.
    """
    scores = Scores("homographies of photographs")

    def seek(name: str, target: str, image: Image, truth: Mask | None) -> None:
        tracker = method.tracker("query", ("target",))
        images = {"query": picture.image, "target": image}
        found = tracker.step(images, {name: picture.objects[name]})["target"][name]
        overlap = None if truth is None else iou(found.mask(), truth)
        scores.records.append(
            FrameScore(
                picture.name,
                name,
                QUERY,
                target,
                0,
                truth is not None,
                found.visible(),
                overlap,
                presence=found.presence,
            )  # fmt: skip
        )

    for number, (name, mask) in enumerate(picture.objects.items()):
        for k, (image, truth) in enumerate(views(picture.image, mask, first + number, count)):
            seek(name, f"{VIEW} {k}", image, truth)
        for other in others:
            seek(name, other.name, other.image, None)
    return scores
