"""Memory services: forget an object, reset, save, load."""

from __future__ import annotations

import errno
import os
import re
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lmeec.srv import ForgetObject, MemoryFile
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.node import Node
from std_srvs.srv import Trigger

import lmeec_core as lm
from lmeec_core.correspondence import Tracker
from lmeec_core.errors import InputError
from lmeec_core.prompts import PromptedTracker
from lmeec_ros.inference.pipeline import SetProcessor
from lmeec_ros.inference.worker import NotNowError

WithProcessor = Callable[[Callable[[SetProcessor], str]], str]

_OF_THE_FOLDER = frozenset(
    {errno.EACCES, errno.EEXIST, errno.ENOENT, errno.ENOTDIR, errno.EPERM, errno.EROFS}
)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def memory_file(folder: str, name: str, namespace: str = "/") -> Path:
    """Return the path of a memory file, which is always inside the folder.

    Args:
        folder: the parameter memory_folder; empty for the default.
        name: name of the file, as given by the caller.
        namespace: namespace of the node, which becomes a subfolder.

    Raises:
        InputError: if the name is not a plain file name.
    """
    if not _NAME.fullmatch(name):
        raise InputError(
            f"name {name!r} given; up to 100 letters, digits, dots, _ and -, beginning with a "
            "letter or a digit, expected (no path: the parameter memory_folder sets the folder)"
        )
    home = Path(os.environ.get("ROS_HOME") or Path.home() / ".ros")
    base = Path(folder) if folder else home / "lmeec"
    return base / namespace.strip("/") / f"{name}.safetensors"


class MemoryServices:
    """~/forget_object, ~/reset_memory, ~/save_memory and ~/load_memory.

    Args:
        node: the node; its parameter memory_folder is the folder of the files.
        with_processor: calls a function with the processor between two steps; raises NotNowError
            if that is not possible.
    """

    def __init__(self, node: Node, with_processor: WithProcessor) -> None:
        self._node = node
        self._with_processor = with_processor
        group = MutuallyExclusiveCallbackGroup()
        for kind, name, act in (
            (ForgetObject, "forget_object", self._forget),
            (Trigger, "reset_memory", self._reset),
            (MemoryFile, "save_memory", self._save),
            (MemoryFile, "load_memory", self._load),
        ):
            answer = self._answering(name, act)
            node.create_service(kind, f"~/{name}", answer, callback_group=group)

    def _answering(
        self, name: str, act: Callable[[Any], Callable[[SetProcessor], str]]
    ) -> Callable[[Any, Any], Any]:
        def answer(request: Any, response: Any) -> Any:
            try:
                response.message = self._with_processor(act(request))
                response.success = True
                self._node.get_logger().info(f"{name}: {response.message}")
            except (InputError, OSError, NotNowError) as error:
                response.success, response.message = False, str(error)
                self._node.get_logger().warning(f"{name} refused: {error}")
            except Exception as error:  # would end the executor; the caller would wait forever
                response.success = False
                response.message = f"{name} failed: {type(error).__name__}: {error}"
                self._node.get_logger().error(f"{name} failed:\n{traceback.format_exc()}")
            return response

        return answer

    def _forget(self, request: Any) -> Callable[[SetProcessor], str]:
        def forget(processor: SetProcessor) -> str:
            known = processor.tracker.objects
            if not processor.tracker.forget(request.object_id):
                raise InputError(
                    f"object {request.object_id!r} is unknown; known objects: "
                    f"{', '.join(known) or 'none'}"
                )
            processor.table.forget(request.object_id)
            return f"{request.object_id} is forgotten"

        return forget

    def _reset(self, _: Any) -> Callable[[SetProcessor], str]:
        def reset(processor: SetProcessor) -> str:
            count = len(processor.tracker.objects)
            processor.reset()
            return f"memory reset, {count} objects forgotten"

        return reset

    def _path(self, name: str) -> Path:
        folder = str(self._node.get_parameter("memory_folder").value)
        return memory_file(folder, name, self._node.get_namespace())

    def _save(self, request: Any) -> Callable[[SetProcessor], str]:
        path = self._path(request.name)

        def save(processor: SetProcessor) -> str:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                lm.save_memory(
                    _of_masks(processor, "saved"), path, {"labels": processor.table.labels}
                )
            except OSError as error:
                if error.errno not in _OF_THE_FOLDER:
                    raise
                raise InputError(
                    f"memory folder {path.parent}: not writable ({os.strerror(error.errno)}); give "
                    "the node's user write permission, or set the parameter memory_folder to "
                    "another folder"
                ) from error
            return f"{len(processor.tracker.objects)} objects written to {path}"

        return save

    def _load(self, request: Any) -> Callable[[SetProcessor], str]:
        path = self._path(request.name)

        def load(processor: SetProcessor) -> str:
            extra = lm.load_memory(_of_masks(processor, "loaded"), path)
            processor.table.restore({str(k): int(v) for k, v in extra.get("labels", {}).items()})
            return f"{len(processor.tracker.objects)} objects read from {path}"

        return load


def _of_masks(processor: SetProcessor, done: str) -> Tracker:
    """The tracker, whose memory can be saved and loaded.

    Raises:
        InputError: if objects are marked by prompts.
    """
    if isinstance(processor.tracker, PromptedTracker):
        raise InputError(
            f"the memory of objects marked by prompts cannot be {done} (query_masks.source is "
            "'prompts'); mark the objects again"
        )
    return processor.tracker
