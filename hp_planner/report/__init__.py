# SPDX-License-Identifier: Apache-2.0
"""What came of planning: the record in a table file, recorded traces, pictures."""
