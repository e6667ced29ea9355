"""Play a bag and start the correspondence node with it.

    ros2 launch lmeec replay.launch.py bag:=<folder> params_file:=my.yaml

All arguments of lmeec.launch.py are accepted too. The bag is played by `lmeec play` once the node
has subscribed to its inputs, so that no frame is lost at the start.
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


def play(context: LaunchContext) -> list[object]:
    """Return the actions that play the bag, and end the launch after it if asked for."""

    def text(argument: str) -> str:
        return LaunchConfiguration(argument).perform(context)

    command = [COMMAND, "play", text("bag"), "--rate", text("rate"), "--wait", text("wait")]
    command += [f"--{flag}" for flag in ("loop", "clock") if text(flag).lower() == "true"]
    player = ExecuteProcess(cmd=command, name="play", output="screen")
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
    node = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(os.path.join(SHARE, "launch", "lmeec.launch.py")),
        launch_arguments={"use_sim_time": LaunchConfiguration("clock")}.items(),
    )
    return LaunchDescription([*declared, node, OpaqueFunction(function=play)])
