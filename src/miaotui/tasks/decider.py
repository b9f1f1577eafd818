"""A chat model that decides: `Decider.decide` reads the answers to typed questions from its logits.

Owns how readings become requests of an `LLM`, and calibration. Knows no HTTP; the server runs `decision_steps` by
`reading_requests` in its event loop. Invariant: a reading is one request of one token, whose log-probabilities are
those of the model before any sampling.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from miaotui.engine.reading.readers import whole
from miaotui.engine.request import RequestOptions
from miaotui.errors import DeadlineUnattainableError, FieldError, RequestError
from miaotui.llm import LLM
from miaotui.submission import Submission
from miaotui.tasks.calibration import CalibrationReport, fit_temperature, report
from miaotui.tasks.decisions import Decision, DecisionOptions, LogitsRead, Questions, TokenReading, decision_steps
from miaotui.tasks.option_trie import Tokens
from miaotui.tasks.questions import TypedQuestion
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
    """A chat model and the options of its decisions, for any number of threads. The model stays the caller's to close.

    ``options.temperature`` is 1 until `calibrate`.
    """

    def __init__(self, llm: LLM, options: DecisionOptions | None = None) -> None:
        self.llm = llm
        self.options = options or DecisionOptions(model=llm.loop.model.path.name)
        self._tokens = ModelTokens(llm.loop.model.chat, llm.tokenizer, llm.context)

    def decide(
        self, text: str, questions: Questions, *, threshold: float = 0.0, deadline_ms: float | None = None
    ) -> list[Decision]:
        """Return one decision for each question about ``text``; the rows of the text are computed once.

        A question that cannot be asked has an error. Raises `RequestError`, and `DeadlineUnattainableError` for what
        cannot be read by ``deadline_ms``.
        """
        began_s = time.perf_counter()
        steps = decision_steps(self._tokens, text, questions, replace(self.options, threshold=threshold))
        try:
            readings = next(steps)
            while True:
                readings = steps.send(self._read(readings, remaining(deadline_ms, began_s)))
        except StopIteration as ended:
            found: list[Decision] = ended.value
            return found

    def calibrate(self, examples: Iterable[tuple[str, TypedQuestion, str]]) -> CalibrationReport:
        """Fit the temperature on held-out examples: text, question, and the right option's name.

        Returns the figures at the new temperature. Raises `RequestError`.
        """
        self.options = replace(self.options, temperature=1.0, calibrated=False)
        rows: list[list[float]] = []
        targets = []
        for text, question, right in examples:
            (found,) = self.decide(text, question)
            if found.error is not None or right not in found.probabilities:
                raise FieldError("examples", found.error or f"{right!r} is none of the question's options")
            rows.append([float(np.log(max(each, 1e-30))) for each in found.probabilities.values()])
            targets.append(list(found.probabilities).index(right))
        padded = padded_rows(rows)
        temperature = fit_temperature(padded, targets)
        self.options = replace(self.options, temperature=temperature, calibrated=True)
        return report(padded, targets, temperature)

    def _read(self, readings: Sequence[TokenReading], left_ms: float | None) -> list[LogitsRead]:
        requests = reading_requests(readings)
        deadline = None if left_ms is None else Deadline(left_ms)
        submission = Submission(
            [prompt for prompt, _ in requests], [params for _, params in requests], RequestOptions(deadline=deadline)
        )
        loop = self.llm.loop
        return [logits_read(each) for each in whole(loop, lambda: submission.submit(loop))]


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
