# SPDX-License-Identifier: Apache-2.0
"""What was compiled from older sources is compiled again."""

import os

from hp_planner.timeline.compiled import compiled, forget_stale


def test_what_is_older_than_any_source_is_forgotten(tmp_path):
    cache = tmp_path / '__pycache__'
    cache.mkdir()
    for path, time in ((tmp_path / 'a.py', 100), (tmp_path / 'b.py', 200),
                       (cache / 'a.old.nbi', 150), (cache / 'a.new.nbi', 250),
                       (cache / 'a.old.nbc', 150)):
        path.touch()
        os.utime(path, (time, time))
    forget_stale(tmp_path)
    assert sorted(path.name for path in cache.iterdir()) == ['a.new.nbi', 'a.old.nbc']
    forget_stale(tmp_path / 'nowhere')


def test_sources_of_elsewhere_that_are_compiled_along_count_too(tmp_path):
    cache, elsewhere = tmp_path / '__pycache__', tmp_path / 'elsewhere'
    for folder in (cache, elsewhere):
        folder.mkdir()
    for path, time in ((cache / 'a.nbi', 250), (elsewhere / 'b.py', 300)):
        path.touch()
        os.utime(path, (time, time))
    forget_stale(tmp_path)
    assert (cache / 'a.nbi').exists()
    forget_stale(tmp_path, elsewhere)
    assert not (cache / 'a.nbi').exists()


def test_compiled_functions_are_kept_and_let_other_threads_run():
    @compiled
    def twice(x):
        return 2 * x
    assert twice(21) == 42
    assert twice.targetoptions['nogil']
