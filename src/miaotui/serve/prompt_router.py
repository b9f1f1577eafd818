"""Several models behind one name, of which a rule about the prompt chooses one.

Owns the rules: the prompt's language, its length, whether it holds source code. Knows no route. Invariants: models have
one tokenizer, so that the prompt is the same tokens for each; one prompt goes to one model, whatever else runs.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from miaotui.engine.request import Request
from miaotui.errors import RequestError
from miaotui.retrieval.ingest.language_id import language_of
from miaotui.serve.http.errors import bad_value
from miaotui.serve.tiers import TieredModel, require_one_tokenizer
from miaotui.serve.wire.fields import Quality
from miaotui.served_model import RequestArguments, ServedModel

CODE = re.compile(
    r"```|^\s*(def |class |import |from \w+ import |#include|function |public |SELECT )|[;{]\s*$", re.MULTILINE
)
LOOKED_AT = 2000  # tokens from the prompt's end
_RULE = re.compile(r"(?:(?P<kind>code|[a-z]{2}|<(?P<tokens>[1-9][0-9]{0,6})):)?(?P<model>[^:].*)")


@dataclass(frozen=True)
class PromptRule:
    """A model, and the prompts that are its: ``kind`` is ``code`` or a language, ``tokens`` a length (less than)."""

    model: ServedModel
    kind: str | None = None
    tokens: int | None = None

    def matches(self, prompt: Sequence[int], text: str) -> bool:
        """Return whether a prompt is this model's."""
        if self.tokens is not None:
            return len(prompt) < self.tokens
        if self.kind == "code":
            return CODE.search(text) is not None
        return self.kind is None or language_of(text) == self.kind


class PromptRouter:
    """Rules under one name; the last one takes what no other does. Raises `RequestError` for rules that do not fit."""

    def __init__(self, name: str, rules: Sequence[PromptRule]) -> None:
        if len(rules) < 2 or rules[-1].kind or rules[-1].tokens or not all(r.kind or r.tokens for r in rules[:-1]):
            raise RequestError(
                f"--route {name}: all models but the last need a rule, such as zh:MODEL, and the last none"
            )
        require_one_tokenizer("--route", name, [rule.model for rule in rules])
        self.name, self.rules = name, tuple(rules)

    def choice(self, quality: Quality | None = None) -> TieredModel:
        """Return the model for one request. Raises `ApiError` for a floor: models here are no tiers of one another."""
        if quality not in (None, "any"):
            raise bad_value(
                "quality", f"is of names with tiers (--tiers), and a rule chooses for {self.name}: leave it out"
            )
        return _RoutedModel(self.name, self.rules)


class _RoutedModel(TieredModel):
    """A `ServedModel` for one HTTP request, whose first prompt chooses the model."""

    def __init__(self, name: str, rules: Sequence[PromptRule]) -> None:
        super().__init__(name, list(dict.fromkeys(rule.model for rule in rules)))
        self._rules = rules

    @property
    def identity(self) -> str:
        """Return a digest of all models: which one answers is known when the prompt is submitted."""
        return hashlib.sha256(" ".join(each.identity for each in self._allowed).encode()).hexdigest()

    def submit_all(self, submissions: Iterable[RequestArguments]) -> list[Request]:
        """Submit requests that belong together to the first one's model."""
        wanted = list(submissions)
        prompt = wanted[0][0]
        text = self.tokenizer.decode(prompt[-LOOKED_AT:])
        chosen = next(rule.model for rule in self._rules if rule.matches(prompt, text))
        return self._taken(chosen, chosen.submit_all(wanted))


def read_routes(words: Iterable[str], models: Mapping[str, ServedModel], taken: Iterable[str]) -> list[PromptRouter]:
    """Return the routers of ``NAME=zh:A,code:B,<200:C,D`` words. Raises `RequestError`."""
    used, found = {*models, *taken}, list[PromptRouter]()
    for word in words:
        name, equals, listed = word.partition("=")
        parsed = [_RULE.fullmatch(part) for part in listed.split(",")]
        if not equals or not name.strip() or not all(parsed):
            raise RequestError(f"--route {word!r}: expected NAME=RULE:MODEL,...,MODEL; a rule is zh, code or <200")
        if name in used or any(each.name == name for each in found):
            raise RequestError(f"--route {word!r}: {name} is served here already: choose another name")
        rules = []
        for match in filter(None, parsed):
            if match["model"] not in models:
                raise RequestError(f"--route {word!r}: {match['model']} is no served model: {', '.join(models)}")
            tokens = int(match["tokens"]) if match["tokens"] else None
            rules.append(PromptRule(models[match["model"]], None if tokens else match["kind"], tokens))
        found.append(PromptRouter(name, rules))
    return found
