"""Decisions: typed questions about an input, answered from a chat model's logits; nothing is generated or parsed.

Owns what is read, in which order, and how two orders of the options, a prompt without content and likeness by an
encoder become calibrated probabilities. Knows neither threads nor HTTP: `decision_steps` asks for readings, and the
code that runs a model gives them.
Invariants: the rows of the input are computed once for all questions; a decision depends on input, question and model
alone. Sources: Zhao et al. 2021, arXiv:2102.09690 (contextual calibration); Zheng et al. 2024, arXiv:2309.03882
(bias of positions).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple, Protocol

from miaotui.errors import FieldError, MiaotuiError
from miaotui.tasks.calibration import softmax_rows
from miaotui.tasks.decisions.option_trie import OptionTrie, Tokens
from miaotui.tasks.decisions.questions import (
    MAX_QUESTIONS,
    NO_INPUT,
    Kind,
    ReadQuestion,
    TypedQuestion,
    messages_of,
    read_question,
    spoken,
)
from miaotui.tasks.decisions.weights import SourceWeights, kind_of, logits_of, usual_weights, weights_for

Questions = Mapping[str, TypedQuestion] | Sequence[TypedQuestion] | TypedQuestion


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Answer to one question. ``answer`` is None where it abstains; ``best`` is the likeliest option all the same.

    ``confidence`` is the probability of ``best``. ``score`` is a scale's expected level, from 0; ``label_mass`` the
    probability with which the model would have begun any of the options. ``orders_agree``: both orders of the options
    give the same one. ``log_probabilities`` (nats, the mean of both orders) and ``likeness`` (None without an encoder)
    are what ``probabilities`` are made of. ``cached_tokens`` of ``prompt_tokens`` were computed before.
    """

    name: str
    kind: Kind
    answer: str | None = None
    best: str | None = None
    confidence: float = 0.0
    probabilities: Mapping[str, float] = field(default_factory=dict)
    log_probabilities: Mapping[str, float] = field(default_factory=dict)
    likeness: Mapping[str, float] | None = None
    score: float | None = None
    label_mass: float = 0.0
    orders_agree: bool = True
    model: str = ""
    calibrated: bool = False
    took_ms: float = 0.0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON has them."""
        return {name: value for name, value in asdict(self).items() if name != "error" or value is not None}


class DecisionTokens(Protocol):
    """A model's prompts and tokens, as decisions need them."""

    def chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Return a conversation's token ids, ready for the assistant's turn."""

    def option(self, text: str) -> Tokens:
        """Return the token ids of an option at the beginning of an answer."""

    @property
    def end(self) -> int:
        """Return the token that ends an answer."""


class TokenReading(NamedTuple):
    """Log-probabilities that are wanted of the model: those of ``tokens`` after ``prompt``."""

    prompt: Tokens
    tokens: tuple[int, ...]


class LogitsRead(NamedTuple):
    """Log-probabilities (nats) for a `TokenReading`, and how many tokens of its prompt were computed before."""

    logprobs: Sequence[float]
    cached_tokens: int = 0


Steps = Generator[Sequence[TokenReading], Sequence[LogitsRead], list[Decision]]
Priors = dict[tuple[object, ...], list[float]]
Likeness = Callable[[Mapping[str, ReadQuestion]], Mapping[str, Sequence[float]]]
"""Function from questions to the likeness of their options to the input (`OptionEncoder`)."""


@dataclass
class DecisionOptions:
    """Options of decisions. ``weights`` are those of the model's log-probabilities and of likeness (None: the usual
    ones), ``weights_by_kind`` those of kinds of question that `Decider.calibrate` has seen. ``priors`` remembers
    prompts without content, by question and order; ``prior_weight`` is how much of such a prior is taken off. The
    default is nothing: such prompts cost as much as the others, and helped a model of 0.5 B little."""

    weights: SourceWeights | None = None
    weights_by_kind: Mapping[str, SourceWeights] = field(default_factory=dict)
    calibrated: bool = False
    threshold: float = 0.0
    prior_weight: float = 0.0
    priors: Priors = field(default_factory=dict)
    model: str = ""


class _Side(NamedTuple):
    """One prompt of a question: its tokens and the tree of its options."""

    prompt: Tokens
    trie: OptionTrie
    key: tuple[object, ...] | None = None  # of a prior


def decision_steps(
    tokens: DecisionTokens,
    text: str,
    questions: Questions,
    options: DecisionOptions | None = None,
    likeness: Likeness | None = None,
) -> Steps:
    """Yield what is to be read from the model, take it, and return one decision for each question.

    The first reading is of one prompt, so that the others find its rows computed. A question that cannot be asked has
    an error, and the others are answered. Raises `FieldError` for an input or a list of questions that cannot be taken.
    """
    began_s = time.perf_counter()
    options = options or DecisionOptions()
    if not isinstance(text, str) or not text.strip():
        raise FieldError("input", "must be a text that is not empty")
    read = read_questions(questions)
    asked: dict[str, ReadQuestion] = {}
    sides: dict[str, list[_Side]] = {}
    failed: dict[str, str] = {}
    for name, question in read.items():
        try:
            if isinstance(question, MiaotuiError):
                raise question
            sides[name], asked[name] = _sides(tokens, text, question, options), question
        except MiaotuiError as error:
            failed[name] = str(error)
    alike = likeness(asked) if likeness is not None and asked else {}
    found = yield from _read_sides([side for each in sides.values() for side in each])
    decisions, place = [], 0
    for name, question in read.items():
        if name in failed or isinstance(question, MiaotuiError):
            kind = "choice" if isinstance(question, MiaotuiError) else question.kind
            decisions.append(Decision(name=name, kind=kind, error=failed[name], model=options.model))
            continue
        count = len(sides[name])
        each = _decided(question, sides[name], found[place : place + count], alike.get(name), options)
        decisions.append(replace(each, took_ms=(time.perf_counter() - began_s) * 1e3))
        place += count
    return decisions


def read_questions(questions: Questions) -> dict[str, ReadQuestion | MiaotuiError]:
    """Return the questions by name, or why one cannot be asked. Raises `FieldError` for too many, or none."""
    if isinstance(questions, Mapping):
        named = dict(questions)
    elif isinstance(questions, Sequence):
        named = {str(place): each for place, each in enumerate(questions)}
    else:
        named = {"0": questions}
    if not 1 <= len(named) <= MAX_QUESTIONS:
        raise FieldError("questions", f"must hold 1 to {MAX_QUESTIONS} questions, not {len(named)}")
    read: dict[str, ReadQuestion | MiaotuiError] = {}
    for name, question in named.items():
        try:
            read[name] = read_question(name, question)
        except FieldError as error:
            read[name] = error
    return read


def _sides(tokens: DecisionTokens, text: str, question: ReadQuestion, options: DecisionOptions) -> list[_Side]:
    """Return the prompts of a question: two orders of the options, and the same without content unless known."""
    trie = OptionTrie([tokens.option(spoken(each)) for each in question.options], tokens.end)
    sides = [_Side(tuple(tokens.chat(messages_of(text, question, order))), trie) for order in question.orders]
    if options.prior_weight:
        for order in question.orders:
            key = (question.text, order, question.options, question.descriptions)
            if key not in options.priors:
                prompt = tuple(tokens.chat(messages_of(NO_INPUT, question, order)))
                sides.append(_Side(prompt, trie, key))
    return sides


class _Found(NamedTuple):
    log_probabilities: list[float]
    mass: float
    cached_tokens: int


def _read_sides(sides: Sequence[_Side]) -> Generator[Sequence[TokenReading], Sequence[LogitsRead], list[_Found]]:
    """Read all branches of all prompts: the first one alone, the other beginnings together, then what they share."""
    wanted = [
        (place, prefix, TokenReading(side.prompt + prefix, tuple(following)))
        for place, side in enumerate(sides)
        for prefix, following in side.trie.branches.items()
    ]
    wanted.sort(key=lambda each: (len(each[1]), each[0]))
    n_first = sum(1 for _, prefix, _ in wanted if not prefix)
    logprobs: list[dict[Tokens, Sequence[float]]] = [{} for _ in sides]
    cached = [0] * len(sides)
    for part in (wanted[:1], wanted[1 : max(n_first, 1)], wanted[max(n_first, 1) :]):
        if not part:
            continue
        got = yield [reading for _, _, reading in part]
        for (place, prefix, _), each in zip(part, got, strict=True):
            logprobs[place][prefix] = each.logprobs
            if not prefix:
                cached[place] = each.cached_tokens
    return [
        _Found(side.trie.log_probabilities(each), side.trie.mass(each), known)
        for side, each, known in zip(sides, logprobs, cached, strict=True)
    ]


def _decided(
    question: ReadQuestion,
    sides: Sequence[_Side],
    found: Sequence[_Found],
    alike: Sequence[float] | None,
    options: DecisionOptions,
) -> Decision:
    """Return the decision: both orders' mean log-probabilities of the options, less their priors, with likeness."""
    for side, each in zip(sides, found, strict=True):
        if side.key is not None:
            options.priors[side.key] = each.log_probabilities
    by_order = []
    for each, order in zip(found, question.orders, strict=False):
        key = (question.text, order, question.options, question.descriptions)
        prior = options.priors[key] if options.prior_weight else [0.0] * len(question.options)
        weight = options.prior_weight
        by_order.append([own - weight * before for own, before in zip(each.log_probabilities, prior, strict=True)])
    mean = [(first + second) / 2.0 for first, second in zip(*by_order, strict=True)]
    kind = kind_of(question.kind, len(question.options))
    logits = logits_of(mean, alike, weights_for(kind, options.weights or usual_weights(alike), options.weights_by_kind))
    probabilities = softmax_rows([logits])[0].tolist()
    place = _best(logits, question.orders[0])
    score = math.fsum(level * each for level, each in enumerate(probabilities))
    return Decision(
        name=question.name,
        kind=question.kind,
        answer=question.options[place] if probabilities[place] >= options.threshold else None,
        best=question.options[place],
        confidence=probabilities[place],
        probabilities=dict(zip(question.options, probabilities, strict=True)),
        log_probabilities=dict(zip(question.options, mean, strict=True)),
        likeness=None if alike is None else dict(zip(question.options, alike, strict=True)),
        score=score if question.kind == "score" else None,
        label_mass=(found[0].mass + found[1].mass) / 2.0,
        orders_agree=_best(by_order[0], question.orders[0]) == _best(by_order[1], question.orders[0]),
        model=options.model,
        calibrated=options.calibrated,
        prompt_tokens=sum(len(side.prompt) for side in sides[:2]),
        cached_tokens=sum(each.cached_tokens for each in found[:2]),
    )


def _best(values: Sequence[float], order: Sequence[int]) -> int:
    """Return the place of the greatest value; of equals the first in ``order``."""
    return max(order, key=values.__getitem__)
