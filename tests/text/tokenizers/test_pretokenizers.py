"""Cuts between words, by the names in GGUF files: held to other engines and to cuts that llama.cpp makes, too."""

from __future__ import annotations

import json
import unicodedata
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_vocabularies import AWKWARD, SENTENCES
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, trainers

from miaotui.text.tokenizers.from_gguf import from_gguf
from miaotui.text.tokenizers.pretokenizer import _BY_NAME, _FAMILIES, pretokenizer

steady = settings(deadline=None, derandomize=True)
TEXTS = AWKWARD + SENTENCES[:8]
LIKELY = st.text(alphabet="ab'sStTlL123450 \n\r\t.,/!éßΣ\u0301中文かカ한ㄱ，。²½$+<|_-", max_size=60)

TEXT = "IT'S 我的app工1234567 e\u0301²\n\n  a_b, 한ㄱ\n x.y!"
WORDS = {  # the words of TEXT by one name of each rule
    "default": "IT|'|S| 我的app工|1234567| e|\u0301|²|\n\n | a|_|b|,| 한ㄱ|\n| x|.|y|!",
    "smollm": "IT|'|S| 我的app工|1|2|3|4|5|6|7| e|\u0301|²|\n\n | a|_|b|,| 한ㄱ|\n| x|.|y|!",
    "command-r": "IT|'|S| 我的app工|1|2|3|4|5|6|7| é|²|\n\n | a|_|b|,| 한ㄱ|\n| x|.|y|!",
    "llama-bpe": "IT|'S| 我的app工|123|456|7| e|\u0301|²|\n\n| | a|_b|,| 한ㄱ|\n| x|.y|!",
    "dbrx": "IT|'S| 我的app工|123|456|7| e|\u0301|²|\n\n| | a|_b|,| 한ㄱ|\n| x|.y|!",
    "glm4": "IT|'S| 我的app工|123|456|7| e|\u0301|²|\n\n| | a|_b|,| 한ㄱ|\n| x|.y|!",
    "minicpm5": "IT|'S| 我的app工|123|456|7| e|\u0301|²|\n\n| | a|_b|,| 한ㄱ|\n| x|.y|!",
    "qwen2": "IT|'S| 我的app工|1|2|3|4|5|6|7| é|²|\n\n| | a|_b|,| 한ㄱ|\n| x|.y|!",
    "deepseek-r1-qwen": "IT|'S| 我的app工|1|2|3|4|5|6|7| e|\u0301|²|\n\n| | a|_b|,| 한ㄱ|\n| x|.y|!",
    "qwen35": "IT|'S| 我的app工|1|2|3|4|5|6|7| é|²|\n\n| | a|_b|,| 한ㄱ|\n| x|.y|!",
    "ufakzeka": "IT|'S| 我的app工|1|2|3|4|5|6|7| e|\u0301|²|\n\n| | a|_b|,| 한ㄱ|\n| x|.y|!",
    "laguna": "IT|'S| 我的app工|1|2|3|4|5|6|7| e|\u0301|²|\n\n| | a|_b|,| 한ㄱ|\n| x|.y|!",
    "bailingmoe": "IT|'S| 我的app工|1|2|3|4|5|6|7| e|\u0301|²|\n\n| | a|_b|,| 한ㄱ|\n| x|.y|!",
    "seed-coder": "IT|'S| 我的app工|1|2|3|4|5|6|7| e|\u0301|²|\n\n| | a|_b|,| 한ㄱ|\n| x|.y|!",
    "exaone-moe": "IT|'S| 我的app工|1|2|3|4|5|6|7| e\u0301|²|\n\n| | a|_b|,| 한ㄱ|\n| x|.y|!",
    "jais-2": "IT|'S| 我的app工|123|456|7| e|\u0301|²|\n\n| | a|_b|,| 한ㄱ|\n| x|.y|!",
    "tekken": "IT|'S| 我的app工|1|2|3|4|5|6|7| e\u0301|²|\n\n| | a|_b|,| 한ㄱ|\n| x|.y|!",
    "gpt-4o": "IT'S| 我的app工|123|456|7| e\u0301|²|\n\n| | a|_b|,| 한ㄱ|\n| x|.y|!",
    "granite-embed-multi-97m": "IT'S| 我的app工|123|456|7| e\u0301|²|\n\n| | a|_b|,| 한ㄱ|\n| x|.y|!",
    "tiny_aya": "IT'S| 我的app工|1|234|567| e\u0301|²|\n\n| | a|_b|,| 한ㄱ|\n| x|.y|!",
    "kimi-k2": "IT'S| |我的|app|工|123|456|7| e\u0301|²|\n\n| | a|_b|,| 한ㄱ|\n| x|.y|!",
    "deepseek-v3": "IT|'S| |我的|app|工|123|456|7| e\u0301|²|\n\n| | a|_b|,| 한ㄱ|\n| x|.y|!",
    "spark2_5": "IT|'S| |我的|app|工|1|2|3|4|5|6|7| e\u0301|²|\n|\n| | a|_b|,| 한ㄱ|\n| x|.y|!",
    "youtu": "IT'S| |我的|app|工|1|2|3|4|5|6|7| e\u0301|²|\n\n| | a|_b|,| |한ㄱ|\n| x|.y|!",
    "afmoe": "IT|'S| |我的|app|工|1|234|567| e\u0301|²|\n\n| | a|_b|,| |한|ㄱ|\n| x|.y|!",
    "deepseek-llm": "IT|'|S| |我的|app|工|1234567| e|\u0301|²|\n|\n| | a|_|b|,| |한ㄱ|\n| x|.|y|!",
    "deepseek-coder": "IT|'|S| |我的|app|工|1|2|3|4|5|6|7| e|\u0301|²|\n|\n| | a|_|b|,| |한ㄱ|\n| x|.|y|!",
    "falcon": "IT|'|S| 我的app工|123|456|7| e|\u0301|²|\n\n | a|_|b|,| 한ㄱ|\n| x|.|y|!",
    "poro-chat": "IT'S| 我的app工1234567| e\u0301²|\n\n | a_b|,| 한ㄱ|\n| x|.|y|!",
    "viking": "IT'S| 我的app工|1|2|3|4|5|6|7| e\u0301|²|\n\n | a_b|,| 한ㄱ|\n| x|.|y|!",
    "chameleon": "IT|'|S| 我的app工|1|2|3|4|5|6|7| e|\u0301|²|\n|\n|  |a|_|b|,| 한ㄱ|\n| x|.|y|!",
    "superbpe": "IT'S 我的app工|1|234|567| e\u0301|²|\n\n  a_b, 한ㄱ\n x.y!",
    "gemma4": "IT'S 我的app工1234567 e\u0301²|\n\n|  a_b, 한ㄱ|\n| x.y!",
    "sarvam-moe": "IT'S 我的app工1234567 e\u0301²|\n\n|  a_b, 한ㄱ|\n| x.y!",
}


