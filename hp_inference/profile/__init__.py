# SPDX-License-Identifier: Apache-2.0
"""What a device takes for a model: measuring it, its power meters, and the profile as data."""
