# SPDX-License-Identifier: Apache-2.0
"""The names of the codecs that a plan may ask for; plain data, so that it costs no import."""

EXACT_CODECS = ('none', 'zstd', 'shuffle_zstd')
LOSSY_CODECS = ('float16_shuffle_zstd', 'uint8_zstd', 'jpeg')
CODECS = EXACT_CODECS + LOSSY_CODECS
DEFAULT_CODEC = 'zstd'
