"""The ROS 2 node: a lifecycle node that publishes the objects' masks in the target cameras."""

from __future__ import annotations

import gc
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack
from functools import partial
from typing import Any, TypeVar

from rcl_interfaces.msg import SetParametersResult
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter

from lmeec_core.errors import InputError
from lmeec_core.sync.image_set import ImageSet
from lmeec_core.sync.stream_monitor import kind_of
from lmeec_ros.health import diagnostics
from lmeec_ros.health.measurements import Measurements, Snapshot
from lmeec_ros.health.watchdog import Watchdog
from lmeec_ros.inference.pipeline import SetProcessor, load_processor
from lmeec_ros.inference.worker import NotNowError, Worker, in_a_thread, result_of
from lmeec_ros.io.inputs import Input, InputStream, follow_publishers, inputs_of, open_inputs
from lmeec_ros.io.synchronizer import Synchronizer, make_synchronizer, stamp_of
from lmeec_ros.outputs import Outputs, PublishError
from lmeec_ros.parameters import config as parameters
from lmeec_ros.parameters.qos_overrides import refuse_unused
from lmeec_ros.prompting import PromptInputs
from lmeec_ros.runtime import arena
from lmeec_ros.runtime.lifecycle import Error, ManagedNode, Success
from lmeec_ros.services import MemoryServices

T = TypeVar("T")

STEP_PATIENCE = 60.0
"""Seconds that deactivation and the memory services wait for the current step."""
MAX_FAILURES = 3
"""Consecutive failed steps after which the node goes to error processing."""


