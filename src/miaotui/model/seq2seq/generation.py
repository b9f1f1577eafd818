"""Settings of a search for an encoder-decoder's target, with the meaning that transformers gives their names.

Owns the values and their ranges; the searches that follow them are in `engine.search`. Knows no files. Invariant: an
existing `GenerationSettings` has been checked. Source: transformers' ``GenerationConfig``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from miaotui.errors import FieldError

MAX_BEAMS = 64
MAX_BANNED = 1 << 14  # words, or single tokens
MAX_NGRAM = 64
MAX_TEMPERATURE = 2.0
EarlyStopping = bool | Literal["never"]


@dataclass(frozen=True, kw_only=True)
class GenerationSettings:
    """Settings of a search for a target. Lengths count the start token. Raises `FieldError` for impossible values."""

    start_token: int
    eos_ids: tuple[int, ...]
    max_length: int
    prefix: tuple[int, ...] = ()  # target tokens behind the start token that are given, such as a language's code
    num_beams: int = 1
    length_penalty: float = 1.0  # a finished target's score is divided by its length to this power
    early_stopping: EarlyStopping = False  # True: end with enough finished targets; "never": only if none can be better
    no_repeat_ngram_size: int = 0  # 0 = off
    min_length: int = 0
    forced_bos_id: int | None = None  # the first token behind the start token
    forced_eos_ids: tuple[int, ...] = ()  # the last token, where the length limit ends a target
    bad_words: tuple[tuple[int, ...], ...] = ()  # runs of tokens that are not written
    suppressed_ids: tuple[int, ...] = ()
    begin_suppressed_ids: tuple[int, ...] = ()  # of the first token that is searched for
    temperature: float = 0.0  # above 0: tokens are drawn, by one beam
    seed: int = 0  # of the draws

    def __post_init__(self) -> None:
        self._check_range("num_beams", self.num_beams, 1, MAX_BEAMS)
        self._check_range("no_repeat_ngram_size", self.no_repeat_ngram_size, 0, MAX_NGRAM)
        self._check_range("max_length", self.max_length, len(self.prefix) + 2, 1 << 20)
        self._check_range("min_length", self.min_length, 0, self.max_length)
        if not math.isfinite(self.length_penalty) or abs(self.length_penalty) > 100:
            raise FieldError("length_penalty", f"it must be from -100 to 100, not {self.length_penalty!r}")
        if not 0.0 <= self.temperature <= MAX_TEMPERATURE:
            raise FieldError("temperature", f"it must be from 0 to {MAX_TEMPERATURE:g}, not {self.temperature!r}")
        if self.temperature and self.num_beams > 1:
            raise FieldError("temperature", "tokens are drawn by one beam: set num_beams to 1")
        self._check_range("seed", self.seed, 0, (1 << 64) - 1)
        if self.early_stopping not in (True, False, "never"):
            raise FieldError(
                "early_stopping", f"it must be true, false or 'never', not {str(self.early_stopping)[:40]!r}"
            )
        for field in ("eos_ids", "suppressed_ids", "begin_suppressed_ids", "forced_eos_ids", "bad_words"):
            if len(getattr(self, field)) > MAX_BANNED:
                raise FieldError(field, f"it has {len(getattr(self, field)):,} entries, and {MAX_BANNED:,} are allowed")
        if not all(self.bad_words):
            raise FieldError("bad_words", "a word of no tokens cannot be kept out: leave it away")

    @staticmethod
    def _check_range(field: str, value: int, least: int, most: int) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise FieldError(field, f"it must be a whole number from {least} to {most:,}, not {str(value)[:40]}")

    def check_vocabulary(self, size: int) -> None:
        """Raise `FieldError` for a token id that is not below ``size``."""
        forced = () if self.forced_bos_id is None else (self.forced_bos_id,)
        named: dict[str, Sequence[int]] = {
            "start_token": (self.start_token,),
            "prefix": self.prefix,
            "eos_ids": self.eos_ids,
            "forced_bos_id": forced,
            "forced_eos_ids": self.forced_eos_ids,
            "suppressed_ids": self.suppressed_ids,
            "begin_suppressed_ids": self.begin_suppressed_ids,
            "bad_words": [token for word in self.bad_words for token in word],
        }
        for field, ids in named.items():
            if ids and not 0 <= min(ids) <= max(ids) < size:
                raise FieldError(field, f"it names a token that is not among the model's {size:,}")
