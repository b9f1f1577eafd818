"""Masking rules: their rates, their boundaries, and that a choice depends on the text and the seed alone."""

from __future__ import annotations

import numpy as np
import pytest
from batches import MASK, VOCABULARY, rows, texts
from hypothesis import given, settings
from hypothesis import strategies as st

from miaotui.dmlm.masks.adaptive import AdaptiveMasks, TokenLosses, chances_of
from miaotui.dmlm.masks.batch import TokenBatch, Units
from miaotui.dmlm.masks.masking import MASKS, Masking, masking_named
from miaotui.dmlm.masks.rules import RandomMasks, SpanMasks, UnitMasks
from miaotui.dmlm.masks.schedule import FixedRate, LogLinearRates
from miaotui.errors import RequestError
from miaotui.training.noise import Noise

ALL = sorted(MASKS)


def learned_rule() -> AdaptiveMasks:
    losses = TokenLosses(VOCABULARY)
    random = np.random.default_rng(5)
    losses.update(random.integers(0, VOCABULARY, 4000), random.exponential(2.0, 4000))
    return AdaptiveMasks(losses)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("rate", [0.15, 0.6])
def test_share_of_masks_is_the_rate_and_special_tokens_are_never_masked(name: str, rate: float) -> None:
    batch = texts(400)
    masked = masking_named(name, MASK, VOCABULARY, FixedRate(rate), seed=3).masked(batch)
    assert not masked.chosen[~batch.maskable].any()
    assert not masked.chances[~batch.maskable].any()
    share = masked.chosen.sum() / batch.maskable.sum()
    assert share == pytest.approx(rate, abs=0.02)
    assert np.array_equal(masked.inputs != batch.tokens, masked.chosen)


@pytest.mark.parametrize("name", [name for name in ALL if name != "adaptive"])
def test_each_token_has_the_chance_of_the_rate(name: str) -> None:
    batch = rows(texts(4), slice(0, 4))
    masking = masking_named(name, MASK, VOCABULARY, FixedRate(0.3), seed=1)
    if name == "fixed":
        assert np.array_equal(masking.masked(batch, 1).chosen, masking.masked(batch, 9).chosen)
        return
    often = np.mean([masking.masked(batch, epoch).chosen for epoch in range(1500)], axis=0)
    assert often[batch.maskable] == pytest.approx(0.3, abs=0.06)  # five standard deviations of one token


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**63), st.integers(0, 50), st.floats(0.05, 0.95), st.sampled_from(ALL))
def test_choice_does_not_depend_on_the_batch(seed: int, epoch: int, rate: float, name: str) -> None:
    batch = texts(12)
    rule = learned_rule() if name == "adaptive" else MASKS[name](VOCABULARY)
    masking = Masking(MASK, VOCABULARY, rule, FixedRate(rate), seed, replace="bert")
    whole = masking.masked(batch, epoch)
    for which in (slice(0, 1), slice(5, 9), slice(11, None)):
        some = masking.masked(rows(batch, which), epoch)
        assert np.array_equal(some.chosen, whole.chosen[which])
        assert np.array_equal(some.inputs, whole.inputs[which])
        assert np.array_equal(some.rates, whole.rates[which])
    wider = np.zeros((12, 20), np.int64)
    padded = TokenBatch(
        np.hstack([batch.tokens, wider]), np.hstack([batch.maskable, wider > 0]), batch.numbers,
        np.hstack([batch.words, wider - 1]), np.hstack([batch.collocations, wider - 1]),
    )  # fmt: skip
    assert np.array_equal(masking.masked(padded, epoch).chosen[:, :-20], whole.chosen)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("units", ["words", "collocations"])
def test_units_are_masked_whole(units: str, exact: bool) -> None:
    batch = texts()
    masks = UnitMasks(units, exact).choose(batch, np.full(64, 0.4), Noise(8))  # type: ignore[arg-type]
    numbers = batch.words if units == "words" else batch.collocations
    assert numbers is not None
    for row in range(64):
        for unit in np.unique(numbers[row]):
            inside = (numbers[row] == unit) & batch.maskable[row]
            assert masks.chosen[row, inside].all() or not masks.chosen[row, inside].any()


@pytest.mark.parametrize("rule", [RandomMasks(exact=True), UnitMasks("words", exact=True), SpanMasks(exact=True)])
def test_exact_rules_keep_the_budget(rule: RandomMasks | UnitMasks | SpanMasks) -> None:
    batch = texts()
    chosen = rule.choose(batch, np.full(64, 0.4), Noise(8)).chosen.sum(axis=1)
    budget = np.rint(0.4 * batch.maskable.sum(axis=1))
    assert (chosen <= budget).all()
    assert (chosen > 0).all()
    if isinstance(rule, RandomMasks):
        assert (chosen == budget).all()


def test_one_unit_is_masked_even_when_it_exceeds_the_budget() -> None:
    batch = TokenBatch(np.full((1, 4), 20), np.ones((1, 4), bool), np.array([0]), np.zeros((1, 4), np.int64))
    assert UnitMasks("words", exact=True).choose(batch, np.array([0.1]), Noise(0)).chosen.all()


