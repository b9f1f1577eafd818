"""Timestamp rules, attempts and cuts of windows: tokens as openai/whisper's own loops would choose them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from miaotui.engine.speech.attempts import Attempt, BeamAttempt, DrawnAttempt, SpokenText, uniforms
from miaotui.engine.speech.rules import TimestampRules
from miaotui.engine.speech.segments import cut_window
from miaotui.text.speech.tokens import SpeechTokens

Floats = NDArray[np.float32]
END, START, FIRST, VOCAB = 20, 21, 28, 60
TOKENS = SpeechTokens(
    end=END,
    start=START,
    previous=25,
    no_speech=26,
    first_timestamp=FIRST,
    vocab_size=VOCAB,
    suppressed=(3, 4, START, 25, 26, 27),
    begin_suppressed=(0, END),
)
RULES = TimestampRules(TOKENS)


def plain_rules(logits: Floats, written: Sequence[int]) -> Floats:
    """The rules once more, one token at a time."""
    scores = logits.astype(np.float64)
    for token in range(VOCAB):
        is_time, allowed = token >= FIRST, token not in TOKENS.suppressed
        last_time = bool(written) and written[-1] >= FIRST
        before_time = len(written) < 2 or written[-2] >= FIRST
        times = [each for each in written if each >= FIRST]
        if not written:
            allowed &= is_time and token <= FIRST + 50
        if last_time and before_time:
            allowed &= not is_time
        elif last_time:
            allowed &= token >= END
        if times and is_time:
            allowed &= token >= times[-1] + (0 if last_time and not before_time else 1)
        if not allowed:
            scores[token] = -np.inf
    times_total = np.logaddexp.reduce(scores[FIRST:])
    if written and times_total > scores[:FIRST].max():
        scores[:FIRST] = -np.inf
    with np.errstate(invalid="ignore"):
        found: Floats = (scores - np.logaddexp.reduce(scores)).astype(np.float32)
    return found


@given(st.integers(0, 10_000), st.lists(st.integers(0, VOCAB - 1), max_size=8), st.sampled_from([1.0, 8.0]))
@settings(max_examples=300, deadline=None)
def test_scores_are_those_of_the_plain_rules(seed: int, written: list[int], spread: float) -> None:
    logits = (spread * np.random.default_rng(seed).standard_normal(VOCAB)).astype(np.float32)
    expected = plain_rules(logits, written)
    if np.isfinite(expected).any():
        np.testing.assert_allclose(RULES.logprobs(logits, written), expected, atol=1e-4)


def test_logits_that_are_not_numbers_choose_nothing() -> None:
    logits = np.full(VOCAB, np.nan, np.float32)
    attempt = DrawnAttempt(RULES, END, 5, 0.0, 1, 0)
    attempt.advance([logits])
    assert not attempt.rows
    assert attempt.best() == SpokenText((), 0.0)


def logits_of(tokens: Sequence[int], seed: int) -> Floats:
    """Logits that depend on the tokens before alone."""
    key = hash((seed, *tokens)) % 2**32
    return (2 * np.random.default_rng(key).standard_normal(VOCAB)).astype(np.float32)


def run(attempt: Attempt, seed: int) -> SpokenText:
    """Run an attempt over `logits_of`."""
    attempt.advance([logits_of((), seed)])
    texts: list[tuple[int, ...]] = [()]
    while attempt.rows:
        texts = [(*(texts[row.parent]), row.token) for row in attempt.rows]
        attempt.advance([logits_of(text, seed) for text in texts])
    return attempt.best()


@pytest.mark.parametrize("seed", range(20))
def test_beams_are_those_of_the_textbook(seed: int) -> None:
    """All continuations of all beams, sorted; as many finished texts as beams end the search."""
    beams, most = 3, 7
    texts, over = [((), 0.0)], []
    for length in range(most):
        candidates = []
        for written, total in texts:
            scores = RULES.logprobs(logits_of(written, seed), written)
            candidates += [(total + float(s), written, t) for t, s in enumerate(scores) if np.isfinite(s)]
        candidates.sort(key=lambda each: -each[0])
        texts = []
        for place, (total, written, token) in enumerate(candidates[: 2 * beams]):
            if token == END or length + 1 == most:
                if place < beams:
                    over.append(SpokenText(written if token == END else (*written, token), total))
            elif len(texts) < beams:
                texts.append(((*written, token), total))
        if len(over) >= beams:
            break
    best = max(over, key=lambda each: each.rank)
    found = run(BeamAttempt(RULES, END, most, beams), seed)
    assert found.tokens == best.tokens
    assert found.logprob == pytest.approx(best.logprob, abs=1e-3)


@pytest.mark.parametrize("seed", range(10))
def test_greedy_is_the_likeliest_token_each_time(seed: int) -> None:
    written: tuple[int, ...] = ()
    while len(written) < 9:
        token = int(RULES.logprobs(logits_of(written, seed), written).argmax())
        if token == END:
            break
        written += (token,)
    assert run(DrawnAttempt(RULES, END, 9, 0.0, 5, 0), seed).tokens == written


def test_draws_depend_on_the_seed_alone() -> None:
    first, again, other = (run(DrawnAttempt(RULES, END, 9, 1.0, 5, seed), 1) for seed in (7, 7, 8))
    assert first == again
    assert first != other
    chances = uniforms(99, 20_000)
    assert 0.0 < chances.min() < chances.max() < 1.0
    assert abs(chances.mean() - 0.5) < 0.01


def test_a_window_is_cut_at_pairs_of_timestamps() -> None:
    frames, at = 3_000, FIRST
    text = (at, 1, 2, at + 10, at + 10, 5, at + 30, at + 30, 6)
    cut = cut_window(text, frames, TOKENS)
    assert [(part.start_s, part.end_s, part.tokens) for part in cut.parts] == [
        (0.0, 0.2, text[:4]),
        (0.2, 0.6, text[4:7]),
    ]
    assert (cut.advance, cut.ends_in_silence) == (60, False)  # the last one is heard again
    ended = cut_window(text[:7], frames, TOKENS)
    assert (len(ended.parts), ended.advance, ended.ends_in_silence) == (2, frames, True)
    single = cut_window(text[:4], frames, TOKENS)
    assert (single.parts[0].end_s, single.advance) == (0.2, frames)
    open_end = cut_window(text[:3], 500, TOKENS)
    assert (open_end.parts[0].end_s, open_end.advance) == (5.0, 500)
    assert cut_window((), 700, TOKENS).parts == ()


@given(st.lists(st.integers(0, VOCAB - 1), max_size=12), st.integers(1, 3_000))
@settings(max_examples=200, deadline=None)
def test_every_window_moves_on_within_itself(written: list[int], frames: int) -> None:
    cut = cut_window(written, frames, TOKENS)
    assert 0 < cut.advance <= frames
    assert sum(len(part.tokens) for part in cut.parts) <= len(written)


def test_tokens_of_english_alone_have_no_languages() -> None:
    assert TOKENS.language_codes == ("en",)
    assert TOKENS.language_code("en") == "en"
    assert TOKENS.code_of(None) == "en"
    both = replace(TOKENS, languages={"en": 22, "zh": 23})
    assert both.language_code("ZH") == "zh"
    assert both.code_of(23) == "zh"
