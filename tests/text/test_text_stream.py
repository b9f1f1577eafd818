"""Streams of text: what they return, joined, is the whole text; nothing comes out half."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_vocabularies import AWKWARD, byte_level, sentencepiece_model

from miaotui.text.tokenizers.from_gguf import from_gguf
from miaotui.text.tokenizers.tokenizer import Tokenizer

TOKENIZERS: dict[str, Tokenizer] = {
    "byte level": from_gguf(byte_level()),
    "pieces": from_gguf(sentencepiece_model()[1]),
    "pieces, no space": from_gguf(sentencepiece_model(add_space=False)[1]),
}
steady = settings(deadline=None, derandomize=True)
tokenizers = st.sampled_from(list(TOKENIZERS))
REPLACEMENT = "\ufffd"


def stream(tokenizer: Tokenizer, ids: list[int], **options: bool) -> list[str]:
    decoder = tokenizer.stream(**options)
    return [*map(decoder.push, ids), decoder.finish()]


@steady
@given(name=tokenizers, ids=st.lists(st.integers(0, 760), max_size=40), skip_special=st.booleans(), start=st.booleans())
def test_pieces_joined_are_the_text(name: str, ids: list[int], skip_special: bool, start: bool) -> None:
    tokenizer = TOKENIZERS[name]
    whole = tokenizer.decode(ids, skip_special=skip_special, start=start)
    assert "".join(stream(tokenizer, ids, skip_special=skip_special, start=start)) == whole
    hidden = tokenizer.special_ids if skip_special else frozenset()
    data = b"".join(tokenizer.token_bytes(token) for token in ids if token not in hidden)
    text = data.decode("utf-8", "replace")
    drops = start and tokenizer.roles.drops_space
    assert whole == (text.removeprefix(" ") if drops else text)


@steady
@given(name=tokenizers, text=st.text(max_size=40))
def test_text_comes_back_in_whole_characters(name: str, text: str) -> None:
    tokenizer = TOKENIZERS[name]
    pieces = stream(tokenizer, tokenizer.encode(text, special=False))
    assert "".join(pieces) == (text if name == "byte level" else text.replace("▁", " "))
    assert pieces[-1] == ""
    assert sum(piece.count(REPLACEMENT) for piece in pieces) == text.count(REPLACEMENT)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_character_waits_for_its_bytes(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    ids = tokenizer.encode("x𝕏", special=False)
    assert len(ids) >= 5  # the letter is spelled in four bytes
    pieces = stream(tokenizer, ids)
    assert pieces[-5:] == ["", "", "", "𝕏", ""]


@steady
@given(name=tokenizers, text=st.text(max_size=20), kept=st.integers(0, 80))
def test_a_text_that_is_cut_ends_before_the_character(name: str, text: str, kept: int) -> None:
    tokenizer = TOKENIZERS[name]
    ids = tokenizer.encode(text.replace(REPLACEMENT, ""), special=False)[:kept]
    decoder = tokenizer.stream()
    cut = decoder.push_all(ids) + decoder.finish(cut=True)
    assert REPLACEMENT not in cut
    assert tokenizer.decode(ids) in (cut, cut + REPLACEMENT)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_broken_bytes_are_replaced(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    half = tokenizer.encode("𝕏", special=False)[-4:-2]
    letter = tokenizer.encode("xx", special=False)[-1:]
    text = tokenizer.decode(letter)
    assert stream(tokenizer, half, start=False) == ["", "", REPLACEMENT]
    assert stream(tokenizer, half + letter, start=False) == ["", "", REPLACEMENT + text, ""]
    assert stream(tokenizer, half[1:], start=False)[-2:] == [REPLACEMENT, ""]


def test_the_unwritten_space_is_dropped_once() -> None:
    tokenizer = TOKENIZERS["pieces"]
    ids = tokenizer.encode("the  dog", special=False)
    assert tokenizer.decode(ids) == "the  dog"
    assert tokenizer.decode(ids, start=False) == " the  dog"
    assert tokenizer.decode([1, *ids]) == "the  dog"  # not confused by a hidden token
    assert tokenizer.decode(tokenizer.encode(" the")) == " the"


def test_special_tokens_are_hidden_unless_asked_for() -> None:
    tokenizer = TOKENIZERS["byte level"]
    ids = tokenizer.encode("<|im_start|>hi<|im_end|>")
    assert tokenizer.decode(ids) == "hi"
    assert tokenizer.decode(ids, skip_special=False) == "<|im_start|>hi<|im_end|>"


@pytest.mark.parametrize("name", TOKENIZERS)
def test_ids_outside_the_vocabulary_are_nothing(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    outside = [-1, tokenizer.vocab_size, 10**9]
    assert tokenizer.decode(outside) == ""
    assert [tokenizer.token_bytes(token) for token in outside] == [b"", b"", b""]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_awkward_text_returns(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    for text in AWKWARD:
        back = tokenizer.decode(tokenizer.encode(text, special=False))
        assert back == (text if name == "byte level" else text.replace("▁", " "))


def test_a_token_costs_the_same_at_the_end_of_a_long_text() -> None:
    tokenizer = TOKENIZERS["byte level"]
    ids = tokenizer.encode("there is nothing 你好 𝕏 " * 5000)
    decoder = tokenizer.stream()
    start = time.perf_counter()
    for token in ids:
        decoder.push(token)
    assert len(ids) > 40_000
    assert time.perf_counter() - start < 5  # re-decoding the text each time would take minutes
