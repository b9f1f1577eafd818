"""Small WordPiece and Unigram vocabularies trained on text made here, as files and as GGUF metadata."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import sentencepiece
from small_vocabularies import BYTE, CONTROL, NORMAL, SENTENCES, UNKNOWN
from tokenizers import BertWordPieceTokenizer

from miaotui.hub.formats.protobuf import WireReader

BERT_SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def wordpiece_vocabulary(lower_case: bool = True) -> list[str]:
    """Tokens of a BERT vocabulary in order of their ids."""
    trained = BertWordPieceTokenizer(lowercase=lower_case, strip_accents=lower_case)
    trained.train_from_iterator(SENTENCES, vocab_size=500, special_tokens=BERT_SPECIALS, show_progress=False)
    vocabulary = trained.get_vocab()
    return sorted(vocabulary, key=vocabulary.__getitem__)


def wordpiece_metadata(words: list[str], old: bool = False) -> dict[str, Any]:
    """`words` as llama.cpp's converter writes them; ``old``: without types of control tokens, as it did at first."""

    def phantom(word: str) -> str:
        if word in BERT_SPECIALS:
            return word
        return word[2:] if word.startswith("##") else "▁" + word

    types = [CONTROL if word in BERT_SPECIALS and not old else NORMAL for word in words]
    return {
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": list(map(phantom, words)),
        "tokenizer.ggml.token_type": np.array(types, np.int32),
        "tokenizer.ggml.unknown_token_id": 1,
        "tokenizer.ggml.seperator_token_id": 3,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.cls_token_id": 2,
        "tokenizer.ggml.mask_token_id": 4,
    }


def unigram_model(byte_fallback: bool = False) -> tuple[sentencepiece.SentencePieceProcessor, dict[str, Any]]:
    """SentencePiece's own Unigram model with nmt_nfkc, and the same as GGUF metadata (``t5``)."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_writer=model,
        model_type="unigram",
        vocab_size=650 if byte_fallback else 390,
        byte_fallback=byte_fallback,
        character_coverage=0.98,
        normalization_rule_name="nmt_nfkc",
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
    )
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    ids = range(processor.get_piece_size())
    kinds = [
        UNKNOWN
        if processor.is_unknown(i)
        else CONTROL
        if processor.is_control(i)
        else BYTE
        if processor.is_byte(i)
        else NORMAL
        for i in ids
    ]
    return processor, {
        "tokenizer.ggml.model": "t5",
        "tokenizer.ggml.tokens": list(map(processor.id_to_piece, ids)),
        "tokenizer.ggml.scores": np.array(list(map(processor.get_score, ids)), np.float32),
        "tokenizer.ggml.token_type": np.array(kinds, np.int32),
        "tokenizer.ggml.precompiled_charsmap": np.frombuffer(charsmap_of(model.getvalue()), np.uint8),
        "tokenizer.ggml.unknown_token_id": np.uint32(processor.unk_id()),
        "tokenizer.ggml.bos_token_id": np.uint32(processor.bos_id()),
        "tokenizer.ggml.eos_token_id": np.uint32(processor.eos_id()),
        "tokenizer.ggml.add_space_prefix": True,
        "tokenizer.ggml.remove_extra_whitespaces": True,
    }


def charsmap_of(model: bytes) -> bytes:
    """The precompiled normalization table in a SentencePiece model's bytes: field 2 of field 3."""
    reader = WireReader(model, "the model")
    for outer in reader.fields(0, len(model)):
        if outer.number == 3:
            for inner in reader.fields(outer.start, outer.end):
                if inner.number == 2:
                    return model[inner.start : inner.end]
    raise AssertionError("the model has no table")
