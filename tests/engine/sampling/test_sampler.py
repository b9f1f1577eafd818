"""The sampler against a slow oracle, exactly; and what it must not depend on."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import sampling_oracle as oracle
from hypothesis import given, settings
from hypothesis import strategies as st

from miaotui.backends.backend import Sampling
from miaotui.backends.cpu import draw
from miaotui.backends.reference import sampling as reference_sampling
from miaotui.engine.sampling.sampler import SequenceSampler
from miaotui.errors import EngineError, RequestError
from miaotui.types import SamplingParams

F = np.float32
INF = float("inf")

few_logits = st.lists(
    st.sampled_from([-INF, -50.0, -3.0, -0.5, -0.0, 0.0, 0.25, 1.0, 1.5, 4.0, 20.0]), min_size=1, max_size=30
).filter(lambda values: max(values) > -INF)
TEMPERATURES = [0.0, 1e-40, 0.1, 0.7, 1.0, 1.5, 100.0, 1e300]
TOP_KS = [0, 1, 2, 3, 5, 100]
TOP_PS = [1.0, 1e-300, 0.1, 0.5, 0.75, 0.9, 0.999999999]
MIN_PS = [0.0, 1e-12, 0.05, 0.5, 1.0]
distributions: dict[str, Any] = {
    "temperature": st.sampled_from(TEMPERATURES),
    "top_k": st.sampled_from(TOP_KS),
    "top_p": st.sampled_from(TOP_PS),
    "min_p": st.sampled_from(MIN_PS),
    "seed": st.integers(0, 2**63 - 1),
}
patient = settings(deadline=None)  # the first example may compile the kernels


class Use:
    """The way to sample that is tested now."""

    sampling: Sampling = draw


@pytest.fixture(scope="module", autouse=True, params=["cpu", "reference"])
def _each_sampling(request: pytest.FixtureRequest) -> Iterator[None]:
    Use.sampling = {"cpu": draw, "reference": reference_sampling}[request.param]
    yield
    Use.sampling = draw


def sampler(params: SamplingParams, vocab: int, prompt: Any = (), eos: Any = ()) -> SequenceSampler:
    return SequenceSampler(params, prompt, eos, vocab, Use.sampling)


def choose(logits: np.ndarray, params: SamplingParams, position: int = 7) -> int:
    return sampler(params, logits.size).pick(logits.copy(), position).token_id


@patient
@given(few_logits, st.builds(SamplingParams, **distributions), st.integers(0, 10**6))
def test_filters_equal_the_oracle(values: list[float], params: SamplingParams, position: int) -> None:
    logits = np.array(values, F)
    assert choose(logits, params, position) == oracle.pick(logits, params, position)


def test_every_combination_of_filters_equals_the_oracle() -> None:
    """Rows of few distinct values, so that borders fall within ties."""
    rng = np.random.default_rng(29)
    combinations = itertools.product(TEMPERATURES, TOP_KS, TOP_PS, MIN_PS)
    for seed, (temperature, top_k, top_p, min_p) in enumerate(combinations):
        logits = rng.integers(-3, 4, rng.integers(1, 20)).astype(F) * F(0.5)
        params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, seed=seed)
        assert choose(logits, params) == oracle.pick(logits, params, 7), params


large_params = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.3, 1.0, 30.0]),
    top_k=st.sampled_from([0, 40, 128, 129, 400]),
    top_p=st.sampled_from([0.05, 0.9, 0.999, 1.0]),
    min_p=st.sampled_from([0.0, 0.1]),
    seed=st.integers(0, 2**32 - 1),
)


@given(large_params, st.integers(130, 1500), st.sampled_from([0, 1, 4, 64]), st.sampled_from([0.01, 1.0, 8.0]))
@settings(max_examples=150, deadline=None)
def test_large_vocabularies_equal_the_oracle(params: SamplingParams, size: int, steps: int, spread: float) -> None:
    """Sizes that the histogram is for; ``steps`` per unit round the logits to make ties."""
    rng = np.random.default_rng(params.seed)
    logits = (rng.normal(size=size) * spread).astype(F)
    if steps:
        logits = np.round(logits * steps) / F(steps)
    logits[rng.random(size) < 0.1] = -INF
    logits[rng.integers(size)] = F(spread)
    assert choose(logits, params) == oracle.pick(logits, params, 7)


@pytest.mark.parametrize("top_k", [0, 50, 200])
@pytest.mark.parametrize("top_p", [0.37, 1.0])
def test_all_logits_equal(top_k: int, top_p: float) -> None:
    """Every token in one bucket: ties go to the lowest ids."""
    logits = np.full(700, 2.5, F)
    for position in range(20):
        params = SamplingParams(temperature=0.8, top_k=top_k, top_p=top_p)
        assert choose(logits, params, position) == oracle.pick(logits, params, position)


def test_kept_sets_are_minimal_and_break_ties_by_id() -> None:
    logits = np.array([1, 3, 3, 1, 3, 0], F)

    def drawn(**options: Any) -> set[int]:
        params = SamplingParams(temperature=1.0, **options)
        return {choose(logits, params, position) for position in range(300)}

    assert drawn(top_k=2) == {1, 2}
    assert drawn(top_k=4) == {0, 1, 2, 4}
    assert drawn(top_p=0.1) == {1}
    assert drawn(top_p=0.5) == {1, 2}
    assert drawn(min_p=0.9) == {1, 2, 4}
    assert drawn() == {0, 1, 2, 3, 4, 5}


def test_top_p_sees_what_top_k_left() -> None:
    """Of 0.6, 0.25, 0.15: after top_k=2 the first holds 0.706, so top_p=0.7 keeps it alone."""
    logits = np.log(np.array([0.6, 0.25, 0.15])).astype(F)
    params = SamplingParams(temperature=1.0, top_p=0.7)
    assert set(oracle.kept(logits, params)) == {0, 1}
    both = replace(params, top_k=2)
    assert {choose(logits, both, position) for position in range(200)} == {0}


@pytest.mark.parametrize("temperature", [0.0, 0.9])
@patient
@given(data=st.data(), values=few_logits)
def test_edits_equal_the_oracle(temperature: float, data: st.DataObject, values: list[float]) -> None:
    """min_tokens, bias and the three penalties, with history, in their order."""
    logits = np.array(values, F)
    tokens = st.integers(0, len(values) - 1)
    prompt = data.draw(st.lists(tokens, max_size=5))
    answer = data.draw(st.lists(tokens, max_size=8))
    ends = data.draw(st.lists(tokens, max_size=2))
    numbers = st.sampled_from([-2.0, -0.5, 0.0, 0.5, 1.0, 100.0])
    params = SamplingParams(
        temperature=temperature,
        min_tokens=data.draw(st.integers(0, 9)),
        repetition_penalty=data.draw(st.sampled_from([0.5, 1.0, 1.3, 10.0])),
        presence_penalty=data.draw(numbers),
        frequency_penalty=data.draw(numbers),
        logit_bias=data.draw(st.dictionaries(tokens, numbers, max_size=4)),
        stop_token_ids=tuple(ends[1:]),
    )
    rows = oracle.edited(logits, params, prompt, answer, ends)
    chooser = sampler(params, logits.size, prompt, ends[:1])
    for token in answer:
        chooser.accept(token)
    if rows.max() == -INF:
        with pytest.raises(EngineError, match="exclude them all"):
            chooser.pick(logits, 3)
    else:
        assert chooser.pick(logits, 3).token_id == oracle.pick(rows, params, 3)


@patient
@given(st.lists(st.integers(0, 9), max_size=30), st.data())
def test_rollback_equals_never_having_been(answer: list[int], data: st.DataObject) -> None:
    params = SamplingParams(
        repetition_penalty=1.5, presence_penalty=0.3, frequency_penalty=0.2, min_tokens=20, stop_token_ids=(4,)
    )
    undone = data.draw(st.integers(0, len(answer)))
    tried, straight = sampler(params, 10, [1, 2]), sampler(params, 10, [1, 2])
    for token in answer:
        tried.accept(token)
    twin = tried.fork()
    tried.rollback(undone)
    for token in answer[: len(answer) - undone]:
        straight.accept(token)
    assert edited_row(tried) == edited_row(straight)
    twin.rollback(undone)  # the fork was not touched by the first rollback
    twin.accept(7)
    straight.accept(7)
    assert edited_row(twin) == edited_row(straight)


def edited_row(chooser: SequenceSampler) -> list[float]:
    row = np.linspace(-1, 1, 10).astype(F)
    chooser.pick(row, 0)
    return row.tolist()


def test_many_distinct_tokens_grow_the_history() -> None:
    chooser = sampler(SamplingParams(presence_penalty=5.0), 1000)
    for token in range(999):
        chooser.accept(token)
    assert chooser.pick(np.zeros(1000, F), 0).token_id == 999


@pytest.mark.parametrize("words", [np.uint32, np.int32, None])
def test_masks(words: Any) -> None:
    rng = np.random.default_rng(5)
    for size in (1, 31, 32, 33, 100):
        allowed = rng.random(size) < 0.5
        allowed[rng.integers(size)] = True
        logits = rng.normal(size=size).astype(F)
        mask: Any = allowed
        if words is not None:
            bits = np.zeros(-(-size // 32) * 32, np.uint8)
            bits[:size] = allowed
            mask = np.packbits(bits, bitorder="little").view(words)
        best = max(np.flatnonzero(allowed), key=lambda t: logits[t])
        assert sampler(SamplingParams(), size).pick(logits, 0, mask).token_id == best


def test_mask_of_the_wrong_size_is_refused() -> None:
    with pytest.raises(EngineError, match=r"token mask is bool \(9,\); expected bool \(10,\)"):
        sampler(SamplingParams(), 10).pick(np.zeros(10, F), 0, np.ones(9, np.bool_))


def test_min_tokens_masks_ends_until_then() -> None:
    params = SamplingParams(min_tokens=2, stop_token_ids=(2,))
    chooser = sampler(params, 4, eos=[3, 50])  # 50: an end the model has no logit for
    picked = []
    for position in range(3):
        picked.append(chooser.pick(np.arange(4, dtype=F), position).token_id)
        chooser.accept(picked[-1])
    assert picked == [1, 1, 3]
    ignoring = sampler(replace(params, ignore_eos=True), 4, eos=[3])
    assert ignoring.pick(np.arange(4, dtype=F), 0).token_id == 3  # it ends nothing, so it may come


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logprobs_are_of_the_raw_logits(temperature: float) -> None:
    rng = np.random.default_rng(3)
    logits = np.round(rng.normal(size=3000) * 4, 1).astype(F)
    logits[:5] = -INF
    bias = {int(np.argsort(-logits)[700]): 60.0}
    params = SamplingParams(temperature=temperature, top_k=1500, top_p=0.9, logit_bias=bias, logprobs=20)
    choice = sampler(params, 3000).pick(logits.copy(), 9)
    exact = logits.astype(np.float64)
    exact -= np.log(np.exp(exact).sum())
    ranked = sorted(range(3000), key=lambda t: (-logits[t], t))[:20]
    assert choice.logprobs is not None
    assert choice.token_id == choice.logprobs.token_id == next(iter(bias))
    assert choice.logprobs.logprob == pytest.approx(exact[choice.token_id], abs=2e-6)
    assert [token for token, _ in choice.logprobs.top] == ranked
    assert [value for _, value in choice.logprobs.top] == pytest.approx(exact[ranked], abs=2e-6)


def test_logprobs_leave_out_masked_tokens() -> None:
    logits = np.array([-INF, 0, -INF, 0], F)
    choice = sampler(SamplingParams(logprobs=4), 4).pick(logits, 0)
    assert choice.logprobs is not None
    assert choice.logprobs.top == ((1, pytest.approx(-math.log(2))), (3, pytest.approx(-math.log(2))))
    assert sampler(SamplingParams(logprobs=0), 4).pick(logits, 0).logprobs.top == ()  # type: ignore[union-attr]


@pytest.mark.parametrize("options", [{}, {"top_k": 6}, {"top_p": 0.8}, {"min_p": 0.1}, {"temperature": 0.5}])
def test_frequencies_follow_the_distribution(options: dict[str, Any]) -> None:
    """Chi-square on fixed draws, at most 9 degrees of freedom: 40 is a one in 100,000 event."""
    params = SamplingParams(**{"temperature": 1.0, "seed": 17, **options})
    logits = np.array([0.3, -1.0, 2.0, 1.2, -0.4, 0.0, 1.9, -2.0, 0.8, -0.1], F)
    chooser = sampler(params, 10)
    draws = 10_000
    counts = np.bincount([chooser.pick(logits.copy(), p).token_id for p in range(draws)], minlength=10)
    probability = np.exp((logits - logits.max()) / params.temperature).astype(np.float64)
    kept = [t in oracle.kept(logits, params) for t in range(10)]
    expected = draws * (probability * kept) / (probability * kept).sum()
    assert counts[~np.array(kept)].sum() == 0
    assert (((counts - expected)[kept] ** 2) / expected[kept]).sum() < 40


def test_weights_are_right_and_fade_to_nothing() -> None:
    steps = np.linspace(-30, 0, 20_001).astype(F)
    exact = 2.0**40 * np.exp(steps.astype(np.float64))
    found = np.array(oracle.weights(steps, 1.0), np.float64)
    assert np.all(np.abs(found - exact) <= 3e-6 * exact + 1)
    assert found[-1] == 2**40


MIXED = [
    SamplingParams(),
    SamplingParams(temperature=1.0, seed=1),
    SamplingParams(temperature=0.7, top_k=40, top_p=0.9, seed=2),
    SamplingParams(temperature=1.2, top_p=0.95, seed=3, logprobs=5),
    SamplingParams(temperature=1.0, top_k=1000, min_p=0.02, seed=4),
    SamplingParams(temperature=0.9, repetition_penalty=1.2, frequency_penalty=0.5, seed=5),
    SamplingParams(logit_bias={3: 4.0}, logprobs=2),
    SamplingParams(temperature=2.0, top_p=0.99, seed=6),
]


def test_batch_order_and_threads_change_nothing() -> None:
    rng = np.random.default_rng(11)
    logits = (rng.normal(size=(len(MIXED), 5000)) * 3).astype(F)
    prompts = rng.integers(0, 5000, (len(MIXED), 50))

    def one(row: int, batch: np.ndarray) -> Any:
        return sampler(MIXED[row], 5000, prompts[row].tolist()).pick(batch[row], 100 + row)

    alone = [one(row, logits.copy()) for row in range(len(MIXED))]
    batch = logits.copy()
    assert [one(row, batch) for row in reversed(range(len(MIXED)))][::-1] == alone
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            batch = logits.copy()
            assert list(pool.map(one, range(len(MIXED)), [batch] * len(MIXED))) == alone


@pytest.mark.parametrize("params", MIXED)
@pytest.mark.parametrize("confirmed", [0, 2, 4])
def test_verifying_drafts_equals_picking_one_by_one(params: SamplingParams, confirmed: int) -> None:
    rng = np.random.default_rng(23)
    rows = rng.normal(size=(5, 5000)).astype(F)
    rows[:, :40] += 6  # few likely tokens, so that penalties bite
    plain = sampler(params, 5000, [1, 2, 3])
    choices = []
    for i in range(confirmed + 1):
        choices.append(plain.pick(rows[i].copy(), 50 + i))
        plain.accept(choices[-1].token_id)
    draft = [choice.token_id for choice in choices[:confirmed]]
    if confirmed < 4:
        draft += [(choices[-1].token_id + 1) % 5000] * (4 - confirmed)
    checked = sampler(params, 5000, [1, 2, 3])
    assert checked.verify(rows.copy(), 50, draft) == choices
    assert checked.pick(rows[0].copy(), 90) == plain.pick(rows[0].copy(), 90)


def test_choices_depend_on_seed_and_position() -> None:
    logits = np.zeros(1000, F)
    picked = {choose(logits, SamplingParams(temperature=1.0, seed=s), p) for s in range(10) for p in range(10)}
    assert len(picked) > 80


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("value", [math.nan, -math.nan, INF])
def test_broken_logits_name_position_and_token(value: float, temperature: float) -> None:
    logits = np.zeros(100, F)
    logits[41] = value
    with pytest.raises(EngineError, match=r"token 41 at position 12 is (nan|inf)"):
        choose(logits, SamplingParams(temperature=temperature), 12)


def test_nothing_to_choose() -> None:
    with pytest.raises(EngineError, match="position 8: every logit is -inf"):
        choose(np.full(10, -INF, F), SamplingParams(), 8)
    with pytest.raises(EngineError, match="position 8: mask and min_tokens exclude them all"):
        sampler(SamplingParams(), 10).pick(np.zeros(10, F), 8, np.zeros(10, np.bool_))


@pytest.mark.parametrize("row", [np.zeros(9, F), np.zeros(10), np.zeros((10, 2), F)[:, 0]])
def test_rows_of_the_wrong_kind_are_refused(row: np.ndarray) -> None:
    with pytest.raises(EngineError, match=r"expected contiguous float32 \(10,\)"):
        sampler(SamplingParams(), 10).pick(row, 0)


@pytest.mark.parametrize(
    ("options", "prompt", "name"),
    [
        ({"logit_bias": {10: 1.0}}, [], "logit_bias names token 10"),
        ({"stop_token_ids": (-1,)}, [], "stop_token_ids names token -1"),
        ({"repetition_penalty": 1.1}, [3, 12], "the prompt names token 12"),
    ],
)
def test_tokens_outside_the_vocabulary_are_refused(options: dict[str, Any], prompt: list[int], name: str) -> None:
    with pytest.raises(RequestError, match=name):
        sampler(SamplingParams(**options), 10, prompt)


def test_history_outside_what_happened_is_refused() -> None:
    chooser = sampler(SamplingParams(), 10)
    with pytest.raises(EngineError, match="token 10 was accepted"):
        chooser.accept(10)
    with pytest.raises(EngineError, match="taken back"):
        chooser.rollback(1)


@pytest.mark.parametrize(
    "options",
    [
        {"logit_bias": {0: 1e300, 1: -1e300}},
        {"repetition_penalty": 1e300},
        {"repetition_penalty": 1e-300},
        {"frequency_penalty": 1e308, "presence_penalty": -1e308},
    ],
)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_absurd_parameters_stay_finite(options: dict[str, Any], temperature: float) -> None:
    chooser = sampler(SamplingParams(temperature=temperature, **options), 4, [0, 1, 2])
    for position in range(4):
        token = chooser.pick(np.array([3e38, -3e38, 0.0, -INF], F), position).token_id
        assert token != 3
        chooser.accept(token)
