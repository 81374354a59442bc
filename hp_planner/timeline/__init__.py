# SPDX-License-Identifier: Apache-2.0
"""What a plan costs: the steps of both Programs, carried out against a clock."""
