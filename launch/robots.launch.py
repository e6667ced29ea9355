"""Start a correspondence node for each of several robots, each in a namespace of its own.

    ros2 launch lmeec robots.launch.py robots:=robot1,robot2 params_file:=my.yaml

Topics that the parameter file names without a leading slash are each robot's own: ego/image_raw is
/robot1/ego/image_raw for robot1. Those with one are shared, as a camera on the wall may be.
`{robot}` in params_file stands for the robot's name: params_file:=/etc/robots/{robot}.yaml. All
arguments of lmeec.launch.py but namespace are accepted too, and hold for every robot.
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
    """The input topics that a parameter file gives a node and that lie in no namespace.

    Raises:
        lmeec_ros.parameters.files.ParameterError: it cannot be read, or has nothing for the node.
    """
    content = parameter_files.read(file)
    values = content.values_for(node)
    if values is None:
        raise content.refusal(node)
    topics = [values[name] for name in values if re.fullmatch(TOPIC, name)]
    return [topic for topic in topics if str(topic).startswith("/")]


def start_robots(context: LaunchContext) -> list[object]:
    """Return each robot's node, and a word on what they share."""
    names = LaunchConfiguration("robots").perform(context).split(",")
    names = [name.strip() for name in names if name.strip()]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"robots: {names} given, names that differ, with commas between, expected")
    template = LaunchConfiguration("params_file").perform(context)
    actions = []
    for name in names:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
            raise ValueError(f"robots: {name!r} given; letters, digits and _ expected")
        file = template.replace("{robot}", name)
        node_name = LaunchConfiguration("name", default="lmeec").perform(context) or "lmeec"
        for topic in shared_topics(file, f"/{name}/{node_name}"):
            text = f"{name} reads {topic}, which is not in its namespace ({file})"
            actions.append(LogInfo(msg=text))
        node = IncludeLaunchDescription(
            PythonLaunchDescriptionSource(os.path.join(SHARE, "launch", "lmeec.launch.py")),
            launch_arguments={"namespace": name, "params_file": file}.items(),
        )
        actions.append(GroupAction([node]))  # so that the arguments end with each robot
    return actions


def generate_launch_description() -> LaunchDescription:
    """Return the arguments and the nodes."""
    return LaunchDescription(
        [
            DeclareLaunchArgument("robots", description="the robots' names, with commas between"),
            DeclareLaunchArgument(
                "params_file",
                default_value=DEFAULT,
                description="file of parameters; {robot} in it stands for the robot's name",
            ),
            OpaqueFunction(function=start_robots),
        ]
    )
