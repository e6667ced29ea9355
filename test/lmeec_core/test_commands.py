"""What a command says of an error: one line of what a user can mend, a traceback of a fault."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import lmeec_core as lm
from lmeec_core.checkpoint import CheckpointError
from lmeec_core.cli.exit_codes import REPORT, run_command
from lmeec_core.config import MemoryConfig, validated
from lmeec_core.engine import EngineError
from lmeec_core.takes import TakeError


def raising(error: BaseException) -> None:
    def work() -> None:
        raise error

    run_command(work)


@pytest.mark.parametrize(
    "error",
    [
        lm.InputError("a [bold] word"),
        CheckpointError("a [bold] word"),
        TakeError("folder", "a [bold] word"),
        EngineError("a [bold] word"),
        FileNotFoundError(errno.ENOENT, "a [bold] word", "file"),
        OSError(errno.ENOSPC, "a [bold] word"),
    ],
)
def test_what_a_user_can_mend_is_one_line(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as caught:
        raising(error)
    assert caught.value.exit_code == 1
    said = capsys.readouterr().err
    assert "a [bold] word" in said and said.startswith("error: ") and said.count("\n") == 1


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a fault"),
        RuntimeError("a fault"),
        KeyError("a fault"),
        IndexError("a fault"),
        OSError("a fault"),
        AssertionError("a fault"),
    ],
)
def test_a_fault_of_ours_keeps_its_traceback(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(type(error), match="a fault") as caught:
        raising(error)
    assert caught.value is error and REPORT in error.__notes__
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("stop", [typer.Exit(3), typer.Abort(), KeyboardInterrupt()])
def test_what_ends_a_command_on_purpose_is_left_alone(stop: BaseException) -> None:
    with pytest.raises(type(stop)):
        raising(stop)
    assert not hasattr(stop, "__notes__")


def test_exit_codes() -> None:
    run_command(lambda: None)
    run_command(lambda: 0)
    for code in (1, 3):
        with pytest.raises(typer.Exit) as caught:
            run_command(lambda code=code: code)
        assert caught.value.exit_code == code


def test_the_process_shows_the_fault_and_asks_for_a_report(tmp_path: Path) -> None:
    """The whole command, with a fault put into it."""
    code = (
        "import sys, lmeec_core.cli.info as i\n"
        "def show(*_): raise ValueError('a fault of ours')\n"
        "i.show = show\n"
        "from lmeec_core.cli.app import main\n"
        "sys.argv = ['lmeec', 'info', '.']\n"
        "sys.exit(main())\n"
    )
    ran = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert ran.returncode == 1
    assert "Traceback" in ran.stderr and "a fault of ours" in ran.stderr
    assert ran.stderr.rstrip().endswith(REPORT)


def test_a_configuration_that_is_refused_names_the_place_and_the_value() -> None:
    given = {"fusion": "magic", "capacity": 0, "extra": 1}
    with pytest.raises(lm.InputError, match="my file: ") as caught:
        validated(MemoryConfig, given, "my file")
    for part in ("fusion: ", "'magic' given", "capacity: ", "0 given", "extra: "):
        assert part in str(caught.value)
    assert validated(MemoryConfig, {"capacity": 3}, "x") == MemoryConfig(capacity=3)


HOOK = """
import os, runpy, signal, sys

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == MODULE and self in sys.meta_path:
            sys.meta_path.remove(self)
            try:
                os.kill(os.getpid(), signal.SIGINT)
                for _ in range(1000):
                    pass
            except KeyboardInterrupt:
                if not HIDDEN:
                    raise
                raise ImportError("what some modules make of it")

sys.meta_path.insert(0, Interrupting())
"""


@pytest.mark.parametrize("hidden", [False, True])
@pytest.mark.parametrize("module", ["lmeec_core.cli.app", "typer", "lmeec_core.cli.info"])
def test_an_interrupt_during_imports_is_no_traceback(module: str, hidden: bool) -> None:
    """Those of the command line, and those that a sub-command makes."""
    code = f"MODULE, HIDDEN = {module!r}, {hidden}\n{HOOK}"
    code += "sys.argv = ['lmeec', 'info', 'nowhere']\n"
    code += "runpy.run_module('lmeec_core.cli', run_name='__main__')"
    command = [sys.executable, "-P", "-c", code]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 130 and "Traceback" not in ran.stderr, ran.stderr
