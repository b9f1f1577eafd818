"""The model of time: what it predicts, and how it learns."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from miaotui.schedule.plan import Chunk
from miaotui.schedule.promises.cost import Answered, CostModel, CostRates, StepShape
from miaotui.schedule.promises.forecast import MOST_ALLOWED

RATES = CostRates(((1, 0.004), (8, 0.006), (64, 0.03)), 1e-4, 1e-6)


def observe(cost: CostModel, shape: StepShape, factor: float, times: int, noise: float = 0.0) -> None:
    source, truth = random.Random(0), CostModel(RATES)
    for _ in range(times):
        took = truth.seconds(shape.rows, shape.logits, shape.attended) * factor
        cost.observe(shape, took * source.lognormvariate(0, noise), 0.0, Answered(shape.rows, shape.rows))


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
    assert 1.0 <= cost.margin <= 1.0 + MOST_ALLOWED


def test_the_shape_of_a_step_counts_what_each_row_sees() -> None:
    chunks = [Chunk(0, 10, (1, 2, 3), (0,), 1), Chunk(1, 5, (4,), (1,), 1)]
    assert StepShape.of(chunks) == StepShape(4, 2, (11 + 12 + 13) + 6)


def test_rows_with_adapters_cost_their_products_too() -> None:
    chunks = [Chunk(0, 0, (1, 2, 3), (0,), 1, adapter=7), Chunk(1, 5, (4,), (1,), 1)]
    shape = StepShape.of(chunks)
    assert shape.adapted == 3
    cost = CostModel(RATES)
    plain_s = cost.seconds(4, 2, 0)
    assert cost.seconds(4, 2, 0, 3) == plain_s, "nothing was measured yet"
    cost.price_adapter(2e-3)
    assert abs(cost.seconds(4, 2, 0, 3) - plain_s - 6e-3) < 1e-9
    assert cost.token_s(2, 2, 0, 1) > cost.token_s(2, 2, 0)
    for _ in range(20):
        cost.observe(shape, cost.seconds(shape.rows, shape.logits, shape.attended, 3))
    assert abs(cost.pace - 1) < 0.01, "steps with adapters are as foreseen, so the machine is not thought slower"


def test_a_slower_machine_shows_within_half_a_second_of_steps_and_so_does_its_recovery() -> None:
    cost, shape = CostModel(RATES), StepShape(4, 4, 800)
    observe(cost, shape, 1.8, 50)
    assert 1.5 < cost.pace < 1.9
    observe(cost, shape, 1.0, 150)
    assert 0.9 < cost.pace < 1.1


def test_one_step_that_is_held_up_changes_little_and_is_forgotten_within_seconds() -> None:
    cost, shape = CostModel(RATES), StepShape(4, 4, 800)
    observe(cost, shape, 1.0, 400, noise=0.02)
    before_s = cost.allowed_s(0.2, 0.4)
    cost.observe(shape, 0.08)
    assert cost.pace < 1.05
    observe(cost, shape, 1.0, 60, noise=0.02)
    assert cost.allowed_s(0.2, 0.4) < before_s + 0.06
    observe(cost, shape, 1.0, 1000, noise=0.02)  # six seconds
    assert cost.allowed_s(0.2, 0.4) < before_s + 0.01


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
    first = calm.margin
    observe(calm, StepShape(4, 4, 0), 1.0, 3000, noise=0.02)
    assert calm.margin < first
    source, truth = random.Random(1), CostModel(RATES)
    factor = 1.0
    for step in range(3000):
        if step % 150 == 0:
            factor = source.choice([0.8, 1.0, 1.4])
        wild.observe(StepShape(4, 4, 0), truth.seconds(4, 4, 0) * factor)
    assert wild.margin > calm.margin + 0.04


@given(st.floats(0.0, 3.0), st.floats(0.0, 3.0), st.floats(0.0, 1.0), st.integers(0, 1000))
def test_more_work_is_never_allowed_less_time(first_s: float, rest_s: float, more_s: float, seed: int) -> None:
    cost, truth, source = CostModel(RATES), CostModel(RATES), random.Random(seed)
    for _ in range(seed):
        shape = source.choice([StepShape(4, 4, 800), StepShape(40, 1, 4000)])
        cost.observe(shape, truth.seconds(shape.rows, shape.logits, shape.attended) * source.uniform(0.5, 2.5))
    allowed_s = cost.allowed_s(first_s, rest_s)
    assert first_s + rest_s <= allowed_s <= (1 + MOST_ALLOWED) * (first_s + rest_s) + 0.01
    assert cost.allowed_s(first_s + more_s, rest_s) >= allowed_s - 1e-9
    assert cost.allowed_s(first_s, rest_s + more_s) >= allowed_s - 1e-9


def test_a_second_is_foreseen_better_than_a_twentieth_of_one() -> None:
    cost = CostModel(RATES)
    observe(cost, StepShape(4, 4, 800), 1.0, 4000, noise=0.3)
    assert cost.allowed_s(0.0, 1.0) / 1.0 < cost.allowed_s(0.0, 0.05) / 0.05


def test_drafted_tokens_make_answers_faster_once_they_are_seen() -> None:
    cost, truth = CostModel(RATES), CostModel(RATES)
    assert cost.token_s(1, 1, 100.0) == truth.seconds(1, 1, 100.0)
    for _ in range(60):  # runs of three passes: each takes half as long again, and brings two tokens
        took_s = 3 * 1.5 * truth.seconds(1, 1, 100)
        cost.observe(StepShape(1, 1, 100), took_s, 0.0, Answered(1, 6, 3, drafted=True))
    assert abs(cost.token_s(1, 1, 100.0) / truth.seconds(1, 1, 100.0) - 0.75) < 0.08
    assert abs(cost.seconds(64, 1, 0.0) / truth.seconds(64, 1, 0.0) - 1) < 0.15, "reading is as fast as before"


def test_drafted_rows_are_known_and_say_how_fast_the_machine_is() -> None:
    cost, truth = CostModel(RATES), CostModel(RATES)
    for _ in range(200):
        cost.observe(StepShape(4, 4, 400), 2 * truth.seconds(4, 4, 400), 0.0, Answered(1, 2))
    assert 1.8 < cost.pace < 2.2
    expected = truth.seconds(4, 4, 400) / truth.seconds(1, 1, 100) / 2
    assert abs(cost.gain.share(1) - expected) < 0.1


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
