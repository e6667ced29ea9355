"""Implementation of `lmeec play` and `lmeec record`: signals, progress, console output."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lmeec_core.bags.bag import BagReader
from lmeec_core.files import NewFolder
from lmeec_ros.tools.node_watch import NodeWatch
from lmeec_ros.tools.play import Player
from lmeec_ros.tools.record import TopicRecorder, spin_until
from lmeec_ros.tools.ros_session import ros_node, spinning

SETTLE = 2.0
"""Seconds for subscribers to discover the publishers if no lmeec node reports that it has: longer
than the second between two reports."""


def play(
    path: Path,
    *,
    topics: Collection[str] | None,
    remap: Mapping[str, str],
    rate: float,
    loop: bool,
    clock: bool,
    wait: float,
    answering: str,
    console: Console,
) -> int:
    """Publish a bag; see `lmeec play --help`.

    Returns:
        the exit code: 1 if a part of the bag could not be read, or the node may not have processed
        everything.
    """
    with BagReader(path) as bag, ros_node("lmeec_play") as (node, stop):
        player = Player(node, bag, topics=topics or None, remap=remap, clock=clock)
        for text in bag.notes:
            console.print(f"[yellow]note:[/] {escape(text)}", soft_wrap=True, highlight=False)
        for topic, reason in player.skipped.items():
            console.print(f"[yellow]skipped[/] {topic}: {reason}", soft_wrap=True)
        watch = NodeWatch(node, answering)
        with spinning(node):
            _wait_subscribed(player, watch, wait, stop, console, every=bool(topics))
            published, passes = _publish(player, rate, loop, stop, console)
            if not player.flush(2.0 if stop.is_set() else 10.0):
                console.print("[yellow]some subscribers did not acknowledge all messages[/]")
            unfinished = watch.wait_processed(player.published, stop)
        text = "stopped" if stop.is_set() else "done"
        console.print(f"{text}: {published} messages in {passes} pass{'es' * (passes != 1)}")
        for lost in dict.fromkeys(bag.lost):
            console.print(f"[yellow]left out:[/] {escape(lost)}", soft_wrap=True, highlight=False)
        if unfinished:
            console.print(f"[yellow]possibly not all processed:[/] {unfinished}", soft_wrap=True)
        return int(bool(bag.lost) or bool(unfinished))


def _wait_subscribed(
    player: Player,
    watch: NodeWatch,
    seconds: float,
    stop: threading.Event,
    console: Console,
    *,
    every: bool,
) -> None:
    """Wait up to `seconds` for the node's subscriptions, or (if `every`) one on every topic."""
    end = time.monotonic() + seconds
    settled = None  # when all present subscribers are assumed to have discovered the publishers
    while time.monotonic() < end and not stop.is_set():
        if not every and watch.ready(player.published):
            break
        if player.unsubscribed():
            settled = None
        elif settled is None:
            settled = time.monotonic() + SETTLE
        elif time.monotonic() > settled:
            break
        stop.wait(0.05)
    if twins := watch.twins():
        console.print(f"[yellow]note:[/] {escape(twins)}", soft_wrap=True, highlight=False)
    unsubscribed, wanted = player.unsubscribed(), watch.wanted()
    if wanted and not every:
        inputs = frozenset().union(*wanted.values())
        for topic in sorted(inputs - set(player.published)):
            console.print(f"[yellow]not in the bag:[/] {topic}, an input of the node")
        unsubscribed = tuple(topic for topic in unsubscribed if topic in inputs)
    if seconds and unsubscribed and not stop.is_set():
        why = f" ({watch.describe()})" if not every and watch.describe() else ""
        names = ", ".join(unsubscribed)
        console.print(f"[yellow]no subscriber to[/] {names}{why}", soft_wrap=True)


def _publish(
    player: Player, rate: float, loop: bool, stop: threading.Event, console: Console
) -> tuple[int, int]:
    """Publish the bag once, or (`loop`) until stopped; return the counts of messages and passes."""
    passes, published = 0, 0
    with _progress(console, player.count) as (bar, task):
        while not stop.is_set():
            bar.reset(task)
            published += player.play(rate=rate, stop=stop, progress=lambda *_: bar.advance(task))
            passes += 1
            if not loop:
                break
    return published, passes


def record(
    path: Path,
    topics: Sequence[str] | None,
    *,
    of_node: str,
    everything: bool,
    duration: float | None,
    overwrite: bool,
    console: Console,
) -> int:
    """Record topics; see `lmeec record --help`.

    Returns:
        the exit code, 1 if a topic that was published cannot be recorded.
    """
    for left in NewFolder.left_behind(path):
        console.print(
            f"[yellow]unfinished[/] {left}: from a recording that was killed or is still running; "
            "`lmeec info` shows how much of it can be read",
            soft_wrap=True,
            highlight=False,
        )
    with ros_node("lmeec_record") as (node, stop):
        recorder = TopicRecorder(
            node, path, topics, of_node=of_node, everything=everything, overwrite=overwrite
        )
        shown: set[str] = set()

        def announce() -> None:
            for topic in recorder.counts:
                if topic not in shown:
                    shown.add(topic)
                    console.print(f"recording {topic}", highlight=False)
            for topic, reason in recorder.problems.items():
                if topic not in shown:
                    shown.add(topic)
                    console.print(f"[yellow]not recorded[/] {topic}: {reason}", soft_wrap=True)

        wanted = ", ".join(topics) if topics else f"outputs of the node {of_node}"
        console.print(f"waiting for {wanted}; Ctrl-C ends the recording", highlight=False)
        spin_until(recorder, node, stop, duration=duration, each=announce)
        for topic in recorder.missing:
            console.print(f"[yellow]not published:[/] {topic}")
        for topic, count in recorder.counts.items():
            console.print(f"{count:7d}  {topic}", highlight=False)
        console.print(f"written to {path}", highlight=False)
        return 1 if recorder.problems else 0


@contextmanager
def _progress(console: Console, total: int) -> Iterator[tuple[Progress, Any]]:
    columns = (TextColumn("playing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        yield bar, bar.add_task("play", total=total)
