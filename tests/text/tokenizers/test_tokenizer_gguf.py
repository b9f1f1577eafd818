"""Tokenizers from GGUF metadata, held to `tokenizers` and `sentencepiece` themselves."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from small_vocabularies import AWKWARD, SENTENCES, byte_level, sentencepiece_model
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from miaotui.errors import ModelFormatError, RequestError, UnsupportedModelError
from miaotui.text.tokenizers.byte_level import byte_level_spelling, to_alphabet
from miaotui.text.tokenizers.from_gguf import from_gguf
from miaotui.text.tokenizers.sentencepiece import piece_spelling

GPT = byte_level()
steady = settings(deadline=None, derandomize=True)
TEXTS = AWKWARD + SENTENCES[:8]

# As the models' own tokenizer.json files write them.
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def by_pattern(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def plain_byte_level() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False)


def digits_apart() -> pre_tokenizers.PreTokenizer:
    digits = pre_tokenizers.Digits(individual_digits=True)
    return pre_tokenizers.Sequence([digits, plain_byte_level()])


PRE_TOKENIZERS: dict[str, Callable[[], pre_tokenizers.PreTokenizer]] = {
    "gpt-2": plain_byte_level,
    "smollm": digits_apart,
    "llama-bpe": lambda: by_pattern(LLAMA3),
    "qwen2": lambda: by_pattern(QWEN2),
    "tekken": lambda: by_pattern(TEKKEN),
}


def library_tokenizer(metadata: dict[str, Any], pre: str) -> Tokenizer:
    """The same vocabulary in the `tokenizers` library, built from its parts."""
    tokens = metadata["tokenizer.ggml.tokens"]
    vocab = {token: index for index, token in enumerate(tokens)}
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab, merges, ignore_merges=pre in ("llama-bpe", "tekken")))
    tokenizer.pre_tokenizer = PRE_TOKENIZERS[pre]()
    tokenizer.decoder = decoders.ByteLevel()
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in tokens[:3]])
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in tokens[-2:]])
    return tokenizer


BOTH = {pre: (from_gguf(GPT | {"tokenizer.ggml.pre": pre}), library_tokenizer(GPT, pre)) for pre in PRE_TOKENIZERS}


@pytest.mark.parametrize("pre", PRE_TOKENIZERS)
def test_byte_level_equals_the_library(pre: str) -> None:
    ours, theirs = BOTH[pre]
    for text in TEXTS:
        ids = theirs.encode(text).ids
        assert ours.encode(text, whole=False) == ids, text
        assert ours.decode(ids) == theirs.decode(ids), text
        assert ours.decode(ids, skip_special=False) == theirs.decode(ids, skip_special_tokens=False)


@steady
@given(pre=st.sampled_from(list(PRE_TOKENIZERS)), text=st.text(max_size=60))
def test_byte_level_equals_the_library_on_any_text(pre: str, text: str) -> None:
    ours, theirs = BOTH[pre]
    assert ours.encode(text, whole=False) == theirs.encode(text).ids


@steady
@given(
    pre=st.sampled_from(list(PRE_TOKENIZERS)),
    text=st.text(alphabet="ab'sStT12 \n\r\t.,/!éßΣ中<|im_start>", max_size=60),
)
def test_byte_level_equals_the_library_on_likely_text(pre: str, text: str) -> None:
    ours, theirs = BOTH[pre]
    assert ours.encode(text, whole=False) == theirs.encode(text).ids


def test_smollm_splits_every_digit() -> None:
    ours = BOTH["smollm"][0]
    assert [ours.token_bytes(token) for token in ours.encode("2024")] == [b"2", b"0", b"2", b"4"]


def test_a_byte_without_a_token_is_dropped() -> None:
    tokens = list(GPT["tokenizer.ggml.tokens"])
    tokens[tokens.index(to_alphabet("𝕏")[2])] = "removed"
    ours = from_gguf(GPT | {"tokenizer.ggml.tokens": tokens})
    assert b"".join(map(ours.token_bytes, ours.encode("a𝕏b"))) == b"a\xf0\x9d\x8fb"


class TestSpecialTokens:
    tokenizer = BOTH["gpt-2"][0]

    def test_recognised_in_trusted_text_only(self) -> None:
        prompt = "<|im_start|>hi<|im_end|>"
        assert self.tokenizer.encode(prompt)[0] == 1
        assert self.tokenizer.encode(prompt)[-1] == 2
        assert not set(self.tokenizer.encode(prompt, special=False)) & {0, 1, 2}
        assert self.tokenizer.decode(self.tokenizer.encode(prompt, special=False)) == prompt

    def test_user_defined_tokens_are_always_recognised_and_shown(self) -> None:
        think = GPT["tokenizer.ggml.tokens"].index("<think>")
        assert self.tokenizer.encode("<think>", special=False) == [think]
        assert self.tokenizer.decode([1, think, 2]) == "<think>"

    def test_the_longest_goes_first_and_overlaps_go_left(self) -> None:
        tokens = ["<a", "<ab>", "b>", *GPT["tokenizer.ggml.tokens"]]
        types = [3, 3, 3, *GPT["tokenizer.ggml.token_type"]]
        ours = from_gguf(GPT | {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types})
        assert ours.encode("<ab>") == [1]
        assert ours.encode("<ab><ab>")[:2] == [1, 1]
        assert ours.encode("<ab")[0] == 0
        assert [t for t in ours.encode("<a b>") if t < 3] == [0, 2]

    def test_beginning_and_end(self) -> None:
        flags = {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.add_eos_token": True}
        ours = from_gguf(GPT | flags)
        bare = ours.encode("hi", whole=False)
        assert ours.encode("hi") == [1, *bare, 2]
        assert ours.encode("<|im_start|>hi<|im_end|>") == [1, *bare, 2]  # not put there twice
        assert ours.encode("hi", special=False) == bare
        assert ours.encode("hi", special=False, whole=True) == [1, *bare, 2]
        assert ours.bos_id == 1

    def test_beginning_by_default(self) -> None:
        assert BOTH["llama-bpe"][0].encode("hi")[0] == 1
        assert BOTH["qwen2"][0].encode("hi")[0] != 1
        assert sentencepiece_tokenizer()[0].encode("hi")[0] == 1

    def test_every_known_end_ends(self) -> None:
        assert self.tokenizer.eos_ids == {0, 2}
        named = from_gguf(GPT | {"tokenizer.ggml.eot_token_id": 7})
        assert named.eos_ids == {0, 2, 7}

    def test_gpt_oss_ends_a_message_within_an_answer(self) -> None:
        tokens = ["<|return|>", "<|call|>", "<|end|>", *GPT["tokenizer.ggml.tokens"][3:]]
        ends = {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.eos_token_id": 0}
        assert from_gguf(GPT | ends).eos_ids == {0, 1}
        assert from_gguf(GPT | ends | {"tokenizer.ggml.tokens": ["<a>", *tokens[1:]]}).eos_ids == {0, 1, 2}

    def test_phi3_markers_swallow_whitespace(self) -> None:
        ours, _ = sentencepiece_tokenizer(symbols=("<|end|>",))
        assert len(ours.encode("<|end|>\n\nx")) > len(ours.encode("<|end|>x"))
        _, metadata = sentencepiece_model(symbols=("<|end|>",))
        types = [3 if t == 4 else t for t in metadata["tokenizer.ggml.token_type"]]
        phi = metadata | {"general.architecture": "phi3", "tokenizer.ggml.token_type": types}
        ours = from_gguf(phi)
        assert ours.encode("<|end|>\n \nx") == ours.encode("<|end|>x")
        assert ours.encode("<s>\nx") != ours.encode("<s>x")


def sentencepiece_tokenizer(**options: Any) -> tuple[Any, sentencepiece.SentencePieceProcessor]:
    theirs, metadata = sentencepiece_model(**options)
    return from_gguf(metadata), theirs


PIECES = {
    "llama": sentencepiece_tokenizer(),
    "gemma": sentencepiece_tokenizer(add_space=False, symbols=("\n", "\n\n", "▁▁", "▁▁▁", "\t", "<b>")),
    "no bytes": sentencepiece_tokenizer(byte_fallback=False),
}


@pytest.mark.parametrize("kind", PIECES)
def test_pieces_equal_sentencepiece(kind: str) -> None:
    ours, theirs = PIECES[kind]
    for text in TEXTS:
        ids = theirs.encode(text)
        assert ours.encode(text, special=False) == ids, text
        if kind != "no bytes":
            assert ours.decode(ids) == text.replace("▁", " ") == theirs.decode(ids), text


@steady
@given(kind=st.sampled_from(list(PIECES)), text=st.text(max_size=60))
def test_pieces_equal_sentencepiece_on_any_text(kind: str, text: str) -> None:
    ours, theirs = PIECES[kind]
    assert ours.encode(text, special=False) == theirs.encode(text)


@steady
@given(kind=st.sampled_from(list(PIECES)), text=st.text(alphabet="ther aionds  \n\t.,'<b>秒推语言答案▁12", max_size=80))
def test_pieces_equal_sentencepiece_on_likely_text(kind: str, text: str) -> None:
    ours, theirs = PIECES[kind]
    assert ours.encode(text, special=False) == theirs.encode(text)


def test_pieces_that_reach_over_a_space() -> None:
    """Words are encoded one by one only where no piece could join them."""
    pieces = ["<unk>", "<s>", "▁", "a", "b", "c", "b▁", "b▁c", "▁a"]
    ours = from_gguf(
        {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.tokens": pieces,
            "tokenizer.ggml.token_type": [2, 3] + [1] * 7,
            "tokenizer.ggml.scores": [0.0, 0, -9, -9, -9, -9, -1, -2, -3],
            "tokenizer.ggml.add_space_prefix": False,
            "tokenizer.ggml.add_bos_token": False,
        }
    )
    assert [pieces[t] for t in ours.encode("ab c a")] == ["a", "b▁c", "▁a"]
    assert [pieces[t] for t in ours.encode("b a")] == ["b▁", "a"]
    assert [pieces[t] for t in ours.encode("xx yb")] == ["<unk>", "▁", "<unk>", "b"]


def test_each_stretch_of_text_gets_the_space() -> None:
    ours, theirs = PIECES["llama"]
    assert ours.encode("<s>the dog</s>the") == [1, *theirs.encode("the dog"), 2, *theirs.encode("the")]


def test_merging_is_fast_on_long_words() -> None:
    for tokenizer in (BOTH["gpt-2"][0], PIECES["llama"][0]):
        start = time.perf_counter()
        tokenizer.encode("ab" * 50_000)
        assert time.perf_counter() - start < 10


def test_text_must_be_unicode() -> None:
    for tokenizer in (BOTH["gpt-2"][0], PIECES["llama"][0]):
        with pytest.raises(RequestError, match="lone surrogate"):
            tokenizer.encode("ab \ud800")


PIECE_DATA = sentencepiece_model()[1]


@pytest.mark.parametrize(
    ("metadata", "error", "says"),
    [
        ({}, ModelFormatError, "tokenizer.ggml.model is missing"),
        (GPT | {"tokenizer.ggml.model": "rwkv"}, UnsupportedModelError, "known ones: gpt2, gemma4, llama"),
        (GPT | {"tokenizer.ggml.pre": "newest"}, UnsupportedModelError, "'newest'"),
        (GPT | {"tokenizer.ggml.tokens": []}, ModelFormatError, "tokens"),
        (GPT | {"tokenizer.ggml.tokens": [b"a"]}, ModelFormatError, "tokens"),
        (GPT | {"tokenizer.ggml.tokens": None}, ModelFormatError, "tokens"),
        (GPT | {"tokenizer.ggml.token_type": [1, 1]}, ModelFormatError, "token_type"),
        (GPT | {"tokenizer.ggml.token_type": "x"}, ModelFormatError, "token_type"),
        (GPT | {"tokenizer.ggml.merges": [1]}, ModelFormatError, "merges"),
        (GPT | {"tokenizer.ggml.eos_token_id": 10**6}, ModelFormatError, "eos_token_id"),
        (GPT | {"tokenizer.ggml.bos_token_id": -1}, ModelFormatError, "bos_token_id"),
        (GPT | {"tokenizer.ggml.bos_token_id": "1"}, ModelFormatError, "bos_token_id"),
        (GPT | {"tokenizer.ggml.add_bos_token": 1}, ModelFormatError, "add_bos_token"),
        (PIECE_DATA | {"tokenizer.ggml.scores": [0.0]}, ModelFormatError, "scores"),
        (
            PIECE_DATA | {"tokenizer.ggml.scores": np.full(len(PIECE_DATA["tokenizer.ggml.tokens"]), np.nan)},
            ModelFormatError,
            "finite",
        ),
        (PIECE_DATA | {"tokenizer.ggml.remove_extra_whitespaces": True}, UnsupportedModelError, "repeated spaces"),
    ],
)
def test_damaged_metadata(metadata: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        from_gguf(metadata)


@pytest.mark.parametrize("merges", [[], ["nospace"], ["", " "], ["a b c"], ["q zzz", "t h"]])
def test_odd_merges_do_no_harm(merges: list[str]) -> None:
    ours = from_gguf(GPT | {"tokenizer.ggml.merges": merges})
    assert ours.decode(ours.encode("then q zzz 你好")) == "then q zzz 你好"


@given(st.text(max_size=8))
def test_tokens_are_spelled_in_their_alphabet(text: str) -> None:
    """A byte-level token stands for its bytes, and for its own UTF-8 if a character is outside the alphabet."""
    spell = byte_level_spelling([to_alphabet(text), text + " ", text + "\xad", "<s>"].__getitem__, {3: "<s>"})
    assert [spell(0), spell(1), spell(2), spell(3)] == [
        text.encode(),
        f"{text} ".encode(),
        f"{text}\xad".encode(),
        b"<s>",
    ]
    piece = piece_spelling(["▁" + text, "<0x0A>", "<0x0A>"].__getitem__, {1: 10, 2: None})
    assert [piece(0), piece(1), piece(2)] == [f" {text}".replace("▁", " ").encode(), b"\n", b"<0x0A>"]
