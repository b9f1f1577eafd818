"""Loads an encoder's tokenizer from a folder or from GGUF metadata.

Owns the choice between ``tokenizer.json``, ``vocab.txt`` and the families of GGUF tokenizers. Knows no weights.
Invariant: exactly one of folder and metadata is read, as `model.encoder.opened.OpenedEncoder` holds them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miaotui.errors import ModelFormatError, ModelNotFoundError
from miaotui.text.encoders.layout import CutText, SequenceLayout, SpecialRow, TextSlot
from miaotui.text.encoders.tokenizer import EncoderTokenizer, EncoderVocabulary
from miaotui.text.encoders.wordpiece import wordpiece_from_gguf, wordpiece_from_vocabulary
from miaotui.text.model_files import read_json, token_text
from miaotui.text.tokenizers.from_folder import vocabulary_size
from miaotui.text.tokenizers.from_gguf import from_gguf
from miaotui.text.tokenizers.gguf_vocabulary import GgufVocabulary, read_vocabulary
from miaotui.text.tokenizers.huggingface import LibraryEncoder, load_backend, require_library_fault, spelling_of

if TYPE_CHECKING:
    import tokenizers


def load_encoder_tokenizer(
    metadata: Mapping[str, Any] | None, folder: Path | None, *, lower_case: bool = False
) -> EncoderTokenizer:
    """Load the tokenizer of a GGUF file's ``metadata`` or of a model's ``folder``.

    ``lower_case``: texts become lower case first (sentence-transformers' ``do_lower_case``). Raises `ModelError`.
    """
    prepare = str.lower if lower_case else None
    if metadata is not None:
        return _from_gguf(metadata, prepare)
    if folder is None:
        raise ModelFormatError("an encoder's tokenizer needs a GGUF file or a folder; name one of them")
    return _from_folder(folder, prepare)


def _from_folder(folder: Path, prepare: Callable[[str], str] | None) -> EncoderTokenizer:
    config = read_json(folder / "special_tokens_map.json") | read_json(folder / "tokenizer_config.json")
    if (folder / "tokenizer.json").is_file():
        backend = load_backend(folder / "tokenizer.json")
        _apply_bert_settings(backend, config)
        _apply_end_token(backend, config)
    elif (folder / "vocab.txt").is_file():
        backend = wordpiece_from_vocabulary(folder)
    else:
        raise ModelNotFoundError(
            f"{folder} has neither tokenizer.json nor vocab.txt; get one of them from where the model came from"
        )
    return tokenizer_of_backend(backend, str(folder), _mask(backend, config), prepare)


def _from_gguf(metadata: Mapping[str, Any], prepare: Callable[[str], str] | None) -> EncoderTokenizer:
    if metadata.get("tokenizer.ggml.model") != "bert":
        return _without_offsets(metadata, prepare)
    vocabulary = read_vocabulary(metadata)
    backend = wordpiece_from_gguf(vocabulary)
    return tokenizer_of_backend(backend, "the GGUF file", vocabulary.token_id("mask_token_id"), prepare)


def tokenizer_of_backend(
    backend: tokenizers.Tokenizer, source: str, mask_id: int | None, prepare: Callable[[str], str] | None = None
) -> EncoderTokenizer:
    """Make the encoder's tokenizer on the library's ``backend``; ``source`` names its file in errors."""
    added = backend.get_added_tokens_decoder()
    vocabulary = EncoderVocabulary(
        size=vocabulary_size(backend, source),
        special_ids=frozenset(token for token, text in added.items() if text.special),
        spell=spelling_of(backend, source).spell,
        mask_id=mask_id,
    )
    encoder = LibraryEncoder(backend)

    def cut(text: str, special: bool) -> CutText:
        return CutText(*encoder.pieces(text, special))

    single = _layout(backend, pair=False)
    pair = _layout(backend, pair=True)
    if single is None:
        raise ModelFormatError(f"the tokenizer in {source} drops the text it is given: get it again")
    return EncoderTokenizer(cut, single, pair, vocabulary, prepare)


def _layout(backend: tokenizers.Tokenizer, pair: bool) -> SequenceLayout | None:
    """Return the order of rows that the file's post-processor makes, found with a text of few tokens; None if none."""
    try:
        whole = backend.encode("a", "a" if pair else None, add_special_tokens=True)
    except BaseException as error:
        require_library_fault(error)
        return None
    parts: list[SpecialRow | TextSlot] = []
    for token, segment, sequence, special in zip(
        whole.ids, whole.type_ids, whole.sequence_ids, whole.special_tokens_mask, strict=True
    ):
        if special or sequence is None:
            parts.append(SpecialRow(token, segment))
        elif (slot := TextSlot(sequence, segment)) not in parts:
            parts.append(slot)
    slots = [part.text for part in parts if isinstance(part, TextSlot)]
    return SequenceLayout(tuple(parts)) if slots == list(range(1 + pair)) else None


def _apply_bert_settings(backend: tokenizers.Tokenizer, config: Mapping[str, Any]) -> None:
    """Let ``tokenizer_config.json`` override BERT's normalizer, as transformers does."""
    normalizer = backend.normalizer
    if normalizer is None or json.loads(normalizer.__getstate__())["type"] != "BertNormalizer":
        return
    names = {
        "do_lower_case": "lowercase",
        "strip_accents": "strip_accents",
        "tokenize_chinese_chars": "handle_chinese_chars",
    }
    changed = {names[key]: config[key] for key in names if isinstance(config.get(key), bool)}
    for name, value in changed.items():
        setattr(normalizer, name, value)
    backend.normalizer = normalizer


def _apply_end_token(backend: tokenizers.Tokenizer, config: Mapping[str, Any]) -> None:
    """Let ``add_eos_token`` end each text with the end token, as decoders that embed need it (E5-Mistral)."""
    end, begin = token_text(config, "eos_token"), token_text(config, "bos_token")
    end_id, begin_id = (backend.token_to_id(text) if text else None for text in (end, begin))
    layout = _layout(backend, pair=False) if config.get("add_eos_token") is True else None
    if layout is None or end_id is None or layout.parts[-1] == SpecialRow(end_id, 0):
        return
    import tokenizers  # noqa: PLC0415  (slow to import)

    first = layout.parts[0]
    begins = begin_id is not None and (config.get("add_bos_token") is True or first == SpecialRow(begin_id, 0))
    single = f"{begin} $A {end}" if begins else f"$A {end}"
    named = [(end, end_id), *([(begin, begin_id)] if begins else [])]
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single=single, pair=f"{single} $B {end}", special_tokens=named
    )


