# SPDX-License-Identifier: Apache-2.0
"""
Makes the CMake files of the ROS wheels name this machine's include directories.

The wheels carry two absolute paths of the machine that built them, and CMake refuses to generate
while these do not exist. Running this again changes nothing.
"""

from pathlib import Path
import re
import sys
import sysconfig

import numpy

BUILD_MACHINE = r'/opt/python/cp\d+-cp\d+/'
REPLACEMENTS = {
    re.compile(BUILD_MACHINE + r'include/python3\.\d+'): sysconfig.get_path('include'),
    re.compile(BUILD_MACHINE + r'lib/python3\.\d+/site-packages/numpy/_core/include'):
        numpy.get_include(),
}

for path in Path(sys.prefix).glob('share/*/cmake/*.cmake'):
    old = path.read_text(encoding='utf-8')
    new = old
    for pattern, directory in REPLACEMENTS.items():
        new = pattern.sub(lambda _match, directory=directory: directory, new)
    if new != old:
        path.write_text(new, encoding='utf-8')
