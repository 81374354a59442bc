#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs stages of the tests, each whatever became of those before it, then says how each went:
#   .ci/test.sh 'not long' core planner cli ros lab -- ARGUMENTS OF PYTEST
# The first argument chooses by marker. Fails when one of the stages did. Needs the environment of
# env.bash for ros and lab, that of .venv alone for the others.
set -uo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=1

chosen=$1 stages=()
# Some tests try more then: see test/draws.py.
[ "$chosen" != long ] || export HP_LONG_TESTS=1
shift
while [ $# != 0 ] && [ "$1" != -- ]; do
  stages+=("$1")
  shift
done
[ $# = 0 ] || shift

# Two processes, each in a ROS domain of its own. Nodes are started once for all tests of a file.
# What Python makes of the sources is kept (git ignores it): making it anew takes seconds.
computing=(env -u PYTHONDONTWRITEBYTECODE python -m pytest -m "not ros and ($chosen)"
           -n 2 --dist worksteal --ignore test/lab --ignore test/nodes)
tests() {
  local stage=$1
  shift
  case $stage in
    core) "${computing[@]}" --ignore test/planner --ignore test/bench --ignore test/cli "$@" ;;
    planner) "${computing[@]}" "$@" test/planner test/bench ;;
    cli) "${computing[@]}" "$@" test/cli ;;
    ros) python -m pytest -m "ros and ($chosen)" -n 2 --dist loadfile --ignore test/lab "$@" ;;
    lab) python -m pytest -m "$chosen" "$@" test/lab ;;
    *) echo "there is no stage $stage of the tests" >&2; return 2 ;;
  esac
}

needs_ros() { [ "$1" = ros ] || [ "$1" = lab ]; }

# An interrupted run is one that the user has had enough of.
trap 'exit 130' INT TERM
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
failed=0 report=()
for stage in "${stages[@]}"; do
  echo "== $stage"
  began=$SECONDS status=0 said=$folder/$stage
  # Without ROS its tests would all be skipped, which must not look like success.
  if needs_ros "$stage" && ! python -c 'import hp_inference.nodes'; then
    status=1
    echo 'ROS 2 cannot be used: see above' >"$said"
  else
    tests "$stage" --summary "$said" "$@" || status=$?
  fi
  # That none was selected is no failure where the user or the marker selects.
  if [ $status = 5 ] && { [ $# != 0 ] || [ "$chosen" = long ]; }; then
    status=0
  fi
  outcome=passed
  [ $status = 0 ] || outcome=FAILED failed=1
  report+=("$(printf '%-8s %s in %d s: %s' "$stage" $outcome $((SECONDS - began)) \
    "$(cat "$said" 2>/dev/null || echo "pytest ended with status $status")")")
done
echo
printf '%s\n' "${report[@]}"
exit $failed
