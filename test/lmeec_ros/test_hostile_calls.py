"""Calls and messages at which rclpy itself raises end no node, and callers get answers."""

from __future__ import annotations

import time
from typing import Any

import pytest
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters, SetParametersAtomically
from rosgraph_msgs.msg import Clock
from std_srvs.srv import Trigger

NO_TYPE = ParameterValue(type=77)


def threshold(value: ParameterValue) -> Parameter:
    return Parameter(name="presence_threshold", value=value)


def test_what_rclpy_does_not_understand_never_ends_the_node(
    start_node: Any, rig: Any, tools: Any
) -> None:
    node = start_node({**tools.BASE, "autostart": False, "use_sim_time": True})
    good = ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=0.25)

    request = SetParameters.Request(parameters=[threshold(good), threshold(NO_TYPE)])
    results = rig.call(SetParameters, "/lmeec/set_parameters", request).results
    assert [one.successful for one in results] == [True, False]
    assert "77 is not a valid" in results[1].reason

    request = SetParametersAtomically.Request(parameters=[threshold(good), threshold(NO_TYPE)])
    result = rig.call(SetParametersAtomically, "/lmeec/set_parameters_atomically", request).result
    assert not result.successful and "77 is not a valid" in result.reason

    clock = rig.advertise("/clock", Clock)
    message = Clock()
    message.clock.sec = -5

    def told() -> bool:  # sent again and again: before both sides know each other it is lost
        clock.publish(message)
        time.sleep(0.2)
        return "subscription of /clock: Seconds value must not" in node.log.read_text()

    tools.wait_until(told, "the log to tell of the clock")
    answer = rig.call(GetState, "/lmeec/get_state", GetState.Request())
    assert node.alive and answer.current_state.label == "unconfigured"


def test_calls_are_answered_while_a_transition_takes_its_time(
    make_node: Any, rig: Any, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = make_node(autostart=False)
    load = node._configure
    monkeypatch.setattr(node, "_configure", lambda: (time.sleep(6), load()))
    for kind, service in ((GetState, "get_state"), (Trigger, "reset_memory")):
        rig.call(kind, f"/lmeec/{service}", kind.Request())  # they know each other now
    request = ChangeState.Request(transition=Transition(id=Transition.TRANSITION_CONFIGURE))
    change = rig.ask(ChangeState, "/lmeec/change_state", request)
    tools.wait_until(lambda: node.state == "configuring", "the transition to begin")

    state = rig.call(GetState, "/lmeec/get_state", GetState.Request()).current_state.label
    reset = rig.call(Trigger, "/lmeec/reset_memory", Trigger.Request())
    assert state == "configuring" and not change.done()
    assert (reset.success, reset.message) == (
        False,
        "the node is configuring; nothing was done, call again later",
    )
    tools.wait_until(change.done, "the transition to end")
    assert change.result().success
    assert rig.call(Trigger, "/lmeec/reset_memory", Trigger.Request()).success
