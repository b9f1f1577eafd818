"""The values that cross the package's borders: what a caller asks for and what it gets back.

Frozen dataclasses without behaviour beyond validation. They know nothing of engines, files or HTTP.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from miaotui.errors import RequestError

FinishReason = Literal["stop", "length", "cancelled", "failed"]

MAX_SEED = 2**63 - 1


@dataclass(frozen=True)
class SamplingParams:
    """How the next token is chosen from the logits, and when an answer ends.

    ``temperature=0`` is greedy; ties go to the lowest token id. ``top_k=0``, ``top_p=1`` and ``min_p=0`` switch the
    respective filter off. Raises `RequestError` for values outside their range.
    """

    max_tokens: int | None = None  # None: as many as the context holds
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    min_tokens: int = 0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    logprobs: int | None = None  # None: none; n: the chosen token's and the n best's

    def __post_init__(self) -> None:
        _require(
            self.max_tokens is None or self.max_tokens >= 1,
            "max_tokens",
            ">= 1 or None",
            self.max_tokens,
        )
        _require(
            _finite(self.temperature) and self.temperature >= 0,
            "temperature",
            ">= 0",
            self.temperature,
        )
        _require(_finite(self.top_p) and 0 < self.top_p <= 1, "top_p", "in (0, 1]", self.top_p)
        _require(self.top_k >= 0, "top_k", ">= 0 (0: off)", self.top_k)
        _require(_finite(self.min_p) and 0 <= self.min_p <= 1, "min_p", "in [0, 1]", self.min_p)
        _require(0 <= self.seed <= MAX_SEED, "seed", "in [0, 2**63)", self.seed)
        _require(
            len(self.stop) <= 16 and all(self.stop),
            "stop",
            "at most 16 non-empty strings",
            self.stop,
        )
        _require(self.min_tokens >= 0, "min_tokens", ">= 0", self.min_tokens)
        _require(
            _finite(self.repetition_penalty) and self.repetition_penalty > 0,
            "repetition_penalty",
            "> 0",
            self.repetition_penalty,
        )
        _require(
            _finite(self.presence_penalty),
            "presence_penalty",
            "a finite number",
            self.presence_penalty,
        )
        _require(
            _finite(self.frequency_penalty),
            "frequency_penalty",
            "a finite number",
            self.frequency_penalty,
        )
        _require(
            len(self.logit_bias) <= 1024 and all(_finite(v) for v in self.logit_bias.values()),
            "logit_bias",
            "at most 1,024 finite numbers",
            dict(self.logit_bias),
        )
        _require(
            self.logprobs is None or 0 <= self.logprobs <= 64,
            "logprobs",
            "in [0, 64] or None",
            self.logprobs,
        )


@dataclass(frozen=True)
class TokenLogprobs:
    """Natural-log probabilities (nats) of one answered token, before temperature and filters."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]  # (token id, log-probability), best first


@dataclass(frozen=True)
class Timing:
    """Seconds of one request, from `submit` on. TPOT is ``(last - first token time) / (n - 1)``."""

    ttft_s: float
    total_s: float
    decode_tokens_per_s: float


@dataclass(frozen=True)
class Completion:
    """One whole answer."""

    text: str
    token_ids: tuple[int, ...]
    prompt_tokens: int
    cached_tokens: int  # prompt tokens whose pages were reused
    finish_reason: FinishReason
    timing: Timing
    logprobs: tuple[TokenLogprobs, ...] = ()


@dataclass(frozen=True)
class Delta:
    """A piece of a streamed answer: text that is whole UTF-8, and the tokens that made it."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None = None
    completion: Completion | None = None  # on the last piece: the whole answer


def _finite(value: float) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _require(holds: bool, name: str, expected: str, got: object) -> None:
    if not holds:
        raise RequestError(f"{name} must be {expected}, not {got!r}")
