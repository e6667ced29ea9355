"""The installed node as a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from lmeec_core.errors import InputError

PACKAGE = "lmeec"
EXECUTABLE = "lmeec_node"
PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
"""Where Fast DDS looks for its profile: up to Jazzy, and later."""


class NodeError(InputError):
    """The node could not be started, or ended; the text holds the end of its log."""


def executable() -> Path:
    """The installed node.

    Raises:
        NodeError: if no prefix in AMENT_PREFIX_PATH has it.
    """
    prefixes = [p for p in os.environ.get("AMENT_PREFIX_PATH", "").split(":") if p]
    for prefix in prefixes:
        path = Path(prefix) / "lib" / PACKAGE / EXECUTABLE
        if path.is_file():
            return path
    raise NodeError(
        f"the node ({PACKAGE}/{EXECUTABLE}) is not installed under AMENT_PREFIX_PATH ({prefixes}); "
        "build and source the workspace: `make build`, `source .ci/env.sh`"
    )


def dds_profile() -> Path | None:
    """The package's Fast DDS profile, which large images need; None if it is not installed."""
    return next((path.resolve() for path in shared("config/fastdds.xml") if path.is_file()), None)


def shared(installed: str, source: str | None = None) -> list[Path]:
    """Where something that colcon installs in share/lmeec may be, the first choice first.

    Args:
        installed: its path below share/lmeec.
        source: its path in the source tree, if that is another one.
    """
    prefixes = [p for p in os.environ.get("AMENT_PREFIX_PATH", "").split(":") if p]
    checkout = Path(__file__).resolve().parents[2]
    return [*(Path(p) / "share" / PACKAGE / installed for p in prefixes),
            checkout / (source or installed)]  # fmt: skip


def profile_environment(wanted: bool | None, environment: Mapping[str, str]) -> dict[str, str]:
    """What a process gets besides its environment for Fast DDS to carry large images.

    Args:
        wanted: the package's profile or none; None: only if the environment names no other one.
        environment: of the process.
    """
    if wanted is None:
        wanted = not any(environment.get(name) for name in PROFILE_VARIABLES)
    profile = dds_profile() if wanted else None
    return {} if profile is None else dict.fromkeys(PROFILE_VARIABLES, str(profile))


class NodeProcess:
    """Start the node with a parameter file; stop it on leaving the with block.

    Args:
        parameters: YAML file of parameters.
        log: file that takes the node's output.
        remap: topic names, FROM to TO, and "__node", "__ns".
        environment: entries besides this process's environment.

    Raises:
        NodeError: if it is not installed.
    """

    def __init__(
        self,
        parameters: Path,
        log: Path,
        *,
        remap: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        arguments: Sequence[str] = (),
    ) -> None:
        command = [str(executable()), "--ros-args", "--params-file", str(parameters)]
        for name, other in (remap or {}).items():
            command += ["-r", f"{name}:={other}"]
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [*command, *arguments],
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
                # Ctrl-C in the terminal reaches only the parent, which stops the node properly.
                start_new_session=True,
            )

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self.process.poll() is None

    def tail(self, lines: int = 25) -> str:
        """The last lines of the log."""
        text = self.log.read_text(encoding="utf-8", errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    def check(self) -> None:
        """Raise NodeError, with the end of the log, if the process has ended."""
        code = self.process.poll()
        if code is not None:
            raise NodeError(
                f"the node ended (exit code {code}); the end of {self.log}:\n{self.tail()}"
            )

    def stop(self, seconds: float = 15.0) -> int:
        """Ask it to end (SIGINT), insist after a while, and return its exit code."""
        for number, wait in (
            (signal.SIGINT, seconds),
            (signal.SIGTERM, 5.0),
            (signal.SIGKILL, 5.0),
        ):
            if not self.alive:
                break
            self.process.send_signal(number)
            try:
                self.process.wait(wait)
            except subprocess.TimeoutExpired:
                continue
        return int(self.process.wait(5.0))

    def __enter__(self) -> NodeProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
