# SPDX-License-Identifier: Apache-2.0
"""Which Fast DDS settings make tensors travel well over Wi-Fi; the files are in config/dds."""

from __future__ import annotations

from collections.abc import Mapping
import os
from pathlib import Path

TCP, UDP = 'fastdds_tcp.xml', 'fastdds_udp.xml'

#: The same for Fast DDS 2 and 3.
PROFILE_VARIABLES = ('FASTRTPS_DEFAULT_PROFILES_FILE', 'FASTDDS_DEFAULT_PROFILES_FILE')

#: Who sets one of these, be it to nothing, has chosen.
CHOICES = (*PROFILE_VARIABLES, 'FASTDDS_BUILTIN_TRANSPORTS', 'RMW_FASTRTPS_USE_QOS_FROM_XML',
           'ROS_DISCOVERY_SERVER')

#: What Fast DDS reads from the working directory by itself.
FILES_READ = ('DEFAULT_FASTRTPS_PROFILES.xml', 'DEFAULT_FASTDDS_PROFILES.xml')

#: Releases whose Fast DDS is older than the large-data mode (2.14) and refuses the whole file.
WITHOUT_LARGE_DATA = ('foxy', 'galactic', 'humble', 'iron')


def environment(environ: Mapping[str, str], rmw: str) -> dict[str, str]:
    """
    Return the variables that select the Wi-Fi profile for a process in ``environ``.

    ``rmw`` is the middleware's name, such as 'rmw_fastrtps_cpp'. Empty for another middleware, for
    nodes that talk on their own host alone, and when the user has chosen anything of this.
    All that talk to each other between hosts must use the same: TCP and UDP exchange nothing.
    """
    if not rmw.startswith('rmw_fastrtps') or any(name in environ for name in CHOICES):
        return {}
    if (environ.get('ROS_AUTOMATIC_DISCOVERY_RANGE', '').upper() in ('LOCALHOST', 'OFF')
            or environ.get('ROS_LOCALHOST_ONLY') == '1'):
        return {}
    if any(Path(name).exists() for name in FILES_READ):
        return {}
    name = UDP if environ.get('ROS_DISTRO') in WITHOUT_LARGE_DATA else TCP
    path = settings_file(environ, name)
    return {} if path is None else dict.fromkeys(PROFILE_VARIABLES, str(path))


def settings_file(environ: Mapping[str, str], name: str = TCP) -> Path | None:
    """Return the path of a file of config/dds: of the checkout, else of the installed package."""
    shares = (Path(prefix, 'share', 'hp_inference')
              for prefix in environ.get('AMENT_PREFIX_PATH', '').split(os.pathsep) if prefix)
    for root in (Path(__file__).resolve().parents[2], *shares):
        path = root / 'config' / 'dds' / name
        if path.is_file():
            return path
    return None
