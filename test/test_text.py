# SPDX-License-Identifier: Apache-2.0
"""What others wrote becomes one printable line, whatever it is."""

from hypothesis import given
from hypothesis import strategies as st
import pytest

from hp_inference.text import line

EVERYTHING = st.text(st.characters(exclude_categories=()))  # halves of surrogate pairs, too


@given(EVERYTHING, st.integers(0, 50))
def test_any_text_becomes_one_printable_line_that_can_be_encoded(text, most):
    made = line(text, most)
    assert len(made) <= most
    assert made.isprintable()
    made.encode()


@given(st.text(st.characters(categories=['L', 'N', 'P', 'S']), max_size=20))
def test_what_prints_stays_as_it_is(text):
    assert line(text) == text


@pytest.mark.parametrize('text, made', [
    ('a\nERROR b', 'a ERROR b'),
    ('\ud800', '?'),
    ('a\x1b[31mb', 'a?[31mb'),
    ('x\u202eyz', 'x?yz'),
    ('a\u2028b', 'a b'),
])
def test_what_does_not_print_can_not_forge_or_break_a_line(text, made):
    assert line(text) == made


def test_a_long_text_is_cut_and_says_so():
    assert line('x' * 5_000_000, 10) == 'x' * 7 + '...'


def test_an_object_that_can_not_say_what_it_is_gives_its_type():
    class Mute(Exception):
        def __str__(self):
            raise RuntimeError('no')
    assert line(Mute()) == '<Mute>'
