# SPDX-License-Identifier: Apache-2.0
"""One plan or thousands, on one thread or many: the same figures."""

from dataclasses import astuple

from draws import drawn
from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest
from settings import drawn_setting, NETS, profile_of, setting_of, tiny

from hp_inference.split.errors import PlanError
from hp_inference.split.plan import full_offload, make_plan, Plan, random_plan, robot_only
from hp_planner.timeline import timeline as timeline_module
from hp_planner.timeline.setting import SettingError
from hp_planner.timeline.timeline import CODECS, LANES, Population, predict, Timeline

RATES = (0, 0.3, 10, 900)
LAYOUT = tiny('downsampling', 32)


def drawn_plan(layout, seed):
    """Return a random plan, each value of which travels under a codec of its own."""
    draw = np.random.default_rng(seed)
    plan, values = random_plan(layout, seed), range(len(layout.rows))
    codecs = {v: str(draw.choice([codec for codec in CODECS if v == 0 or codec != 'jpeg']))
              for v in values}
    return Plan(plan.name, plan.robot, plan.server, plan.blocks, codecs)


PLANS = [robot_only(LAYOUT), full_offload(LAYOUT), *(drawn_plan(LAYOUT, i) for i in range(40))]


@pytest.fixture(scope='module')
def timeline():
    return Timeline(drawn_setting(LAYOUT, 1))


@pytest.mark.parametrize('name', ['downsampling', 'reordered', 'gated', 'u_shaped'])
@pytest.mark.parametrize('duplex', ['half', 'full'])
def test_a_population_has_the_figures_that_each_plan_has_alone(name, duplex):
    layout = tiny(name, 32)
    plans = [robot_only(layout), *(drawn_plan(layout, i) for i in range(20))]
    judge = Timeline(drawn_setting(layout, 5, duplex))
    together = judge.figures(Population.of(plans), RATES)
    for plan, figures in zip(plans, together):
        alone = judge.figures(Population.of([plan]), RATES)[0]
        np.testing.assert_array_equal(figures, alone)
        # Through the compiled Programs, whose messages have other numbers, to the last digit.
        for rate, at_rate in zip(RATES, figures):
            assert astuple(judge.predict(plan, rate)) == tuple(at_rate)


@pytest.mark.parametrize('workers', [1, 2, 5])
def test_figures_do_not_depend_on_how_many_threads_work(timeline, workers, monkeypatch):
    monkeypatch.setattr(timeline_module, 'WORKERS', workers)
    population = Population.of(PLANS)
    np.testing.assert_array_equal(Timeline(timeline.setting).figures(population, RATES),
                                  timeline.figures(population, RATES))


def test_figures_of_no_rates_and_of_many(timeline):
    assert timeline.figures(Population.of(PLANS[:3]), []).shape == (3, 0, 9)
    rates = np.geomspace(0.5, 1000, 31)
    many = timeline.figures(Population.of(PLANS), rates)
    assert many.shape == (len(PLANS), 31, 9)
    np.testing.assert_array_equal(many[:, 7], timeline.figures(Population.of(PLANS),
                                                               [rates[7]])[:, 0])


@given(st.sampled_from(sorted(NETS)), st.integers(0, 10_000))
@drawn(20, 50, anew=True)
def test_plans_come_back_from_arrays_as_they_were(name, seed):
    layout = tiny(name)
    plan = drawn_plan(layout, seed)
    population = Population.of([robot_only(layout), plan])
    assert len(population) == 2
    back = population.plan(1, 'back')
    back.validate(layout)
    assert (back.name, back.robot, back.server) == ('back', plan.robot, plan.server)
    for v in range(len(layout.rows)):
        assert back.block_count(v) == plan.block_count(v)
        assert back.codec_of(v) == plan.codec_of(v)
    assert Plan.from_json(back.to_json(), layout) == back


def test_a_plan_names_the_codecs_and_blocks_that_differ_from_the_rest():
    plan = full_offload(LAYOUT, blocks={0: 4}, codecs={2: 'none'}, codec='shuffle_zstd')
    assert Population.of([plan]).plan(0, plan.name) == plan


