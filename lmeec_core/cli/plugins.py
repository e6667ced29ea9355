"""Commands that other packages add to `lmeec`, found by entry point.

A package registers an object with members of :class:`Plugin` (a module will do; all of them are
optional) under the entry-point group ``lmeec.plugins``. The ROS package does so; nothing here
imports it.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import typer
from rich.console import Console

from lmeec_core.errors import InputError
from lmeec_core.recordings import RecordingSource

if TYPE_CHECKING:
    from lmeec_core.marking.source import MarkSource
    from lmeec_core.sync.offsets import Motion
    from lmeec_core.viewing.moments import Predictions

GROUP = "lmeec.plugins"


class Plugin(Protocol):
    """What a package adds to `lmeec`. Nothing in it may import ROS before it is called."""

    def register(self, app: typer.Typer) -> None:
        """Add sub-commands."""

    def bag_source(self) -> RecordingSource:
        """The source that reads bags.

        Raises:
            ImportError: a package that it needs is not installed.
        """

    def bag_predictions(self, path: Path, problems: list[str]) -> Predictions:
        """The masks in a bag; parts that cannot be read are described in ``problems``.

        Raises:
            InputError: the bag holds no masks.
        """

    def bag_motion(self, path: Path, problems: list[str]) -> dict[str, Motion]:
        """The motion on each image topic of a bag; unreadable images are added to ``problems``.

        Raises:
            BagError: the bag cannot be read.
        """

    def live_marking(self, node: str) -> MarkSource:
        """The cameras and masks of a running node, for `lmeec mark --live`.

        Args:
            node: its full name.

        Raises:
            InputError: there is no such node.
            ImportError: a package that it needs is not installed.
        """

    def bench_node(self, console: Console) -> dict[str, Any]:
        """Measure what the node adds to a step, and print it (`lmeec bench --node`)."""


@cache
def plugins() -> tuple[Any, ...]:
    """All installed plugins, each once; one that cannot be imported is named on stderr."""
    found = {entry.name: entry for entry in entry_points(group=GROUP)}
    loaded = []
    for _, entry in sorted(found.items()):
        try:
            loaded.append(entry.load())
        except ImportError as error:  # the other commands still work
            Console(stderr=True).print(
                f"[yellow]the commands of {entry.value} are missing:[/] {error}", soft_wrap=True
            )
    return tuple(loaded)


def provider(member: str) -> Plugin:
    """The plugin that has a member of :class:`Plugin`.

    Raises:
        InputError: none has it.
    """
    for plugin in plugins():
        if hasattr(plugin, member):
            found: Plugin = plugin
            return found
    raise InputError(
        f"this needs the node's package, which is not installed (no plugin has {member})"
    )
