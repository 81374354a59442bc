# SPDX-License-Identifier: Apache-2.0
"""What others wrote becomes one printable line, whatever it is."""

from hypothesis import given
from hypothesis import strategies as st
import pytest

from hp_inference.text import host_name, line, plain, why

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


def test_an_error_says_its_text_or_else_its_type():
    assert why(ValueError('a\nb')) == 'a b'
    assert why(TimeoutError()) == 'TimeoutError'


@given(EVERYTHING)
def test_of_names_of_things_and_hosts_nothing_is_left_that_a_shell_knows(text):
    for made in (plain(text), host_name(text)):
        assert not set(made) & set('$`"\'\\;|&<>!*?{}[]~^\n')
        assert made.isprintable() and len(made) <= 100
        made.encode()
    assert host_name(text).isascii()
    assert plain(plain(text)) == plain(text) and host_name(host_name(text)) == host_name(text)


@pytest.mark.parametrize('text, made', [
    ('robot-1.local', 'robot-1.local'), ('$(touch X)', '__touch_X_'), (' h\u00e4\ud800 ', 'h__')])
def test_of_a_host_letters_digits_dots_and_dashes_are_kept(text, made):
    assert host_name(text) == made


@pytest.mark.parametrize('text', ['Intel(R) Core(TM) i7-8700 CPU @ 3.20GHz', 'cuda:0',
                                  '2026-11-30T15:25:50+00:00', 'path/net.py:make'])
def test_names_of_devices_dates_and_models_stay(text):
    assert plain(text) == text
