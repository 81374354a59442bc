# SPDX-License-Identifier: Apache-2.0
"""The ament_python package `hp_inference`; its interface package is hp_msgs/."""

from glob import glob
import re

from setuptools import find_packages, setup

PACKAGE = 'hp_inference'

# Read, not imported: a build machine need not have the dependencies.
with open(f'{PACKAGE}/__init__.py', encoding='utf-8') as source:
    version = re.search(r"^__version__ = '(.+)'$", source.read(), re.MULTILINE).group(1)

setup(
    name=PACKAGE,
    version=version,
    description='Splits the inference of one model between a robot and a server, inside layers.',
    maintainer='Hybrid-Parallel developers',
    maintainer_email='hybrid-parallel@example.org',
    license='Apache-2.0',
    python_requires='>=3.10',
    packages=find_packages(include=['hp_cli*', 'hp_inference*', 'hp_planner*']),
    data_files=[
        ('share/ament_index/resource_index/packages', [f'resource/{PACKAGE}']),
        (f'share/{PACKAGE}', ['package.xml']),
        (f'share/{PACKAGE}/launch', glob('launch/*.launch.py')),
        (f'share/{PACKAGE}/config', glob('config/*.yaml')),
        (f'share/{PACKAGE}/config/dds', glob('config/dds/*')),
        (f'share/{PACKAGE}/config/sros2', glob('config/sros2/*')),
    ],
    entry_points={
        'console_scripts': [
            'hp = hp_cli.main:main',
            'robot_node = hp_inference.nodes.robot_node:main',
            'server_node = hp_inference.nodes.server_node:main',
            'bandwidth_monitor_node = hp_inference.nodes.bandwidth_monitor_node:main',
            'planner_node = hp_planner.planner_node:main',
        ],
    },
    zip_safe=True,
)
