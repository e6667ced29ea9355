"""MuJoCo with an off-screen OpenGL backend, chosen before the import; one context per process."""

from __future__ import annotations

import atexit
import os
from typing import Any

from lmeec_core.errors import ExplainedError


class RenderingError(ExplainedError):
    """MuJoCo cannot render on this machine."""


def choose_backend() -> str:
    """Set and return MUJOCO_GL: as given, else EGL if there is an NVIDIA GPU, else OSMesa.

    OSMesa needs the system library libOSMesa (Debian, Ubuntu: libosmesa6).
    """
    chosen = os.environ.get("MUJOCO_GL", "").lower()
    if not chosen:
        chosen = "egl" if os.path.exists("/dev/nvidia0") else "osmesa"
        os.environ["MUJOCO_GL"] = chosen
    # llvmpipe's threads compete with the worker processes; rendering is faster without them.
    os.environ.setdefault("LP_NUM_THREADS", "0")
    return chosen


def _advice(backend: str, reason: object) -> str:
    return (
        f"MuJoCo cannot render with MUJOCO_GL={backend}: {reason}. Install OSMesa (Debian, "
        "Ubuntu: apt-get install libosmesa6) and set MUJOCO_GL=osmesa, or set MUJOCO_GL=egl where "
        "there is a GPU with EGL."
    )


def load_mujoco() -> Any:
    """The mujoco module, imported with the chosen backend.

    Raises RenderingError if MuJoCo or the backend's library is missing.
    """
    backend = choose_backend()
    try:
        import mujoco
    except ModuleNotFoundError as error:
        if error.name == "mujoco":
            raise RenderingError("simulation needs MuJoCo: pip install 'mujoco==3.17.0'") from error
        raise RenderingError(_advice(backend, error)) from error
    except (ImportError, AttributeError, OSError, RuntimeError) as error:
        raise RenderingError(_advice(backend, error)) from error
    return mujoco


_CONTEXTS: dict[int, Any] = {}


def use_gl_context() -> None:
    """Make the process's OpenGL context current; it is created on first use.

    Raises RenderingError if that fails.
    """
    if os.getpid() not in _CONTEXTS:
        backend, mujoco = choose_backend(), load_mujoco()
        try:
            context = mujoco.GLContext(64, 64)
            context.make_current()
        except Exception as error:
            raise RenderingError(_advice(backend, error)) from error
        if backend not in type(context).__module__:
            raise RenderingError(
                f"MuJoCo was imported before MUJOCO_GL={backend} was chosen and uses "
                f"{type(context).__module__}; set MUJOCO_GL={backend} in the environment"
            )
        _CONTEXTS[os.getpid()] = context
        atexit.register(_CONTEXTS.clear)  # freeing it any later prints errors
    _CONTEXTS[os.getpid()].make_current()
