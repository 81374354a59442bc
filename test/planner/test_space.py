# SPDX-License-Identifier: Apache-2.0
"""Points of the space are plans, and the plans that people know are points."""

from random import Random

from draws import again_when_long, MANY
import numpy as np
import pytest
from settings import NETS, tiny

from hp_inference.split.plan import full_offload, layer, Plan, robot_only, uniform
from hp_inference.split.program import compile_plan
from hp_planner.search.space import EXCHANGE, Genome, population, RECOMPUTE, Space, Stretch, tidy
from hp_planner.timeline.row_tables import row_tables


def plans_of(layout, genomes):
    made = population(row_tables(layout), genomes, np.zeros(len(layout.rows), int))
    return [made.plan(i, f'p{i}') for i in range(len(genomes))]


@again_when_long
@pytest.mark.parametrize('name', sorted(NETS))
def test_whatever_a_walk_comes_to_is_a_complete_plan(name):
    layout, draw = tiny(name, 32), Random(name)
    space = Space(row_tables(layout))
    coarse = list(space.coarse())
    walk = [draw.choice(coarse)]
    for _ in range(60 if MANY else 25):
        walk.append(space.mutant(walk[-1], draw.choice(coarse), draw))
    around = list(space.neighbours(walk[-1]))
    some = draw.sample(around, min(30 if MANY else 12, len(around)))
    for plan in plans_of(layout, [*walk, *some]):
        compile_plan(layout, plan)


@pytest.mark.parametrize('name', ['chain', 'residual', 'classes'])
def test_what_splits_nothing_and_uniform_splits_are_points(name):
    layout = tiny(name)
    last = len(layout.rows) - 1
    for plan, stretches in (
            (robot_only(layout), [Stretch(last, 1.0)]),
            (full_offload(layout), [Stretch(last, 0.0)]),
            (uniform(layout, 0.3), [Stretch(last, 0.3)]),
            (layer(layout, 2), [Stretch(2, 1.0), Stretch(last, 0.0)])):
        made, = plans_of(layout, [Genome(1, tuple(stretches))])
        assert (made.robot, made.server) == (plan.robot, plan.server)


@pytest.mark.parametrize('name', sorted(NETS))
def test_a_plan_that_splits_nothing_is_found_as_a_point_again(name):
    layout = tiny(name)
    space, draw = Space(row_tables(layout)), Random(name)
    for _ in range(20):
        cut = (layout.rows[0], *(draw.choice((0, rows)) for rows in layout.rows[1:]))
        genome = space.of_shares(cut, cut)
        if genome is not None:
            made, = plans_of(layout, [genome])
            assert (made.robot, made.server) == (cut, cut)
    assert space.of_shares(uniform(layout, 0.5).robot, uniform(layout, 0.5).server) is None


def test_a_stretch_that_recomputes_sends_nothing_inside_and_one_that_exchanges_does():
    layout = tiny('chain', 32)
    last = len(layout.rows) - 1
    inside = set(range(1, last))
    for halo, sends in ((RECOMPUTE, False), (EXCHANGE, True)):
        plan, = plans_of(layout, [Genome(1, (Stretch(last, 0.5, halo),))])
        sent = {step.value for program in compile_plan(layout, plan) for step in program.sends}
        assert bool(sent & inside) == sends


def test_tidy_orders_joins_and_ends_at_the_last_value():
    made = tidy([Stretch(9, 0.5), Stretch(3, 1.0), Stretch(3, 0.2), Stretch(5, 1.0),
                 Stretch(99, 0.5)], 20)
    assert made == (Stretch(5, 1.0), Stretch(20, 0.5))


def test_row_blocks_are_those_of_the_stretch_and_of_the_image():
    layout = tiny('chain', 32)
    last = len(layout.rows) - 1
    plan, = plans_of(layout, [Genome(8, (Stretch(2, 0.5, blocks=4), Stretch(last, 0.5)))])
    assert isinstance(plan, Plan)
    assert [plan.block_count(v) for v in range(4)] == [8, 4, 4, 1]
