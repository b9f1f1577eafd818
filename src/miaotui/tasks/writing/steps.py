"""Steps of a task that a chat model writes for: which requests, then what becomes of their answers.

Owns the values that pass between a task and the code that runs a model. Knows neither threads nor HTTP. Invariants: a
task is a generator that asks for answers and returns its result, so that one code serves `LLM` and servers; a request
that cannot be made is thrown into its own task alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from miaotui.engine.grammar.source import Grammar
from miaotui.errors import PromptTooLongError
from miaotui.text.chat import ChatEncoder
from miaotui.text.tokenizers.tokenizer import Tokenizer
from miaotui.types import Completion, SamplingParams

Result = TypeVar("Result")
NO_THOUGHT: Mapping[str, Any] = {"enable_thinking": False}  # templates that know it leave the thought out


@dataclass(frozen=True)
class WriteRequest:
    """Conversation whose next turn is wanted. ``begun`` is the beginning of the answer, which is not written again.

    ``grammar`` holds the answer to a form; ``passages`` are texts that it may quote (drafts are taken from them).
    """

    messages: Sequence[Mapping[str, str]]
    params: SamplingParams
    grammar: Grammar | None = None
    begun: str = ""
    passages: Sequence[str] = ()


@dataclass(frozen=True)
class WrittenAnswer:
    """Answer to a `WriteRequest`. ``is_cut``: it ended at its limit of tokens.

    ``probability`` is the geometric mean of its tokens' probabilities, 0 where none were asked for; ``logprobs`` are
    those of its tokens in nats, each with the byte of the text at which it ends.
    """

    text: str
    is_cut: bool = False
    probability: float = 0.0
    prompt_tokens: int = 0
    tokens: int = 0
    logprobs: tuple[tuple[int, float], ...] = ()

    def probability_of(self, start: int, end: int) -> float:
        """Return the geometric mean of the probabilities of the tokens in characters ``[start, end)`` of the text."""
        first, last = (len(self.text[:place].encode()) for place in (start, end))
        begins = (0, *(place for place, _ in self.logprobs))
        tokens = zip(begins, self.logprobs, strict=False)
        inside = [logprob for begin, (end_byte, logprob) in tokens if begin < last and end_byte > first]
        return math.exp(sum(inside) / len(inside)) if inside else 0.0


WriteSteps = Generator[Sequence[WriteRequest], Sequence[WrittenAnswer], Result]


@dataclass(frozen=True)
class PromptEncoder:
    """Encoder of requests into one model's prompts."""

    chat: ChatEncoder
    tokenizer: Tokenizer
    context: int

    def prompt(self, request: WriteRequest) -> list[int]:
        """Return a request's token ids. Raises `PromptTooLongError` where no room is left for the answer."""
        tokens = self.chat.encode(request.messages, options=NO_THOUGHT, begun=request.begun, at_most=self.context)
        room = self.context - len(tokens)
        wanted = request.params.max_tokens or 1
        if room < wanted:
            raise PromptTooLongError(
                f"the text has {len(tokens)} tokens with its instruction, and the answer may have {wanted}: "
                f"the model takes {self.context} together; give a shorter text"
            )
        return tokens

    def passages(self, request: WriteRequest) -> list[list[int]]:
        """Return the token ids of the texts that the answer may quote."""
        return [self.tokenizer.encode(each, special=False) for each in request.passages]


def answer_of(completion: Completion, tokenizer: Tokenizer) -> WrittenAnswer:
    """Return a finished request's answer."""
    ends: list[tuple[int, float]] = []
    place = 0
    for each in completion.logprobs:
        place += len(tokenizer.token_bytes(each.token_id))
        ends.append((place, each.logprob))
    mean = math.exp(sum(logprob for _, logprob in ends) / len(ends)) if ends else 0.0
    return WrittenAnswer(
        completion.text,
        completion.finish_reason == "length",
        mean,
        completion.prompt_tokens,
        len(completion.token_ids),
        tuple(ends),
    )


@dataclass
class RunningTask:
    """Task in progress: its steps, the requests that it waits for, and its result once it is over."""

    steps: WriteSteps[Any]
    requests: Sequence[WriteRequest] = ()
    result: Any = None
    is_over: bool = False
    began_s: float = field(default_factory=time.perf_counter)

    def start(self) -> RunningTask:
        """Run to the first requests and return self."""
        self._go(None)
        return self

    def send(self, answers: Sequence[WrittenAnswer]) -> None:
        """Go on with the answers to the requests."""
        self._go(answers)

    def throw(self, error: Exception) -> None:
        """Go on with the reason why a request cannot be made; a task that does not take it raises it."""
        try:
            self.requests = self.steps.throw(error)
        except StopIteration as ended:
            self._end(ended.value)

    def _go(self, answers: Sequence[WrittenAnswer] | None) -> None:
        try:
            self.requests = next(self.steps) if answers is None else self.steps.send(answers)
        except StopIteration as ended:
            self._end(ended.value)

    def _end(self, result: Any) -> None:
        self.result, self.is_over, self.requests = result, True, ()
