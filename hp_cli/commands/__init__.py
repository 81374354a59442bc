# SPDX-License-Identifier: Apache-2.0
"""
The subcommands of `hp`, a module each with ``run(args) -> Outcome``.

This module is imported for `hp --help` too, so it imports nothing that takes long.
"""

from __future__ import annotations

from dataclasses import dataclass


class UserError(ValueError):
    """A command line that can't be carried out; the text says why and what was expected."""


@dataclass(frozen=True)
class Outcome:
    """What a subcommand found: as JSON data, as text for people, and whether all is well."""

    data: dict
    text: str
    ok: bool = True
