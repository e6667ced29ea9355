"""Measurements of a soak run, and the checks on them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

SLOPE_LIMIT = 1.0
"""Allowed growth of the resident memory, MB per 1,000 frames."""
SHORT, SHORT_LIMIT = 2000, 64.0
"""With fewer frames than SHORT, a slope cannot be distinguished from the steps in which memory is
allocated and freed (up to 50 MB, a network); then the memory may grow by SHORT_LIMIT MB."""
WARM_SHARE = 1 / 3
"""Fraction of a run that counts as warm-up at most, even if the first round of faults takes
longer."""
MIN_SAMPLES = 8
"""Minimum number of samples for a judgement."""


@dataclass(frozen=True)
class Sample:
    """Measurements of the node's process at one moment.

    Attributes:
        seconds: time since the run began.
        frames: number of mask messages since the run began.
        resident: resident memory in MB (10^6 bytes), without shared memory.
        threads: number of threads.
        shared: shared memory in MB: DDS's segments, whose size config/fastdds.xml sets.
        names: thread name to number of threads; threads started by libraries have the name of the
            thread that started them.
    """

    seconds: float
    frames: int
    resident: float
    threads: int
    shared: float = 0.0
    names: Mapping[str, int] = field(default_factory=dict)


@dataclass
class Event:
    """One fault.

    Attributes:
        fault: name of the fault.
        begin, end: seconds since the run began.
        recovered: seconds from the end until masks were published again; None if not in time.
        error: any other failure; "" if there was none.
        effect: counter of the node's diagnostics to its increase during the fault.
    """

    fault: str
    begin: float
    end: float = 0.0
    recovered: float | None = None
    error: str = ""
    effect: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Check:
    """One check of a run: its name, whether it passed, and the figures."""

    name: str
    passed: bool
    text: str


@dataclass
class Record:
    """All measurements of a run.

    Attributes:
        samples, events: in chronological order.
        warm: seconds until every fault had occurred once; 0 if that did not happen.
        untried: requested faults that did not occur.
        discrepancies: descriptions of counters that did not add up.
        reports: number of diagnostics messages checked.
        settled: whether every set was accounted for at the end, after the feeder had stopped.
        exit_code: exit code of the node when it was stopped; None if it had ended before.
        log: the node's log.
    """

    samples: list[Sample] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    warm: float = 0.0
    untried: tuple[str, ...] = ()
    discrepancies: list[str] = field(default_factory=list)
    reports: int = 0
    settled: bool = False
    exit_code: int | None = None
    log: str = ""

    def after_warm_up(self) -> list[Sample]:
        """Return the samples after the warm-up, which are judged."""
        if not self.samples:
            return []
        begin = WARM_SHARE * self.samples[-1].seconds
        begin = min(self.warm or begin, begin)
        return [one for one in self.samples if one.seconds >= begin]


def sample(pid: int, seconds: float, frames: int) -> Sample:
    """Measure a process.

    Raises:
        OSError: if it has ended.
    """
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    found = {key: text.split() for key, _, text in (line.partition(":") for line in lines)}
    try:
        own, files, shared = (
            1024 * int(found[f"Rss{kind}"][0]) / 1e6 for kind in ("Anon", "File", "Shmem")
        )
    except KeyError as error:  # a process that has ended but is still listed
        raise OSError(f"process {pid} has ended") from error
    names: Counter[str] = Counter()
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):  # the thread has just ended
            names[(thread / "comm").read_text().strip()] += 1
    return Sample(seconds, frames, own + files, sum(names.values()), shared, dict(names))


def slope(samples: Sequence[Sample]) -> float:
    """Return the growth of resident memory in MB per 1,000 frames (Theil-Sen estimator)."""
    from scipy.stats import theilslopes

    frames = [one.frames / 1000 for one in samples]
    if len(set(frames)) < 2:
        return 0.0
    return float(theilslopes([one.resident for one in samples], frames).slope)


def checks(record: Record) -> list[Check]:
    """Return the checks of a run."""
    lost = [e for e in record.events if e.recovered is None or e.error]
    longest = max((e.recovered for e in record.events if e.recovered is not None), default=0.0)
    first = lost[0] if lost else None
    why = f"; first: {first.fault}: {first.error or 'no masks in time'}" if first else ""
    tracebacks = record.log.count("Traceback")
    return [
        Check("the node ends on request, exit code 0", record.exit_code == 0,
              f"exit code {record.exit_code}"),
        memory(record),
        _threads(record),
        Check("every fault recovered", bool(record.events) and not lost,
              f"{len(record.events) - len(lost)} of {len(record.events)}, the slowest in "
              f"{longest:.1f} s{why}"),
        Check("every fault was tried", not record.untried, ", ".join(record.untried) or "yes"),
        Check("counters add up", record.reports > 0 and not record.discrepancies,
              f"{record.reports} diagnostics, {len(record.discrepancies)} wrong"
              + "".join(f"; {text}" for text in record.discrepancies[:1])),
        Check("every set accounted for at the end", record.settled, str(record.settled)),
        Check("no traceback in the node's log", tracebacks == 0, f"{tracebacks} tracebacks"),
    ]  # fmt: skip


def memory(record: Record) -> Check:
    """Check that resident memory is flat: by its slope, or in a short run by its total growth."""
    judged = record.after_warm_up()
    name = "resident memory is flat"
    if len(judged) < MIN_SAMPLES:
        return Check(name, False, f"only {len(judged)} samples after the warm-up")
    frames = judged[-1].frames - judged[0].frames
    found = slope(judged)
    growth = found * frames / 1000
    values = [one.resident for one in judged]
    short = frames < SHORT
    limit = f"{SHORT_LIMIT:g} MB in a run this short" if short else f"{SLOPE_LIMIT:g} MB"
    return Check(
        name,
        growth <= SHORT_LIMIT if short else found < SLOPE_LIMIT,
        f"{found:+.2f} MB per 1,000 frames over {frames} frames ({growth:+.1f} MB; "
        f"{min(values):.0f} to {max(values):.0f} MB; limit {limit})",
    )


def _threads(record: Record) -> Check:
    """Check that there are no more threads in the last quarter of the run than in the first."""
    judged = record.after_warm_up()
    if len(judged) < MIN_SAMPLES:
        return Check("no thread growth", False, f"only {len(judged)} samples after the warm-up")
    quarter = len(judged) // 4
    first, last = judged[:quarter], judged[-quarter:]
    before, after = (median(one.threads for one in part) for part in (first, last))
    grown = []
    for name in sorted({name for one in judged for name in one.names}):
        counts = [median(one.names.get(name, 0) for one in part) for part in (first, last)]
        if counts[1] > counts[0]:
            grown.append(f"{name} {counts[0]:g} to {counts[1]:g}")
    most = max(one.threads for one in judged)
    text = f"{before:g} at the beginning, {after:g} at the end, maximum {most}"
    if after > before:
        text += f"; more of {', '.join(grown) or 'threads without a name'}"
    return Check("no thread growth", after <= before, text)
