"""The values that cross the package's borders: what a caller asks for and what it gets back.

Frozen dataclasses without behaviour beyond validation. They know nothing of engines, files or HTTP.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Literal

from miaotui.errors import RequestError

Progress = Callable[[str, int, int | None], None]
"""Receives what is under way, how much of it is done, and of how much (None: unknown)."""

FinishReason = Literal["stop", "length", "cancelled", "failed", "tool_calls"]

OnLate = Literal["refuse", "shorten", "best_effort"]

MAX_SEED = 2**63 - 1
MAX_LOGPROBS = 64  # alternatives of one token
MAX_LOGPROB_TOKENS = 512  # of `SamplingParams.logprob_token_ids`
MAX_DEADLINE_MS = 86_400_000  # a day
ON_LATE = ("refuse", "shorten", "best_effort")


@dataclass(frozen=True)
class SamplingParams:
    """Parameters of choosing the next token from the logits, and of an answer's end.

    ``temperature=0`` is greedy; ties go to the lowest token id. ``top_k=0``, ``top_p=1`` and
    ``min_p=0`` switch the respective filter off. Raises `RequestError` for values of the wrong type
    or outside their range.
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
    logprob_token_ids: tuple[int, ...] = ()  # these tokens' in place of the best ones
    prompt_logprobs: int | None = None  # likewise for each token of the prompt
    prompt_logprobs_start: int = 0  # position of the first prompt token that is scored

    def __post_init__(self) -> None:
        self._check_counts()
        self._check_numbers()
        few = isinstance(self.stop, tuple) and len(self.stop) <= 16
        texts = few and all(isinstance(text, str) and text for text in self.stop)
        _require(texts, "stop", "at most 16 non-empty strings", self.stop)
        ids = isinstance(self.stop_token_ids, tuple) and all(map(_whole, self.stop_token_ids))
        _require(ids, "stop_token_ids", "token ids", self.stop_token_ids)
        _require(isinstance(self.ignore_eos, bool), "ignore_eos", "True or False", self.ignore_eos)
        self._check_bias()

    @property
    def penalizes(self) -> bool:
        """Return whether tokens that came before have other logits."""
        return self.repetition_penalty != 1.0 or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0

    def _check_counts(self) -> None:
        limit = self.max_tokens
        least = 1 if self.prompt_logprobs is None else 0
        enough = limit is None or (_whole(limit) and limit >= least)
        expected = f"a whole number >= {least}, or None"
        _require(enough, "max_tokens", expected + ("" if limit != 0 else " (0 needs prompt_logprobs)"), limit)
        _require(_whole(self.top_k) and self.top_k >= 0, "top_k", "0 (off) or more", self.top_k)
        whole = _whole(self.seed) and 0 <= self.seed <= MAX_SEED
        _require(whole, "seed", "a whole number in [0, 2**63)", self.seed)
        at_least_zero = _whole(self.min_tokens) and self.min_tokens >= 0
        _require(at_least_zero, "min_tokens", "a whole number >= 0", self.min_tokens)
        if limit is not None and self.min_tokens > limit:
            raise RequestError(f"min_tokens must be at most max_tokens ({limit}), not {self.min_tokens}")
        for name in ("logprobs", "prompt_logprobs"):
            number = getattr(self, name)
            in_range = number is None or (_whole(number) and 0 <= number <= MAX_LOGPROBS)
            _require(in_range, name, f"a whole number in [0, {MAX_LOGPROBS}], or None", number)
        ids = self.logprob_token_ids
        sound = (
            isinstance(ids, tuple)
            and len(ids) <= MAX_LOGPROB_TOKENS
            and all(_whole(each) and each >= 0 for each in ids)
        )
        _require(sound, "logprob_token_ids", f"at most {MAX_LOGPROB_TOKENS} token ids", ids)
        if ids and self.logprobs is None and self.prompt_logprobs is None:
            raise RequestError(
                "logprob_token_ids says which log-probabilities are wanted: give logprobs or prompt_logprobs with it"
            )
        start = self.prompt_logprobs_start
        at_least_zero = _whole(start) and start >= 0
        _require(at_least_zero, "prompt_logprobs_start", "a whole number >= 0", start)

    def _check_numbers(self) -> None:
        ranges = (
            ("temperature", lambda value: value >= 0, ">= 0"),
            ("top_p", lambda value: 0 < value <= 1, "in (0, 1]"),
            ("min_p", lambda value: 0 <= value <= 1, "in [0, 1]"),
            ("repetition_penalty", lambda value: value > 0, "> 0"),
            ("presence_penalty", lambda value: True, "a finite number"),
            ("frequency_penalty", lambda value: True, "a finite number"),
        )
        for name, holds, expected in ranges:
            value = getattr(self, name)
            _require(_finite(value) and holds(value), name, expected, value)

    def _check_bias(self) -> None:
        bias = self.logit_bias
        expected = "at most 1,024 token ids with a finite number each"
        _require(isinstance(bias, Mapping) and len(bias) <= 1024, "logit_bias", expected, bias)
        sound = all(_whole(token) and _finite(value) for token, value in bias.items())
        _require(sound, "logit_bias", expected, dict(bias))


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Natural-log probabilities (nats) of one token, before temperature and filters."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...]  # (token id, log-probability), best first
    rank: int | None = None  # of a prompt's token: 1 if it is the best one


