#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds both ROS packages into install/ and puts the hp command into .venv/bin. Does nothing when
# the last build still holds: Python sources are linked, so only what is generated or installed
# from a list counts.
set -euo pipefail
cd "$(dirname "$0")/.."
.ci/setup.sh
exec 9<. && flock 9

venv=$(readlink -f .venv)
sources=(package.xml setup.py setup.cfg hp_inference/__init__.py hp_msgs)
for extra in launch config; do [ ! -e $extra ] || sources+=("$extra"); done
state=$(
  echo "$PWD"
  cat "$venv/made-for" "$venv/installed" .ci/build.sh
  find "${sources[@]}" -type f -not -path '*/__pycache__/*' | LC_ALL=C sort |
    xargs -d '\n' sha256sum
)
[ "$state" != "$(cat install/built-from 2>/dev/null)" ] || exit 0

echo 'build: the packages hp_msgs and hp_inference'
# The CMake cache and the scripts hold the paths of the checkout and of its interpreter.
[ "$(cat build/made-for 2>/dev/null)" = "$PWD $(cat "$venv/made-for")" ] || rm -rf build install log
rm -f install/built-from
# Links to sources that are gone would fail the build.
find build install -xtype l -delete 2>/dev/null || true
"$venv/bin/python" -m pip --disable-pip-version-check -qq install \
  --use-pep517 --no-build-isolation --no-deps --editable .

export PATH="$venv/bin:$PATH"
# colcon's own flags have make wait for an idle machine, which a shared one never is.
export MAKEFLAGS="${MAKEFLAGS:--j$(nproc)}"
if [ -z "${ROS_DISTRO:-}" ]; then
  export AMENT_PREFIX_PATH=$venv CMAKE_PREFIX_PATH=$venv
fi
python -m colcon --log-level error build --symlink-install --base-paths . hp_msgs \
  --cmake-args -DPython3_EXECUTABLE="$venv/bin/python" -DBUILD_TESTING=OFF
(
  set +u
  . ./env.bash
  python -c 'import rclpy; from hp_msgs.msg import TensorChunk; import hp_inference'
)
echo "$PWD $(cat "$venv/made-for")" >build/made-for
echo "$state" >install/built-from
