# SPDX-License-Identifier: Apache-2.0
"""Chooses the plan: device profiles, a timeline that simulates both programs, the search."""
