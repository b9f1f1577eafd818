"""The engine of models that restore masked tokens: one text's pass at a time.

Owns which texts are under way and in which pages. Requests, their streams, ends and cancellation are `Engine`'s, so
`EngineLoop` and everything above it runs these models like any other. Texts with a promise come first, the earliest due
first; the others take turns, also in time that promises have to spare. What cannot be done for these models is
refused by name: choices that need a next token's logits (log-probabilities, penalties, grammars). Invariant: an answer
does not depend on other requests.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from miaotui.backends.backend import Backend, StepResult
from miaotui.backends.options import Built, EngineOptions
from miaotui.dmlm.decoding.decode import BLOCK, MAX_TOKENS, DecodeOptions, decode
from miaotui.dmlm.decoding.passes import TextPasses
from miaotui.dmlm.running_texts import RunningText, RunningTexts
from miaotui.engine.constraint import Constraint
from miaotui.engine.engine import Engine
from miaotui.engine.request import Request
from miaotui.errors import EngineError, MiaotuiError, OverloadedError, PromptTooLongError, RequestError
from miaotui.model.masked import MaskedConfig
from miaotui.schedule.plan import Chunk, Draft, Plan, RowKind, pages_for
from miaotui.schedule.promises.forecast import Job
from miaotui.text.tokenizers.tokenizer import Tokenizer
from miaotui.types import SamplingParams

if TYPE_CHECKING:  # imported by the first deadline: a start without one need not wait for them
    from miaotui.engine.slo_controller import Promises
    from miaotui.schedule.promises.admission import AdmissionLimits
    from miaotui.schedule.promises.cost import CostModel

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
            inner.capabilities, masks=False, drafts=False, draft_head=False, adapters=False, resumes=False
        )
        self.passes: list[tuple[Chunk, float]] = []  # of the step under way, with their seconds

    def run(self, plan: Plan, *arguments: Any, **options: Any) -> StepResult:
        """Run a plan of `RowKind.ENCODE` (see `Backend.run`). Raises `RequestError` for other rows."""
        if any(chunk.kind is not RowKind.ENCODE for chunk in plan.chunks):
            raise RequestError("the model restores masked tokens: it has no logits of a next token")
        result = self._inner.run(plan, *arguments, **options)
        self.passes += [(chunk, result.seconds / len(plan.chunks)) for chunk in plan.chunks]
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class MaskedStep(NamedTuple):
    """The passes of a step, with their seconds, and the tokens that stayed."""

    text: RunningText
    passes: Sequence[tuple[Chunk, float]]
    tokens: int
    is_first: bool  # of the text: its prompt was read


class MaskedEngine(Engine):
    """Runs requests of a model that restores masked tokens (see `Engine`)."""

    def __init__(
        self, parts: Built, tokenizer: Tokenizer, masked: MaskedConfig, options: DecodeOptions | None = None
    ) -> None:
        super().__init__(parts, tokenizer)
        self.masked, self._options = masked, options or DecodeOptions()
        limits = self.backend.limits
        each = pages_for(limits.context)
        count = max(min(limits.pages // each, MOST_TEXTS), 1)
        pages = [range(first * each, (first + 1) * each) for first in range(count)]
        self.texts = RunningTexts(pages, self._begin_text)
        self.spares: Callable[[Job], bool] = lambda _: True  # whether promises can spare a text's next pass
        self.job_under_way: Job | None = None  # the text of the running step, before it
        self.latest_step: MaskedStep | None = None

    def make_promises(self, cost: CostModel | None, limits: AdmissionLimits | None) -> Promises:
        """Return promises for this engine (see `Engine.make_promises`)."""
        from miaotui.dmlm.promises.controller import MaskedPromises  # noqa: PLC0415  (see above)

        return MaskedPromises(self, cost, limits)

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
        if not self.masked.block:  # all masks of the answer are there from the beginning
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
        text = self.texts.next([self._requests[number] for number in self._waiting], self.spares)
        if text is None:
            return False
        backend, before, passes = cast("MaskedBackend", self.backend), text.accepted, text.passes.passes
        self.job_under_way = text.job()
        backend.passes.clear()
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
        self.latest_step = MaskedStep(text, tuple(backend.passes), text.accepted - before, not passes)
        self.job_under_way = None
        return True

    def reset(self) -> None:
        """Begin anew after a fault (see `Engine.reset`)."""
        for text in list(self.texts):
            self.texts.leave(text.request)
        super().reset()

    def whole_blocks(self, request: Request, more: int) -> int:
        """Return the length of an answer that ends with a block, about ``more`` tokens from now.

        The block under way is always ended: its tokens do not come in order.
        """
        text, end = self.texts.find(request), len(request.token_ids) + more
        if text is None:
            return end
        block, offset = (self.masked.block, text.start) if self.masked.block else (BLOCK, 0)
        open_end = ((offset + text.shown) // block + 1) * block
        return max((offset + end) // block * block, open_end) - offset

    def _advance(self, text: RunningText) -> None:
        request, state = text.request, next(text.steps)
        answer = state.tokens[text.start :]
        tokens = answer[text.shown : state.final]
        text.shown, text.accepted = state.final, len(answer) - answer.count(self.masked.mask_id)
        text.is_moved = False
        if tokens:
            request.take_all(tokens, 1)
        if request.is_over:
            self.scheduler.cancel(request.number)
            self._forget(request)

    def _begin_text(self, request: Request, pages: range) -> RunningText:
        self._waiting.discard(request.number)
        request.timeline.begin()
        params = request.sampler.params
        chosen = {name: getattr(params, name) for name in CHOICES}
        options = replace(self._options, max_tokens=request.ending.max_tokens, **chosen)
        passes = TextPasses(self.backend, self.masked, pages=pages)
        return RunningText(request, passes, decode(passes, self.masked, request.prompt, options), pages)

    def _forget(self, request: Request) -> None:
        super()._forget(request)
        self.texts.leave(request)

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
