"""Builds a Unigram tokenizer from SentencePiece's pieces, as GGUF files hold them (``t5``).

Owns the settings of the `tokenizers` library that equal SentencePiece's rules: normalization by the file's own table,
spaces joined, a space in front, the likeliest cut. Invariant: pieces keep their ids and scores. Source: Kudo 2018,
arXiv:1804.10959; the keys are llama.cpp's, which takes them from SentencePiece's model.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from miaotui.errors import ModelFormatError, UnsupportedModelError
from miaotui.text.tokenizers.gguf_vocabulary import GgufVocabulary, TokenType
from miaotui.text.tokenizers.growth import require_bounded_growth
from miaotui.text.tokenizers.library import require_library_fault
from miaotui.text.tokenizers.sentencepiece import SPACE

if TYPE_CHECKING:
    import tokenizers

STRIPS = "strip_whitespaces"  # no key of GGUF's: whether SentencePiece's rule for the ends of a text holds


def unigram_from_gguf(vocabulary: GgufVocabulary) -> tokenizers.Tokenizer:
    """Build the tokenizer of a GGUF file whose ``tokenizer.ggml.model`` is ``t5``.

    Raises `ModelFormatError` for damaged keys, `UnsupportedModelError` for rules that are not known here.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers  # noqa: PLC0415

    unknown = vocabulary.token_id("unknown_token_id")
    if unknown is None:
        unknown = next(iter(vocabulary.groups[TokenType.UNKNOWN]), None)
    if unknown is None:
        raise ModelFormatError("the GGUF file's Unigram tokenizer has no unknown token: get the model again")
    if vocabulary.flag("treat_whitespace_as_suffix", False):
        raise UnsupportedModelError(
            "this Unigram tokenizer puts spaces behind words, which is not supported: use the model's own folder"
        )
    pieces = list(zip(vocabulary.tokens, vocabulary.numbers("scores").tolist(), strict=True))
    byte_ids = vocabulary.groups[TokenType.BYTE]
    backend = Tokenizer(models.Unigram(pieces, unk_id=unknown, byte_fallback=len(byte_ids) == 256))
    backend.normalizer = _normalizer(vocabulary)
    prepend = "always" if vocabulary.flag("add_space_prefix", True) else "never"
    crosses = re.compile(f"[^{SPACE}]{SPACE}").search  # no piece reaches over a space: words are cut on their own
    split = not any(map(crosses, vocabulary.tokens))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme=prepend, split=split)
    backend.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(replacement=SPACE, prepend_scheme=prepend)]
    )
    markers = [vocabulary.tokens[token] for token in sorted(vocabulary.marker_ids)]
    backend.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in markers if text])
    users = [vocabulary.tokens[token] for token in vocabulary.groups[TokenType.USER_DEFINED]]
    backend.add_tokens([AddedToken(text, normalized=False) for text in users if text])
    backend.post_processor = _template(vocabulary)
    return backend


def _normalizer(vocabulary: GgufVocabulary) -> tokenizers.normalizers.Normalizer | None:
    from tokenizers import Regex, normalizers  # noqa: PLC0415 - other models do not need it

    steps: list[Any] = []
    charsmap = vocabulary.metadata.get("tokenizer.ggml.precompiled_charsmap")
    if charsmap is not None and len(charsmap):
        table = np.asarray(charsmap)
        if table.ndim != 1 or table.dtype.kind not in "iu" or table.min() < -128 or table.max() > 255:
            raise ModelFormatError("tokenizer.ggml.precompiled_charsmap must be bytes; get the GGUF file again")
        try:
            steps.append(normalizers.Precompiled(table.astype(np.uint8).tobytes()))
        except BaseException as error:
            require_library_fault(error)
            raise ModelFormatError(f"tokenizer.ggml.precompiled_charsmap is damaged: {str(error)[:200]}") from error
    if vocabulary.flag("remove_extra_whitespaces", True):
        if vocabulary.flag(STRIPS, True):
            steps.append(normalizers.Strip())
        steps.append(normalizers.Replace(Regex(" {2,}"), " "))
    if not steps:
        return None
    normalizer = normalizers.Sequence(steps)
    require_bounded_growth(json.loads(normalizer.__getstate__()), "the GGUF file's tokenizer")
    return normalizer


def _template(vocabulary: GgufVocabulary) -> tokenizers.processors.PostProcessor | None:
    """Return the special tokens around texts: XLM-RoBERTa's if the file has a beginning token, otherwise T5's."""
    from tokenizers import processors  # noqa: PLC0415 - other models do not need it

    def named(*keys: str) -> int | None:
        return next((found for key in keys if (found := vocabulary.token_id(key)) is not None), None)

    begin = named("bos_token_id", "cls_token_id") if vocabulary.flag("add_bos_token", True) else None
    end = named("eos_token_id", "seperator_token_id", "separator_token_id")
    if not vocabulary.flag("add_eos_token", True):
        end = None
    tokens = vocabulary.tokens
    first = [tokens[begin]] if begin is not None else []
    last = [tokens[end]] if end is not None else []
    if not first and not last:
        return None
    between = last * 2 if first else last
    return processors.TemplateProcessing(
        single=[*first, "$A", *last],
        pair=[*first, "$A", *between, "$B", *last],
        special_tokens=[(tokens[token], token) for token in {begin, end} if token is not None],
    )
