# SPDX-License-Identifier: Apache-2.0
"""One model, two machines, one answer: split inference between a robot and a server."""

__version__ = '0.1.0'
