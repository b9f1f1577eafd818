"""Greedy and beam search over scripted logits: against an exhaustive search, under random settings, and each rule."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from miaotui.backends.target_scores import TargetScores, best_places, log_softmax
from miaotui.engine.search.rules import repeated
from miaotui.engine.search.search import FoundTarget, start_search
from miaotui.errors import FieldError
from miaotui.model.seq2seq.generation import GenerationSettings

Floats = NDArray[np.float32]
START, EOS, VOCAB = 0, 1, 7
PLAIN = GenerationSettings(start_token=START, eos_ids=(EOS,), max_length=6)


def language(seed: int) -> Callable[[tuple[int, ...]], Floats]:
    """A model: logits of the token behind some tokens."""

    def logits(tokens: tuple[int, ...]) -> Floats:
        rng = np.random.default_rng([seed, *tokens])
        return (2 * rng.standard_normal(VOCAB)).astype(np.float32)

    return logits


def run(seed: int, chosen: GenerationSettings) -> tuple[FoundTarget, int]:
    """Search in the model `seed`; returns the number of steps, too."""
    model, search, steps = language(seed), start_search(chosen), 0
    prefixes: list[tuple[int, ...]] = [()]
    while search.rows:
        prefixes = [(*prefixes[row.parent], row.token) for row in search.rows]
        assert len(set(prefixes)) == len(prefixes) <= chosen.num_beams
        search.advance(TargetScores(np.array([model(prefix) for prefix in prefixes])))
        steps += 1
    return search.found(), steps


def of(**values: Any) -> GenerationSettings:
    return dataclasses.replace(PLAIN, **values)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0])
def test_beams_that_hold_everything_find_the_best_target(seed: int, penalty: float) -> None:
    most = 4
    chosen = of(max_length=most, num_beams=64, length_penalty=penalty, early_stopping="never")
    model = language(seed)

    def score(tokens: tuple[int, ...]) -> float:
        steps = (log_softmax(model(tokens[:n]))[tokens[n]] for n in range(1, len(tokens)))
        return float(sum(steps)) / (len(tokens) - 1) ** penalty

    whole = [
        (START, *inner, EOS)
        for n in range(most - 1)
        for inner in itertools.product([t for t in range(VOCAB) if t != EOS], repeat=n)
    ]
    cut = [(START, *inner) for inner in itertools.product([t for t in range(VOCAB) if t != EOS], repeat=most - 1)]
    best = max(whole + cut, key=score)
    found, _ = run(seed, chosen)
    assert found.tokens == best
    assert found.score == pytest.approx(score(best), abs=1e-5)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 1 << 20),
    beams=st.integers(1, 5),
    most=st.integers(3, 12),
    least=st.integers(0, 8),
    ngram=st.integers(0, 3),
    penalty=st.floats(-2, 3),
    early=st.sampled_from([True, False, "never"]),
    prefix=st.lists(st.integers(2, VOCAB - 1), max_size=1),
    suppressed=st.lists(st.integers(2, VOCAB - 1), max_size=2),
)
def test_targets_keep_to_their_settings(
    *,
    seed: int,
    beams: int,
    most: int,
    least: int,
    ngram: int,
    penalty: float,
    early: Any,
    prefix: list[int],
    suppressed: list[int],
) -> None:
    chosen = of(
        num_beams=beams,
        max_length=most,
        min_length=min(least, most),
        no_repeat_ngram_size=ngram,
        length_penalty=penalty,
        early_stopping=early,
        prefix=tuple(prefix),
        suppressed_ids=tuple(suppressed),
    )
    found, steps = run(seed, chosen)
    tokens = found.tokens
    assert tokens[: 1 + len(prefix)] == (START, *prefix)
    assert len(tokens) <= most
    assert steps <= most - 1
    assert EOS not in tokens[1:-1]
    assert len(tokens) == most or tokens[-1] == EOS or ngram  # runs of every token may be used up
    assert len(tokens) > chosen.min_length or tokens[-1] != EOS
    assert not set(suppressed) & set(tokens[1 + len(prefix) :])
    if ngram:
        runs = [tokens[place : place + ngram] for place in range(len(tokens) - ngram + 1)]
        assert len(set(runs)) == len(runs)
    assert run(seed, chosen)[0] == found


def test_tokens_are_forced_and_kept_out() -> None:
    for beams in (1, 3):
        chosen = of(num_beams=beams, forced_bos_id=5, forced_eos_ids=(EOS,), min_length=6, bad_words=((3,), (5, 4)))
        tokens = run(7, chosen)[0].tokens
        assert tokens[:2] == (START, 5)
        assert tokens[-1] == EOS
        assert len(tokens) == 6
        assert 3 not in tokens
        assert (5, 4) not in itertools.pairwise(tokens)
        assert run(7, of(num_beams=beams, begin_suppressed_ids=(2, 3, 4, 5, 6)))[0].tokens[1] in (START, EOS)


@pytest.mark.parametrize(
    ("tokens", "size", "expected"),
    [([4, 2, 4], 2, [2]), ([4, 2, 4, 2], 3, [4]), ([4], 2, []), ([4, 4], 1, [4, 4]), ([1, 2, 3, 1, 2], 3, [3])],
)
def test_repeated_runs(tokens: list[int], size: int, expected: list[int]) -> None:
    assert repeated(tokens, size) == expected


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.integers(1, 30))
def test_best_places_are_the_highest_and_equals_come_in_order(values: list[int], count: int) -> None:
    scores = np.array(values, np.float32)
    expected = sorted(range(len(values)), key=lambda place: (-values[place], place))[:count]
    assert best_places(scores, min(count, len(values))).tolist() == expected


@pytest.mark.parametrize(
    "values",
    [
        {"num_beams": 0},
        {"num_beams": True},
        {"length_penalty": float("nan")},
        {"early_stopping": "soon"},
        {"max_length": 1},
        {"min_length": 7},
        {"bad_words": ((),)},
        {"no_repeat_ngram_size": -1},
    ],
)
def test_impossible_settings_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(FieldError, match=next(iter(values))):
        of(**values)


def test_ids_of_another_vocabulary_are_refused() -> None:
    with pytest.raises(FieldError, match="prefix"):
        of(prefix=(VOCAB,)).check_vocabulary(VOCAB)
