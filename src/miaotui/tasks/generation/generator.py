"""Generation under requirements: compiled into a grammar where that is possible, checked, repaired, asked for again.

Owns the order: grammar, answer, continuation of what is too short, words that are missing, repairs. Knows models by
`WriteSteps`. Invariants: requirements that a result does not fulfil are named in it; the first answer is the model's
own greedy one where no grammar is needed.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from miaotui.engine.grammar.source import Grammar, any_object, from_choices, from_pattern, from_schema
from miaotui.errors import RequestError
from miaotui.retrieval.sentences import sentences
from miaotui.tasks.checks import require_text
from miaotui.tasks.generation.repairs import repaired, two_answers
from miaotui.tasks.generation.requirements import WORD, Bound, TextRequirements, count_of
from miaotui.tasks.writing.steps import WriteRequest, WrittenAnswer
from miaotui.types import SamplingParams

ROUNDS = 3  # of continuation
CONTINUED_TOKENS = 256
MAX_MISSING = 8  # words that sentences are asked for
MAX_CHARACTERS = 100_000
MAX_TOKENS = 512


@dataclass(frozen=True)
class GenerationOptions:
    """Options of generation. ``style`` and ``instruction`` are said to the model; ``max_tokens`` bounds one answer."""

    requirements: TextRequirements = field(default_factory=TextRequirements)
    style: str = ""
    instruction: str = ""
    max_tokens: int = MAX_TOKENS
    temperature: float = 0.0
    seed: int = 0
    model: str = ""


@dataclass(frozen=True, kw_only=True)
class GeneratedText:
    """Generated text. ``unmet`` are requirements that it does not fulfil; ``raw`` is the model's first answer.

    ``probability`` is the geometric mean of the probabilities of that answer's tokens, not calibrated.
    """

    index: int
    text: str | None = None
    unmet: tuple[str, ...] = ()
    raw: str = ""
    requests: int = 0
    probability: float = 0.0
    model: str = ""
    took_ms: float = 0.0
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON has them; those that say nothing are left out."""
        empty = {"unmet": (), "error": None}
        return {name: value for name, value in asdict(self).items() if name not in empty or value != empty[name]}


Messages = Sequence[Mapping[str, str]]
GenerationSteps = Generator[Sequence[WriteRequest], Sequence[WrittenAnswer], GeneratedText]


def generation_steps(messages: Messages | str, options: GenerationOptions, *, index: int = 0) -> GenerationSteps:
    """Ask for a text; a prompt that cannot be taken gives a result with an error."""
    blank = GeneratedText(index=index, model=options.model)
    try:
        is_text = isinstance(messages, str) or not isinstance(messages, Sequence)
        asked: list[Any] = [{"role": "user", "content": messages}] if is_text else list(messages)
        require_text(asked[-1]["content"] if asked else "", index, MAX_CHARACTERS)
        return (yield from _Generation(asked, options, blank).steps())
    except RequestError as error:
        reason = str(error)
        return replace(blank, error=reason if reason.startswith("texts[") else f"texts[{index}]: {reason}")


