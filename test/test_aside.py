# SPDX-License-Identifier: Apache-2.0
"""What is done beside the answers never raises; it is counted, and said once."""

from hp_inference.aside import Aside


def test_what_works_gives_what_it_gives_and_says_nothing():
    said = []
    aside = Aside(said.append)
    assert aside(max, 3, 5) == 5 and aside(sorted, [1, 2], reverse=True) == [2, 1]
    assert (said, aside.failures) == ([], 0)


def test_what_raises_gives_the_other_is_counted_and_said_once_of_each_kind():
    said = []
    aside = Aside(said.append)

    def metric(error):
        raise error
    for error in (ValueError('a\nb\ud800'), ValueError('c'), KeyError('d')):
        assert aside(metric, error, otherwise=0.0) == 0.0
    assert aside.failures == 3 and len(said) == 2
    assert said[0].endswith('ValueError: a b?') and 'metric failed' in said[0]


def test_that_nobody_can_be_told_of_it_is_no_failure_of_anything_else():
    def full(text):
        raise OSError('No space left on device')
    aside = Aside(full)
    assert aside(int, 'x', otherwise=7) == aside(full, 'y', otherwise=7) == 7
    assert aside.failures == 4  # both, and that each could not be said
