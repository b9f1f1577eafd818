"""Plain data between the process that has a request and the one that computes it, and the checks of both.

Owns the shapes: a request goes out as one dictionary of JSON values, and pieces come back, each with one of the keys of
`Piece`. Knows neither Ray nor sockets. Invariants: nothing but numbers, texts, lists and dictionaries crosses, so that
nothing is unpickled that a client wrote; deadlines cross as milliseconds spent, never as times of a clock; a message of
another version is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from miaotui.errors import (
    DeadlineUnattainableError,
    EngineError,
    MiaotuiError,
    OverloadedError,
    PromptTooLongError,
    RequestError,
)
from miaotui.types import Deadline, SamplingParams, TokenLogprobs

VERSION = 2  # of these shapes
MOST_TOKENS = 1 << 24  # of one message

Message = dict[str, Any]

_TUPLES = ("stop", "stop_token_ids", "logprob_token_ids")
_DEFAULTS = SamplingParams()


@dataclass(frozen=True)
class RemoteRequest:
    """One request as it crosses: token ids, parameters, and the time that it has used up."""

    prompt: Sequence[int]
    params: SamplingParams
    namespace: int = 0
    begun: Sequence[int] = ()  # tokens of the answer that are known already
    passages: Sequence[Sequence[int]] = ()
    deadline: Deadline | None = None
    spent_ms: float = 0.0  # since its arrival
    adapter: tuple[str, str] | None = None  # its name, and the digest of its numbers
    constraint: Message | None = None  # see `engine.grammar.described`

    def message(self, number: int) -> Message:
        """Return the request as plain data under a number of the sender's."""
        return {
            "version": VERSION,
            "number": number,
            "prompt": list(self.prompt),
            "begun": list(self.begun),
            "namespace": self.namespace,
            "passages": [list(each) for each in self.passages],
            "params": _params_out(self.params),
            "deadline": None if self.deadline is None else asdict(self.deadline),
            "spent_ms": self.spent_ms,
            "adapter": None if self.adapter is None else list(self.adapter),
            "constraint": self.constraint,
        }

    @staticmethod
    def read(message: Mapping[str, Any]) -> RemoteRequest:
        """Return the request of a message. Raises `RequestError` for one that is wrong or of another version."""
        version = message.get("version")
        if version != VERSION:
            raise RequestError(
                f"the message has version {version!r} and this replica reads version {VERSION}: "
                "run one version of miaotui in the whole cluster"
            )
        try:
            passages = tuple(map(_tokens, message["passages"]))
            deadline = message["deadline"]
            return RemoteRequest(
                prompt=_tokens(message["prompt"]),
                params=_params_in(message["params"]),
                namespace=int(message["namespace"]),
                begun=_tokens(message["begun"]),
                passages=passages,
                deadline=None if deadline is None else Deadline(**deadline),
                spent_ms=max(float(message["spent_ms"]), 0.0),
                adapter=None if message["adapter"] is None else _pair(message["adapter"]),
                constraint=None if message["constraint"] is None else dict(message["constraint"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RequestError(f"the message of a request is damaged: {type(error).__name__}: {error}") from error


def taken(predicted_ms: float, max_tokens: int | None) -> Message:
    """Return the piece that says that a request was taken on; ``max_tokens``: shortened to so many more tokens."""
    return {"taken": [predicted_ms, max_tokens]}


def tokens_piece(ids: Sequence[int], at: int, cached: int, logprobs: Sequence[TokenLogprobs]) -> Message:
    """Return a piece with tokens, of which the first one is number ``at`` of the answer.

    ``cached`` tokens of the prompt were not computed again.
    """
    piece: Message = {"tokens": list(ids), "at": at, "cached": cached}
    if logprobs:
        piece["logprobs"] = [[each.token_id, each.logprob, [list(pair) for pair in each.top]] for each in logprobs]
    return piece


def logprobs_of(piece: Mapping[str, Any]) -> list[TokenLogprobs | None]:
    """Return the log-probabilities of a piece's tokens, None where none were asked for."""
    found = piece.get("logprobs")
    if found is None:
        return [None] * len(piece["tokens"])
    return [TokenLogprobs(token, logprob, tuple((t, p) for t, p in top)) for token, logprob, top in found]


def end_piece(reason: str, shortened: bool) -> Message:
    """Return the last piece of an answer."""
    return {"end": reason, "shortened": shortened}


def error_piece(error: Exception) -> Message:
    """Return the last piece of a request that failed or was refused."""
    piece: Message = {"error": str(error), "kind": "failed"}
    if isinstance(error, DeadlineUnattainableError):
        piece |= {"kind": "late", "retry_after_s": error.retry_after_s, "predicted_ms": error.predicted_ms}
    elif isinstance(error, OverloadedError):
        piece |= {"kind": "overloaded", "retry_after_s": error.retry_after_s}
    elif isinstance(error, PromptTooLongError):
        piece["kind"] = "too_long"
    elif isinstance(error, RequestError):
        piece["kind"] = "request"
    return piece


def error_of(piece: Mapping[str, Any]) -> MiaotuiError:
    """Return the error that a piece carries."""
    kind, text = piece["kind"], str(piece["error"])
    if kind == "late":
        return DeadlineUnattainableError(text, float(piece["retry_after_s"]), float(piece["predicted_ms"]))
    if kind == "overloaded":
        return OverloadedError(text, float(piece["retry_after_s"]))
    if kind == "too_long":
        return PromptTooLongError(text)
    return RequestError(text) if kind == "request" else EngineError(text)


def _tokens(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list | tuple) or len(value) > MOST_TOKENS:
        raise TypeError(f"expected at most {MOST_TOKENS:,} token ids")
    for token in value:
        if not isinstance(token, int) or isinstance(token, bool):
            raise TypeError("expected token ids")
    return tuple(value)


def _pair(value: Any) -> tuple[str, str]:
    first, second = value
    return str(first), str(second)


def _params_out(params: SamplingParams) -> Message:
    """Return the parameters that differ from the defaults."""
    found: Message = {}
    for each in fields(params):
        value = getattr(params, each.name)
        if value != getattr(_DEFAULTS, each.name):
            found[each.name] = list(value) if each.name in _TUPLES else value
    if "logit_bias" in found:  # JSON has no numbers as keys
        found["logit_bias"] = [[token, bias] for token, bias in params.logit_bias.items()]
    return found


def _params_in(values: Mapping[str, Any]) -> SamplingParams:
    found: Message = {name: tuple(value) if name in _TUPLES else value for name, value in values.items()}
    if "logit_bias" in found:
        found["logit_bias"] = {int(token): bias for token, bias in found["logit_bias"]}
    return SamplingParams(**found)
