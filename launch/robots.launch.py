"""Start a correspondence node for each of several robots, in the namespace of the robot.

    ros2 launch lmeec robots.launch.py robots:=robot1,robot2 params_file:=my.yaml

Topics without a leading slash in the parameter file are relative to the robot's namespace:
ego/image_raw is /robot1/ego/image_raw for robot1. Topics with a leading slash are shared, for
example that of a wall camera. `{robot}` in params_file is replaced by the robot's name:
params_file:=/etc/robots/{robot}.yaml. All arguments of lmeec.launch.py except namespace are
accepted too, and apply to every robot.
"""

import os
import re

from ament_index_python.packages import get_package_share_directory
from launch.actions import (
    DeclareLaunchArgument,
    GroupAction,
    IncludeLaunchDescription,
    LogInfo,
    OpaqueFunction,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration

from launch import LaunchContext, LaunchDescription
from lmeec_ros.parameters import files as parameter_files

SHARE = get_package_share_directory("lmeec")
DEFAULT = os.path.join(SHARE, "config", "lmeec.yaml")
TOPIC = r"(cameras\..*|query_masks)\.topic"


def shared_topics(file: str, node: str) -> list[str]:
    """Return a node's input topics in a parameter file that are outside its namespace.

    Raises:
        lmeec_ros.parameters.files.ParameterError: if the file cannot be read, or has no parameters
            for the node.
    """
    content = parameter_files.read(file)
    values = content.values_for(node)
    if values is None:
        raise content.refusal(node)
    topics = [values[name] for name in values if re.fullmatch(TOPIC, name)]
    return [topic for topic in topics if str(topic).startswith("/")]


def start_robots(context: LaunchContext) -> list[object]:
    """Return the actions that start the robots' nodes, and a message for each shared topic."""
    names = LaunchConfiguration("robots").perform(context).split(",")
    names = [name.strip() for name in names if name.strip()]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"robots: {names} given, different names separated by commas expected")
    template = LaunchConfiguration("params_file").perform(context)
    actions = []
    for name in names:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
            raise ValueError(f"robots: {name!r} given; letters, digits and _ expected")
        file = template.replace("{robot}", name)
        node_name = LaunchConfiguration("name", default="lmeec").perform(context) or "lmeec"
        for topic in shared_topics(file, f"/{name}/{node_name}"):
            text = f"{name} subscribes to {topic}, which is outside its namespace ({file})"
            actions.append(LogInfo(msg=text))
        node = IncludeLaunchDescription(
            PythonLaunchDescriptionSource(os.path.join(SHARE, "launch", "lmeec.launch.py")),
            launch_arguments={"namespace": name, "params_file": file}.items(),
        )
        actions.append(GroupAction([node]))  # limits the arguments' scope to this robot
    return actions


def generate_launch_description() -> LaunchDescription:
    """Return the arguments and the nodes."""
    return LaunchDescription(
        [
            DeclareLaunchArgument("robots", description="names of the robots, separated by commas"),
            DeclareLaunchArgument(
                "params_file",
                default_value=DEFAULT,
                description="parameter file; {robot} is replaced by the name of each robot",
            ),
            OpaqueFunction(function=start_robots),
        ]
    )
