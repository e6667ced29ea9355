"""What OpenVINO must not do to the process that it runs in."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("openvino")

CODE = """
import ctypes, faulthandler, gc, signal, subprocess, sys, threading

faulthandler.enable()  # gives the main thread a stack for signal handlers

class Stack(ctypes.Structure):
    _fields_ = [("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]

def stack():
    now = Stack()
    assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(now)) == 0
    return now.start, now.size

import lmeec_core as lm
from lmeec_core.engine import make_engine

def in_order():  # of which each puts back what it found
    while held:
        held.pop(0)
        gc.collect()

def in_another_thread():
    dropping = threading.Thread(target=lambda: (held.clear(), gc.collect()))
    dropping.start()
    dropping.join()

before = stack()
model = lm.load_model("mini", seed=0, device="cpu")
for drop in (in_order, in_another_thread):
    held = [make_engine(model, "openvino") for _ in range(2)]
    drop()
    print("kept" if stack() == before else "changed by " + drop.__name__, flush=True)
    signal.signal(signal.SIGCHLD, lambda number, frame: print("signal", flush=True))
    subprocess.run(["true"])  # its end is a signal
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
"""


def test_a_signal_after_openvino_engines_are_gone() -> None:
    """Engines come and go with each configuration of the node, and with tests in one process."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", CODE], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout.split()) == (0, 2 * ["kept", "signal"]), done.stderr
