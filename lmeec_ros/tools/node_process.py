"""Run the installed node in a separate process."""

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
"""Environment variables that name Fast DDS's profile: up to Jazzy, and after it."""


class NodeError(InputError):
    """The node could not be started, or ended; the text includes the end of its log."""


def executable() -> Path:
    """Return the path of the installed node.

    Raises:
        NodeError: if it is under no prefix of AMENT_PREFIX_PATH.
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
    """Return the package's Fast DDS profile, needed for large images; None if not installed."""
    return next((path.resolve() for path in shared("config/fastdds.xml") if path.is_file()), None)


def shared(installed: str, source: str | None = None) -> list[Path]:
    """Return the candidate paths of a file that colcon installs in share/lmeec, best first.

    Args:
        installed: path below share/lmeec.
        source: path in the source tree, if that differs.
    """
    prefixes = [p for p in os.environ.get("AMENT_PREFIX_PATH", "").split(":") if p]
    checkout = Path(__file__).resolve().parents[2]
    return [*(Path(p) / "share" / PACKAGE / installed for p in prefixes),
            checkout / (source or installed)]  # fmt: skip


def profile_environment(wanted: bool | None, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables with which Fast DDS uses the package's profile, for large images.

    Args:
        wanted: whether to use the profile; None: only if the environment names no profile.
        environment: environment of the process.
    """
    if wanted is None:
        wanted = not any(environment.get(name) for name in PROFILE_VARIABLES)
    profile = dds_profile() if wanted else None
    return {} if profile is None else dict.fromkeys(PROFILE_VARIABLES, str(profile))


class NodeProcess:
    """Starts the node with a parameter file, and stops it when the with block ends.

    Args:
        parameters: parameter file (YAML).
        log: file for the node's output.
        remap: name to new name, of topics and of "__node" and "__ns".
        environment: variables in addition to this process's environment.
        arguments: further command-line arguments.

    Raises:
        NodeError: if the node is not installed.
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
                # So that Ctrl-C reaches only this process, which then stops the node properly.
                start_new_session=True,
            )

    @property
    def alive(self) -> bool:
        """Whether the process is running."""
        return self.process.poll() is None

    def tail(self, lines: int = 25) -> str:
        """Return the last lines of the log."""
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
        """Stop the process with SIGINT, then SIGTERM, then SIGKILL, and return its exit code.

        Args:
            seconds: time to wait after SIGINT.
        """
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
