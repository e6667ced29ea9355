"""The formats of datasets, by name."""

from __future__ import annotations

from lmeec_core.datasets.coco import Coco
from lmeec_core.datasets.davis import Labels
from lmeec_core.datasets.episode import Format
from lmeec_core.datasets.hdf5 import Hdf5
from lmeec_core.datasets.lerobot import LeRobot
from lmeec_core.datasets.webdataset import WebDataset


def format_named(name: str) -> Format:
    """The format with a name: lerobot, hdf5, coco, davis, mots or webdataset."""
    formats: tuple[Format, ...] = (
        LeRobot(), Hdf5(), Coco(), Labels("davis"), Labels("mots"), WebDataset(),
    )  # fmt: skip
    return {one.name: one for one in formats}[name]
