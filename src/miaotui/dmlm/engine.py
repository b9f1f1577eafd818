"""The engine of models that restore masked tokens: requests take turns, one pass at a time.

Owns which texts are under way and in which pages. Requests, their streams, ends and cancellation are `Engine`'s, so
`EngineLoop` and everything above it runs these models like any other. What cannot be done for them is refused by name:
choices that need a next token's logits (log-probabilities, penalties, grammars) and promises of time, since
the passes of a block are not known before. Invariant: an answer does not depend on other requests.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, cast

from miaotui.backends.backend import Backend, StepResult
from miaotui.backends.options import Built, EngineOptions
from miaotui.dmlm.decoding.decode import MAX_TOKENS, DecodedPass, DecodeOptions, decode
from miaotui.dmlm.decoding.passes import TextPasses
from miaotui.engine.constraint import Constraint
from miaotui.engine.engine import Engine
from miaotui.engine.request import Request
from miaotui.errors import EngineError, MiaotuiError, OverloadedError, PromptTooLongError, RequestError
from miaotui.model.masked import MaskedConfig
from miaotui.schedule.plan import Draft, Plan, RowKind, pages_for
from miaotui.text.tokenizers.tokenizer import Tokenizer
from miaotui.types import SamplingParams

LEAST_LOGITS = 64  # rows of a pass with logits: two blocks of the usual length
MOST_TEXTS = 16  # under way at a time
MOST_REQUESTS = 256  # that wait or run
CHOICES = ("temperature", "top_k", "top_p", "min_p", "seed")  # of `SamplingParams` and `DecodeOptions` alike
FOLLOWED = {*CHOICES, "max_tokens", "stop", "stop_token_ids", "ignore_eos"}  # of `SamplingParams`


def sized_for(masked: MaskedConfig, options: EngineOptions) -> EngineOptions:
    """Return options with room for the logits of a block."""
    return replace(options, max_sequences=max(options.max_sequences, masked.block, LEAST_LOGITS))


def masked_parts(parts: Built, masked: MaskedConfig) -> Built:
    """Return an engine's parts whose backend says what it can do with these models."""
    return Built(cast("Backend", MaskedBackend(parts.backend, masked)), parts.scheduler)


