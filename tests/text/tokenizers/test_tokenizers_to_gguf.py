"""A folder's tokenizer, described as GGUF metadata, gives every text the same tokens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sentencepiece import SentencePieceProcessor
from small_vocabularies import AWKWARD, SENTENCES, sentencepiece_model

from miaotui.text.tokenizers.from_gguf import from_gguf
from miaotui.text.tokenizers.to_gguf import tokenizer_metadata
from tiny_models import make_tiny_folder


@pytest.mark.parametrize("add_space", [True, False])
def test_a_tokenizer_of_sentencepiece_keeps_its_tokens(add_space: bool, tmp_path: Path) -> None:
    processor, metadata = sentencepiece_model(add_space)
    folder = make_tiny_folder(tmp_path, "llama", vocab_size=processor.get_piece_size())
    write_sentencepiece(folder, processor, add_space)
    found = tokenizer_metadata(folder, processor.get_piece_size())
    assert found["tokenizer.ggml.tokens"] == metadata["tokenizer.ggml.tokens"]
    assert found["tokenizer.ggml.token_type"] == metadata["tokenizer.ggml.token_type"]
    copy, sentences = from_gguf(found), [text for text in AWKWARD if "<" not in text and "▁" not in text]
    for text in [*sentences, *SENTENCES]:
        assert copy.encode(text, special=False, whole=False) == processor.encode(text), text


def write_sentencepiece(folder: Path, processor: SentencePieceProcessor, add_space: bool) -> None:
    """Write a ``tokenizer.json`` as converters of SentencePiece's models do: merges in the order of their scores."""
    pieces = [processor.id_to_piece(token) for token in range(processor.get_piece_size())]
    ids = {piece: token for token, piece in enumerate(pieces)}
    merges = [
        (processor.get_score(token), piece[:cut], piece[cut:])
        for token, piece in enumerate(pieces)
        if not processor.is_byte(token) and not processor.is_control(token) and not processor.is_unknown(token)
        for cut in range(1, len(piece))
        if piece[:cut] in ids and piece[cut:] in ids
    ]
    merges.sort(key=lambda merge: (-merge[0], ids[merge[1]], ids[merge[2]]))
    prepend = [{"type": "Prepend", "prepend": "▁"}] if add_space else []
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if add_space else []
    replace_mark = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    values = {
        "version": "1.0",
        "added_tokens": [{"id": i, "content": pieces[i], **plain} for i in range(3)],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [*prepend, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}],
        },
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [replace_mark, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip]},
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": ids,
            "merges": [f"{left} {right}" for _, left, right in merges],
        },
    }
    (folder / "tokenizer.json").write_text(json.dumps(values), encoding="utf-8")