def test_every_rule_has_its_words() -> None:
    assert [names[0] for _, names in _FAMILIES] == list(WORDS)
    assert len(_BY_NAME) == 91


@pytest.mark.parametrize("name", WORDS)
def test_words(name: str) -> None:
    assert [word for word, _ in pretokenizer(name).splitter()(TEXT)] == WORDS[name].split("|")


@steady
@given(name=st.sampled_from(list(WORDS)), text=st.one_of(LIKELY, st.text(max_size=40), st.sampled_from(TEXTS)))
def test_words_joined_are_the_text(name: str, text: str) -> None:
    rules = pretokenizer(name)
    joined = "".join(word for word, _ in rules.splitter()(text))
    assert joined == (unicodedata.normalize("NFC", text) if rules.composes else text)


@pytest.mark.compare
@steady
@given(name=st.sampled_from(list(WORDS)), text=st.one_of(LIKELY, st.text(max_size=40), st.sampled_from(TEXTS)))
def test_another_engine_of_regular_expressions_cuts_alike(name: str, text: str) -> None:
    rules = pretokenizer(name)
    expected = [unicodedata.normalize("NFC", text) if rules.composes else text]
    for pattern in rules.patterns:
        expected = [piece for word in expected for piece in _cut(pattern, word)]
    assert [word for word, _ in rules.splitter()(text)] == expected


def _cut(pattern: str, text: str) -> list[str]:
    """Return the matches of `pattern` and the text between them, in order, without empty ones."""
    import regex  # noqa: PLC0415  (comes with transformers)

    pieces, at = [], 0
    for found in regex.finditer(pattern, text, flags=regex.VERSION1 | regex.MULTILINE):
        pieces += [text[at : found.start()], found.group()]
        at = found.end()
    return [piece for piece in [*pieces, text[at:]] if piece]


# Gemma 4: merges in SentencePiece's alphabet --------------------------------------------------------------------------


def _gemma4() -> tuple[Tokenizer, dict[str, Any]]:
    """Train the library's tokenizer with Gemma's rules; return it, and its description as GGUF metadata."""
    pieces = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    pieces.normalizer = normalizers.Replace(" ", "▁")
    pieces.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    special = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=special, show_progress=False, max_token_length=12)
    lines = [line for text in SENTENCES for line in text.split("\n")]
    pieces.train_from_iterator([*lines, "\n\n\n", "\n\n"], trainer)
    model = json.loads(pieces.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    types = [3, 3, 3, 2, *[6] * 256]
    rebuilt = Tokenizer(
        models.BPE(
            model["vocab"],
            [tuple(merge) for merge in model["merges"]],
            byte_fallback=True,
            unk_token="<unk>",
            fuse_unk=True,
        )
    )
    rebuilt.normalizer, rebuilt.decoder = pieces.normalizer, pieces.decoder
    rebuilt.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in tokens[:4]])
    return rebuilt, {
        "tokenizer.ggml.model": "gemma4",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types + [1] * (len(tokens) - len(types)),
        "tokenizer.ggml.merges": [" ".join(merge) for merge in model["merges"]],
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.unknown_token_id": 3,
        "tokenizer.ggml.add_bos_token": False,
    }


GEMMA, GEMMA_DATA = _gemma4()
OURS = from_gguf(GEMMA_DATA)


@pytest.mark.parametrize("text", TEXTS)
def test_gemma4_equals_the_library(text: str) -> None:
    ids = GEMMA.encode(text).ids
    assert OURS.encode(text, special=True, whole=False) == ids
    assert OURS.decode(ids) == GEMMA.decode(ids)


@steady
@given(text=st.one_of(st.text(max_size=50), st.text(alphabet="ther aionds \n\t.,'<b>秒推语言▁12", max_size=80)))
def test_gemma4_equals_the_library_on_any_text(text: str) -> None:
    assert OURS.encode(text, special=False) == GEMMA.encode(text).ids


def test_gemma4_begins_although_early_files_say_no() -> None:
    assert OURS.encode("hi")[0] == 2
    assert OURS.encode("<bos>hi") == OURS.encode("hi")
