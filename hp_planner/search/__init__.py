# SPDX-License-Identifier: Apache-2.0
"""Which plan is best: LOSS, the baselines, a bound, and the table over all bandwidths."""
