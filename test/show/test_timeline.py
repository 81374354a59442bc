# SPDX-License-Identifier: Apache-2.0

import numpy as np
from PIL import Image
import pytest

from hp_inference.runtime.frames import Span
from hp_inference.show.timeline import busy_s, draw, Panel

SPANS = [Span('robot', 'prepare', 0.0, 0.002), Span('robot', 'compute', 0.002, 0.010),
         Span('uplink', 'rows', 0.004, 0.003), Span('server', 'compute', 0.006, 0.009),
         Span('downlink', 'rows', 0.014, 1e-7)]


@pytest.mark.parametrize('times, seconds', [
    ([], 0), ([(0, 1)], 1), ([(0, 1), (2, 1)], 2), ([(0, 2), (1, 2)], 3), ([(0, 5), (1, 2)], 5),
    ([(1, 2), (0, 1)], 3), ([(-1, 2)], 2)],
    ids=['none', 'one', 'apart', 'overlapping', 'inside', 'touching', 'before the origin'])
def test_time_in_which_lanes_work_at_once_counts_once(times, seconds):
    spans = [Span('robot', '', begin, duration) for begin, duration in times]
    assert busy_s(spans, ('robot',)) == pytest.approx(seconds)
    assert busy_s(spans, ('server', 'uplink')) == 0


def pixels(path):
    return np.asarray(Image.open(path).convert('RGB'))


def test_every_lane_of_every_frame_shows_up_in_the_picture(tmp_path):
    whole = tmp_path / 'whole.png'
    draw([Panel('a', SPANS, 0.015), Panel('b', SPANS, 0.015)], whole, 'title')
    for missing, span in enumerate(SPANS):
        part = tmp_path / 'part.png'
        rest = SPANS[:missing] + SPANS[missing + 1:]
        draw([Panel('a', SPANS, 0.015), Panel('b', rest, 0.015)], part, 'title')
        changed = np.argwhere((pixels(whole) != pixels(part)).any(2))
        assert len(changed), f'{span} is not to be seen'
        assert changed[:, 0].min() > pixels(whole).shape[0] / 2, 'the other frame has changed'


def test_a_picture_grows_with_the_number_of_frames_and_stays_small(tmp_path):
    heights = []
    for count in (1, 4):
        draw([Panel('frame', SPANS, 0.015)] * count, tmp_path / 'a.png')
        heights.append(pixels(tmp_path / 'a.png').shape[0])
    assert heights[1] > 2 * heights[0]
    assert (tmp_path / 'a.png').stat().st_size < 200_000


def test_a_picture_of_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match='no frame'):
        draw([], tmp_path / 'none.png')
