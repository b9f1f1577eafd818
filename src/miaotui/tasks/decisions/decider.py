"""A chat model that decides: `Decider.decide` reads the answers to typed questions from its logits.

Owns how readings become requests of an `LLM`, and calibration, also with an encoder beside the model. Knows no HTTP;
the server runs `decision_steps` by `reading_requests` in its event loop. Invariant: a reading is one request of one
token, whose log-probabilities are those of the model before any sampling.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from miaotui.encoder import Encoder
from miaotui.engine.reading.readers import whole
from miaotui.engine.request import RequestOptions
from miaotui.errors import DeadlineUnattainableError, FieldError, RequestError
from miaotui.llm import LLM
from miaotui.submission import Submission
from miaotui.tasks.calibration import CalibrationReport, report
from miaotui.tasks.decisions.decision import (
    Decision,
    DecisionOptions,
    LogitsRead,
    Questions,
    TokenReading,
    decision_steps,
)
from miaotui.tasks.decisions.likeness import OptionEncoder
from miaotui.tasks.decisions.option_trie import Tokens
from miaotui.tasks.decisions.questions import TypedQuestion
from miaotui.tasks.decisions.weights import SourcedOptions, fit_weights, kind_of, logits_of, weights_for
from miaotui.text.chat import ChatEncoder
from miaotui.text.tokenizers.tokenizer import Tokenizer
from miaotui.types import Completion, Deadline, SamplingParams

_NO_THOUGHT = {"enable_thinking": False}  # templates that know it leave the thought out


class ModelTokens:
    """Prompts and tokens of a chat model, as `DecisionTokens`."""

    def __init__(self, chat: ChatEncoder, tokenizer: Tokenizer, context: int) -> None:
        self._chat, self._tokenizer, self._context = chat, tokenizer, context
        if tokenizer.eos_id is None:
            raise RequestError("the model's tokenizer names no token that ends an answer: choose a chat model")
        self.end: int = tokenizer.eos_id

    def chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Return a conversation's token ids, ready for the assistant's turn."""
        return self._chat.encode(messages, options=_NO_THOUGHT, at_most=self._context)

    def option(self, text: str) -> Tokens:
        """Return the token ids of an option at the beginning of an answer."""
        return tuple(self._tokenizer.encode(text, special=False, whole=False, at_most=self._context))


def reading_requests(readings: Sequence[TokenReading]) -> list[tuple[Sequence[int], SamplingParams]]:
    """Return the prompt and the parameters of one request for each reading."""
    return [
        (reading.prompt, SamplingParams(max_tokens=1, logprobs=0, logprob_token_ids=reading.tokens, ignore_eos=True))
        for reading in readings
    ]


def logits_read(completion: Completion) -> LogitsRead:
    """Return what a finished request read."""
    return LogitsRead([each for _, each in completion.logprobs[0].top], completion.cached_tokens)


class Decider:
    """A chat model and the options of its decisions, for any number of threads.

    With an ``encoder`` (one, or an `OptionEncoder` of two) the likeness of input and options counts too. Models stay
    the caller's to close.
    """

    def __init__(
        self, llm: LLM, options: DecisionOptions | None = None, *, encoder: Encoder | OptionEncoder | None = None
    ) -> None:
        self.llm = llm
        self.options = options or DecisionOptions(model=llm.loop.model.path.name)
        self.encoder = OptionEncoder(encoder) if isinstance(encoder, Encoder) else encoder
        self._tokens = ModelTokens(llm.loop.model.chat, llm.tokenizer, llm.context)

    def decide(
        self, text: str, questions: Questions, *, threshold: float = 0.0, deadline_ms: float | None = None
    ) -> list[Decision]:
        """Return one decision for each question about ``text``; the rows of the text are computed once.

        A question that cannot be asked has an error. Raises `RequestError`, and `DeadlineUnattainableError` for what
        cannot be read by ``deadline_ms``.
        """
        began_s = time.perf_counter()
        encoder = self.encoder
        likeness = None if encoder is None else lambda asked: encoder.likeness(text, asked)
        steps = decision_steps(self._tokens, text, questions, replace(self.options, threshold=threshold), likeness)
        try:
            readings = next(steps)
            while True:
                readings = steps.send(self._read(readings, remaining(deadline_ms, began_s)))
        except StopIteration as ended:
            found: list[Decision] = ended.value
            return found

    def calibrate(self, examples: Iterable[tuple[str, TypedQuestion, str]]) -> CalibrationReport:
        """Fit the weights of logits and of likeness on held-out examples: text, question, and the right option's name.

        Kinds of question (with about as many options) get weights of their own as far as their examples say so. Without
        an encoder the weight of the logits is the inverse of a temperature. Returns the figures on these examples.
        Raises `RequestError`.
        """
        rows = [self._sourced(*each) for each in examples]
        if not rows:
            raise FieldError("examples", "calibration needs examples with their right options: give at least one")
        weights, by_kind = fit_weights(rows)
        self.options = replace(self.options, weights=weights, weights_by_kind=by_kind, calibrated=True)
        logits = [
            logits_of(each.log_probabilities, each.likeness, weights_for(each.kind, weights, by_kind)) for each in rows
        ]
        return report(padded_rows(logits), [each.right for each in rows])

    def _sourced(self, text: str, question: TypedQuestion, right: str) -> SourcedOptions:
        (found,) = self.decide(text, question)
        if found.error is not None or right not in found.probabilities:
            raise FieldError("examples", found.error or f"{right!r} is none of the question's options")
        return sourced(found, right)

    def _read(self, readings: Sequence[TokenReading], left_ms: float | None) -> list[LogitsRead]:
        requests = reading_requests(readings)
        deadline = None if left_ms is None else Deadline(left_ms)
        submission = Submission(
            [prompt for prompt, _ in requests], [params for _, params in requests], RequestOptions(deadline=deadline)
        )
        loop = self.llm.loop
        return [logits_read(each) for each in whole(loop, lambda: submission.submit(loop))]


def sourced(found: Decision, right: str) -> SourcedOptions:
    """Return a decision whose right option is known, as calibration takes it."""
    likeness = None if found.likeness is None else list(found.likeness.values())
    names = list(found.log_probabilities)
    kind = kind_of(found.kind, len(names))
    return SourcedOptions(list(found.log_probabilities.values()), likeness, names.index(right), kind)


def padded_rows(rows: Sequence[Sequence[float]]) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Return rows of different lengths as one array; what is missing is -inf."""
    width = max((len(row) for row in rows), default=0)
    found = np.full((len(rows), width), -np.inf)
    for place, row in enumerate(rows):
        found[place, : len(row)] = row
    return found


def remaining(deadline_ms: float | None, began_s: float) -> float | None:
    """Return the milliseconds that are left. Raises `DeadlineUnattainableError` for none."""
    if deadline_ms is None:
        return None
    left = deadline_ms - (time.perf_counter() - began_s) * 1e3
    if left <= 0:
        raise DeadlineUnattainableError(
            f"the questions cannot be answered within {deadline_ms:.0f} ms: give more time, or fewer questions",
            1.0,
            2 * deadline_ms,
        )
    return left
