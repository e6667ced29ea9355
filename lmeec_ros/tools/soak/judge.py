"""What a soak run measured, and whether the node passed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

SLOPE_LIMIT = 1.0
"""Resident memory may grow by so many MB in 1,000 frames."""
SHORT, SHORT_LIMIT = 2000, 64.0
"""With fewer frames than this a slope cannot be told from the steps in which memory is taken and
given back (up to 50 MB, a network); then it may grow by so many MB."""
WARM_SHARE = 1 / 3
"""Share of a run that counts as warm-up if the first round of faults takes longer."""
MIN_SAMPLES = 8


@dataclass(frozen=True)
class Sample:
    """The node at one moment.

    Attributes:
        seconds: since the run began.
        frames: messages with masks since the run began.
        resident: memory in MB (10^6 bytes) without what is shared.
        threads: of the process.
        shared: MB of shared memory: DDS's segments, whose size config/fastdds.xml sets.
        names: how many threads have which name; a helper thread of a library has its maker's.
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
        fault: its name.
        begin, end: seconds since the run began; its end is when masks are due again.
        recovered: seconds from its end until masks flowed again; None if they did not in time.
        error: what else went wrong, "" if nothing did.
        effect: counters of the node's diagnostics that it raised, and by how much.
    """

    fault: str
    begin: float
    end: float = 0.0
    recovered: float | None = None
    error: str = ""
    effect: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Check:
    """One thing that a run asserts: its name, whether it holds, and the figures."""

    name: str
    passed: bool
    text: str


@dataclass
class Record:
    """All that a run measured.

    Attributes:
        samples, events: in the order of time.
        warm: seconds until every fault had happened once; 0 if that did not come about.
        untried: faults that were asked for and never came.
        discrepancies: counters that did not add up, in words.
        reports: diagnostics that were looked at.
        settled: whether at the end, with the feeder silent, every set was accounted for.
        exit_code: of the node, when asked to end; None if it had ended by itself before.
        log: of the node.
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
        """The samples that are judged."""
        if not self.samples:
            return []
        begin = WARM_SHARE * self.samples[-1].seconds
        begin = min(self.warm or begin, begin)
        return [one for one in self.samples if one.seconds >= begin]


def sample(pid: int, seconds: float, frames: int) -> Sample:
    """Look at a process.

    Raises:
        OSError: if it is gone.
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
        with suppress(OSError):  # it has ended meanwhile
            names[(thread / "comm").read_text().strip()] += 1
    return Sample(seconds, frames, own + files, sum(names.values()), shared, dict(names))


def slope(samples: Sequence[Sample]) -> float:
    """MB per 1,000 frames: the median of the slopes of all pairs (Theil and Sen)."""
    from scipy.stats import theilslopes

    frames = [one.frames / 1000 for one in samples]
    if len(set(frames)) < 2:
        return 0.0
    return float(theilslopes([one.resident for one in samples], frames).slope)


def checks(record: Record) -> list[Check]:
    """Judge a run."""
    lost = [e for e in record.events if e.recovered is None or e.error]
    longest = max((e.recovered for e in record.events if e.recovered is not None), default=0.0)
    first = lost[0] if lost else None
    why = f"; first: {first.fault}: {first.error or 'no masks in time'}" if first else ""
    tracebacks = record.log.count("Traceback")
    return [
        Check("the node ends when asked to, exit code 0", record.exit_code == 0,
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
    """Whether the resident memory is flat, by its slope, or in a short run by its growth."""
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
    """Whether there are more threads in the last quarter than in the first; names those."""
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
    text = f"{before:g} at first, {after:g} at last, {max(one.threads for one in judged)} at most"
    if after > before:
        text += f"; more of {', '.join(grown) or 'threads without a name'}"
    return Check("no thread growth", after <= before, text)
