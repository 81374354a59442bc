# SPDX-License-Identifier: Apache-2.0
"""
Both sides on one machine.

Takes the arguments of robot.launch.py and server.launch.py for both at once. Images come from a
camera of yours on the topic `image`; `make demo` brings photographs, a table and a picture along.
"""

from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.substitutions import FindPackageShare


def generate_launch_description():
    """Start robot_node and server_node."""
    return LaunchDescription([
        DeclareLaunchArgument(
            'params_file',
            default_value=PathJoinSubstitution(
                [FindPackageShare('hp_inference'), 'config', 'demo.yaml']),
            description='YAML file with the parameters'),
        *(IncludeLaunchDescription(
            PythonLaunchDescriptionSource(str(Path(__file__).with_name(name))),
            launch_arguments={'params_file': LaunchConfiguration('params_file')}.items())
          for name in ('server.launch.py', 'robot.launch.py'))])
