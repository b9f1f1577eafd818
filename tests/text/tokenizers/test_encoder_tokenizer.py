"""Tokenizers of encoders: WordPiece and Unigram from folders and GGUF metadata, single texts and pairs."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from small_encoder_vocabularies import unigram_model, wordpiece_metadata, wordpiece_vocabulary
from small_vocabularies import AWKWARD, SENTENCES, byte_level
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from miaotui.errors import ModelError, ModelFormatError, ModelNotFoundError, PromptTooLongError, RequestError
from miaotui.text.encoders.layout import EncodedText, fit
from miaotui.text.encoders.load import load_encoder_tokenizer
from miaotui.text.encoders.tokenizer import EncoderTokenizer
from miaotui.text.tokenizers.from_gguf import from_gguf
from tiny_tokenizer import EOS, START, write_tokenizer
from tiny_tokenizer import SPECIALS as SPECIALS_OF_DECODERS

WORDS = wordpiece_vocabulary()
CASED = wordpiece_vocabulary(lower_case=False)
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
UNIGRAM, UNIGRAM_METADATA = unigram_model()

FROM_GGUF = load_encoder_tokenizer(UNIGRAM_METADATA, None)

PARTS = ["The", "quick", "foxes' price,", "$19.99?", "[SEP]", "[MASK]", "<s>", "naïve", "##ly"]
ENGLISH = st.lists(st.sampled_from(PARTS))
ANYTHING = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)
CHINESE = st.text(st.characters(min_codepoint=0x4E00, max_codepoint=0x9FA5), max_size=20)
TEXTS = st.one_of(ENGLISH.map(" ".join), ANYTHING, CHINESE, st.sampled_from([*AWKWARD, *SENTENCES]))


def bert_library(words: list[str], lower_case: bool = True) -> Tokenizer:
    """The library's BERT, as ``tokenizer.json`` files have it."""
    library = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    library.normalizer = normalizers.BertNormalizer(lowercase=lower_case)
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    library.decoder = decoders.WordPiece()
    library.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    library.add_special_tokens([AddedToken(word, normalized=False) for word in SPECIALS])
    return library


