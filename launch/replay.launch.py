"""Play a bag and start the correspondence node with it.

    ros2 launch lmeec replay.launch.py bag:=<folder> params_file:=my.yaml

All arguments of lmeec.launch.py are accepted too. The bag is played by `lmeec play` once the node
has subscribed to its inputs, so that no frame is lost at the start; it ends once the node has
answered the last one.
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

# argument: (default, description); an empty default has no value
ARGUMENTS = {
    "bag": (None, "folder of the rosbag2 recording"),
    "rate": ("1.0", "speed of playing, 1.0 = as recorded"),
    "loop": ("false", "begin again at the end: true or false"),
    "clock": ("false", "publish /clock: true or false"),
    "wait": ("120", "longest time to wait for the node to subscribe, seconds"),
    "shutdown": ("true", "end when the bag has ended: true or false"),
}


def given(context: LaunchContext, argument: str) -> bool:
    """Whether an argument says true."""
    return LaunchConfiguration(argument).perform(context).lower() == "true"


def start_node(context: LaunchContext) -> list[object]:
    """Return the node's launch file, with simulated time if the bag's clock is played."""
    source = PythonLaunchDescriptionSource(os.path.join(SHARE, "launch", "lmeec.launch.py"))
    arguments = {"use_sim_time": "true"} if given(context, "clock") else {}
    return [IncludeLaunchDescription(source, launch_arguments=arguments.items())]


def play(context: LaunchContext) -> list[object]:
    """Return the actions that play the bag, and end the launch after it if asked for."""

    def text(argument: str) -> str:
        return LaunchConfiguration(argument).perform(context)

    # Declared by lmeec.launch.py. Without a namespace here the node may be in one all the same.
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