def _mask(backend: tokenizers.Tokenizer, config: Mapping[str, Any]) -> int | None:
    for text in (token_text(config, "mask_token"), "[MASK]", "<mask>"):
        found: int | None = backend.token_to_id(text) if text else None
        if found is not None:
            return found
    return None


def _without_offsets(metadata: Mapping[str, Any], prepare: Callable[[str], str] | None) -> EncoderTokenizer:
    """Make an encoder's tokenizer of the families whose encoders are our own, which tell no offsets."""
    tokenizer = from_gguf(metadata)
    vocabulary = read_vocabulary(metadata)
    before, after, between = _surroundings(vocabulary)
    facts = EncoderVocabulary(
        size=tokenizer.vocab_size,
        special_ids=tokenizer.special_ids,
        spell=tokenizer.token_bytes,
        mask_id=vocabulary.token_id("mask_token_id"),
    )

    def cut(text: str, special: bool) -> CutText:
        return CutText(tokenizer.encode(text, special, whole=False))

    single = SequenceLayout((*_rows(before), TextSlot(0, 0), *_rows(after)))
    pair = SequenceLayout((*_rows(before), TextSlot(0, 0), *_rows(between), TextSlot(1, 0), *_rows(after)))
    return EncoderTokenizer(cut, single, pair, facts, prepare)


def _surroundings(vocabulary: GgufVocabulary) -> tuple[list[int], list[int], list[int]]:
    """Return the ids before a text, after it, and between two: RoBERTa's if the file has a separator."""

    def named(*keys: str) -> list[int]:
        return [found for key in keys if (found := vocabulary.token_id(f"{key}_token_id")) is not None][:1]

    separator = named("seperator", "separator")
    is_encoder = bool(separator or named("mask")) or vocabulary.metadata.get("tokenizer.ggml.model") == "t5"
    before = named("bos", "cls") if vocabulary.flag("add_bos_token", is_encoder) else []
    adds_end = vocabulary.flag("add_eos_token", is_encoder) or vocabulary.flag("add_sep_token", False)
    after = (named("eos") or separator) if adds_end else []
    return before, after, after + (separator or after if before else [])


def _rows(tokens: list[int]) -> list[SpecialRow]:
    return [SpecialRow(token, 0) for token in tokens]
