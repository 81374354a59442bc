#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Has what the two-namespace lab needs, or says what is missing: tools are installed when root may,
# rights and the kernel's CPU groups are not ours to give. Never fails: the tests then skip.
set -euo pipefail
cd "$(dirname "$0")/.."
PATH=$PATH:/usr/sbin:/sbin

packages=()
command -v ip >/dev/null && command -v tc >/dev/null || packages+=(iproute2)
command -v nft >/dev/null || packages+=(nftables)
command -v iperf3 >/dev/null || packages+=(iperf3)
if [ ${#packages[@]} != 0 ]; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "lab: installing ${packages[*]}"
    export DEBIAN_FRONTEND=noninteractive
    { apt-get update -qq && apt-get install -qqy --no-install-recommends "${packages[@]}"
    } >/dev/null || echo "lab: ${packages[*]} could not be installed"
  else
    echo "lab: sudo apt-get install ${packages[*]}"
  fi
fi
lacks=$(PYTHONPATH=test/lab python3 -c 'import lab; print(", ".join(lab.missing()))')
[ -z "$lacks" ] || echo "lab: none on this machine, missing: $lacks"
