"""Reads a tokenizer's vocabulary from GGUF metadata and checks it.

Owns the names and types of the ``tokenizer.ggml.*`` keys. Does not know how text is encoded.
Invariant: a `GgufVocabulary` is consistent: as many types (and scores) as tokens, ids in range.
Source: the GGUF specification, https://github.com/ggml-org/ggml/blob/master/docs/gguf.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miaotui.errors import ModelFormatError

# Ends of a turn that files often fail to name beside the end of text; only control tokens count.
TURN_ENDS = frozenset(
    {
        "<|eot_id|>",
        "<|eom_id|>",
        "<|im_end|>",
        "<|end|>",
        "<end_of_turn>",
        "<|endoftext|>",
        "<|end_of_text|>",
        "<end_of_utterance>",
        "<EOT>",
        "<eos>",
        "<｜end▁of▁sentence｜>",
        "<turn|>",  # Gemma 4
        "[EOT]",  # Kimi K2
        "[EOS]",
        "[e~[",  # MiniMax M2
        "<|return|>",  # gpt-oss
        "<|call|>",
    }
)
HARMONY_ENDS = frozenset({"<|return|>", "<|call|>"})  # where these are, <|end|> ends a message within an answer
END_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")


class TokenType(IntEnum):
    """Kind of a token, in GGUF's numbers."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, eq=False)
class GgufVocabulary:
    """Tokens by id, and the groups of ids that are not plain text."""

    tokens: list[str]
    groups: Mapping[TokenType, tuple[int, ...]]  # every type but NORMAL and UNUSED
    metadata: Mapping[str, Any]

    @property
    def marker_ids(self) -> frozenset[int]:
        """Control tokens and the unknown token: never part of an answer."""
        return frozenset(self.groups[TokenType.CONTROL] + self.groups[TokenType.UNKNOWN])

    def texts(self, *types: TokenType) -> dict[str, int]:
        """Return the ids of tokens of these types, by text."""
        return {self.tokens[token]: token for kind in types for token in self.groups[kind]}

    def plain(self, other_types: Set[TokenType]) -> dict[str, int]:
        """Return the ids of tokens that text may become: all but those of `other_types`, by text."""
        ids = dict(zip(self.tokens, range(len(self.tokens)), strict=True))
        for kind in other_types:
            for token in self.groups[kind]:
                ids.pop(self.tokens[token], None)
        return ids

    def token_id(self, name: str) -> int | None:
        """Return the id under ``tokenizer.ggml.{name}``, or None."""
        value = self.metadata.get(f"tokenizer.ggml.{name}")
        if value is None:
            return None
        if not _is_int(value) or not 0 <= value < len(self.tokens):
            raise _wrong(name, f"an id below {len(self.tokens)}", value)
        return int(value)

    def flag(self, name: str, default: bool) -> bool:
        """Return the boolean under ``tokenizer.ggml.{name}``."""
        value = self.metadata.get(f"tokenizer.ggml.{name}", default)
        if not isinstance(value, (bool, np.bool_)):
            raise _wrong(name, "true or false", value)
        return bool(value)

    def end_ids(self) -> frozenset[int]:
        """Return every token that ends an answer: those the file names, and known ends of a turn."""
        named = {self.token_id(key) for key in END_KEYS} - {None}
        controls = self.groups[TokenType.CONTROL]
        texts = {self.tokens[token] for token in controls} & TURN_ENDS
        if texts >= HARMONY_ENDS:
            texts -= {"<|end|>"}
        found = {token for token in controls if self.tokens[token] in texts}
        return frozenset(found | {token for token in named if token is not None})

    def strings(self, name: str) -> list[str]:
        """Return the array of strings under ``tokenizer.ggml.{name}``, which must exist."""
        return _strings(self.metadata, name)

    def numbers(self, name: str) -> NDArray[np.float64]:
        """Return one finite number for each token, under ``tokenizer.ggml.{name}``: float64 [tokens]."""
        numbers = _numbers(self.metadata, name, len(self.tokens)).astype(np.float64)
        if not np.isfinite(numbers).all():
            raise _wrong(name, "finite numbers", "NaN or infinity")
        return numbers


def read_vocabulary(metadata: Mapping[str, Any]) -> GgufVocabulary:
    """Read the vocabulary in GGUF metadata. Raises `ModelFormatError` if it is not consistent."""
    tokens = _strings(metadata, "tokens")
    if not tokens:
        raise _wrong("tokens", "at least one token", tokens)
    groups: dict[TokenType, tuple[int, ...]] = dict.fromkeys(TokenType, ())
    if "tokenizer.ggml.token_type" in metadata:
        types = _numbers(metadata, "token_type", len(tokens))
        for kind in set(TokenType) - {TokenType.NORMAL, TokenType.UNUSED}:
            groups[kind] = tuple(np.flatnonzero(types == kind).tolist())
    return GgufVocabulary(tokens, groups, metadata)


def _strings(metadata: Mapping[str, Any], name: str) -> list[str]:
    value = metadata.get(f"tokenizer.ggml.{name}")
    if value is None:
        raise _wrong(name, "an array of strings", "nothing")
    if not isinstance(value, list) or set(map(type, value)) - {str}:
        raise _wrong(name, "an array of strings", type(value).__name__)
    return value


def _numbers(metadata: Mapping[str, Any], name: str, count: int) -> NDArray[Any]:
    value = np.asarray(metadata.get(f"tokenizer.ggml.{name}", ()))
    if value.shape != (count,) or value.dtype.kind not in "iuf":
        raise _wrong(name, f"{count} numbers, one for each token", f"shape {value.shape}")
    return value


def _is_int(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _wrong(name: str, expected: str, got: object) -> ModelFormatError:
    return ModelFormatError(
        f"tokenizer.ggml.{name} must be {expected}, not {str(got)[:80]!r}; the GGUF file is "
        "damaged or was converted wrongly, so get it again from its source"
    )
