"""Start the correspondence node.

    ros2 launch lmeec lmeec.launch.py params_file:=my.yaml
    ros2 launch lmeec lmeec.launch.py namespace:=robot1 ego_image:=/robot1/head/image_raw

Every topic is an argument; one left empty stays as the parameter file has it. The topic arguments
are for the default cameras `ego` and `exo`; other cameras have theirs in the parameter file.
"""

import os

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchContext, LaunchDescription

SHARE = get_package_share_directory("lmeec")
PROFILE = os.path.join(SHARE, "config", "fastdds.xml")

# argument: (default, description)
ARGUMENTS = {
    "name": ("lmeec", "name of the node"),
    "namespace": ("", "namespace of the node"),
    "params_file": (os.path.join(SHARE, "config", "lmeec.yaml"), "file of parameters"),
    "log_level": ("info", "debug, info, warn, error or fatal"),
    "use_sim_time": ("false", "take the time from /clock: true or false"),
    "autostart": ("true", "configure and activate at the start: true or false"),
    "dds_profile": ("true", "use the package's Fast DDS profile (large images): true or false"),
    "respawn": ("false", "start the node again when it ends: true or false"),
}
# argument: parameter that it sets where it is not empty
PARAMETERS = {
    "ego_image": "cameras.ego.topic",
    "exo_image": "cameras.exo.topic",
    "query_masks": "query_masks.topic",
    "checkpoint": "model.checkpoint",
    "preset": "model.preset",
    "device": "model.device",
}
# argument: output that is remapped where it is not empty
OUTPUTS = {
    "masks": "~/exo/masks",
    "label_image": "~/exo/label_image",
    "overlay": "~/exo/overlay",
    "diagnostics": "/diagnostics",
}


def start_node(context: LaunchContext) -> list[Node]:
    """Return the node's action, with the arguments that were given."""

    def text(argument: str) -> str:
        return LaunchConfiguration(argument).perform(context)

    given = {
        # As texts: a topic or a path must not be read as YAML.
        parameter: ParameterValue(text(argument), value_type=str)
        for argument, parameter in PARAMETERS.items()
        if text(argument)
    }
    flags = {
        name: ParameterValue(LaunchConfiguration(name), value_type=bool)
        for name in ("use_sim_time", "autostart")
    }
    return [
        Node(
            package="lmeec",
            executable="lmeec_node",
            name=text("name"),
            namespace=text("namespace"),
            output="screen",
            emulate_tty=True,
            respawn=text("respawn").lower() == "true",
            respawn_delay=2.0,
            arguments=["--ros-args", "--log-level", text("log_level")],
            parameters=[text("params_file"), flags, given],
            remappings=[(topic, text(name)) for name, topic in OUTPUTS.items() if text(name)],
        )
    ]


def generate_launch_description() -> LaunchDescription:
    """Return the arguments and the node."""
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, (default, description) in ARGUMENTS.items()
    ]
    declared += [
        DeclareLaunchArgument(name, default_value="", description=f"parameter {parameter}")
        for name, parameter in PARAMETERS.items()
    ]
    declared += [
        DeclareLaunchArgument(name, default_value="", description=f"topic in place of {topic}")
        for name, topic in OUTPUTS.items()
    ]
    with_profile = IfCondition(LaunchConfiguration("dds_profile"))
    profile = [
        SetEnvironmentVariable(name, PROFILE, condition=with_profile)
        for name in ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
    ]
    return LaunchDescription([*declared, *profile, OpaqueFunction(function=start_node)])
