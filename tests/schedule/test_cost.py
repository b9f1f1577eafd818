"""The model of time: what it predicts, and how it learns."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from miaotui.schedule.plan import Chunk
from miaotui.schedule.promises.cost import FIRST_MARGIN, LEAST_MARGIN, MOST_MARGIN, CostModel, CostRates, StepShape

RATES = CostRates(((1, 0.004), (8, 0.006), (64, 0.03)), 1e-4, 1e-6)


def observe(cost: CostModel, shape: StepShape, factor: float, times: int, noise: float = 0.0) -> None:
    source, truth = random.Random(0), CostModel(RATES)
    for _ in range(times):
        took = truth.seconds(shape.rows, shape.logits, shape.attended) * factor
        cost.observe(shape, took * source.lognormvariate(0, noise))


def test_between_knots_lies_a_line_and_beyond_the_last_it_goes_on() -> None:
    cost = CostModel(RATES)
    assert cost.seconds(1, 0, 0) == 0.004
    assert abs(cost.seconds(36, 0, 0) - 0.018) < 1e-9
    assert abs(cost.seconds(120, 0, 0) - 0.054) < 1e-9
    assert abs(cost.seconds(8, 8, 1000) - (0.006 + 8e-4 + 1e-3)) < 1e-9


@given(
    st.dictionaries(st.integers(1, 512), st.floats(0, 1), min_size=2, max_size=8),
    st.lists(st.tuples(st.integers(1, 600), st.floats(1e-4, 1.0)), max_size=30),
)
def test_more_rows_never_cost_less_whatever_was_measured_and_seen(
    curve: dict[int, float], seen: list[tuple[int, float]]
) -> None:
    cost = CostModel(CostRates(sorted(curve.items()), 0.0, 0.0))
    for rows, took_s in seen:
        cost.observe(StepShape(rows, 1, rows), took_s)
    times = [cost.seconds(rows, 0, 0.0) for rows in range(1, 700, 7)]
    assert times == sorted(times)
    assert times[0] > 0
    assert LEAST_MARGIN <= cost.margin <= MOST_MARGIN


def test_the_shape_of_a_step_counts_what_each_row_sees() -> None:
    chunks = [Chunk(0, 10, (1, 2, 3), (0,), 1), Chunk(1, 5, (4,), (1,), 1)]
    assert StepShape.of(chunks) == StepShape(4, 2, (11 + 12 + 13) + 6)


def test_a_slower_machine_shows_within_a_dozen_steps_and_so_does_its_recovery() -> None:
    cost, shape = CostModel(RATES), StepShape(4, 4, 800)
    observe(cost, shape, 1.8, 12)
    assert 1.35 < cost.pace < 1.9
    observe(cost, shape, 1.0, 40)
    assert 0.9 < cost.pace < 1.1


def test_one_step_that_is_held_up_changes_little_but_is_reckoned_with() -> None:
    cost, shape = CostModel(RATES), StepShape(4, 4, 800)
    before_s = cost.reserve_s
    cost.observe(shape, 0.05)
    assert cost.pace < 1.1
    assert cost.reserve_s > 0.03 > before_s
    observe(cost, shape, 1.0, 3000)
    assert cost.reserve_s < 0.01


def test_what_differs_by_rows_is_learned_apart_from_the_pace() -> None:
    cost, truth = CostModel(RATES), CostModel(RATES)
    for _ in range(400):
        for rows, factor in ((1, 1.3), (64, 0.9)):
            cost.observe(StepShape(rows, 1, 0), truth.seconds(rows, 1, 0) * factor)
    assert abs(cost.seconds(1, 1, 0) / truth.seconds(1, 1, 0) - 1.3) < 0.08
    assert abs(cost.seconds(64, 1, 0) / truth.seconds(64, 1, 0) - 0.9) < 0.08


def test_looking_back_that_was_calibrated_wrongly_is_learned() -> None:
    truth, source = CostModel(RATES), random.Random(0)
    cost = CostModel(CostRates(RATES.curve, RATES.logits_s, 8 * RATES.attend_s))
    for _ in range(3000):
        rows = source.randint(1, 8)
        attended = rows * source.randint(50, 3000)
        cost.observe(StepShape(rows, rows, attended), truth.seconds(rows, rows, attended))
    for attended in (400, 4000, 12000):
        assert abs(cost.seconds(4, 4, attended) / truth.seconds(4, 4, attended) - 1) < 0.1


def test_the_margin_follows_how_wrong_forecasts_were() -> None:
    calm, wild = CostModel(RATES), CostModel(RATES)
    assert calm.margin == FIRST_MARGIN
    observe(calm, StepShape(4, 4, 0), 1.0, 3000, noise=0.02)
    assert calm.margin < 1.06
    source, truth = random.Random(1), CostModel(RATES)
    factor = 1.0
    for step in range(3000):
        if step % 150 == 0:
            factor = source.choice([0.8, 1.0, 1.4])
        wild.observe(StepShape(4, 4, 0), truth.seconds(4, 4, 0) * factor)
    assert wild.margin > 1.15


def test_the_rows_that_fit_a_time() -> None:
    cost = CostModel(RATES)
    rows = cost.affordable_rows(0.02, 1, 0.0, 512)
    assert cost.seconds(rows, 1, 0.0) <= 0.02 < cost.seconds(rows + 1, 1, 0.0)
    assert cost.affordable_rows(0.001, 1, 0.0, 512) == 0
    assert cost.affordable_rows(9.0, 1, 0.0, 512) == 512


def test_a_probe_counts_for_much() -> None:
    cost = CostModel(RATES)
    for _ in range(5):
        cost.probe(StepShape(1, 1, 1), cost.seconds(1, 1, 1) / cost.pace / 10)
    assert cost.pace < 0.2


def test_probes_of_many_rows_correct_the_curve_there() -> None:
    cost, truth = CostModel(CostRates(((1, 0.004), (8, 0.05), (64, 0.9)), 0.0, 0.0)), CostModel(RATES)
    for _ in range(12):
        for rows in (8, 64):
            cost.probe(StepShape(rows, 1, 0), truth.seconds(rows, 0, 0))
    assert cost.seconds(64, 0, 0) < 0.12
