"""Start the correspondence node.

    ros2 launch lmeec lmeec.launch.py params_file:=my.yaml
    ros2 launch lmeec lmeec.launch.py namespace:=robot1 ego_image:=/robot1/head/image_raw

An argument that is not given has no effect: the parameter file, the node's defaults or the
environment apply. Every topic is an argument. The topic arguments are for the default cameras `ego`
and `exo`; the topics of other cameras are set in the parameter file.
"""

from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchContext, LaunchDescription
from lmeec_ros.tools.node_process import profile_environment

# argument: description
ARGUMENTS = {
    "name": "name of the node (lmeec)",
    "namespace": "namespace of the node",
    "params_file": "parameter file, like config/lmeec.yaml, which contains the defaults",
    "log_level": "debug, info, warn, error or fatal",
    "dds_profile": "use the package's Fast DDS profile, needed for large images: true, false, or "
    "empty (true unless the environment names a profile)",
    "respawn": "restart the node when it ends: true or false",
}
# arguments that set the parameter of the same name to true or false, if given
FLAGS = ("use_sim_time", "autostart")
# argument: parameter that it sets, if given
PARAMETERS = {
    "ego_image": "cameras.ego.topic",
    "exo_image": "cameras.exo.topic",
    "query_masks": "query_masks.topic",
    "checkpoint": "model.checkpoint",
    "preset": "model.preset",
    "device": "model.device",
}
# argument: output that it remaps, if given
OUTPUTS = {
    "masks": "~/exo/masks",
    "label_image": "~/exo/label_image",
    "overlay": "~/exo/overlay",
    "diagnostics": "/diagnostics",
}


def flag(name: str, text: str) -> bool:
    """Return whether an argument is true; one that is not given is false."""
    if text.lower() not in ("", "true", "false"):
        raise ValueError(f"{name}: {text!r} given, true or false expected")
    return text.lower() == "true"


def start_node(context: LaunchContext) -> list[Node]:
    """Return the action that starts the node, with the arguments that were given."""

    def text(argument: str) -> str:
        return LaunchConfiguration(argument).perform(context)

    given: dict[str, object] = {
        # As strings: a topic or a path must not be parsed as YAML.
        parameter: ParameterValue(text(argument), value_type=str)
        for argument, parameter in PARAMETERS.items()
        if text(argument)
    }
    given |= {name: flag(name, text(name)) for name in FLAGS if text(name)}
    level, own = text("log_level"), text("dds_profile")
    wanted = flag("dds_profile", own) if own else None
    return [
        Node(
            package="lmeec",
            executable="lmeec_node",
            name=text("name") or None,
            namespace=text("namespace") or None,
            output="screen",
            emulate_tty=True,
            respawn=flag("respawn", text("respawn")),
            respawn_delay=2.0,
            arguments=["--ros-args", "--log-level", level] if level else [],
            parameters=[one for one in (text("params_file"), given) if one],
            remappings=[(topic, text(name)) for name, topic in OUTPUTS.items() if text(name)],
            # Only for this process: other processes of the launch keep their environment.
            additional_env=profile_environment(wanted, context.environment),
        )
    ]


def generate_launch_description() -> LaunchDescription:
    """Return the arguments and the node."""
    described = dict(ARGUMENTS)
    described |= {name: f"parameter {name}: true or false" for name in FLAGS}
    described |= {name: f"parameter {parameter}" for name, parameter in PARAMETERS.items()}
    described |= {name: f"topic instead of {topic}" for name, topic in OUTPUTS.items()}
    declared = [
        DeclareLaunchArgument(name, default_value="", description=description)
        for name, description in described.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=start_node)])
