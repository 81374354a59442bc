# SPDX-License-Identifier: Apache-2.0
"""Thin ROS 2 nodes over the plain core; the only part of the package that needs ROS 2."""

try:
    # A name from inside: in a checkout, the source folder hp_msgs/ is importable as an empty
    # namespace package, and only the generated classes tell the two apart.
    from hp_msgs.msg import TensorChunk  # noqa: F401
except ImportError as error:
    raise ImportError(
        f'the ROS messages of hp_msgs are not in this environment ({error}): build them once with '
        '`make build` (or `colcon build`), then run `. install/local_setup.bash` in this shell'
    ) from error
