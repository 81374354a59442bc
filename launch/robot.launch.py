# SPDX-License-Identifier: Apache-2.0
"""The robot's side: images in, answers out, and the link measured."""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare
from rclpy.utilities import get_rmw_implementation_identifier
import yaml

from hp_inference.link.dds import environment

ARGUMENTS = [
    DeclareLaunchArgument(
        'params_file',
        default_value=PathJoinSubstitution(
            [FindPackageShare('hp_inference'), 'config', 'robot.yaml']),
        description='YAML file with the parameters'),
    DeclareLaunchArgument(
        'namespace', default_value='', description='namespace of the node and its topics'),
    DeclareLaunchArgument(
        'image', default_value='image',
        description='topic of the camera; JPEG and PNG are expected on <image>/compressed'),
    DeclareLaunchArgument(
        'monitor', default_value='true', choices=['true', 'false'],
        description='true: bandwidth_monitor_node measures the link; false: it is not started, '
                    'something else may publish the topic bandwidth'),
    DeclareLaunchArgument(
        'log_level', default_value='info', choices=['debug', 'info', 'warn', 'error', 'fatal'],
        description='least severe message that is logged'),
]
# Parameters of robot_node that can be given as launch arguments, too.
PARAMETERS = {
    'autostart': 'true: configure and activate at start; false: a lifecycle manager does it',
    'use_sim_time': 'true: time comes from the topic /clock',
    'model': 'torchvision:NAME, package.module:factory, path/file.py:factory or file.pt2; the '
             'same on both sides',
    'input': 'size of the model input, such as [1, 3, 224, 224]; the same on both sides',
    'key_file': 'file with the key that robot, server, monitor and planner share',
    'plan': 'the plan in force: uniform:SHARE, layer:VALUE, robot_only, full_offload or a file',
    'plans': "further plans kept ready, such as ['uniform:0.3', robot_only]",
    'plans_dir': 'the one folder with plan files; the one that the node is started in if not given',
}


# The ones of these that bandwidth_monitor_node has, too.
MONITOR_PARAMETERS = ('autostart', 'use_sim_time', 'key_file')


def start(context):
    """Return the nodes; an argument that was left empty does not hide the parameter file."""
    texts = {name: LaunchConfiguration(name).perform(context) for name in PARAMETERS}
    given = {name: yaml.safe_load(text) for name, text in texts.items() if text}
    # Fast DDS settings for Wi-Fi, unless the user has chosen some.
    wifi = environment(context.environment, get_rmw_implementation_identifier())
    nodes = [Node(
        package='hp_inference', executable='robot_node', name='robot_node', output='screen',
        additional_env=wifi,
        namespace=LaunchConfiguration('namespace'),
        remappings=[('image', LaunchConfiguration('image')),
                    ('image/compressed', [LaunchConfiguration('image'), '/compressed'])],
        parameters=[LaunchConfiguration('params_file'), given],
        ros_arguments=['--log-level', LaunchConfiguration('log_level')])]
    if LaunchConfiguration('monitor').perform(context) == 'true':
        nodes.append(Node(
            package='hp_inference', executable='bandwidth_monitor_node',
            name='bandwidth_monitor_node', output='screen', additional_env=wifi,
            namespace=LaunchConfiguration('namespace'),
            parameters=[LaunchConfiguration('params_file'),
                        {name: given[name] for name in MONITOR_PARAMETERS if name in given}],
            ros_arguments=['--log-level', LaunchConfiguration('log_level')]))
    return nodes


def generate_launch_description():
    """Start robot_node and bandwidth_monitor_node."""
    return LaunchDescription([
        *ARGUMENTS,
        *(DeclareLaunchArgument(name, default_value='',
                                description=f'{text}; empty: as in params_file')
          for name, text in PARAMETERS.items()),
        OpaqueFunction(function=start)])
