# SPDX-License-Identifier: Apache-2.0
"""Text that others wrote (messages, files, errors), before it is kept, logged or published."""

from __future__ import annotations

import re

#: Characters that are kept of a text for people, and of a name.
MOST, NAME = 1000, 100
_CUT = '...'
_PLAIN = frozenset(' .,:+-_/()@%=#')  # what names hold besides letters and digits
_NO_HOST = re.compile(r'[^A-Za-z0-9._-]')


def line(text: object, most: int = MOST) -> str:
    """
    Return a text as one printable line of ``most`` characters at most.

    What is cut off ends in '...'. Anything that does not print, line ends and halves of surrogate
    pairs among it, becomes a space or '?', so that it neither breaks what writes the text down nor
    looks like a line that somebody else wrote. An object whose str() raises gives its type's name.
    """
    if not isinstance(text, str):
        try:
            text = str(text)
        except BaseException as error:  # an error of others may raise anything in its own str()
            if type(error) is KeyboardInterrupt:
                raise
            text = f'<{type(text).__name__}>'
    if len(text) > most:
        text = text[:max(0, most - len(_CUT))] + _CUT[:most]
    if text.isprintable():
        return text
    return ''.join(character if character.isprintable() else
                   ' ' if character.isspace() else '?' for character in text)


def why(error: BaseException, most: int = MOST) -> str:
    """Return what an error says in one line, or its type's name where it says nothing."""
    return line(error, most).strip() or type(error).__name__


def plain(text: str, most: int = NAME) -> str:
    """
    Return a name of a thing in which nothing means anything to a shell, trimmed.

    Letters, digits, spaces and ``.,:+-_/()@%=#`` stay; whatever else there is becomes '_'.
    """
    return ''.join(character if character.isalnum() or character in _PLAIN else '_'
                   for character in line(text, most).strip())


def host_name(text: str) -> str:
    """Return the name of a host: letters, digits, '.', '-' and '_'; all else becomes '_'."""
    return _NO_HOST.sub('_', line(text, NAME).strip())
