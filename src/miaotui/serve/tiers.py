"""Several models behind one name: the best one that keeps a request's deadline answers, never one below its floor.

Owns the order in which tiers are tried, and which of them a request may have. Knows no route. Invariants: tiers have
one tokenizer and one vocabulary, so that a prompt is the same tokens for each; a refusal is counted once, by the tier
whose refusal the client gets; a request that may be late or shortened is refused only where no allowed tier takes it.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from miaotui.engine.grammar.constraint import Grammars
from miaotui.engine.model_loop import ModelLoop
from miaotui.engine.request import Request, RequestOptions
from miaotui.errors import MiaotuiError, OverloadedError, RefusedError, RequestError
from miaotui.optimize.card import read_card
from miaotui.optimize.origin import model_digest
from miaotui.serve.middleware.access import PROBING
from miaotui.serve.wire.fields import Quality
from miaotui.served_model import RequestArguments, ServedModel
from miaotui.text.chat import ChatEncoder
from miaotui.text.tokenizers.comparison import same_tokens
from miaotui.text.tokenizers.tokenizer import Tokenizer
from miaotui.text.tool_calls.dialect import Dialect
from miaotui.types import Completion, Delta, SamplingParams

NEAR_KL = 0.05  # nats: a tier whose report card says at most this is near the first one
MOST_TIERS = 8


@dataclass(frozen=True)
class Tier:
    """One model of a group; ``loss`` is its mean divergence from the first (nats), None where none is known."""

    model: ServedModel
    loss: float | None

    def is_within(self, quality: Quality) -> bool:
        """Return whether a request with this floor may have it."""
        return quality == "any" or (quality == "near" and self.loss is not None and self.loss <= NEAR_KL)


class TierGroup:
    """Tiers under one name, the best first. Raises `RequestError` for models that do not fit each other."""

    def __init__(self, name: str, models: Sequence[ServedModel]) -> None:
        if not 2 <= len(models) <= MOST_TIERS:
            raise RequestError(f"--tiers {name}: expected 2 to {MOST_TIERS} models, the best first, not {len(models)}")
        require_one_tokenizer("--tiers", name, models)
        first = models[0]
        self.name = name
        self.tiers = (Tier(first, 0.0), *(Tier(each, _loss(each, first)) for each in models[1:]))

    def choice(self, quality: Quality | None = None) -> TieredModel:
        """Return the model for one request whose floor is ``quality`` (None: any tier)."""
        floor = quality or "any"
        allowed = [self.tiers[0].model, *(each.model for each in self.tiers[1:] if each.is_within(floor))]
        return TieredModel(self.name, allowed)


class TieredModel:
    """A `ServedModel` for one HTTP request: its submission chooses the tier, which answers from then on."""

    adapter = parent = None

    def __init__(self, name: str, allowed: Sequence[ServedModel]) -> None:
        self.name, self._allowed, self._chosen = name, allowed, allowed[0]
        self._lowest = 0  # of the tiers that took a part of the request

    @property
    def tier(self) -> str | None:
        """Return the name of the model that answers: the lowest one, if a request of several parts had several.

        Before a submission it is the first tier's: an answer that is kept for this request is that tier's.
        """
        return self._allowed[self._lowest].name

    @property
    def created_s(self) -> int:
        """Return the time at which the first tier was opened."""
        return self._allowed[0].created_s

    @property
    def fingerprint(self) -> str:
        """Return that of the tier that answers."""
        return self._chosen.fingerprint

    @property
    def identity(self) -> str:
        """Return that of the tier that answers; before a submission the first one's."""
        return self._chosen.identity

    @property
    def context(self) -> int:
        """Return tokens of the longest prompt plus answer that every tier takes."""
        return min(each.context for each in self._allowed)

    @property
    def tokenizer(self) -> Tokenizer:
        """Return the tokenizer of all tiers."""
        return self._allowed[0].tokenizer

    @property
    def chat(self) -> ChatEncoder:
        """Return the first tier's encoder of conversations."""
        return self._allowed[0].chat

    @property
    def dialect(self) -> Dialect:
        """Return the form in which answers write tool calls."""
        return self._allowed[0].dialect

    @property
    def grammars(self) -> Grammars:
        """Return the compiled grammars of its answers."""
        return self._allowed[0].grammars

    @property
    def loop(self) -> ModelLoop:
        """Return the loop of the tier that answers; of the first one before that."""
        return self._chosen.loop

    def submit(self, prompt: Sequence[int], params: SamplingParams, options: RequestOptions) -> Request:
        """Submit one request to the best tier that keeps its deadline."""
        return self.submit_all([(prompt, params, options)])[0]

    def submit_all(self, submissions: Iterable[RequestArguments]) -> list[Request]:
        """Submit requests that belong together to the best tier that keeps their deadlines.

        What every tier refuses is the last one's to refuse, to shorten, or to answer late. If that one takes nothing
        on now, what may be late goes to the lowest tier that does. Raises `RefusedError`.
        """
        wanted = list(submissions)
        strict = [(prompt, params, _refusing(options)) for prompt, params, options in wanted]
        for each in self._allowed[:-1]:
            with contextlib.suppress(RefusedError), probing():
                return self._taken(each, each.submit_all(strict))
        last = self._allowed[-1]
        may_be_late = any(before[2] is not after[2] for before, after in zip(wanted, strict, strict=True))
        for each in reversed(self._allowed if may_be_late else ()):
            try:
                with probing():
                    return self._taken(each, each.submit_all(wanted))
            except OverloadedError:
                continue
            except RefusedError:
                break
        return self._taken(last, last.submit_all(wanted))

    def _taken(self, model: ServedModel, requests: list[Request]) -> list[Request]:
        self._chosen, self._lowest = model, max(self._lowest, self._allowed.index(model))
        return requests

    def pieces(self, request: Request) -> AsyncGenerator[Delta, None]:
        """Yield one answer as it comes."""
        return self._chosen.pieces(request)

    def pieces_of(
        self, requests: Sequence[Request], silence_s: float | None = None
    ) -> AsyncGenerator[list[tuple[int, Delta]], None]:
        """Yield answers as they come."""
        return self._chosen.pieces_of(requests, silence_s)

    async def whole(self, requests: Sequence[Request]) -> list[Completion]:
        """Wait for whole answers."""
        return await self._chosen.whole(requests)

    def leave(self, request: Request) -> None:
        """Stop reading a request."""
        self._chosen.leave(request)

    def leave_all(self, requests: Iterable[Request]) -> None:
        """Stop reading requests."""
        self._chosen.leave_all(requests)

    def close(self) -> None:
        """Do nothing: tiers are closed for themselves."""


