# SPDX-License-Identifier: Apache-2.0
"""The `hp` command; the only place that stands on both hp_inference and hp_planner."""
