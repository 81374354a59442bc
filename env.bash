# SPDX-License-Identifier: Apache-2.0
# Puts this checkout's Python, ROS 2 and built packages into the current bash: . ./env.bash

_hp_root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
_hp_venv=$(readlink -f "$_hp_root/.venv")

if [ ! -e "$_hp_root/install/local_setup.bash" ] || [ ! -e "$_hp_venv/bin/python" ]; then
  echo "$_hp_root is not built yet: run 'make build' there first" >&2
  return 1
fi

PATH=$_hp_venv/bin:$PATH
# With the ROS wheels the virtual environment is itself the ROS installation.
if [ -d "$_hp_venv/share/rclpy" ]; then
  export AMENT_PREFIX_PATH=$_hp_venv
fi
. "$_hp_root/install/local_setup.bash"
unset _hp_root _hp_venv
