"""Endings: what is cut and what is held back does not depend on how the text arrives."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miaotui.engine.output import Ending, StopStrings
from miaotui.errors import EngineError
from miaotui.types import SamplingParams

EOS = 0
texts = st.text("abc", max_size=40)
stop_lists = st.lists(st.text("abc", min_size=1, max_size=6), max_size=4)


class Letters:
    """A text source of one-letter tokens: 1 is "a"; 99 is half a character, shown with the next.

    At the end half a character is "?", and nothing if the answer was cut there.
    """

    def __init__(self) -> None:
        self.half = ""

    def push(self, token_id: int) -> str:
        if token_id == 99:
            self.half += "?"
            return ""
        text = self.half + "@abcdefghijklmnopqrstuvwxyz"[token_id]
        self.half = ""
        return text

    def finish(self, cut: bool = False) -> str:
        text, self.half = self.half, ""
        return "" if cut else text


def tokens(text: str) -> list[int]:
    return [ord(c) - ord("a") + 1 for c in text]


def expected_cut(text: str, stops: Iterable[str]) -> tuple[str, bool]:
    """The slow way: the first end of any stop string; of several that end there the longest."""
    for end in range(1, len(text) + 1):
        found = [len(stop) for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: end - max(found)], True
    return text, False


def follow(stops: StopStrings, pieces: Iterable[str]) -> tuple[str, bool]:
    shown = ""
    for piece in pieces:
        text, stopped = stops.push(piece)
        shown += text
        if stopped:
            return shown, True
    return shown + stops.finish(), False


@given(texts, stop_lists, st.lists(st.integers(0, 40), max_size=8))
def test_any_split_equals_the_whole(text: str, stops: list[str], cuts: list[int]) -> None:
    bounds = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[a:b] for a, b in itertools.pairwise(bounds)]
    assert follow(StopStrings(stops), pieces) == expected_cut(text, stops)


@given(texts, stop_lists)
def test_holds_back_exactly_what_may_be_a_beginning(text: str, stops: list[str]) -> None:
    if expected_cut(text, stops)[1]:
        return
    shown, _ = StopStrings(stops).push(text)
    held = max((n for stop in stops for n in range(len(stop)) if text.endswith(stop[:n])), default=0)
    assert shown == text[: len(text) - held]


def test_a_long_hostile_stop_string_stays_linear() -> None:
    stops = StopStrings(["a" * 100_000 + "b"])
    assert stops.push("a" * 200_000) == ("a" * 100_000, False)
    assert stops.push("b") == ("", True)


def test_of_two_at_once_the_longest() -> None:
    assert StopStrings(["bc", "abc"]).push("xabc") == ("x", True)


def test_the_one_complete_first_wins() -> None:
    assert StopStrings(["abcd", "bc"]).push("abcd") == ("a", True)


def test_unarmed_matches_are_text_but_may_begin_one() -> None:
    stops = StopStrings(["aba"])
    assert stops.push("aba", armed=False) == ("ab", False)
    assert stops.push("ba") == ("", True)


def run(params: SamplingParams, answer: list[int], max_tokens: int = 100) -> tuple[str, str | None, int]:
    """Text, reason and number of tokens taken."""
    ending = Ending(params, frozenset({EOS, *params.stop_token_ids}), max_tokens, Letters())
    shown = ""
    for taken, token_id in enumerate(answer, 1):
        piece = ending.push(token_id)
        shown += piece.text
        if piece.finish_reason:
            return shown, piece.finish_reason, taken
    return shown + ending.close(), None, len(answer)


@given(
    st.lists(st.sampled_from([EOS, 1, 2, 3, 7, 99]), min_size=1, max_size=12),
    st.integers(0, 4),
    st.integers(1, 12),
    st.sets(st.integers(1, 12)),
)
def test_texts_that_are_made_later_are_the_same(answer: list[int], least: int, most: int, reads: set[int]) -> None:
    """However often somebody reads, and also if the answer is ended from outside."""
    params = SamplingParams(stop_token_ids=(7,), min_tokens=least)
    expected = run(params, answer, most)
    ending = Ending(params, frozenset({EOS, 7}), most, Letters())
    assert not ending.needs_text
    shown, told, reason = "", 0, None
    for taken in range(1, len(answer) + 1):
        reason = ending.note(answer[taken - 1])
        if reason:
            break
        if taken in reads:
            shown += ending.text_of(answer[told:taken], told, False)
            told = taken
    shown += ending.text_of(answer[told:taken], told, True)
    assert ending.text_of([], taken, True) == ""
    assert (shown, reason, taken) == expected


def test_no_token_is_noted_after_the_end() -> None:
    ending = Ending(SamplingParams(), frozenset({EOS}), 5, Letters())
    assert ending.note(EOS) == "stop"
    with pytest.raises(EngineError, match="after the answer had ended"):
        ending.note(1)
    assert Ending(SamplingParams(stop=("a",)), frozenset(), 5, Letters()).needs_text


def test_end_token_stops_and_releases_held_text() -> None:
    assert run(SamplingParams(stop=("abc",)), [*tokens("xab"), EOS]) == ("xab", "stop", 4)


def test_half_a_character_is_shown_before_an_end_token_only() -> None:
    assert run(SamplingParams(), [*tokens("x"), 99, EOS]) == ("x?", "stop", 3)
    assert run(SamplingParams(), [*tokens("x"), 99], max_tokens=2) == ("x", "length", 2)
    assert run(SamplingParams(), [*tokens("x"), 99]) == ("x", None, 2)  # cancelled


def test_half_a_character_completes_a_stop_string_before_an_end_token_only() -> None:
    assert run(SamplingParams(stop=("b?",)), [*tokens("ab"), 99, EOS]) == ("a", "stop", 4)
    assert run(SamplingParams(stop=("b?",)), [*tokens("ab"), 99], max_tokens=3) == ("ab", "length", 3)


def test_length_releases_held_text() -> None:
    assert run(SamplingParams(stop=("abc",)), tokens("xabab"), max_tokens=3) == ("xab", "length", 3)


def test_stop_comes_before_length() -> None:
    assert run(SamplingParams(stop=("ab",)), tokens("xab"), max_tokens=3) == ("x", "stop", 3)
    assert run(SamplingParams(stop_token_ids=(3,)), tokens("abc"), max_tokens=3) == ("ab", "stop", 3)


def test_min_tokens_delays_every_stop() -> None:
    params = SamplingParams(stop=("b",), stop_token_ids=(3,), min_tokens=3)
    assert run(params, tokens("bcb" + "ab")) == ("bcba", "stop", 5)
    assert run(params, tokens("aaa" + "c")) == ("aaa", "stop", 4)


def test_a_stop_string_may_begin_within_min_tokens() -> None:
    assert run(SamplingParams(stop=("bc",), min_tokens=2), tokens("abc")) == ("a", "stop", 3)


def test_nothing_comes_after_the_end() -> None:
    ending = Ending(SamplingParams(), frozenset({EOS}), 5, Letters())
    ending.push(EOS)
    assert ending.close() == ""
    with pytest.raises(EngineError, match="after the answer had ended"):
        ending.push(1)


@given(st.lists(st.integers(0, 3), max_size=30), stop_lists, st.integers(0, 5), st.integers(1, 20))
def test_pieces_add_up_to_the_same_answer(
    answer: list[int], stops: list[str], min_tokens: int, max_tokens: int
) -> None:
    """Against the slow way on the whole text, token by token."""
    params = SamplingParams(stop=tuple(stops), min_tokens=min_tokens)
    shown, reason, taken = run(params, answer, max_tokens)
    text = ""
    for n, token_id in enumerate(answer, 1):
        if token_id == EOS and n > min_tokens:
            assert (shown, reason, taken) == (text, "stop", n)
            return
        text += Letters().push(token_id)
        found = max((len(stop) for stop in stops if text.endswith(stop)), default=0)
        if found and n > min_tokens:
            assert (shown, reason, taken) == (text[: len(text) - found], "stop", n)
            return
        if n == max_tokens:
            assert (shown, reason, taken) == (text, "length", n)
            return
    assert (shown, reason) == (text, None)
