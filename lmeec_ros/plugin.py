"""What lmeec_ros adds to the `lmeec` command; see :class:`lmeec_core.cli.plugins.Plugin`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from lmeec_core.recordings import RecordingSource
from lmeec_ros.tools import commands

if TYPE_CHECKING:
    from lmeec_core.marking.source import MarkSource
    from lmeec_core.sync.offsets import Motion
    from lmeec_core.viewing.moments import Predictions


def register(app: typer.Typer) -> None:
    """Add the sub-commands that need ROS."""
    app.command("play")(commands.play_command)
    app.command("record")(commands.record_command)
    app.command("demo")(commands.demo_command)
    app.command("soak")(commands.soak_command)


def bag_source() -> RecordingSource:
    """Return the source with which `lmeec track` and `lmeec view` read bags."""
    from lmeec_ros.offline.bag_source import BagSource

    return BagSource()


def bag_predictions(path: Path, problems: list[str]) -> Predictions:
    """Return the masks in a bag, as predictions.

    Args:
        path: the bag.
        problems: receives a text for each thing that could not be read.
    """
    from lmeec_ros.offline.bag_view import MaskBagPredictions

    found = MaskBagPredictions(path)
    problems += found.lost
    return found


def bag_motion(path: Path, problems: list[str]) -> dict[str, Motion]:
    """Return the image motion of a bag's cameras, for `lmeec info --offsets`.

    Args:
        path: the bag.
        problems: receives a text for each thing that could not be read.
    """
    from lmeec_ros.offline.bag_motion import bag_motion

    return bag_motion(path, problems)


def live_marking(node: str) -> MarkSource:
    """Return the cameras and masks of a running node, for `lmeec mark --live`."""
    from lmeec_ros.tools.live_marking import open_live

    return open_live(node)


def bench_node(console: Console) -> dict[str, Any]:
    """Measure and print the time that the node adds to a step; return the figures."""
    from lmeec_ros.tools.bench import measure_node, show_node

    edge = measure_node(console)
    show_node(edge, console)
    return edge