def read_tiers(words: Iterable[str], models: Mapping[str, ServedModel], taken: Iterable[str]) -> list[TierGroup]:
    """Return the groups of ``NAME=A,B,...`` words. Raises `RequestError`."""
    found: dict[str, TierGroup] = {}
    used = {*models, *taken}
    for word in words:
        name, equals, listed = word.partition("=")
        names = listed.split(",")
        if not equals or not name.strip() or not all(names):
            raise RequestError(f"--tiers {word!r}: expected NAME=BEST,NEXT,... of served models")
        if name in used or name in found:
            raise RequestError(f"--tiers {word!r}: {name} is served here already: choose another name")
        unknown = [each for each in names if each not in models]
        if unknown:
            raise RequestError(f"--tiers {word!r}: {unknown[0]} is no served model: {', '.join(models)}")
        found[name] = TierGroup(name, [models[each] for each in names])
    return list(found.values())


def require_one_tokenizer(option: str, name: str, models: Sequence[ServedModel]) -> None:
    """Raise `RequestError` for models whose prompts are not the same tokens."""
    first = models[0]
    for each in models[1:]:
        sizes = {first.grammars.vocab_size, each.grammars.vocab_size}
        if len(sizes) > 1 or not same_tokens(first.tokenizer, each.tokenizer):
            raise RequestError(f"{option} {name}: {each.name} has another tokenizer than {first.name}")


@contextlib.contextmanager
def probing() -> Iterator[None]:
    """Leave refusals uncounted meanwhile: one that leads to another tier is none of the server's."""
    token = PROBING.set(True)
    try:
        yield
    finally:
        PROBING.reset(token)


def _refusing(options: RequestOptions) -> RequestOptions:
    if options.deadline is None or options.deadline.on_late == "refuse":
        return options
    return replace(options, deadline=replace(options.deadline, on_late="refuse"))


def _loss(model: ServedModel, first: ServedModel) -> float | None:
    """Return what the report card beside a model's file says that it lost against the first tier's; else None.

    The first tier is the file that the card names, or the folder that this file is a copy of.
    """
    try:
        card = read_card(model.loop.model.path)
        sources = (card.source["sha256"], card.source.get("copy_of", {}).get("sha256"))
        return float(card.quality["mean_kl"]) if model_digest(first.loop.model.path) in sources else None
    except (MiaotuiError, AttributeError, KeyError, TypeError, ValueError):
        return None
