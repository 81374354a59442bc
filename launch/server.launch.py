# SPDX-License-Identifier: Apache-2.0
"""The server's side, for one robot or several."""

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
            [FindPackageShare('hp_inference'), 'config', 'server.yaml']),
        description='YAML file with the parameters'),
    DeclareLaunchArgument(
        'namespace', default_value='', description='namespace of the node and its topics'),
    DeclareLaunchArgument(
        'log_level', default_value='info', choices=['debug', 'info', 'warn', 'error', 'fatal'],
        description='least severe message that is logged'),
]
# Parameters of the node that can be given as launch arguments, too.
PARAMETERS = {
    'autostart': 'true: configure and activate at start; false: a lifecycle manager does it',
    'use_sim_time': 'true: time comes from the topic /clock',
    'model': 'torchvision:NAME, package.module:factory, path/file.py:factory or file.pt2; the '
             'same on both sides',
    'input': 'size of the model input, such as [1, 3, 224, 224]; the same on both sides',
    'key_file': 'file with the key that robot, server, monitor and planner share',
}


def start(context):
    """Return the node; an argument that was left empty does not hide the parameter file."""
    given = {name: LaunchConfiguration(name).perform(context) for name in PARAMETERS}
    # Fast DDS settings for Wi-Fi, unless the user has chosen some.
    wifi = environment(context.environment, get_rmw_implementation_identifier())
    return [Node(
        package='hp_inference', executable='server_node', name='server_node', output='screen',
        additional_env=wifi,
        namespace=LaunchConfiguration('namespace'),
        parameters=[LaunchConfiguration('params_file'),
                    {name: yaml.safe_load(text) for name, text in given.items() if text}],
        ros_arguments=['--log-level', LaunchConfiguration('log_level')])]


def generate_launch_description():
    """Start server_node."""
    return LaunchDescription([
        *ARGUMENTS,
        *(DeclareLaunchArgument(name, default_value='',
                                description=f'{text}; empty: as in params_file')
          for name, text in PARAMETERS.items()),
        OpaqueFunction(function=start)])