def roberta_library() -> Tokenizer:
    """RoBERTa's way: byte-level BPE, two separators between texts, one segment."""
    metadata = byte_level()
    tokens = metadata["tokenizer.ggml.tokens"]
    vocab = {token: index for index, token in enumerate(tokens[:-2])}
    library = Tokenizer(models.BPE(vocab, [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    library.add_special_tokens([AddedToken(t, normalized=False) for t in tokens[:3]])
    library.post_processor = processors.RobertaProcessing((tokens[2], 2), (tokens[1], 1), trim_offsets=False)
    return library


def unigram_library() -> Tokenizer:
    """XLM-RoBERTa's way: Unigram over ``▁`` words, with a template."""
    metadata = UNIGRAM_METADATA
    pieces = list(zip(metadata["tokenizer.ggml.tokens"], map(float, metadata["tokenizer.ggml.scores"]), strict=True))
    library = Tokenizer(models.Unigram(pieces, unk_id=0))
    library.normalizer = normalizers.Precompiled(metadata["tokenizer.ggml.precompiled_charsmap"].tobytes())
    library.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    library.decoder = decoders.Metaspace()
    library.add_special_tokens([AddedToken(text, normalized=False) for text in ("<unk>", "<s>", "</s>")])
    library.post_processor = processors.TemplateProcessing(
        "<s> $A </s>", "<s> $A </s> </s> $B </s>", [("<s>", 1), ("</s>", 2)]
    )
    return library


def opened(folder: Path, library: Tokenizer, config: dict[str, Any] | None = None) -> EncoderTokenizer:
    library.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config or {}))
    return load_encoder_tokenizer(None, folder)


LIBRARIES = {"bert": lambda: bert_library(WORDS), "roberta": roberta_library, "xlm-roberta": unigram_library}


@pytest.fixture(scope="module", params=LIBRARIES)
def both(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[EncoderTokenizer, Tokenizer]:
    library = LIBRARIES[request.param]()
    ours = opened(tmp_path_factory.mktemp(request.param), library)
    library.encode_special_tokens = True
    return ours, library


def rows(encoding: Any) -> tuple[list[int], list[int], list[tuple[int, int]], list[bool]]:
    return encoding.ids, encoding.type_ids, encoding.offsets, list(map(bool, encoding.special_tokens_mask))


def own(encoded: EncodedText) -> tuple[list[int], list[int], list[tuple[int, int]] | None, list[bool]]:
    return encoded.tokens, encoded.types, encoded.offsets, encoded.special


@settings(deadline=None, derandomize=True, max_examples=40)
@given(first=TEXTS, second=TEXTS, limit=st.integers(4, 30))
@example(first="", second="", limit=4)
def test_equals_the_library(both: tuple[EncoderTokenizer, Tokenizer], first: str, second: str, limit: int) -> None:
    ours, library = both
    library.no_truncation()
    whole, pair = library.encode(first), library.encode(first, second)
    if {1, 2}.isdisjoint(library.encode(first + second, add_special_tokens=False).ids) or library.token_to_id("[CLS]"):
        assert own(ours.encode_text(first)) == rows(whole)
        assert own(ours.encode_pair(first, second)) == rows(pair)
        library.enable_truncation(limit)
        cut, cut_pair = library.encode(first), library.encode(first, second)
        found = ours.encode_text(first, max_tokens=limit, truncate=True)
        assert own(found) == rows(cut)
        assert found.dropped == max(len(whole.ids) - limit, 0)
        found = ours.encode_pair(first, second, max_tokens=limit, truncate=True)
        assert own(found) == rows(cut_pair)
        assert found.dropped == max(len(pair.ids) - limit, 0)


@settings(derandomize=True)
@given(lengths=st.lists(st.integers(0, 50), min_size=1, max_size=2), total=st.integers(0, 80))
def test_truncation_keeps_as_much_as_fits(lengths: list[int], total: int) -> None:
    kept = fit(lengths, total)
    assert sum(kept) == min(sum(lengths), total)
    assert all(0 <= k <= n for k, n in zip(kept, lengths, strict=True))


@pytest.mark.parametrize("words", [WORDS, CASED], ids=["uncased", "cased"])
@pytest.mark.parametrize("old", [False, True])
def test_gguf_wordpiece_equals_the_folder(tmp_path: Path, words: list[str], old: bool) -> None:
    """llama.cpp's ``bert`` vocabulary, whose words begin with a space that is not written in texts."""
    lower = words is WORDS
    folder = opened(tmp_path, bert_library(words, lower), {"mask_token": "[MASK]"})
    ours = load_encoder_tokenizer(wordpiece_metadata(words, old), None)
    plain = from_gguf(wordpiece_metadata(words, old))
    for text in [*AWKWARD, *SENTENCES[:8], "[CLS] [MASK]"]:
        assert ours.encode_text(text) == folder.encode_text(text)
        assert ours.encode_pair(text, "the dog") == folder.encode_pair(text, "the dog")
        assert plain.encode(text, special=False, whole=True) == ours.encode_text(text).tokens
    assert ours.mask_id == folder.mask_id == 4
    assert ours.vocab_size == len(words) == plain.vocab_size
    assert plain.decode(plain.encode("the quick dog", special=False)) == "the quick dog"


def test_gguf_wordpiece_says_whether_it_lowers(tmp_path: Path) -> None:
    metadata = wordpiece_metadata(WORDS) | {
        "tokenizer.ggml.normalizer.lowercase": False,
        "tokenizer.ggml.normalizer.strip_accents": False,
    }
    ours = load_encoder_tokenizer(metadata, None)
    assert ours.encode_text("The").tokens != ours.encode_text("the").tokens


@pytest.mark.parametrize("lower_case", [True, False])
def test_vocabulary_alone(tmp_path: Path, lower_case: bool) -> None:
    words = WORDS if lower_case else CASED
    (tmp_path / "vocab.txt").write_text("".join(f"{word}\n" for word in words), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": lower_case}))
    ours = load_encoder_tokenizer(None, tmp_path)
    library = bert_library(words, lower_case)
    library.encode_special_tokens = True
    for text in [*AWKWARD, *SENTENCES[:8]]:
        assert own(ours.encode_text(text)) == rows(library.encode(text))


@pytest.mark.compare
def test_vocabulary_alone_equals_transformers(tmp_path: Path) -> None:
    from transformers import BertTokenizerFast  # noqa: PLC0415

    (tmp_path / "vocab.txt").write_text("".join(f"{word}\n" for word in WORDS), encoding="utf-8")
    theirs = BertTokenizerFast.from_pretrained(tmp_path, split_special_tokens=True)
    ours = load_encoder_tokenizer(None, tmp_path)
    for text in [*AWKWARD, *SENTENCES[:8]]:
        found = theirs(text, "the dog", truncation="longest_first", max_length=20)
        encoded = ours.encode_pair(text, "the dog", max_tokens=20, truncate=True)
        assert (encoded.tokens, encoded.types) == (found["input_ids"], found["token_type_ids"])


@settings(deadline=None, derandomize=True, max_examples=100)
@given(text=TEXTS)
def test_gguf_unigram_equals_sentencepiece(text: str) -> None:
    """``t5``: scores, the precompiled table, spaces joined and one in front."""
    ours = FROM_GGUF
    if any(part in text for part in ("▁", "\0", "<unk>", "<s>", "</s>")):  # written marks and tokens: spelled otherwise
        return
    ids = UNIGRAM.encode(text)
    assert ours.encode_text(text).tokens == [1, *ids, 2]
    assert ours.encode_pair(text, text).tokens == [1, *ids, 2, 2, *ids, 2]


def test_gguf_unigram_with_bytes() -> None:
    processor, metadata = unigram_model(byte_fallback=True)
    ours = load_encoder_tokenizer(metadata, None)
    for text in [*SENTENCES[:8], "𝕏 ⚙ unknown ☃"]:
        assert ours.encode_text(text).tokens == [1, *processor.encode(text), 2]
    plain = from_gguf(metadata)
    assert plain.decode(plain.encode("snow ☃ man", special=False)) == "snow ☃ man"


def test_gguf_decoder_families_serve_as_encoders() -> None:
    """A byte-level file with a separator is RoBERTa's; one without is a decoder that ends texts if its file says so."""
    metadata = byte_level()
    roberta = metadata | {"tokenizer.ggml.seperator_token_id": 2, "tokenizer.ggml.mask_token_id": 0}
    ids = from_gguf(metadata).encode("hi dog", special=False)
    ours = load_encoder_tokenizer(roberta, None)
    assert ours.encode_text("hi dog").tokens == [1, *ids, 2]
    assert ours.encode_pair("hi dog", "hi dog").tokens == [1, *ids, 2, 2, *ids, 2]
    assert ours.mask_id == 0
    assert ours.encode_text("hi dog").offsets is None
    last = load_encoder_tokenizer(metadata | {"tokenizer.ggml.add_eos_token": True}, None)
    assert last.encode_text("hi dog").tokens == [*ids, 2]


def test_control_tokens_only_where_allowed(tmp_path: Path) -> None:
    ours = opened(tmp_path, bert_library(WORDS), {"mask_token": "[MASK]"})
    assert 4 not in ours.encode_text("a [MASK] b").tokens
    assert 4 in ours.encode_text("a [MASK] b", special=True).tokens
    assert 4 not in ours.encode_text("a [MASK] b").tokens
    assert ours.encode_text("[SEP]").tokens.count(3) == 1


def test_limits_are_not_passed_in_silence(tmp_path: Path) -> None:
    ours = opened(tmp_path, bert_library(WORDS))
    text = "the dog and the fox"
    n = ours.count(text)
    assert n == len(ours.encode_text(text, max_tokens=n).tokens)
    assert ours.encode_text(text, max_tokens=n, truncate=True).dropped == 0
    with pytest.raises(PromptTooLongError, match=f"{n} tokens, and at most {n - 1}"):
        ours.encode_text(text, max_tokens=n - 1)
    assert ours.encode_text(text, max_tokens=n - 1, truncate=True).dropped == 1
    with pytest.raises(RequestError, match="at least 2"):
        ours.encode_text(text, max_tokens=1, truncate=True)
    assert ours.encode_text("", max_tokens=2).tokens == [2, 3]
    assert ours.special_tokens() == 2
    assert ours.special_tokens(pair=True) == 3


def test_lone_surrogates_are_refused(both: tuple[EncoderTokenizer, Tokenizer]) -> None:
    for call in (both[0].encode_text, lambda t: both[0].encode_pair("a", t)):
        with pytest.raises(RequestError, match=r"lone surrogate .* position 1"):
            call("a\ud800")


def test_long_texts_take_bounded_time(both: tuple[EncoderTokenizer, Tokenizer]) -> None:
    """Time grows with the text, for words, for one endless word, and for text without spaces."""
    for text in ("the dog " * 50_000, "a" * 100_000, "模型" * 50_000):
        begin = time.process_time()
        encoded = both[0].encode_text(text, max_tokens=512, truncate=True)
        assert time.process_time() - begin < 20
        assert len(encoded.tokens) <= 512


def test_lower_case_comes_first(tmp_path: Path) -> None:
    bert_library(CASED, lower_case=False).save(str(tmp_path / "tokenizer.json"))
    lower = load_encoder_tokenizer(None, tmp_path, lower_case=True)
    plain = load_encoder_tokenizer(None, tmp_path)
    assert lower.encode_text("THE DOG") == plain.encode_text("the dog")


def test_settings_override_the_normalizer(tmp_path: Path) -> None:
    ours = opened(tmp_path, bert_library(WORDS), {"do_lower_case": False})
    assert ours.encode_text("The").tokens != ours.encode_text("the").tokens


def test_token_texts(both: tuple[EncoderTokenizer, Tokenizer]) -> None:
    ours = both[0]
    encoded = ours.encode_text("the quick brown fox")
    assert ours.decode(encoded.tokens) == "the quick brown fox"
    assert ours.token_text(-1) == ours.token_text(ours.vocab_size) == ""


@pytest.mark.parametrize(
    "changes",
    [
        {"tokenizer.ggml.unknown_token_id": 9_999},
        {"tokenizer.ggml.tokens": ["[PAD]", "a"]},
        {"tokenizer.ggml.tokens": []},
        {"tokenizer.ggml.cls_token_id": "x"},
    ],
)
def test_damaged_wordpiece_metadata(changes: dict[str, Any]) -> None:
    with pytest.raises(ModelFormatError):
        load_encoder_tokenizer(wordpiece_metadata(WORDS) | changes, None)


@pytest.mark.parametrize(
    "changes",
    [
        {"tokenizer.ggml.scores": np.zeros(3, np.float32)},
        {"tokenizer.ggml.scores": None},
        {"tokenizer.ggml.precompiled_charsmap": np.frombuffer(b"\xff" * 64, np.uint8)},
        {"tokenizer.ggml.precompiled_charsmap": np.frombuffer(b"\4\0\0\0" + b"a" * 3000, np.uint8)},
        {"tokenizer.ggml.precompiled_charsmap": np.array([1.5])},
        {"tokenizer.ggml.unknown_token_id": -1},
    ],
)
def test_damaged_unigram_metadata(changes: dict[str, Any]) -> None:
    with pytest.raises(ModelFormatError):
        load_encoder_tokenizer(UNIGRAM_METADATA | changes, None)


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"neither tokenizer.json nor vocab.txt"):
        load_encoder_tokenizer(None, tmp_path)
    with pytest.raises(ModelFormatError, match="name one of them"):
        load_encoder_tokenizer(None, None)
    (tmp_path / "vocab.txt").write_text("only\nwords\n")
    with pytest.raises(ModelFormatError, match=r"lacks the special token '\[UNK\]'"):
        load_encoder_tokenizer(None, tmp_path)


SMALL = bert_library([*SPECIALS, "the", "dog", "##s"]).to_str().encode()


@settings(deadline=None, derandomize=True, max_examples=150)
@given(
    cut=st.integers(0, len(SMALL)),
    flips=st.lists(st.tuples(st.integers(0, len(SMALL) - 1), st.integers(32, 126)), max_size=4),
    name=st.sampled_from(["tokenizer.json", "vocab.txt"]),
)
def test_damaged_files_have_one_clear_error(
    tmp_path_factory: pytest.TempPathFactory, cut: int, flips: list[tuple[int, int]], name: str
) -> None:
    damaged = bytearray(SMALL[: cut if cut % 3 == 0 else len(SMALL)])
    for place, value in flips:
        if place < len(damaged):
            damaged[place] = value
    folder = tmp_path_factory.mktemp("damaged")
    (folder / name).write_bytes(damaged)
    message = "?"
    try:
        encoded = load_encoder_tokenizer(None, folder).encode_text("the dogs", max_tokens=9, truncate=True)
        assert len(encoded.tokens) == len(encoded.types) <= 9
    except (ModelError, RequestError) as error:
        message = str(error)
    assert message


def test_a_decoder_that_embeds_ends_each_text(tmp_path: Path) -> None:
    """E5-Mistral's tokenizer.json has no end token; its tokenizer_config.json asks for one."""
    write_tokenizer(tmp_path)
    plain = load_encoder_tokenizer(None, tmp_path).encode_text("cat").tokens
    config = tmp_path / "tokenizer_config.json"
    values = json.loads(config.read_text(encoding="utf-8")) | {"eos_token": {"content": SPECIALS_OF_DECODERS[EOS]}}

    def tokens(**more: Any) -> list[int]:
        config.write_text(json.dumps(values | more), encoding="utf-8")
        return load_encoder_tokenizer(None, tmp_path).encode_text("cat").tokens

    assert tokens(add_eos_token=False) == plain
    assert tokens(add_eos_token=True) == [*plain, EOS]
    begin = {"bos_token": SPECIALS_OF_DECODERS[START], "add_bos_token": True}
    assert tokens(add_eos_token=True, **begin) == [START, *plain, EOS]
    assert tokens(add_eos_token=True, eos_token="none of these") == plain
