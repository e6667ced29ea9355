"""Play a bag and start the correspondence node with it.

    ros2 launch lmeec replay.launch.py bag:=<folder> params_file:=my.yaml

All arguments of lmeec.launch.py are accepted too. `lmeec play` starts to publish once the node has
subscribed to its inputs, so that no frame is lost at the start, and ends once the node has
processed the last frame.
"""

import os

from ament_index_python.packages import get_package_prefix, get_package_share_directory
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
)
from launch.conditions import IfCondition
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration

from launch import LaunchContext, LaunchDescription
from lmeec_ros.tools.node_process import profile_environment

SHARE = get_package_share_directory("lmeec")
COMMAND = os.path.join(get_package_prefix("lmeec"), "lib", "lmeec", "lmeec")

# argument: (default, description); the argument is required if the default is None
ARGUMENTS = {
    "bag": (None, "folder of the rosbag2 recording"),
    "rate": ("1.0", "playback speed, 1.0 = as recorded"),
    "loop": ("false", "start over at the end: true or false"),
    "clock": ("false", "publish /clock: true or false"),
    "wait": ("120", "maximum time to wait for the node to subscribe, seconds"),
    "shutdown": ("true", "shut down at the end of the bag: true or false"),
}


def given(context: LaunchContext, argument: str) -> bool:
    """Return whether an argument is true."""
    return LaunchConfiguration(argument).perform(context).lower() == "true"


def start_node(context: LaunchContext) -> list[object]:
    """Return the action that starts the node, with simulated time if /clock is published."""
    source = PythonLaunchDescriptionSource(os.path.join(SHARE, "launch", "lmeec.launch.py"))
    arguments = {"use_sim_time": "true"} if given(context, "clock") else {}
    return [IncludeLaunchDescription(source, launch_arguments=arguments.items())]


def play(context: LaunchContext) -> list[object]:
    """Return the actions that play the bag and, if requested, shut down at its end."""

    def text(argument: str) -> str:
        return LaunchConfiguration(argument).perform(context)

    # Declared by lmeec.launch.py. Without the argument, the node may still be in a namespace.
    name, namespace = text("name") or "lmeec", text("namespace").strip("/")
    node = f"/{namespace}/{name}" if namespace else name
    command = [COMMAND, "play", text("bag"), "--rate", text("rate"), "--wait", text("wait")]
    command += ["--node", node]
    command += [f"--{flag}" for flag in ("loop", "clock") if given(context, flag)]
    own = text("dds_profile").lower()
    wanted = own == "true" if own else None
    player = ExecuteProcess(
        cmd=command,
        name="play",
        output="screen",
        additional_env=profile_environment(wanted, context.environment),
    )
    end = RegisterEventHandler(
        OnProcessExit(
            target_action=player, on_exit=[EmitEvent(event=Shutdown(reason="bag ended"))]
        ),
        condition=IfCondition(LaunchConfiguration("shutdown")),
    )
    return [player, end]


def generate_launch_description() -> LaunchDescription:
    """Return the arguments, the node and the player."""
    declared = [
        DeclareLaunchArgument(name, description=description)
        if default is None
        else DeclareLaunchArgument(name, default_value=default, description=description)
        for name, (default, description) in ARGUMENTS.items()
    ]
    actions = [OpaqueFunction(function=start_node), OpaqueFunction(function=play)]
    return LaunchDescription([*declared, *actions])