class _Generation:
    """One text in the making."""

    def __init__(self, messages: Messages, options: GenerationOptions, blank: GeneratedText) -> None:
        self.messages, self.options, self.blank = messages, options, blank
        self.wanted = options.requirements
        self.requests = 0

    def steps(self) -> GenerationSteps:
        """Ask, continue, add, repair."""
        first = yield from self._ask(self._params(), grammar=grammar_of(self.wanted))
        raw = first.text.strip()
        text = raw
        if self.wanted.schema is None and not self.wanted.choices:
            text = yield from self._continued(text)
            text = yield from self._with_words(text)
        text = repaired(text, self.wanted) if self.wanted.schema is None else text
        if self.wanted.two_answers and not self.wanted.checks(text).get("two_answers", True):
            sampled = replace(
                self._params(), temperature=max(self.options.temperature, 0.8), seed=self.options.seed + 1
            )
            second = yield from self._ask(sampled)
            text = two_answers(text, repaired(second.text, replace(self.wanted, two_answers=False)))
        unmet = tuple(name for name, holds in self.wanted.checks(text).items() if not holds)
        return replace(
            self.blank, text=text, raw=raw, unmet=unmet, requests=self.requests, probability=first.probability
        )

    def _params(self) -> SamplingParams:
        options = self.options
        return SamplingParams(
            max_tokens=options.max_tokens, temperature=options.temperature, seed=options.seed, logprobs=0
        )

    def _ask(
        self, params: SamplingParams, *, grammar: Grammar | None = None, begun: str = ""
    ) -> Generator[Sequence[WriteRequest], Sequence[WrittenAnswer], WrittenAnswer]:
        self.requests += 1
        (answer,) = yield [WriteRequest(self.messages, params, grammar, begun)]
        return answer

    def _continued(self, text: str) -> Generator[Sequence[WriteRequest], Sequence[WrittenAnswer], str]:
        """Go on with a text that is too short, in a new paragraph each time."""
        for number in range(ROUNDS):
            missing = missing_words(text, self.wanted)
            if missing <= 0:
                break
            tokens = min(int(missing * 1.6) + 32, self.options.max_tokens)
            begun = text.rstrip() + "\n\n"
            params = SamplingParams(
                max_tokens=tokens, temperature=0.7, top_p=0.95, seed=self.options.seed + number, repetition_penalty=1.1
            )
            answer = yield from self._ask(params, grammar=_letters_only(self.wanted), begun=begun)
            if not answer.text.strip():
                break
            text = begun + answer.text.strip()
        return text

    def _with_words(self, text: str) -> Generator[Sequence[WriteRequest], Sequence[WrittenAnswer], str]:
        """Add a sentence that begins with each word that is missing, as often as it is missing."""
        left = MAX_MISSING
        for word, bound in self.wanted.include.items():
            while count_of(word, text) < bound.least and left:
                left -= 1
                begun = f"{text.rstrip()} {word[:1].upper()}{word[1:]}"
                params = SamplingParams(
                    max_tokens=32, temperature=0.7, top_p=0.9, seed=self.options.seed + left, stop=(".", "\n", "。")
                )
                answer = yield from self._ask(params, grammar=_letters_only(self.wanted), begun=begun)
                text = f"{begun}{answer.text.rstrip()}."
        return text


def missing_words(text: str, wanted: TextRequirements) -> int:
    """Return how many words a text lacks, those of sentences reckoned at fifteen each."""
    missing = 0 if wanted.words is None else wanted.words.least - len(WORD.findall(text))
    if wanted.sentences is not None:
        missing = max(missing, 15 * (wanted.sentences.least - len(sentences(text))))
    return missing


def grammar_of(wanted: TextRequirements) -> Grammar | None:
    """Return the grammar that requirements compile to, as far as a grammar can hold them; None: any text."""
    if wanted.schema is not None:
        return from_schema(wanted.schema, strict=False)
    if wanted.choices:
        return from_choices(list(wanted.choices))
    if wanted.as_json:
        return any_object()
    return _letters_only(wanted)


def _letters_only(wanted: TextRequirements) -> Grammar | None:
    """Return the grammar of texts without commas, or without letters of one case."""
    left_out = ("," + "，" if wanted.without_commas else "") + {"lower": "A-Z", "upper": "a-z", None: ""}[wanted.case]
    return from_pattern(f"(?s:[^{left_out}]+)") if left_out else None


def bound_of(count: int, relation: str) -> Bound:
    """Return the bound that IFEval's words mean: ``at least``, ``less than``, ``at most`` a count."""
    if relation == "less than":
        return Bound(0, count - 1)
    return Bound(0, count) if relation == "at most" else Bound(count)
