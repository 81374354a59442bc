# SPDX-License-Identifier: Apache-2.0
"""Pictures of what happened; no ROS, and no window is ever opened."""