class LmeecNode(ManagedNode):
    """Finds the objects of the query masks in the target cameras, and publishes their masks.

    configure loads the model and warms it up; activate starts subscribing and publishing;
    deactivate stops both and keeps the memory; cleanup frees everything. Callbacks only pass
    messages on; one worker thread decodes, runs the network and publishes.

    Args:
        name: name of the node.
        kwargs: further arguments of rclpy.node.Node (context, parameter_overrides, ...).

    Raises:
        lmeec_ros.parameters.config.ParameterError: if a parameter is wrong or unknown.
    """

    def __init__(self, name: str = "lmeec", **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self._input_group = MutuallyExclusiveCallbackGroup()
        self.config = parameters.declare(self)
        self.add_on_set_parameters_callback(self._check_parameters)
        self.add_post_set_parameters_callback(self._take_parameters)
        self.processor: SetProcessor | None = None
        self.worker: Worker[ImageSet[Any]] | None = None
        self.synchronizer: Synchronizer | None = None
        self.inputs: ImageSet[InputStream] | None = None
        self._abandoned: list[threading.Thread] = []  # workers whose step did not end in time
        self._outputs: Outputs | None = None
        self._watchdog: Watchdog | None = None
        self._failures = 0  # consecutive failed steps, not counting bad input
        self._last_stamp: int | None = None
        clock = Clock(clock_type=ClockType.STEADY_TIME)  # simulated time may be paused
        timer = partial(self.create_timer, callback_group=self._lifecycle_group, clock=clock)
        failed = partial(self._report_error, "diagnostics")
        self._reporter = diagnostics.Reporter(self, self._snapshot, failed)
        self._memory_services = MemoryServices(self, self.with_processor)
        self._prompts = PromptInputs(self, self)
        timer(0.5, self._watch)
        self._start_timer = timer(0.01, self._autostart) if self.config.autostart else None
        self._log.attach()

    # ---- lifecycle

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the model, warm it up, create the publishers."""
        return self._guarded("configure", self._configure, self._release)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe, start the worker, publish."""

        def activate() -> None:
            self._activate()
            if super(LmeecNode, self).on_activate(state) != Success:
                raise RuntimeError("a publisher cannot be activated")

        return self._guarded("activate", activate, self._stop)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe and stop the worker; the memory of the objects is kept.

        If the current step does not end in time, it is abandoned and the node becomes unconfigured.
        """

        def deactivate() -> None:
            self._stop()
            if super(LmeecNode, self).on_deactivate(state) != Success:
                raise RuntimeError("a publisher cannot be deactivated")

        cause = self.measured.last_error
        done = self._guarded("deactivate", deactivate, otherwise=Error)  # must not stay active
        if self._failures < MAX_FAILURES:
            return done
        self.measured.last_error = f"stopped after {self._failures} failed steps: {cause}"
        return Error  # the only way in rclpy from active to error processing

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the model, the memory and the publishers."""
        return self._guarded("cleanup", self._release, otherwise=Error)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop and free everything."""
        return self._guarded("shutdown", self._release)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free everything; the node can be configured again."""
        cause = self.measured.last_error
        self._guarded("error processing", self._release)
        self.measured.last_error = cause or self.measured.last_error
        return Success

    def _autostart(self) -> None:
        assert self._start_timer is not None
        self._start_timer.cancel()
        if self.state != "unconfigured":  # a lifecycle client was faster
            self.get_logger().warning(f"autostart: skipped, the node is {self.state} already")
            return
        try:
            started = self.trigger_configure() == Success and self.trigger_activate() == Success
        except Exception:  # rclpy cannot finish a transition after an interrupt
            if self.context.ok():
                raise
            return
        if not started and self.context.ok():
            step = "configure" if self.state == "unconfigured" else "activate"
            self.get_logger().error(
                f"not started; the node stays {self.state}. To try again: ros2 lifecycle set "
                f"{self.get_fully_qualified_name()} {step}"
            )

    def _configure(self) -> None:
        config = self.config
        self.get_logger().info(
            f"loading preset {config.model.preset}, weights "
            f"{config.model.checkpoint or 'of the preset'}, on {config.model.device}"
        )
        self._outputs = Outputs(self, config)  # before the slow part, since this may fail
        self.processor = in_a_thread(partial(load_processor, config), "configure")
        gc.collect()
        gc.freeze()  # else every collection traverses the whole network, which takes 0.1 s

    def _activate(self) -> None:
        config, processor, outputs = self.config, self.processor, self._outputs
        if processor is None or outputs is None:
            raise RuntimeError("no network is loaded: the node is not configured")
        self.measured = Measurements()
        self._throttle.forget()
        self._failures = 0
        processor.begin()
        process = partial(self._process, processor, outputs)
        self.worker = Worker(process, self._on_step_error, config.mailbox.depth)
        synchronizer = make_synchronizer(config, self._on_set, self._on_time_jump)

        def make_input(given: Input) -> InputStream:
            return InputStream(self, given, self._input_group, synchronizer.add, self._report_error)

        self.synchronizer, self.inputs = synchronizer, inputs_of(config).map(make_input)
        self._watchdog = Watchdog(self.inputs, synchronizer.stats, self.get_logger())
        self.worker.start()
        self._open_inputs()
        refuse_unused(self, [topic for one in self.inputs for topic in one.topics])

    def _open_inputs(self) -> None:
        inputs, outputs, synchronizer = self.inputs, self._outputs, self.synchronizer
        if inputs is not None and outputs is not None and synchronizer is not None:
            open_inputs(inputs, self.config.output.lazy, outputs.has_listeners, synchronizer)
            outputs.follow()

    def _stop(self) -> None:
        """Close the inputs and end the worker, completely even if a part fails."""
        inputs, worker = self.inputs, self.worker
        self.inputs = self.worker = self.synchronizer = self._watchdog = None
        self._prompts.end()
        with ExitStack() as cleanup:  # in reverse order
            if worker is not None:
                cleanup.callback(self._end, worker)
            for one in inputs or ():
                cleanup.callback(one.close)

    def _end(self, worker: Worker[ImageSet[Any]]) -> None:
        if not worker.stop(STEP_PATIENCE):
            self._abandoned.append(worker.thread)
            raise TimeoutError(
                f"the current step did not end within {STEP_PATIENCE:g} s and was abandoned; its "
                "result is ignored, and configure loads the network again"
            )

    def _release(self) -> None:
        """Free everything, completely even if a part fails."""
        outputs, processor = self._outputs, self.processor
        self._prompts.end()
        with ExitStack() as cleanup:  # in reverse order
            cleanup.callback(arena.give_back)
            cleanup.callback(gc.collect)  # modules are in reference cycles
            cleanup.callback(gc.unfreeze)
            if processor is not None:
                cleanup.callback(processor.close)
            if outputs is not None:
                cleanup.callback(outputs.destroy)
            cleanup.callback(self._stop)
            self._outputs = self.processor = self._last_stamp = None

    def close(self, timeout: float = 2.0) -> bool:
        """Stop the worker at the end of the process; return whether no step or transition runs."""
        worker = self.worker
        stopped = worker is None or worker.stop(timeout)
        if free := self._transition.acquire(timeout=timeout):
            self._transition.release()
        return stopped and free and not any(one.is_alive() for one in self._abandoned)

    def with_processor(self, function: Callable[[SetProcessor], T]) -> T:
        """Call a function with the processor between two steps, and return its result.

        Raises:
            NotNowError: if the node is not configured or in a transition, was deactivated, or the
                call took too long. The function was not called, unless the text says otherwise.
        """
        with self._between_transitions():
            processor, worker = self.processor, self.worker
            if processor is None:
                raise NotNowError("no memory: the node is not configured")
            if worker is None:
                return in_a_thread(partial(function, processor), "memory")
            future = worker.call(partial(function, processor), discard=False)
        return result_of(future, STEP_PATIENCE, self.get_logger())

    # ---- processing

    def _on_set(self, found: ImageSet[Any]) -> None:
        worker = self.worker
        if worker is None or worker.put(found):
            return
        self._warn("mailbox", "inference is slower than the cameras: the oldest set was dropped")

    def _on_time_jump(self, name: str, old: int, new: int) -> None:
        self.get_logger().warning(
            f"time jumped back by {(old - new) / 1e9:.3f} s ({name}: {old / 1e9:.3f} to "
            f"{new / 1e9:.3f}); pairing and memory were reset"
        )
        worker, processor, outputs = self.worker, self.processor, self._outputs
        if worker is not None and processor is not None and outputs is not None:
            future = worker.call(partial(self._reset_memory, processor, outputs))
            future.add_done_callback(self._on_reset)

    def _on_reset(self, future: Future[None]) -> None:
        # A cancelled reset needs no report: the next set, older than the last, resets as well.
        if not future.cancelled() and isinstance(error := future.exception(), Exception):
            self._report_error("resetting the memory", error)

    def _reset_memory(self, processor: SetProcessor, outputs: Outputs) -> None:
        self._last_stamp = None
        processor.reset()
        outputs.forget()

    def _process(
        self,
        processor: SetProcessor,
        outputs: Outputs,
        given: ImageSet[Any],
        arrived: float,
    ) -> None:
        """Process one set and publish the results (in the worker's thread)."""
        started = time.monotonic()
        stamp = stamp_of(given.query)
        if self._last_stamp is not None and stamp <= self._last_stamp:
            self.get_logger().warning("the query image is not newer than the last: memory reset")
            self._reset_memory(processor, outputs)
        self._last_stamp = stamp
        found = processor.process(given, self._on_refused_image)
        if outputs is not self._outputs:  # deactivation has abandoned this step
            return
        self._failures = 0
        taken = Duration(seconds=processor.step_seconds).to_msg()
        for output in found.values():
            output.message.processing_time = taken
        done = outputs.publish(given.query.header, found, processor, self._report_error)
        self.measured.objects, self.measured.marked = processor.objects_seen, processor.marked
        clock = self.get_clock().now().nanoseconds
        ages = {name: 1e-6 * (clock - stamp_of(found[name])) for name in done}
        self.measured.add_set(stamp, started, arrived, ages)

    def _on_refused_image(self, camera: str, error: InputError) -> None:
        self.measured.add_refusal(camera, str(error))
        self._log_error(f"refused {kind_of(error)}", f"image left out of its set: {error}")

    def _on_step_error(self, error: Exception) -> None:
        """Count and log why a set failed (in the worker's thread)."""
        if not self.context.ok():  # shutting down destroys entities that the step still uses
            return
        self.measured.last_error = str(error)
        if isinstance(error, PublishError):  # logged by Outputs; the step itself succeeded
            return
        text, kind = f"set skipped: {error}", kind_of(error)
        if not isinstance(error, InputError):
            self._failures += 1
            kind = type(error).__name__
            text += "\n" + "".join(traceback.format_exception(error))
        self._log_error(kind, text)

    # ---- parameters

    def _own(self, changes: list[Parameter]) -> dict[str, Any]:
        return {one.name: one.value for one in changes if one.name in self.config.values}

    def _check_parameters(self, changes: list[Parameter]) -> SetParametersResult:
        try:
            parameters.load({**self.config.values, **self._own(changes)}, self.resolve_topic_name)
        except parameters.ParameterError as error:
            return SetParametersResult(successful=False, reason=str(error))
        except Exception as error:  # would end the executor
            self._report_error("checking parameters", error)
            return SetParametersResult(successful=False, reason=f"{type(error).__name__}: {error}")
        return SetParametersResult(successful=True)

    def _take_parameters(self, changes: list[Parameter]) -> None:
        own = self._own(changes)
        if not own:
            return
        self.config = parameters.load({**self.config.values, **own}, self.resolve_topic_name)
        processor, synchronizer = self.processor, self.synchronizer
        if processor is not None:
            processor.config = self.config
        if synchronizer is not None:
            with self._reporting("taking parameters"):
                synchronizer.take_parameters(self.config)
        for name, value in own.items():
            self.get_logger().info(f"{name} is now {value}")

    # ---- supervision

    def _watch(self) -> None:
        with self._transition:
            if self._failures >= MAX_FAILURES and self.state == "active":
                with self._reporting("stopping after failed steps"):
                    self._give_up()
            with self._reporting("opening the inputs"):
                self._open_inputs()
            with self._reporting("following the publishers"):
                if self.inputs is not None:
                    follow_publishers(self.inputs, self._watchdog.silent if self._watchdog else ())
            self._prompts.settle()
            if self._watchdog is not None and self.state == "active":
                with self._reporting("watching the inputs"):
                    self._watchdog.check(self.config)

    def _give_up(self) -> None:
        """Go to error processing, which frees everything and leaves the node unconfigured."""
        cause = self.measured.last_error
        self.get_logger().error(
            f"{self._failures} steps in a row failed ({cause}); the node stops, unconfigured. Fix "
            f"the cause, then ros2 lifecycle set {self.get_fully_qualified_name()} configure"
        )
        self.trigger_deactivate()

    def _snapshot(self) -> Snapshot:
        synchronizer, worker, watchdog = self.synchronizer, self.worker, self._watchdog
        processor, outputs = self.processor, self._outputs
        return Snapshot(
            self.get_fully_qualified_name(),
            self.state,
            self.config,
            processor.device if processor is not None else None,
            self.measured,
            synchronizer.stats() if synchronizer is not None else None,
            worker.stats() if worker is not None else None,
            self.inputs,
            watchdog.silent if watchdog is not None else {},
            watchdog.unpaired if watchdog is not None else False,
            outputs.points if outputs is not None else None,
            processor.engines if processor is not None else "",
            processor.precision if processor is not None else "",
            processor.improving if processor is not None else "",
            self._prompts.waiting,
        )
