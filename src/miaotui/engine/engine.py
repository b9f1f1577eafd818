"""Continuous batching in three calls: plan which rows, run them, commit the chosen tokens.

Owns the requests in flight. Not safe for several threads at once: one thread steps it. Invariant: every submitted
request ends exactly once, and its answer does not depend on other requests.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from miaotui.backends.backend import Masks, Sampling, StepResult
from miaotui.backends.drafting import DraftResult
from miaotui.backends.options import Built
from miaotui.engine.constraint import Constraint, check_endings
from miaotui.engine.output import Ending
from miaotui.engine.request import Request
from miaotui.engine.sampling.logprobs import scores_for
from miaotui.engine.sampling.sampler import SequenceSampler, end_ids
from miaotui.engine.speculator import MultistepDraft, Proposal, Speculator
from miaotui.errors import EngineError, MiaotuiError, PromptTooLongError, RequestError, StageLostError
from miaotui.kernels.draft.draft_fields import MAX_DRAFT
from miaotui.schedule.plan import NO_LIMITS, Chunk, Draft, Plan, RowKind, affordable
from miaotui.schedule.scheduler import Scheduler
from miaotui.text.tokenizers.tokenizer import Tokenizer
from miaotui.types import SamplingParams

if TYPE_CHECKING:  # imported by the first deadline: a start without one need not wait for them
    from miaotui.engine.slo_controller import Promises
    from miaotui.schedule.promises.admission import AdmissionLimits
    from miaotui.schedule.promises.cost import CostModel

FRAME_S = 1 / 60  # passes may follow each other for so long: a reader's screen shows nothing in between

Drafts = Mapping[int, Draft]  # drafted tokens by request number


@dataclass(frozen=True)
class RequestPreparation:
    """The bounds that requests of one model are checked against, by an engine here or one elsewhere."""

    context: int  # tokens of the longest prompt plus answer
    vocab_size: int
    tokenizer: Tokenizer
    sampling: Sampling
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def prepare(
        self,
        prompt: Sequence[int],
        params: SamplingParams,
        namespace: int = 0,
        constraint: Constraint | None = None,
        begun: Sequence[int] = (),
    ) -> Request:
        """Return a checked request, not queued yet; prefixes are reused within a ``namespace`` only.

        ``begun`` are tokens of the answer that are known already: what follows is what would have followed them.
        Raises `PromptTooLongError`, or `RequestError` for tokens that the model does not have and parameters that no
        grammar can go with.
        """
        is_answered = params.max_tokens != 0
        whole = [*prompt, *begun] if begun else prompt
        self._check(whole, is_answered)
        if constraint is not None and constraint.decides_end:
            check_endings(params)
        room = self.context - len(prompt)
        limit = room if params.max_tokens is None else min(params.max_tokens, room)
        if params.min_tokens > limit:
            raise RequestError(f"min_tokens is {params.min_tokens}, and the context has room for {limit} more tokens")
        if begun and len(begun) >= limit:
            raise RequestError(f"the answer has {len(begun)} tokens already, and its limit is {limit}")
        ends = end_ids(params, self.tokenizer.eos_ids, self.vocab_size)
        sampler = SequenceSampler(params, prompt, self.tokenizer.eos_ids, self.vocab_size, self.sampling)
        left = replace(params, min_tokens=max(params.min_tokens - len(begun), 0)) if begun else params
        ending = Ending(left, ends, max(limit - len(begun), 1), self.tokenizer.stream(start=True))
        scores = None if params.prompt_logprobs is None else scores_for(prompt, params, self.sampling)
        parts = next(self._numbers), whole, sampler, ending
        request = Request(*parts, namespace=namespace, constraint=constraint, scores=scores, is_answered=is_answered)
        if begun:
            request.resume(begun)
        return request

    def _check(self, prompt: Sequence[int], is_answered: bool) -> None:
        if not prompt:
            raise RequestError("the prompt has no tokens: give at least one")
        if len(prompt) + is_answered > self.context:
            raise PromptTooLongError(
                f"the prompt has {len(prompt)} tokens and the context holds {self.context}, the "
                "answer included: shorten the prompt, or load the model with a larger context"
            )
        wrong = next((each for each in (min(prompt), max(prompt)) if not 0 <= each < self.vocab_size), None)
        if wrong is not None:
            raise RequestError(
                f"the prompt holds token id {wrong}, and this model's ids go from 0 to "
                f"{self.vocab_size - 1}: use this model's own tokenizer"
            )


class Engine:
    """Runs many requests together: `submit`, then `step` until nothing is left; `cancel` at any time between."""

    def __init__(self, parts: Built, tokenizer: Tokenizer, speculation: Speculator | None = None) -> None:
        self.parts, self.speculation = parts, speculation
        self.backend, self.scheduler, self.tokenizer = parts.backend, parts.scheduler, tokenizer
        self._sizes = parts.backend.limits
        self.context = self._sizes.context
        self._draft_rows = self._sizes.draft_rows
        self._vocab_size = self._sizes.vocab_size
        self._preparation = RequestPreparation(self.context, self._vocab_size, tokenizer, self.backend.sampling)
        self._requests: dict[int, Request] = {}
        self._waiting: set[int] = set()  # numbers of requests that no step has computed for
        self.latest = Plan(())  # what the last step ran
        self.drafted_in_run = False  # whether the backend drafted in it: the rows of its passes are unknown
        self.choosing_s = 0.0  # spent on logits, a draft head's too, since the start
        self.faults = 0  # passes that failed
        self.limits = NO_LIMITS  # of the next steps
        self.pass_s, self.passes = 0.0, 1  # of the last step: seconds of arithmetic, and the passes it took
        self._decode_pass_s = math.inf  # of the last pass without prompts

    def submit(self, prompt: Sequence[int], params: SamplingParams, namespace: int = 0) -> Request:
        """Queue a request: `prepare`, then `enter`."""
        request = self.prepare(prompt, params, namespace)
        self.enter(request)
        return request

    def prepare(
        self,
        prompt: Sequence[int],
        params: SamplingParams,
        namespace: int = 0,
        constraint: Constraint | None = None,
        begun: Sequence[int] = (),
    ) -> Request:
        """Return a checked request, not queued yet, see `RequestPreparation.prepare`; from any thread at any time."""
        return self._preparation.prepare(prompt, params, namespace, constraint, begun)

    def enter(self, request: Request) -> None:
        """Queue a prepared request. Raises what `Scheduler.add` raises."""
        tokens, limit = request.prompt, request.ending.max_tokens
        if not request.is_answered:  # its last token takes the place of an answer: no row is computed for it
            tokens, limit = tokens[: max(len(tokens) - 1, 1)], 1
        score_from = None if request.scores is None else request.scores.score_from
        named = request.namespace, request.due, score_from, request.adapter
        self.scheduler.add(request.number, tokens, limit, *named)
        self._requests[request.number] = request
        self._waiting.add(request.number)
        if self.speculation is not None and request.is_answered:
            self.speculation.enter(request)

    def step(self, drafts: Drafts | None = None) -> bool:
        """Advance every running request by one pass or several; False when there was nothing to do.

        ``drafts`` replaces what ``speculation`` would propose. A fault in the pass fails the requests that it
        touched, with the reason, and leaves the others.
        """
        started_s = time.perf_counter()
        proposal = self._propose() if drafts is None else Proposal(drafts)
        self.latest = plan = self._plan(proposal)
        if not plan.chunks:
            return False
        self._begin(plan)
        run = proposal.run if plan.passes > 1 else None
        self.drafted_in_run = run is not None
        try:
            result = self._run(plan) if run is None else self._run_drafting(plan, run)
        except Exception as error:
            self._fail(plan, error)
            return True
        self.pass_s, self.passes = result.seconds, result.passes
        self._commit(plan, result, started_s)
        return True

    def _propose(self) -> Proposal:
        """Return drafts for the next step, if the engine speculates."""
        if self.speculation is None:
            return Proposal({})
        before_s = self.speculation.computing_s
        passes = 1 if self.backend.is_tuning else self._passes_of_run()
        proposal = self.speculation.propose(self.latest.prompt_rows, passes)
        self.choosing_s += self.speculation.computing_s - before_s
        return proposal

    def _plan(self, proposal: Proposal) -> Plan:
        """Return the rows of the next step: with drafts one pass, without as many as may follow each other."""
        drafts = affordable(proposal.drafts, self._draft_rows, self._vocab_size) if proposal.drafts else {}
        passes = 1 if drafts else self._most_passes(proposal)
        return self.scheduler.plan(drafts, self.limits, passes)

    def _run(self, plan: Plan) -> StepResult:
        """Run the plan's passes."""
        choices = [self._requests[chunk.sequence].choice_for(chunk) for chunk in plan.chunks]
        result = self.backend.run(plan, choices, self._masks(plan))
        usual = 1 + MAX_DRAFT  # rows of a chunk, as runs have them
        if all(chunk.kind is RowKind.DECODE and chunk.n_logits <= usual for chunk in plan.chunks):
            self._decode_pass_s = result.seconds / result.passes
        return result

    def _run_drafting(self, plan: Plan, run: MultistepDraft) -> DraftResult:
        """Run passes of the one running request, between which the backend drafts."""
        (chunk,) = plan.chunks
        draft_run = run.begin(chunk.start, plan.passes)
        request = self._requests[chunk.sequence]
        choice = request.choice_for(chunk)
        result = self.backend.run_drafting(chunk, choice, plan.passes, run.passes, draft_run, run.watch, run.quote)
        self._decode_pass_s = result.seconds / result.passes
        if request.origins is not None:
            request.note_sources(run.sources(result.passes))
        return result

    def _commit(self, plan: Plan, result: StepResult | DraftResult, started_s: float) -> None:
        """Choose tokens, hand them to requests, scheduler and speculation, and forget the requests that have ended."""
        drafted = isinstance(result, DraftResult)
        chosen = self._keep(plan, result) if isinstance(result, DraftResult) else self._choose(plan, result)
        self.scheduler.commit(plan, chosen)
        if self.speculation is not None and drafted and chosen:
            self.speculation.note_run(chosen[plan.chunks[0].sequence], result.passes)
        elif self.speculation is not None and not drafted:
            spent_s = time.perf_counter() - started_s
            self.speculation.note(plan, chosen, spent_s / result.passes, result.passes)
        self._retire(plan)

    def _keep(self, plan: Plan, result: DraftResult) -> dict[int, Sequence[int]]:
        """Return the tokens of a run that drafted, as far as they belong to the answer; none if the request failed."""
        request = self._requests[plan.chunks[0].sequence]
        try:
            return {request.number: request.take_all(result.tokens, result.passes, result.broken)}
        except MiaotuiError as error:
            self._drop(request, error)
            return {}

    def _passes_in_time(self) -> int:
        """Return how many passes may follow each other before a reader would see a difference."""
        return min(self._sizes.passes, int(FRAME_S / max(self._decode_pass_s, 1e-6)))

    def _passes_of_run(self) -> int:
        """Return the passes of a run that drafts: two where one is in time, because a long draft takes longer."""
        passes = self._passes_in_time()
        return min(2, self._sizes.passes) if passes == 1 else passes

    def _most_passes(self, proposal: Proposal) -> int:
        """Return how many passes may follow each other before the engine must look at their tokens."""
        if self.backend.is_tuning:
            return 1
        if proposal.run is not None:
            most = min(proposal.run.max_tokens, self._sizes.run_tokens)
        else:
            most = self._passes_in_time() if proposal.allows_multistep else 1
        for request in self._requests.values():
            if most <= 1 or not request.choice:
                return 1
            most = min(most, max(request.ending.max_tokens - len(request.token_ids), 1))
        return most

    def _masks(self, plan: Plan) -> Masks | None:
        """Return a function that sets the constraints' masks in each pass; None if no request has a constraint."""
        bound = [
            (row, request)
            for row, chunk in enumerate(plan.chunks)
            if (request := self._requests[chunk.sequence]).constraint is not None
            and request.choice
            and chunk.n_logits == 1
            and not chunk.n_scored
        ]
        speculates = self.speculation is not None

        def masks(tokens: Sequence[int]) -> bool:
            going = True
            for row, request in bound:  # each has a mask to set, whatever the others return
                going &= request.go_on(tokens[row] if tokens else None, speculates)
            return going

        return masks if bound else None

    def _begin(self, plan: Plan) -> None:
        if not self._waiting:
            return
        for number in self._waiting.intersection(chunk.sequence for chunk in plan.chunks):
            self._requests[number].timeline.begin()
            self._waiting.discard(number)

    def _choose(self, plan: Plan, result: StepResult) -> dict[int, Sequence[int]]:
        """Return the tokens each sequence gets, from its rows of the logits."""
        chosen: dict[int, Sequence[int]] = {}
        row, earlier = 0, result.earlier
        for chunk in plan.chunks:
            if chunk.n_scored:
                self._score(chunk, result, row)
                row += chunk.n_scored
            if chunk.n_logits:
                tokens = self._take(chunk, result, row, earlier[row] if earlier else ())
                row += chunk.n_logits
                if tokens:
                    chosen[chunk.sequence] = tokens
        return chosen

    def _take(self, chunk: Chunk, result: StepResult, first: int, earlier: Sequence[int]) -> Sequence[int]:
        """Return one sequence's tokens; none if it failed, and then it is forgotten."""
        request = self._requests.get(chunk.sequence)
        if request is None:  # it failed while its prompt was scored
            return []
        if not request.token_ids:
            request.cached_tokens = self.scheduler.cached_tokens(chunk.sequence)
        before_s = request.choosing_s
        try:
            if not request.is_answered:
                return request.end_with_prompt(result.logits, result.chosen, first)
            return request.take(result.logits, result.chosen, first, chunk, earlier)
        except MiaotuiError as error:
            self._drop(request, error)
        except Exception as error:
            self._drop(request, _fault(request, "while its token was chosen", error))
        finally:
            self.choosing_s += request.choosing_s - before_s
        return []

    def _score(self, chunk: Chunk, result: StepResult, first: int) -> None:
        """Score the chunk's prompt tokens; a request whose logits are broken fails."""
        request = self._requests[chunk.sequence]
        before_s = time.perf_counter()
        try:
            request.take_scores(result.logits, result.chosen, first, chunk.n_scored)
        except MiaotuiError as error:
            self._drop(request, error)
        except Exception as error:
            self._drop(request, _fault(request, "while its prompt was scored", error))
        self.choosing_s += time.perf_counter() - before_s

    def _retire(self, plan: Plan) -> None:
        """Forget the requests that have ended."""
        for chunk in plan.chunks:
            request = self._requests.get(chunk.sequence)
            if request is not None and request.finish_reason is not None:
                self.scheduler.cancel(chunk.sequence)
                self._forget(request)

    def _forget(self, request: Request) -> None:
        self._waiting.discard(request.number)
        if self._requests.pop(request.number, None) is not None and self.speculation is not None:
            self.speculation.leave(request)

    def _fail(self, plan: Plan, error: Exception) -> None:
        if isinstance(error, StageLostError):  # with the keys and values of all requests
            raise error
        self.faults += 1
        for request in [self._requests[chunk.sequence] for chunk in plan.chunks]:
            self._drop(request, _fault(request, "in a pass", error))

    def _drop(self, request: Request, error: MiaotuiError) -> None:
        self.scheduler.cancel(request.number)
        request.end("failed", error)
        self._forget(request)

    def make_promises(self, cost: CostModel | None, limits: AdmissionLimits | None) -> Promises:
        """Return promises for this engine; without ``cost`` its passes are measured now."""
        from miaotui.engine.slo_controller import Promises  # noqa: PLC0415  (see above)

        return Promises(self, cost, limits)

    def cancel(self, request: Request) -> None:
        """End a request now, if it has not ended; its pages are free when this returns."""
        if request.number in self._requests:
            self.scheduler.cancel(request.number)
            request.end("cancelled")
            self._forget(request)

    def cancel_all(self) -> None:
        """End every request now."""
        for request in list(self._requests.values()):
            self.cancel(request)

    def reset(self) -> None:
        """Begin anew after a fault: no requests, empty pages. Raises if a pass cannot be run."""
        for request in list(self._requests.values()):
            self._forget(request)
        self.latest = Plan(())
        self.scheduler = Scheduler(self.scheduler.config)
        self.try_pass()

    def try_pass(self) -> None:
        """Run a pass of one row of no sequence. Raises what is wrong."""
        self.backend.probe()

    @property
    def in_flight(self) -> int:
        """Return the number of requests that have not ended."""
        return len(self._requests)


def _fault(request: Request, where: str, error: Exception) -> EngineError:
    fault = EngineError(
        f"request {request.number} failed {where}: {type(error).__name__}: {error}. "
        "Others are not affected; please report this"
    )
    fault.__cause__ = error
    return fault