class MaskedBackend:
    """A backend without what needs the next token; all else is the inner one's.

    Where positions all see each other, a text is one pass: the context is no longer than that.
    """

    def __init__(self, inner: Backend, masked: MaskedConfig) -> None:
        self._inner, limits = inner, inner.limits
        context = limits.context if masked.block else min(limits.context, limits.rows)
        self.limits = replace(limits, context=context, passes=1, run_tokens=1)
        self.capabilities = replace(
            inner.capabilities,
            promises=False,
            masks=False,
            drafts=False,
            draft_head=False,
            adapters=False,
            resumes=False,
        )

    def run(self, plan: Plan, *arguments: Any, **options: Any) -> StepResult:
        """Run a plan of `RowKind.ENCODE` (see `Backend.run`). Raises `RequestError` for other rows."""
        if any(chunk.kind is not RowKind.ENCODE for chunk in plan.chunks):
            raise RequestError("the model restores masked tokens: it has no logits of a next token")
        return self._inner.run(plan, *arguments, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


@dataclass
class RunningText:
    """One request's text under way; ``shown`` tokens of its answer were handed over."""

    request: Request
    pages: range
    steps: Iterator[DecodedPass]
    start: int = field(init=False)
    shown: int = 0

    def __post_init__(self) -> None:
        self.start = len(self.request.prompt)


class MaskedEngine(Engine):
    """Runs requests of a model that restores masked tokens (see `Engine`)."""

    def __init__(
        self, parts: Built, tokenizer: Tokenizer, masked: MaskedConfig, options: DecodeOptions | None = None
    ) -> None:
        super().__init__(parts, tokenizer)
        self._masked, self._options = masked, options or DecodeOptions()
        limits = self.backend.limits
        each = pages_for(limits.context)
        count = max(min(limits.pages // each, MOST_TEXTS), 1)
        self._free = deque(range(first * each, (first + 1) * each) for first in range(count))
        self._texts: deque[RunningText] = deque()  # the next one first

    def prepare(
        self,
        prompt: Sequence[int],
        params: SamplingParams,
        namespace: int = 0,
        constraint: Constraint | None = None,
        begun: Sequence[int] = (),
    ) -> Request:
        """Return a checked request (see `Engine.prepare`).

        Raises `RequestError` for what cannot be followed, `OverloadedError` where too many wait.
        """
        self._require_followed(params, constraint)
        if begun:
            raise RequestError(
                "answer_token_ids: an answer of a model that restores masked tokens cannot be taken up, since its "
                "tokens do not come in order: ask again with the same seed"
            )
        if self.in_flight >= MOST_REQUESTS:
            raise OverloadedError(f"{self.in_flight} requests wait or run already: ask again in a moment", 1.0)
        if not self._masked.block:  # all masks of the answer are there from the beginning
            room = self.context - len(prompt)
            limit = min(MAX_TOKENS, max(room, 1)) if params.max_tokens is None else params.max_tokens
            if limit > max(room, 1):
                raise PromptTooLongError(
                    f"prompt and answer have {len(prompt) + limit:,} tokens that all see each other, and a pass holds "
                    f"{self.context:,}: lower max_tokens, or load the model with a larger chunk_size"
                )
            params = replace(params, max_tokens=limit)
        return super().prepare(prompt, params, namespace)

    def step(self, drafts: Mapping[int, Draft] | None = None) -> bool:
        """Run one pass of the text whose turn it is; False when there is none."""
        self._begin_texts()
        if not self._texts:
            return False
        text = self._texts.popleft()
        self._texts.append(text)
        started_s = time.perf_counter()
        try:
            self._advance(text)
        except MiaotuiError as error:
            self._drop(text.request, error)
        except Exception as error:
            self.faults += 1
            fault = f"request {text.request.number} failed in a pass: {type(error).__name__}: {error}. Report this"
            self._drop(text.request, EngineError(fault))
        self.pass_s, self.passes = time.perf_counter() - started_s, 1
        return True

    def reset(self) -> None:
        """Begin anew after a fault (see `Engine.reset`)."""
        for text in list(self._texts):
            self._leave(text)
        super().reset()

    def _advance(self, text: RunningText) -> None:
        request, state = text.request, next(text.steps)
        tokens = state.tokens[text.start + text.shown : text.start + state.final]
        text.shown = state.final
        if tokens:
            request.take_all(tokens, 1)
        if request.is_over:
            self.scheduler.cancel(request.number)
            self._forget(request)

    def _begin_texts(self) -> None:
        """Give pages to requests that wait, in their order, as far as there are any."""
        for number in sorted(self._waiting) if self._free else ():
            if not self._free:
                return
            request, pages = self._requests[number], self._free.popleft()
            self._waiting.discard(number)
            request.timeline.begin()
            self._texts.append(RunningText(request, pages, self._decoding(request, pages)))

    def _decoding(self, request: Request, pages: range) -> Iterator[DecodedPass]:
        params = request.sampler.params
        chosen = {name: getattr(params, name) for name in CHOICES}
        options = replace(self._options, max_tokens=request.ending.max_tokens, **chosen)
        return decode(TextPasses(self.backend, self._masked, pages=pages), self._masked, request.prompt, options)

    def _forget(self, request: Request) -> None:
        super()._forget(request)
        for text in [each for each in self._texts if each.request is request]:
            self._leave(text)

    def _leave(self, text: RunningText) -> None:
        self._texts.remove(text)
        self._free.append(text.pages)

    @staticmethod
    def _require_followed(params: SamplingParams, constraint: Constraint | None) -> None:
        if constraint is not None:
            raise RequestError("the model restores masked tokens in any order: no grammar, schema or tool can hold it")
        plain = SamplingParams()
        for each in fields(SamplingParams):
            if each.name not in FOLLOWED and getattr(params, each.name) != getattr(plain, each.name):
                raise RequestError(
                    f"{each.name}: the model restores masked tokens, and follows {', '.join(sorted(FOLLOWED))} only; "
                    "leave it out"
                )
