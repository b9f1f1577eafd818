"""Rules for which answers may be kept, and their keys.

Owns the rule (`may_keep`) and two digests of a question: of all of it, and of its *scope*, which is all but the last
message. Knows no storage. Invariant: two questions with one key differ in nothing that the engine or the caller can
tell, except in what `normalised` drops. The caller's namespace is part of both digests, so answers never cross from
one owner to another.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from miaotui.retrieval.answers.similarity import normalised
from miaotui.types import SamplingParams

_VERSION = 2  # of this file's digests; a change makes all kept answers unreachable


@dataclass(frozen=True)
class AnswerKey:
    """Question to the cache.

    ``model`` and ``template`` are digests of what will answer; ``namespace`` tells owners apart; ``messages`` are
    mappings of JSON values; ``indexes`` are (name, version) of the grounds of the answer; ``extra`` is anything else
    that shapes the answer, as JSON values: a response format, the kind of request. ``near`` says whether an answer to
    a similar question may serve.
    """

    model: str
    template: str
    namespace: str
    params: SamplingParams
    messages: Sequence[Mapping[str, Any]]
    indexes: tuple[tuple[str, str], ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)
    near: bool = True

    @property
    def question(self) -> str | None:
        """Return the last message's text, if a similar one may stand for it: a user's, in plain text."""
        last = self.messages[-1] if self.messages else {}
        content = last.get("content")
        plain = last.get("role") == "user" and isinstance(content, str)
        return content if plain and self.near and is_greedy(self.params) else None

    def key(self) -> bytes:
        """Return the digest of all that is asked, 20 bytes."""
        return _digest("key", self._common(), list(self.messages))

    def scope(self) -> bytes:
        """Return the digest of all but the last message, 20 bytes."""
        return _digest("scope", self._common(), list(self.messages[:-1]))

    def _common(self) -> list[Any]:
        greedy = is_greedy(self.params)
        params = asdict(replace(self.params, seed=0) if greedy else self.params)
        params["logit_bias"] = sorted(params["logit_bias"].items())
        indexes = sorted(self.indexes)
        return [self.namespace, self.model, self.template, params, indexes, dict(self.extra)]


def is_greedy(params: SamplingParams) -> bool:
    """Return whether the answer involves no randomness."""
    return params.temperature == 0 or params.top_k == 1


def may_keep(params: SamplingParams, *, seed_given: bool, tools: bool = False, choices: int = 1) -> bool:
    """Return whether an answer may be kept and given again.

    Only if the request leaves nothing open: it is greedy, or it names its seed. A request with a temperature and no
    seed asks for variety, and so does one for several choices. Tool calls are acts and are never repeated from a
    cache; log-probabilities are not kept.
    """
    if tools or choices != 1 or params.logprobs is not None or params.prompt_logprobs is not None:
        return False
    return is_greedy(params) or seed_given


def namespace_digest(namespace: str) -> bytes:
    """Return a namespace as it is stored, 20 bytes: the cache's file does not hold API keys."""
    return _digest("namespace", namespace)


def ground_digest(namespace: str, index: str) -> bytes:
    """Return an index of an owner as it is stored beside the answers that were made from it, 20 bytes."""
    return _digest("ground", namespace, index)


def _digest(*parts: Any) -> bytes:
    text = json.dumps([_VERSION, *map(_plain, parts)], sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=20).digest()


def _plain(value: Any) -> Any:
    """Return the value with every text normalised, in types that JSON has."""
    if isinstance(value, str):
        return normalised(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return repr(value)
