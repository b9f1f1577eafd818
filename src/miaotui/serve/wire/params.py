"""Sampling parameters and a deadline, made from the fields and headers of a request.

Owns defaults (OpenAI's: temperature 1, a random seed), the precedence of body over headers over the server's settings,
and the list of fields that contradict each other, which docs/api.md has too. Knows neither models nor routes: pairs
that the engine cannot follow are in `miaotui.types.SamplingParams`, and those of tools in `tool_calls`. Invariants:
answer i of n uses seed + i, so that each of n answers can be had alone; a pair is refused (400, with the field to
change) only if no answer could obey both fields, and fields without effect beside each other are let through.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from miaotui.engine.grammar.source import Grammar
from miaotui.serve.http.errors import ApiError, bad_value
from miaotui.serve.wire.fields import SamplingFields
from miaotui.types import MAX_DEADLINE_MS, ON_LATE, Deadline, OnLate, SamplingParams

MAX_CHOICES = 64  # prompts times n
MAX_PROMPT_LOGPROBS = 1 << 19  # numbers in one answer: prompt tokens times (1 + alternatives) times choices
MAX_HEADER_NUMBER = 32  # characters of a header that holds a number
_SEEDS = 2**63
_LEAST_TOP_P = 1e-9  # top_p=0 means: the best token alone
LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")  # one idea under its names on several routes


def params_for(
    body: SamplingFields, max_tokens: int | None, logprobs: int | None, prompt_logprobs: int | None = None
) -> tuple[SamplingParams, ...]:
    """Return the parameters of each of n answers. Raises `ApiError` (400) or `RequestError`."""
    check_conflicts(body)
    if max_tokens == 0 and prompt_logprobs is None:
        raise bad_value("max_tokens", "must be at least 1; 0 goes only with echo or prompt_logprobs")
    try:
        bias = _bias_of(body.logit_bias)
    except ValueError as error:
        raise bad_value("logit_bias", str(error)) from None
    seed = secrets.randbelow(_SEEDS) if body.seed is None else body.seed
    return tuple(
        SamplingParams(
            max_tokens=max_tokens,
            temperature=_or(body.temperature, 1.0),
            top_p=max(_or(body.top_p, 1.0), _LEAST_TOP_P),
            top_k=max(body.top_k or 0, 0),
            min_p=_or(body.min_p, 0.0),
            seed=(seed + index) % _SEEDS,
            stop=stops_of(body),
            stop_token_ids=tuple(body.stop_token_ids or ()),
            ignore_eos=bool(body.ignore_eos),
            min_tokens=body.min_tokens or 0,
            repetition_penalty=_or(body.repetition_penalty, 1.0),
            presence_penalty=_or(body.presence_penalty, 0.0),
            frequency_penalty=_or(body.frequency_penalty, 0.0),
            logit_bias=bias,
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
        )
        for index in range(body.n or 1)
    )


def wants_usage(body: SamplingFields) -> bool:
    """Return whether the client asked for a last event with the usage."""
    return bool(body.stream_options and body.stream_options.include_usage)


def deadline_for(
    deadline_ms: float | None, on_late: OnLate | None, headers: Mapping[str, str], default_ms: float | None
) -> Deadline | None:
    """Return the deadline that a request names, or the server's default; None if there is none.

    Late answers are refused if the request itself named a time, and come late if it did not.
    Raises `ApiError` (400) for a header that is no number of milliseconds.
    """
    total = deadline_ms if deadline_ms is not None else _header(headers, "x-deadline-ms")
    ttft, tpot = _header(headers, "x-slo-ttft-ms"), _header(headers, "x-slo-tpot-ms")
    named = any(value is not None for value in (total, ttft, tpot))
    late = on_late or _late_header(headers) or ("refuse" if named else "best_effort")
    if not named:
        total = default_ms
    if total is None and ttft is None and tpot is None:
        return None
    return Deadline(total, ttft, tpot, late)


def check_choices(prompts: Sequence[object], n: int) -> None:
    """Refuse more answers than one request may have. Raises `ApiError` (400)."""
    if len(prompts) * n > MAX_CHOICES:
        raise bad_value("n", f"prompts times n must be at most {MAX_CHOICES}")


def check_prompt_logprobs(
    body: SamplingFields, prompts: Sequence[Sequence[int]], params: Sequence[SamplingParams]
) -> None:
    """Raises `ApiError` (400) for log-probabilities of prompts that would be too many."""
    wanted = params[0].prompt_logprobs
    if wanted is None:
        return
    numbers = sum(map(len, prompts)) * (1 + wanted) * len(params)
    if numbers > MAX_PROMPT_LOGPROBS:
        raise bad_value(
            "prompt_logprobs" if body.prompt_logprobs is not None else "logprobs",
            f"{numbers:,} log-probabilities of prompts exceed {MAX_PROMPT_LOGPROBS:,}: "
            "ask for fewer alternatives, or send fewer prompts in one request",
        )


def _header(headers: Mapping[str, str], name: str) -> float | None:
    text = headers.get(name)
    if text is None:
        return None
    try:
        value = float(text) if len(text) <= MAX_HEADER_NUMBER else math.nan
    except ValueError:
        value = math.nan
    if not 0 < value <= MAX_DEADLINE_MS:
        message = f"The header {name} must be milliseconds in (0, {MAX_DEADLINE_MS:,}]"
        raise ApiError(400, message, param=name, code="invalid_value")
    return value


def _late_header(headers: Mapping[str, str]) -> OnLate | None:
    text = headers.get("x-on-late")
    if text is None:
        return None
    for known in ON_LATE:
        if text == known:
            return known  # type: ignore[return-value]
    message = f"The header x-on-late must be one of {', '.join(ON_LATE)}"
    raise ApiError(400, message, param="x-on-late", code="invalid_value")


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


Conflict = tuple[str, str]  # the field to change, and what is wrong with it


def check_conflicts(body: SamplingFields) -> None:
    """Raises `ApiError` (400) for two fields of ``body`` that contradict each other."""
    for rule in _RULES:
        conflict = rule(body)
        if conflict is not None:
            raise bad_value(*conflict)


def one_form(forms: Mapping[str, Grammar | None]) -> tuple[Grammar | None, str]:
    """Return the form of the answer that is asked for, and the field that asks. Raises `ApiError` (400) for two."""
    given = [field for field, form in forms.items() if form is not None]
    if len(given) > 1:
        raise bad_value(given[1], f"does not go with {given[0]}: an answer has one form")
    field = given[0] if given else next(iter(forms))
    return forms[field], field


def limit_of(body: SamplingFields) -> int | None:
    """Return the most tokens that an answer may have: the smallest of what the limit's names say; None if none does."""
    return min((value for name in LIMITS if (value := _field(body, name)) is not None), default=None)