PromptLogprobs = tuple[TokenLogprobs | None, ...]  # one for each prompt token; None where none was computed


@dataclass(frozen=True)
class Score:
    """Log-probability of a continuation after a prompt. Log-probabilities are in nats."""

    logprob: float  # of the whole continuation: the sum over its tokens
    tokens: tuple[TokenLogprobs, ...]
    is_greedy: bool  # whether each token is the model's own choice at temperature 0


@dataclass(frozen=True)
class Timing:
    """Seconds of one request, from `submit` on. TPOT is ``(last - first token time) / (n - 1)``."""

    ttft_s: float
    total_s: float
    decode_tokens_per_s: float
    tokens_per_pass: float = 1.0  # after the first token; above 1: drafts were right
    queue_s: float = 0.0  # until a step computed for it


@dataclass(frozen=True)
class Promise:
    """State of a request's deadline; milliseconds from its arrival."""

    asked_ms: float | None
    predicted_ms: float
    took_ms: float | None = None  # None: not over yet
    met: bool | None = None  # None: no deadline, or not over yet
    shortened: bool = False


@dataclass(frozen=True)
class ToolCall:
    """A call of one of the request's tools; ``arguments`` is JSON text."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class ToolCallPiece:
    """Piece of call number ``index`` in a streamed answer; the first piece names the call."""

    index: int
    arguments: str = ""
    id: str | None = None
    name: str | None = None


@dataclass(frozen=True)
class AnswerTimes:
    """Times of one answer, in seconds from when it was submitted."""

    queue_s: float  # until a step computed for it
    first_s: float  # until its first token
    steps: tuple[tuple[float, int, int], ...]  # each one after that: when it ended, its tokens, and those drafted


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
    prompt_logprobs: PromptLogprobs = ()  # empty unless asked for
    promise: Promise | None = None  # None: no deadline was asked for
    tool_calls: tuple[ToolCall, ...] = ()  # `text` is without them
    reasoning: str = ""  # the thought before the answer, in chats; `text` is without it
    reasoning_tokens: int = 0  # of `token_ids`, the markers of the thought included
    times: AnswerTimes | None = None  # None unless it was to be explained
    sources: tuple[str, ...] = ()  # of token_ids, likewise: who proposed each


@dataclass(frozen=True)
class Delta:
    """A piece of a streamed answer: text that is whole UTF-8, and the tokens that made it."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None = None
    completion: Completion | None = None  # on the last piece: the whole answer
    logprobs: tuple[TokenLogprobs, ...] = ()  # of token_ids, if asked for
    prompt_logprobs: PromptLogprobs = ()  # on the first piece, if asked for
    tool_calls: tuple[ToolCallPiece, ...] = ()
    reasoning: str = ""  # a piece of the thought, in chats
    sources: tuple[str, ...] = ()  # of token_ids, if they were to be explained: who proposed each


@dataclass(frozen=True)
class Deadline:
    """The time a caller gives a request, in milliseconds from its arrival; None: no such limit.

    ``total_ms`` is for the last byte of the answer, ``ttft_ms`` for the first token, ``tpot_ms`` for
    each token after it. ``on_late`` says what becomes of a request that cannot be done in time:
    refused at once, given the longest answer that fits, or answered late. Raises `RequestError`.
    """

    total_ms: float | None = None
    ttft_ms: float | None = None
    tpot_ms: float | None = None
    on_late: OnLate = "refuse"

    def __post_init__(self) -> None:
        for name in ("total_ms", "ttft_ms", "tpot_ms"):
            value = getattr(self, name)
            sound = value is None or (_finite(value) and 0 < value <= MAX_DEADLINE_MS)
            _require(sound, name, f"a number of milliseconds in (0, {MAX_DEADLINE_MS:,}]", value)
        known = self.on_late in ON_LATE
        _require(known, "on_late", "'refuse', 'shorten' or 'best_effort'", self.on_late)


def _finite(value: object) -> bool:
    """Return whether it is a number that fits a float, neither infinite nor NaN."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return -sys.float_info.max <= value <= sys.float_info.max


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _require(holds: bool, name: str, expected: str, got: object) -> None:
    if not holds:
        raise RequestError(f"{name} must be {expected}, not {got!r}")


def progress_as(progress: Progress | None, step: str) -> Progress | None:
    """Return ``progress`` under one name for all its steps."""
    return None if progress is None else lambda _name, done, total: progress(step, done, total)


def namespace_number(owner: str) -> int:
    """Return the namespace of an owner's requests: 62 bits of BLAKE2b, never 0, which is that of requests of no owner.

    It depends on the owner's name alone, so that a restarted server never gives one owner's number to another while
    replicas still hold prefixes.
    """
    return int.from_bytes(blake2b(owner.encode(), digest_size=8).digest(), "little") >> 2 or 1


def token_ids(prompt: Iterable[int]) -> list[int]:
    """Return a prompt's token ids as a list. Raises `RequestError` for what holds no whole numbers."""
    try:
        if isinstance(prompt, (bytes, bytearray)):
            raise TypeError
        return [operator.index(token) for token in prompt]
    except TypeError:
        raise RequestError(f"a prompt must be text or token ids, not {type(prompt).__name__}") from None
