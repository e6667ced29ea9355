"""The process that plays a soak run's recording, which can be killed and started again.

Each line on its standard input is the name of a fault to play; an empty line ends the fault,
`clock_back` sets the clock back, the end of the input ends the process.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

from lmeec_core.bags.bag import BagError, BagReader
from lmeec_core.bags.take_bags import RecordingInfo
from lmeec_ros.tools.play import Player
from lmeec_ros.tools.ros_session import ros_node
from lmeec_ros.tools.soak.spoil import FAULTS, SoakBag

CLOCK_BACK = "clock_back"
BURST_PAUSE = 0.002
"""Seconds between two frames of a burst."""


class Feeder:
    """Starts and controls the feeding process.

    Args:
        bag: folder of a bag made by `lmeec bag`.
        rate: frames per second.
        seed: seed of its random choices.
        log: file to which its output is appended.
    """

    def __init__(self, bag: Path, rate: float, seed: int, log: Path) -> None:
        self._command = [sys.executable, "-P", "-m", __name__, str(bag), str(rate)]
        self._seed = seed
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process; each start uses the next seed."""
        self._seed += 1
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._command, str(self._seed)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def alive(self) -> bool:
        """Whether the process is running."""
        return self._process is not None and self._process.poll() is None

    def play(self, fault: str) -> None:
        """Begin a fault; "" ends the current one."""
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.write(f"{fault}\n".encode())
        self._process.stdin.flush()

    def kill(self) -> None:
        """End the process with SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdin is not None
            self._process.stdin.close()

    def stop(self, seconds: float = 10.0) -> None:
        """End the process normally; kill it after the timeout (seconds)."""
        if self._process is not None and self.alive:
            assert self._process.stdin is not None
            self._process.stdin.close()
            try:
                self._process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.kill()


class _Pace:
    """A pace of one frame every period; in a burst, without pause."""

    def __init__(self, bag: SoakBag, rate: float, stop: threading.Event) -> None:
        self._bag, self._period, self._stop = bag, 1 / rate, stop
        self._last: int | None = None
        self._due = time.monotonic()

    def __call__(self, stamp_ns: int) -> bool:
        if stamp_ns == self._last:
            return True
        self._last = stamp_ns
        now = time.monotonic()
        pause = BURST_PAUSE if self._bag.fault == "burst" else self._period
        self._due = max(self._due + pause, now)
        return not self._stop.wait(self._due - now)


def _listen(bag: SoakBag, stop: threading.Event) -> None:
    for line in sys.stdin:
        name = line.strip()
        if name == CLOCK_BACK:
            bag.jump()
        elif name and name not in FAULTS:
            print(f"fault {name!r} given, one of {sorted(FAULTS)} expected", flush=True)
        else:
            bag.fault = name
    stop.set()


def main(path: Path, rate: float, seed: int) -> None:
    """Play the bag until the standard input ends.

    Raises:
        BagError: if the bag was not made from a take.
    """
    with BagReader(path) as reader, ros_node("lmeec_soak_feeder") as (node, stop):
        info = RecordingInfo.read(reader)
        if info is None:
            raise BagError(f"{path}: not made from a take; a bag of `lmeec bag` expected")
        bag = SoakBag(reader, info, seed)
        threading.Thread(target=_listen, args=(bag, stop), daemon=True).start()
        player = Player(node, bag)
        player.wait(30.0, stop)
        player.play(stop=stop, pace=_Pace(bag, rate, stop))
        player.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