def test_span_lengths_follow_the_paper() -> None:
    """Mean 3.8 words, as SpanBERT gives it (figure 2), and the shares of a geometric distribution cut at ten."""
    n = 4000
    batch = TokenBatch(np.full((8, n), 20), np.ones((8, n), bool), np.arange(8))
    starts = SpanMasks().stretches(batch, Noise(1))
    lengths = np.concatenate([np.diff(np.flatnonzero(row)) for row in starts])
    expected = 0.2 * 0.8 ** np.arange(10)
    expected /= expected.sum()
    assert lengths.max() == 10
    assert lengths.mean() == pytest.approx(3.8, abs=0.1)
    assert np.bincount(lengths, minlength=11)[1:] / len(lengths) == pytest.approx(expected, abs=0.02)


def test_spans_consist_of_whole_words() -> None:
    batch = texts()
    starts = SpanMasks().stretches(batch, Noise(2))
    assert not (starts & ~batch.starts(batch.words)).any()


def test_adaptive_masks_prefer_what_the_model_has_not_learned() -> None:
    rule = AdaptiveMasks(TokenLosses(VOCABULARY))
    easy, hard = np.arange(10, 100), np.arange(100, VOCABULARY)
    for _ in range(20):
        rule.losses.update(easy, np.full(len(easy), 0.1))
        rule.losses.update(hard, np.full(len(hard), 4.0))
    batch = texts(300)
    masks = rule.choose(batch, np.full(300, 0.3), Noise(4))
    is_hard = batch.tokens >= 100
    often_hard = masks.chosen[batch.maskable & is_hard].mean()
    often_easy = masks.chosen[batch.maskable & ~is_hard].mean()
    assert often_hard > 2.5 * often_easy
    assert masks.chosen[batch.maskable].mean() == pytest.approx(0.3, abs=0.02)


@settings(max_examples=30, deadline=None)
@given(st.floats(0.001, 1.0), st.integers(0, 1000))
def test_adaptive_chances_have_the_rate_as_mean(rate: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    maskable = random.random((3, 40)) < 0.8
    chances = chances_of(random.uniform(0.25, 4, (3, 40)), maskable, np.full(3, rate))
    assert (chances >= 0).all()
    assert (chances <= 1).all()
    assert (chances * maskable).sum(axis=1) / maskable.sum(axis=1) == pytest.approx(rate, abs=1e-6)


def test_units_have_their_first_position_and_length() -> None:
    units = Units.of(np.array([[True, False, True, True, False, False]]))
    assert units.first.tolist() == [[0, 0, 2, 3, 3, 3]]
    assert units.lengths.tolist() == [[2, 2, 1, 3, 3, 3]]


def test_berts_replacement_keeps_a_tenth_and_changes_a_tenth() -> None:
    batch = texts(600)
    masked = Masking(MASK, VOCABULARY, schedule=FixedRate(), replace="bert").masked(batch)
    inside, before = masked.inputs[masked.chosen], batch.tokens[masked.chosen]
    assert np.mean(inside == MASK) == pytest.approx(0.8, abs=0.02)
    assert np.mean(inside == before) == pytest.approx(0.1, abs=0.02)
    assert np.array_equal(masked.inputs[~masked.chosen], batch.tokens[~masked.chosen])


def test_only_uniform_masks_give_a_bound() -> None:
    assert Masking(MASK, VOCABULARY).is_bound
    assert not masking_named("adaptive", MASK, VOCABULARY, LogLinearRates()).is_bound
    assert not masking_named("random", MASK, VOCABULARY, FixedRate()).is_bound
    assert not Masking(MASK, VOCABULARY, replace="bert").is_bound


def test_masked_loss_estimates_the_true_negative_log_likelihood() -> None:
    """For independent tokens with known chances the weighted masked loss is their entropy, an exact bound."""
    chances = np.array([0.5, 0.25, 0.25])
    tokens = np.random.default_rng(0).choice(3, (3000, 40), p=chances)
    batch = TokenBatch(tokens, np.ones(tokens.shape, bool), np.arange(3000))
    losses = -np.log(chances)[tokens]
    masked = Masking(3, 4).masked(batch)
    bound = np.mean((losses * masked.chosen).sum(axis=1) * masked.weights) / 40
    assert bound == pytest.approx(losses.mean(), rel=0.02)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: masking_named("clever", MASK, VOCABULARY, LogLinearRates()), "adaptive"),
        (lambda: Masking(500, VOCABULARY), "mask token"),
        (lambda: TokenBatch(np.zeros((2, 3), np.int64), np.ones((2, 4), bool), np.arange(2)), "one shape"),
        (lambda: TokenLosses(5).update(np.array([7]), np.array([1.0])), "another vocabulary"),
        (
            lambda: UnitMasks("collocations").choose(
                TokenBatch(np.zeros((1, 2), np.int64), np.ones((1, 2), bool), np.arange(1)), np.ones(1), Noise(0)
            ),
            "collocations",
        ),
    ],
)
def test_wrong_use_is_refused_with_a_remedy(wrong: object, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        wrong()  # type: ignore[operator]
