# SPDX-License-Identifier: Apache-2.0
"""Text that others wrote (messages, files, errors), before it is kept, logged or published."""

from __future__ import annotations

#: Characters that are kept of a text for people, and of a name.
MOST, NAME = 1000, 100
_CUT = '...'


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
