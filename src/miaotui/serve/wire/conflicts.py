"""Fields of a request that contradict each other, on whatever route.

Owns the list of such pairs; docs/api.md has the same list. Knows no model: pairs that the engine cannot follow are in
`miaotui.types.SamplingParams`, and those of tools in `tool_calls`. Invariant: a pair is refused (400, with the field to
change) only if no answer could obey both fields; fields without effect beside each other are let through.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from miaotui.engine.grammar.source import Grammar
from miaotui.serve.http.errors import bad_value
from miaotui.serve.wire.fields import SamplingFields, as_tuple

LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")  # one idea under its names on several routes
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
    return as_tuple(body.stop if sequences is None else sequences)


def _two_stops(body: SamplingFields) -> Conflict | None:
    sequences = _field(body, "stop_sequences")
    if sequences is None or body.stop is None or set(as_tuple(body.stop)) == set(sequences):
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
