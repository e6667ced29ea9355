"""The ROS 2 node: a lifecycle node that publishes where objects are in the target cameras."""

from __future__ import annotations

import gc
import re
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from builtin_interfaces.msg import Duration
from rcl_interfaces.msg import SetParametersResult
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.lifecycle.node import LifecycleNodeMixin
from rclpy.node import Node
from rclpy.parameter import Parameter

import lmeec_core as lm
from lmeec_ros import arena, diagnostics, filters, parameters
from lmeec_ros.inputs import InputStream, make_inputs, open_inputs
from lmeec_ros.monitor import PatientLog
from lmeec_ros.outputs import Outputs
from lmeec_ros.pipeline import InputError, SetProcessor, load_processor
from lmeec_ros.reasons import Measurements, Snapshot
from lmeec_ros.services import MemoryServices
from lmeec_ros.watchdog import Watchdog
from lmeec_ros.worker import Worker

T = TypeVar("T")

STEP_PATIENCE = 60.0
"""Seconds that deactivation waits for the step under way."""
MAX_FAILURES = 3
"""Failed steps in a row after which the node goes to error processing."""
Success, Failure = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
Error = TransitionCallbackReturn.ERROR


class LmeecNode(LifecycleNode):
    """Finds the objects of the query camera's masks in the target cameras, and publishes them.

    configure loads the model and warms it up; activate subscribes and publishes; deactivate stops
    both and keeps the memory; cleanup frees everything. Callbacks only hand over: one worker
    thread decodes, infers and publishes.

    Args:
        name: name of the node.
        kwargs: further arguments of rclpy.node.Node (context, parameter_overrides, ...).

    Raises:
        lmeec_ros.parameters.ParameterError: if a parameter is wrong or not known.
    """

    def __init__(self, name: str = "lmeec", **kwargs: Any) -> None:
        # LifecycleNode's own constructor puts the lifecycle services into the default group, where
        # loading a model would block the parameter services; so its two parents' are called.
        Node.__init__(self, name, **kwargs)
        self._lifecycle_group = MutuallyExclusiveCallbackGroup()
        self._input_group = MutuallyExclusiveCallbackGroup()
        LifecycleNodeMixin.__init__(self, callback_group=self._lifecycle_group)
        self._change_state = self._service_change_state.callback
        self._service_change_state.callback = self._on_change_state
        self.config = parameters.declare(self)
        self.add_on_set_parameters_callback(self._check_parameters)
        self.add_post_set_parameters_callback(self._take_parameters)
        self.measured = Measurements()
        self.processor: SetProcessor | None = None
        self.worker: Worker[tuple[Any, ...]] | None = None
        self.synchronizer: filters.Synchronizer | None = None
        self.inputs: list[InputStream] = []
        self._outputs: Outputs | None = None
        self._watchdog: Watchdog | None = None
        self._patient = PatientLog(5.0)
        self._failures = 0  # steps in a row that failed for reasons that are not the input's
        self._last_stamp: int | None = None
        self._transition = threading.RLock()  # a transition, or the watch, at a time
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # simulated time may stand still
        self._reporter = diagnostics.Reporter(self, self._snapshot, self._on_step_error)
        self.create_timer(0.5, self._watch, callback_group=self._lifecycle_group, clock=steady)
        self._memory_services = MemoryServices(self, self.with_processor)
        self._start_timer = None
        if self.config["autostart"]:
            self._start_timer = self.create_timer(
                0.01, self._autostart, callback_group=self._lifecycle_group, clock=steady
            )

    # ---- lifecycle

    @property
    def state(self) -> str:
        """Label of the lifecycle state."""
        return str(self._state_machine.current_state[1])

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the model, warm it up, create the publishers."""
        return self._guarded("configure", self._configure, self._release)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe, start the worker, publish."""

        def activate() -> None:
            self._activate()
            super(LmeecNode, self).on_activate(state)

        return self._guarded("activate", activate, self._stop)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe and stop the worker; the memory of the objects is kept."""

        def deactivate() -> None:
            self._stop()
            super(LmeecNode, self).on_deactivate(state)

        done = self._guarded("deactivate", deactivate)
        # rclpy has no other way from active to error processing.
        return Error if self._failures >= MAX_FAILURES else done

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the model, the memory and the publishers."""
        return self._guarded("cleanup", self._release)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop and free everything."""
        return self._guarded("shutdown", self._release)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free everything; the node can be configured again."""
        return self._guarded("error processing", self._release)

    def _guarded(
        self, name: str, action: Callable[[], None], undo: Callable[[], None] | None = None
    ) -> TransitionCallbackReturn:
        # rclpy swallows exceptions of transitions without a word.
        with self._transition:
            started = time.monotonic()
            try:
                action()
            except Exception as error:
                if not self.context.ok():  # interrupted: whatever failed is of no interest
                    return Failure
                self.measured.last_error = f"{name} failed: {error}"
                self.get_logger().error(self.measured.last_error)
                if not isinstance(error, ValueError | OSError):
                    self.get_logger().error(traceback.format_exc())
                if undo is not None:
                    try:
                        undo()
                    except Exception:
                        self.get_logger().error(traceback.format_exc())
                return Failure
            self.measured.last_error = ""
            self.get_logger().info(f"{name}: done in {time.monotonic() - started:.1f} s")
            return Success

    def _on_change_state(self, request: Any, response: Any) -> Any:
        # rclpy raises on a transition that the state does not have, which would end the node.
        try:
            return self._change_state(request, response)
        except Exception as error:
            self.get_logger().error(f"transition refused in the state {self.state}: {error}")
            response.success = False
            return response

    def _autostart(self) -> None:
        assert self._start_timer is not None
        self._start_timer.cancel()
        try:
            if self.trigger_configure() == Success:
                self.trigger_activate()
            elif self.context.ok():
                self.get_logger().error(
                    "not started; the node stays unconfigured and can be configured again "
                    f"(ros2 lifecycle set {self.get_fully_qualified_name()} configure)"
                )
        except Exception:  # rclpy cannot finish a transition after an interrupt
            if self.context.ok():
                raise

    def _configure(self) -> None:
        config = self.config
        self.get_logger().info(
            f"loading preset {config['model.preset']}, weights "
            f"{config.checkpoint or 'of the preset'}, on {config['model.device']}"
        )
        seeded = config.seed is not None and config.checkpoint is None
        if seeded and lm.bundled_weights(config["model.preset"]) is None:
            text = f"no checkpoint: random weights of model.seed {config.seed}; "
            self.get_logger().warning(text + "the masks mean nothing")
        self.processor = load_processor(config)
        self._outputs = Outputs(self, config)
        gc.collect()
        gc.freeze()  # else a collection looks through the whole network: a tenth of a second

    def _activate(self) -> None:
        config = self.config
        self.measured = Measurements()
        self._patient.forget()
        self._failures = 0
        self.worker = Worker(self._process, self._on_step_error, config["mailbox.depth"])
        self.inputs = make_inputs(self, config, self._input_group)
        names = [one.name for one in self.inputs]
        self.synchronizer = filters.synchronizer_for(config, self.inputs, names, self._on_time_jump)
        self.synchronizer.registerCallback(self._on_set)
        self._watchdog = Watchdog(self.inputs, self.synchronizer.stats, self.get_logger())
        self.worker.start()
        for one in self.inputs:
            one.on_error = self._on_step_error
        self._open_inputs()

    def _open_inputs(self) -> None:
        if self._outputs is not None and self.synchronizer is not None:
            open_inputs(self.inputs, self.config, self._outputs, self.synchronizer)

    def _stop(self) -> None:
        for one in self.inputs:
            one.close()
        if self.worker is not None and not self.worker.stop(STEP_PATIENCE):
            raise RuntimeError(f"the step under way did not end within {STEP_PATIENCE:.0f} s")
        self.inputs, self.worker = [], None
        self.synchronizer = self._watchdog = None

    def _release(self) -> None:
        self._stop()
        if self._outputs is not None:
            self._outputs.destroy()
            self._outputs = None
        device = self._device()
        self.processor = self._last_stamp = None
        if device is not None and device.startswith("cuda"):
            import torch

            torch.cuda.empty_cache()
        gc.unfreeze()
        gc.collect()  # modules refer to each other in circles
        arena.give_back()

    def close(self, timeout: float = 2.0) -> bool:
        """Stop the worker at the end of the process; return whether nothing runs any more."""
        worker = self.worker
        stopped = worker is None or worker.stop(timeout)
        free = self._transition.acquire(timeout=timeout)
        if free:
            self._transition.release()
        return stopped and free

    def with_processor(self, function: Callable[[SetProcessor], T]) -> T:
        """Call a function with the processor while no step is under way, and return its result.

        Raises:
            RuntimeError: the node is not configured, or a step took too long; says so.
        """
        with self._transition:
            processor, worker = self.processor, self.worker
            if processor is None:
                raise RuntimeError("no memory: the node is not configured")
            if worker is None:
                return function(processor)
            future: Future[T] = Future()

            def run() -> None:
                try:
                    future.set_result(function(processor))
                except Exception as error:
                    future.set_exception(error)

            worker.call(run, discard=False)
        try:
            return future.result(STEP_PATIENCE)
        except TimeoutError:
            if future.done():
                raise
            raise RuntimeError(
                f"the step under way takes more than {STEP_PATIENCE:.0f} s"
            ) from None

    def destroy_node(self) -> None:
        """Free the node's DDS entities, those of its lifecycle too.

        rclpy leaves the lifecycle services to the garbage collector: until it comes, a node that
        is gone still answers to its name, and clients of the next one wait in vain.
        """
        super().destroy_node()
        self._state_machine.destroy_when_not_in_use()

    # ---- the way of a frame

    def _on_set(self, *messages: Any) -> None:
        if self.worker is None or self.worker.put(messages):
            return
        text = "inference is slower than the cameras: the oldest set waiting was dropped"
        if line := self._patient("mailbox", text):
            self.get_logger().warning(line)

    def _on_time_jump(self, name: str, old: int, new: int) -> None:
        self.get_logger().warning(
            f"time jumped back by {(old - new) / 1e9:.3f} s ({name}: {old / 1e9:.3f} to "
            f"{new / 1e9:.3f}); pairing and memory start afresh"
        )
        if self.worker is not None:
            self.worker.call(self._reset_memory)

    def _reset_memory(self) -> None:
        self._last_stamp = None
        if self.processor is not None and self._outputs is not None:
            self.processor.tracker.reset()
            self._outputs.forget()

    def _process(self, messages: tuple[Any, ...], arrived: float) -> None:
        """Process one set (in the worker's thread)."""
        processor, outputs = self.processor, self._outputs
        if processor is None or outputs is None:
            return
        started = time.monotonic()
        query, masks, *targets = messages
        stamp = filters.stamp_of(query)
        if self._last_stamp is not None and stamp <= self._last_stamp:
            self.get_logger().warning("the query image is older than the last: memory reset")
            self._reset_memory()
        self._last_stamp = stamp
        names = processor.config.target_cameras
        given = dict(zip(names, targets, strict=True))
        found = processor.process(query, masks, given, self._on_refused_image)
        taken = processor.step_seconds
        for output in found.values():
            seconds = int(taken)
            output.message.processing_time = Duration(
                sec=seconds, nanosec=int((taken - seconds) * 1e9)
            )
        outputs.publish(query.header, found, processor)
        self.measured.objects = processor.objects_seen
        clock = self.get_clock().now().nanoseconds
        ages = [1e-6 * (clock - filters.stamp_of(output)) for output in found.values()]
        self.measured.add_set(stamp, started, arrived, ages)
        self._failures = 0

    def _on_refused_image(self, error: InputError) -> None:
        self.measured.refused += 1
        kind = "refused " + re.sub(r"\d+", "#", str(error))[:200]
        if line := self._patient(kind, f"image left out of its set: {error}"):
            self.get_logger().error(line)

    def _on_step_error(self, error: Exception) -> None:
        self.measured.last_error = str(error)
        text = f"set skipped: {error}"
        kind = re.sub(r"\d+", "#", str(error))[:200]
        if not isinstance(error, InputError):
            self._failures += 1
            kind = type(error).__name__
            text += "\n" + "".join(traceback.format_exception(error))
        if line := self._patient(kind, text):
            self.get_logger().error(line)

    # ---- parameters

    def _check_parameters(self, changes: list[Parameter]) -> SetParametersResult:
        own = [one for one in changes if one.name in self.config.values]
        try:
            parameters.load({**self.config.values, **{one.name: one.value for one in own}})
        except parameters.ParameterError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _take_parameters(self, changes: list[Parameter]) -> None:
        own = {one.name: one.value for one in changes if one.name in self.config.values}
        if not own:
            return
        self.config = parameters.load({**self.config.values, **own})
        processor, synchronizer = self.processor, self.synchronizer
        if processor is not None:
            processor.config = self.config
        if synchronizer is not None:
            filters.take_times(self.config, synchronizer)
        for name, value in own.items():
            self.get_logger().info(f"{name} is now {value}")

    # ---- watching

    def _watch(self) -> None:
        with self._transition:
            try:
                if self._failures >= MAX_FAILURES and self.state == "active":
                    self._give_up()
                self._open_inputs()
                for one in self.inputs:
                    one.refresh()
                if self._watchdog is not None and self.state == "active":
                    self._watchdog.look(self.config)
            except Exception as error:  # must not end the executor
                if self.context.ok():
                    self._on_step_error(error)

    def _give_up(self) -> None:
        """Go to error processing, which frees everything and leaves the node unconfigured."""
        cause = self.measured.last_error
        self.get_logger().error(
            f"{self._failures} steps in a row failed ({cause}); the node stops, unconfigured. Mend "
            f"the cause, then ros2 lifecycle set {self.get_fully_qualified_name()} configure"
        )
        self.trigger_deactivate()
        self.measured.last_error = f"stopped after {self._failures} failed steps: {cause}"

    def _device(self) -> str | None:
        return None if self.processor is None else str(self.processor.tracker.model.device)

    def _snapshot(self) -> Snapshot:
        synchronizer, worker, watchdog = self.synchronizer, self.worker, self._watchdog
        outputs = self._outputs
        return Snapshot(
            self.get_fully_qualified_name(),
            self.state,
            self.config,
            self._device(),
            self.measured,
            synchronizer.stats() if synchronizer is not None else None,
            worker.stats() if worker is not None else None,
            tuple(self.inputs),
            watchdog.silent if watchdog is not None else {},
            watchdog.unpaired if watchdog is not None else False,
            outputs.points if outputs is not None else None,
        )
