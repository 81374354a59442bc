# SPDX-License-Identifier: Apache-2.0
"""When an answer is due, and when the robot must begin alone for it."""

from hypothesis import given
from hypothesis import strategies as st
import pytest

from hp_inference.runtime.deadline import Deadlines, MOST_S

ALONE_S = 0.2
NEEDED_S = 0.225  # a tenth and 5 ms more


@pytest.fixture
def deadlines():
    made = Deadlines()
    made.took_alone(ALONE_S)
    return made


def test_the_robot_begins_alone_so_early_that_it_keeps_the_deadline(deadlines):
    due = deadlines.of(10.0, 10.05, 1.0, 0, 0.1)
    assert (due.due_s, due.give_up_s) == (11.0, pytest.approx(11.0 - NEEDED_S))


def test_where_the_answer_can_not_be_expected_before_that_it_waits_until_it_is_due(deadlines):
    due = deadlines.of(10.0, 10.05, 0.3, 0, 0.1)  # it would have to begin alone at 10.075
    assert due.give_up_s == due.due_s == 10.3


def test_without_a_deadline_the_answer_is_due_by_what_is_predicted(deadlines):
    due = deadlines.of(10.0, 10.05, 0.0, 0, 0.1)
    assert due.give_up_s == pytest.approx(10.05 + 2 * 0.1)
    assert due.due_s == pytest.approx(10.25 + NEEDED_S)
    quick = deadlines.of(10.0, 10.0, 0.0, 0, 0.01)
    assert quick.give_up_s == pytest.approx(10.0 + 0.01 + 0.05)


@pytest.mark.parametrize('predicted_s', [1e6, 1e100, 1e308])
def test_a_prediction_that_can_not_be_leaves_a_time_that_can_be_waited_for(deadlines, predicted_s):
    due = deadlines.of(10.0, 10.05, 0.0, 0, predicted_s)
    assert 10.05 < due.give_up_s < due.due_s <= 10.05 + 2 * MOST_S + NEEDED_S + 1e-9


def test_without_a_prediction_what_the_plan_took_lately_counts(deadlines):
    assert deadlines.of(0.0, 0.0, 0.0, 3, None).give_up_s == pytest.approx(1.0)
    deadlines.took_together(3, 0.1)
    assert deadlines.of(0.0, 0.0, 0.0, 3, None).give_up_s == pytest.approx(0.2)
    deadlines.took_together(3, 0.2)
    assert deadlines.of(0.0, 0.0, 0.0, 3, None).give_up_s == pytest.approx(0.25)
    assert deadlines.of(0.0, 0.0, 0.0, 4, None).give_up_s == pytest.approx(1.0)
    deadlines.forget_plans()
    assert deadlines.of(0.0, 0.0, 0.0, 3, None).give_up_s == pytest.approx(1.0)


def test_where_planning_promised_too_much_patience_grows_up_to_what_alone_takes(deadlines):
    for _ in range(50):
        begun = 10.0
        due = deadlines.of(begun, begun, 0.0, 0, 0.02)
        deadlines.waited_in_vain(0, due.give_up_s - begun)
    assert due.give_up_s - begun == pytest.approx(2 * ALONE_S, rel=0.01)
    assert deadlines.of(begun, begun, 0.0, 1, 0.02).give_up_s - begun == pytest.approx(0.07)


def test_without_a_prediction_either_patience_does_not_grow_beyond_that(deadlines):
    for plan, took_s in ((0, 0.1), (1, 0.5)):  # quicker than alone, and slower
        deadlines.took_together(plan, took_s)
        for _ in range(50):
            patience_s = deadlines.of(0.0, 0.0, 0.0, plan, None).give_up_s
            deadlines.waited_in_vain(plan, patience_s)
        assert patience_s == pytest.approx(2 * max(took_s, ALONE_S), rel=0.01)
        deadlines.took_together(plan, 5.0)  # the link got slow, and then slower
        for _ in range(50):
            deadlines.waited_in_vain(plan, 10.0)
        patience_s = deadlines.of(0.0, 0.0, 0.0, plan, None).give_up_s
        assert patience_s == pytest.approx(2 * max(took_s, ALONE_S), rel=0.01)
    deadlines.waited_in_vain(2, 1.0)  # the first frame of a plan
    assert deadlines.of(0.0, 0.0, 0.0, 2, None).give_up_s == pytest.approx(2 * ALONE_S)


@pytest.mark.parametrize('predicted_s', [11.0, 1e6, 1e100])
def test_what_a_plan_table_predicts_silences_no_robot(predicted_s):
    deadlines = Deadlines()
    deadlines.took_alone(ALONE_S)
    assert deadlines.of(5.0, 5.0, 0.0, 0, predicted_s).give_up_s == pytest.approx(5.0 + 2 * 10.0)
    deadlines.took_alone(30.0 + 3 * (30.0 - ALONE_S))  # a mean of 30 s: a slow computer, big model
    assert deadlines.of(5.0, 5.0, 0.0, 0, 40.0).give_up_s == pytest.approx(5.0 + 2 * 40.0)


@given(st.floats(0, 10), st.floats(0, 1), st.floats(0, 2), st.none() | st.floats(1e-4, 1),
       st.floats(1e-4, 1))
def test_it_never_gives_up_before_the_frame_begins_nor_after_it_is_due(received_s, queue_s,
                                                                       deadline_s, predicted_s,
                                                                       alone_s):
    deadlines = Deadlines()
    deadlines.took_alone(alone_s)
    begun_s = received_s + queue_s
    due = deadlines.of(received_s, begun_s, deadline_s, 0, predicted_s)
    assert begun_s <= due.give_up_s <= max(due.due_s, begun_s)
