"""The tokenizer of Marian's own folders: SentencePiece models whose pieces are the model's tokens, in their order.

Owns the names of these files: ``vocab.enpt.spm`` for both sides, or ``srcvocab.enpt.spm`` and ``trgvocab.enpt.spm``.
Knows no weights. Invariant: a text becomes plain pieces and the end token, as Marian cuts it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from miaotui.errors import ModelFormatError, ModelNotFoundError
from miaotui.text.encoders.unigram import unigram_from_gguf
from miaotui.text.seq2seq.sentencepiece_file import read_sentencepiece
from miaotui.text.seq2seq.tokenizer import Seq2SeqTokenizer, SourceForm
from miaotui.text.tokenizers.gguf_vocabulary import TokenType
from miaotui.text.tokenizers.sentencepiece import SPACE

_PAIR = re.compile(r"vocab\.([a-z]{2})([a-z]{2})\.spm")


def marian_vocabulary(folder: Path, side: str) -> Path:
    """Return the SentencePiece model of ``side`` ("src", "trg"). Raises `ModelNotFoundError`."""
    for pattern in (f"{side}vocab*.spm", "vocab*.spm"):
        found = sorted(folder.glob(pattern))
        if found:
            return found[0]
    raise ModelNotFoundError(f"{folder} has no vocab.spm and no {side}vocab.spm: get the model's vocabulary, too")


def load_marian_tokenizer(folder: Path, eos_ids: Sequence[int], size: int) -> Seq2SeqTokenizer:
    """Load the tokenizer of a model of ``size`` tokens whose sources and targets end with ``eos_ids``.

    Raises `ModelNotFoundError`, `ModelFormatError` or `UnsupportedModelError`.
    """
    paths = [marian_vocabulary(folder, side) for side in ("src", "trg")]
    source, target = (read_sentencepiece(path) for path in paths)
    if len(source.tokens) > size:
        raise ModelFormatError(
            f"{paths[0]} has {len(source.tokens):,} pieces, and the model {size:,}: they are of different models; get "
            "both again"
        )
    hidden = set(eos_ids).union(*(target.groups.get(kind, ()) for kind in (TokenType.CONTROL, TokenType.UNKNOWN)))

    def join(tokens: Sequence[int]) -> str:
        written = (target.tokens[token] for token in tokens if token < len(target.tokens) and token not in hidden)
        return "".join(written).replace(SPACE, " ").strip(" ")

    named = _PAIR.search(paths[0].name)
    return Seq2SeqTokenizer(
        cut=unigram_from_gguf(source),
        join=join,
        form=SourceForm(after=tuple(eos_ids[:1])),
        pair=(named[1], named[2]) if named else ("", ""),
    )