def test_jpeg_is_never_the_codec_of_the_rest():
    population = Population.of([make_plan('full_offload', LAYOUT, 'jpeg')])
    short = Population(*(array[:, :3] for array in (
        population.robot, population.server, population.blocks,
        np.array([[CODECS.index(codec) for codec in ('jpeg', 'zstd', 'none')]]))))
    assert short.plan(0, 'p').codec != 'jpeg'
    assert short.plan(0, 'p').codecs[0] == 'jpeg'


@given(st.sampled_from(sorted(NETS)), st.integers(0, 10_000),
       st.sampled_from(('half', 'full')), st.sampled_from((0.3, 10.0, 900.0)))
@drawn(12, 30, anew=True)
def test_lanes_are_in_order_and_make_up_the_busy_times(name, seed, duplex, rate):
    layout = tiny(name, 32)
    judge, plan = Timeline(drawn_setting(layout, seed, duplex)), drawn_plan(layout, seed)
    spans, got = judge.lanes(plan, rate), judge.predict(plan, rate)
    busy = {}
    for lane in LANES:
        mine = [span for span in spans if span.lane == lane]
        ends = [span.start_s + span.duration_s for span in mine]
        for span, before in zip(mine, [0.0, *ends]):
            assert span.start_s >= before * (1 - 1e-12)
        assert all(end <= got.latency_s * (1 + 1e-12) for end in ends)
        busy[lane] = sum(span.duration_s for span in mine)
    assert len(spans) == sum(span.lane in LANES for span in spans)
    assert busy['robot'] == pytest.approx(got.robot_busy_s)
    assert busy['server'] == pytest.approx(got.server_busy_s)
    radio = (busy['uplink'], busy['downlink'])
    assert got.radio_busy_s == pytest.approx(sum(radio) if duplex == 'half' else max(radio))


def test_lanes_say_what_is_computed_and_sent():
    layout = tiny('chain', 16)
    names = [value.name for value in layout.graph.values]
    spans = Timeline(setting_of(layout)).lanes(full_offload(layout), 1)
    assert [(span.lane, span.label) for span in spans] == [
        *(('server', f'{name}[0:{rows}]') for name, rows in zip(names[1:], layout.rows[1:])),
        ('uplink', f'{names[0]}[0:16]'), ('downlink', f'{names[-1]}[0:8]')]


def test_a_codec_costs_what_both_profiles_say_and_nothing_where_nobody_measured_it():
    layout = tiny('chain')
    robot = profile_of(layout, ratios={'zstd': (0.5,) * len(layout.rows)})
    where = setting_of(layout, robot)
    packed, raw, other = (predict(where, full_offload(layout, codec=codec), 1).up_bytes
                          for codec in ('zstd', 'none', 'shuffle_zstd'))
    assert packed * 2 == raw == other == layout.graph.input.nbytes


def test_the_power_is_that_of_the_setting():
    layout = tiny('chain')
    seconds = len(layout.rows) - 1
    assert predict(setting_of(layout), robot_only(layout), 1).energy_j == 14 * seconds


@pytest.mark.parametrize('rate', [-1, float('nan'), float('inf'), '10', None])
def test_what_is_no_rate_is_refused(timeline, rate):
    with pytest.raises(SettingError, match='bandwidth'):
        timeline.predict(PLANS[0], rate)
    with pytest.raises(SettingError, match='bandwidth'):
        timeline.figures(Population.of(PLANS[:1]), [1, rate])


def test_one_plan_that_does_not_compile_is_refused(timeline):
    rows = LAYOUT.rows
    gap = Plan('gap', (rows[0], *(0 for _ in rows[1:])), (rows[0], *rows[1:]))
    with pytest.raises(PlanError, match='gap'):
        timeline.predict(gap, 10)
    with pytest.raises(PlanError, match='another graph'):
        timeline.predict(robot_only(tiny('chain')), 10)
