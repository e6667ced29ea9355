"""Run `lmeec soak`: start the node, play a recording to it, inject faults, and judge."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

import lmeec_core as lm
from lmeec_core.bags import take_bags
from lmeec_core.bags.take_bags import bag_from_take
from lmeec_core.errors import InputError
from lmeec_core.takes import Take
from lmeec_ros.tools import demo
from lmeec_ros.tools.node_process import NodeError, NodeProcess
from lmeec_ros.tools.ros_session import ros_node, spinning
from lmeec_ros.tools.soak import judge, prompts, report
from lmeec_ros.tools.soak.faults import FAULTS, Bench, FaultError
from lmeec_ros.tools.soak.feeder import Feeder
from lmeec_ros.tools.soak.judge import Event, Record
from lmeec_ros.tools.soak.observer import Observer

START_SECONDS = 300.0
SAMPLE_SECONDS = 1.0
FLOWING = 5
"""Mask messages after a fault that prove recovery: more than may have been queued."""
CALM = (0.5, 2.5)
"""Seconds between two faults, shortest and longest."""


@dataclass(frozen=True)
class SoakOptions:
    """Options of `lmeec soak`; see its --help. ``take`` None is the sample take."""

    minutes: float = 30.0
    take: Path | None = None
    out: Path = Path("out/soak")
    preset: str = "mini"
    seed: int = 0
    rate: float = 10.0
    patience: float = 30.0
    objects: int = 2
    faults: tuple[str, ...] = ()


def run(options: SoakOptions, console: Console) -> int:
    """Run the soak test; return the exit code, 0 if all checks passed.

    Raises:
        NodeError, TakeError, BagError: if the test could not be run.
        InputError: if the preset or a fault is unknown.
    """
    lm.preset(options.preset)
    unknown = sorted(set(options.faults) - set(FAULTS))
    if unknown:
        raise InputError(f"fault {unknown[0]!r} given, one of {sorted(FAULTS)} expected")
    demo.settle_environment()
    out = options.out
    out.mkdir(parents=True, exist_ok=True)
    for name in (report.REPORT, report.PLOT, "feeder.log"):
        (out / name).unlink(missing_ok=True)
    take = Take.open(options.take or demo.sample_take())
    bag = out / "bag"
    info = bag_from_take(
        take,
        bag,
        objects=take.objects[: options.objects],
        targets=take.exos[:1],  # the feeder waits for a subscriber to every topic
        overwrite=True,
    )
    trained = lm.bundled_weights(options.preset) is not None
    parameters = {
        **take_bags.node_parameters(info),
        "model": {"preset": options.preset, "device": "cpu", "seed": -1 if trained else demo.SEED},
        "memory_folder": str((out / "memory").resolve()),
    }
    demo.write_parameters(out / "parameters.yaml", parameters)
    demo.write_parameters(out / prompts.PARAMETERS, prompts.parameters(parameters))
    console.print(
        f"{options.minutes:g} minutes, preset {options.preset}, seed {options.seed}, "
        f"{options.rate:g} frames per second; results in {out}/",
        highlight=False,
    )
    record = _soak(options, info.query, tuple(info.targets), console)
    verdict = judge.checks(record)
    settings = {name: str(value) for name, value in asdict(options).items()}
    report.write(out, record, verdict, settings)
    report.show(record, verdict, console)
    return 0 if all(check.passed for check in verdict) else 1


def _soak(options: SoakOptions, query: str, targets: tuple[str, ...], console: Console) -> Record:
    out, record = options.out, Record()
    with (
        ros_node("lmeec_soak") as (node, stop),
        NodeProcess(out / "parameters.yaml", out / "node.log") as process,
    ):
        observer = Observer(node, targets)
        feeder = Feeder(out / "bag", options.rate, options.seed, out / "feeder.log")
        chance, cameras = random.Random(options.seed), (query, *targets)
        bench = Bench(process, feeder, observer, chance, node, out, cameras)
        with spinning(node):
            try:
                feeder.start()
                _wait_ready(bench, stop)
                soak = _Run(options, bench, record, stop, console)
                soak.run()
                soak.end_feeder()
                record.settled = observer.wait(observer.settled, options.patience)
            finally:
                feeder.kill()
        record.exit_code = process.stop() if process.alive else None
        record.reports = observer.reports
        record.discrepancies = list(observer.discrepancies)
        record.log = process.log.read_text(encoding="utf-8", errors="replace")
    return record


def _wait_ready(bench: Bench, stop: threading.Event) -> None:
    end = time.monotonic() + START_SECONDS
    while not bench.observer.wait(lambda: bench.observer.masks >= FLOWING, 0.5):
        bench.process.check()
        if stop.is_set():
            raise NodeError("stopped by a signal")
        if time.monotonic() > end:
            raise NodeError(
                f"no masks after {START_SECONDS:.0f} s; the end of {bench.process.log}:\n"
                f"{bench.process.tail()}"
            )


class _Run:
    """Runs the faults one after the other, while a thread samples the node's process."""

    def __init__(
        self,
        options: SoakOptions,
        bench: Bench,
        record: Record,
        stop: threading.Event,
        console: Console,
    ) -> None:
        self._options, self._bench, self._record = options, bench, record
        self._stop, self._console = stop, console
        self._begin = time.monotonic()
        self._over = threading.Event()

    def _now(self) -> float:
        return time.monotonic() - self._begin

    def run(self) -> None:
        """Run until the time is over and every fault was tried, the node ends, or a signal stops
        it."""
        columns = (TextColumn("soak"), BarColumn(), TimeRemainingColumn(),
                   TextColumn("{task.fields[now]}"))  # fmt: skip
        seconds = 60 * self._options.minutes
        sampler = threading.Thread(target=self._sample, daemon=True)
        sampler.start()
        with Progress(*columns, console=self._console, transient=True) as bar:
            task = bar.add_task("soak", total=seconds, now="")
            for fault in self._schedule():
                self._pause(bar, task)
                over = self._now() >= seconds and not self._untried()
                if over or self._stop.is_set() or not self._bench.process.alive:
                    break
                bar.update(task, completed=self._now(), now=self._text(fault))
                self._inject(fault)
        self._record.untried = self._untried()
        self._over.set()
        sampler.join()

    def end_feeder(self) -> None:
        """Stop the feeder; if it has ended by itself, record that as a failed event."""
        try:
            self._bench.feeder.stop()
        except OSError as error:
            self._record.events.append(Event("end", self._now(), self._now(), error=str(error)))

    def _untried(self) -> tuple[str, ...]:
        """The requested faults that have not occurred yet."""
        tried = {event.fault for event in self._record.events}
        return tuple(sorted(set(self._options.faults or FAULTS) - tried))

    def _schedule(self) -> Iterator[str]:
        """Repeat all faults in random order; record when the first round is over."""
        names = sorted(self._options.faults or FAULTS)
        while True:
            self._bench.random.shuffle(names)
            yield from names
            self._record.warm = self._record.warm or self._now()

    def _pause(self, bar: Progress, task: TaskID) -> None:
        end = time.monotonic() + self._bench.random.uniform(*CALM)
        while time.monotonic() < end and not self._stop.is_set():
            bar.update(task, completed=self._now())
            time.sleep(0.1)

    def _text(self, fault: str) -> str:
        bad = sum(e.recovered is None or bool(e.error) for e in self._record.events)
        last = self._record.samples[-1] if self._record.samples else None
        memory = f", {last.frames} masks, {last.resident:.0f} MB" if last else ""
        return f"{fault}; {len(self._record.events)} faults, {bad} not recovered{memory}"

    def _inject(self, name: str) -> None:
        """Inject a fault, and wait until masks are published again."""
        observer = self._bench.observer
        event = Event(name, self._now())
        self._record.events.append(event)
        before = observer.counters()
        try:
            FAULTS[name](self._bench)
        except (FaultError, RuntimeError, OSError) as error:
            event.error = str(error)
        event.end = self._now()
        masks = observer.masks
        if observer.wait(lambda: observer.masks >= masks + FLOWING, self._options.patience):
            event.recovered = self._now() - event.end
        reports = observer.reports
        observer.wait(lambda: observer.reports > reports, 3.0)
        after = observer.counters()
        event.effect = {k: n - before.get(k, 0) for k, n in after.items() if n > before.get(k, 0)}

    def _sample(self) -> None:
        pid = self._bench.process.process.pid
        while not self._over.wait(SAMPLE_SECONDS):
            try:
                now = judge.sample(pid, self._now(), self._bench.observer.masks)
            except OSError:
                return  # the node has ended; `run` handles that
            self._record.samples.append(now)
