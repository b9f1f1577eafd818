"""Where a prompt ends and its continuation begins, in tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miaotui.errors import RequestError
from miaotui.text.continuation import continued
from miaotui.text.tokenizers.encoder import ControlSpan
from miaotui.text.tokenizers.tokenizer import Tokenizer, TokenRoles

WORDS = ["<s>", "</s>", *"abc ", "ab", "bc", " a"]


class Words:
    """Encodes by the longest known piece at each place; it has no control tokens to write."""

    control_texts: Mapping[str, int] = MappingProxyType({})
    added_texts = control_texts

    def encode(self, text: str, special: bool) -> list[int]:
        ids, at = [], 0
        while at < len(text):
            piece = next(word for word in sorted(WORDS[2:], key=len, reverse=True) if text.startswith(word, at))
            ids.append(WORDS.index(piece))
            at += len(piece)
        return ids

    def encode_at(self, text: str, spans: Sequence[ControlSpan]) -> list[int]:
        return self.encode(text, special=False)


def tokenizer(begins: bool = False, ends: bool = False) -> Tokenizer:
    roles = TokenRoles(len(WORDS), 0, frozenset({1}), frozenset({0, 1}), (0,) * begins, (1,) * ends)
    return Tokenizer(Words(), lambda token: WORDS[token].encode(), roles)


def pieces(prompt: str, continuation: str, **roles: bool) -> tuple[list[str], list[str]]:
    ids, start = continued(tokenizer(**roles), prompt, continuation, 100)
    words = [WORDS[token] for token in ids]
    return words[:start], words[start:]


def test_a_token_across_the_boundary_belongs_to_the_continuation() -> None:
    assert pieces("c", "c") == (["c"], ["c"])
    assert pieces("ca", "bc") == (["c"], ["ab", "c"])
    assert pieces("c ", "a") == (["c"], [" a"])
    assert pieces("c", " a", begins=True, ends=True) == (["<s>", "c"], [" a"])
    assert pieces("", "a", begins=True) == (["<s>"], ["a"])


def test_ids_are_used_as_they_are() -> None:
    some = tokenizer(begins=True, ends=True)
    assert continued(some, [2], [3], 100) == ([2, 3], 1)
    assert continued(some, [2], "b", 100) == ([2, 3], 1)
    assert continued(some, "a", [3], 100) == ([0, 2, 3], 2)


@pytest.mark.parametrize(("prompt", "continuation"), [("", "a"), ("a", ""), ("a", "b"), ([], [2]), ([2], [])])
def test_both_need_a_token(prompt: str | list[int], continuation: str | list[int]) -> None:
    with pytest.raises(RequestError, match="at least one token"):
        continued(tokenizer(), prompt, continuation, 100)


@given(st.text("abc ", min_size=1), st.text("abc ", min_size=1))
def test_the_tokens_are_those_of_the_whole_text(prompt: str, continuation: str) -> None:
    ids, start = continued(tokenizer(begins=True), prompt, continuation, 1000)
    assert ids == [0, *Words().encode(prompt + continuation, True)]
    assert ids[:start] == [0, *Words().encode(prompt, True)][:start]
    assert len("".join(WORDS[token] for token in ids[1:start])) <= len(prompt)