def stops_of(body: SamplingFields) -> tuple[str, ...]:
    """Return the texts that end the answer, from either of their two fields."""
    sequences = _field(body, "stop_sequences")
    return _as_tuple(body.stop if sequences is None else sequences)


def _two_stops(body: SamplingFields) -> Conflict | None:
    sequences = _field(body, "stop_sequences")
    if sequences is None or body.stop is None or set(_as_tuple(body.stop)) == set(sequences):
        return None
    return "stop", "differs from stop_sequences: give one of them"


def _top_without_logprobs(body: SamplingFields) -> Conflict | None:
    if _field(body, "top_logprobs") and not _field(body, "logprobs"):
        return "top_logprobs", "needs logprobs to be true"
    return None


def _best_of_others(body: SamplingFields) -> Conflict | None:
    best_of = _field(body, "best_of")
    if best_of is None or best_of == (body.n or 1):
        return None
    return "best_of", "must equal n, or be left out: every answer is returned"


def _prompt_logprobs(body: SamplingFields) -> Conflict | None:
    if body.prompt_logprobs is None:
        return None
    if not body.gives_prompt_logprobs:
        return "prompt_logprobs", "are given by /v1/completions and /v1/chat/completions only"
    if not body.stream:
        return None
    return "prompt_logprobs", "are not given in streams: leave out stream, or use echo with logprobs"


def _background(body: SamplingFields) -> Conflict | None:
    if not _field(body, "background"):
        return None
    if body.stream:
        return "background", "does not go with stream here: read the response later"
    if _field(body, "store") is False:
        return "background", "needs store: the answer must be kept until it is read"
    return None


def _field(body: SamplingFields, name: str) -> Any:
    """Return a field that only some requests declare; None on the others."""
    return getattr(body, name) if name in type(body).model_fields else None


_RULES: tuple[Callable[[SamplingFields], Conflict | None], ...] = (
    _two_stops,
    _top_without_logprobs,
    _best_of_others,
    _prompt_logprobs,
    _background,
)


def _bias_of(value: dict[str, float] | None) -> dict[int, float]:
    """Return ``logit_bias`` by token id. Raises `ValueError` for a key that is no token id."""
    bias: dict[int, float] = {}
    for key, added in (value or {}).items():
        if not (key.isascii() and key.isdigit() and len(key) <= 10):
            raise ValueError(f"keys must be token ids, not {key[:32]!r}")
        bias[int(key)] = added
    return bias


def _as_tuple(stop: Any) -> tuple[str, ...]:
    """Return ``stop``, which has two forms, as a tuple."""
    if stop is None:
        return ()
    return (stop,) if isinstance(stop, str) else tuple(stop)
