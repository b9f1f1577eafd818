"""Continuous batching in three calls: plan which rows, run them, commit what was chosen.

Owns the requests in flight. Not safe for several threads at once: whoever holds it steps it.
Invariant: every submitted request ends exactly once, and its answer does not depend on what ran
beside it.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Mapping, Sequence

from miaotui.backends.backend import Masks, StepResult
from miaotui.backends.options import Built
from miaotui.engine.constraint import Constraint, check_endings
from miaotui.engine.logprobs import scores_for
from miaotui.engine.request import Request
from miaotui.engine.sampler import SequenceSampler, end_ids
from miaotui.engine.stopping import Ending
from miaotui.errors import EngineError, MiaotuiError, PromptTooLongError, RequestError
from miaotui.kernels.draft.draft_fields import LONGEST
from miaotui.schedule.plan import NO_LIMITS, Chunk, Plan, RowKind
from miaotui.schedule.scheduler import Scheduler
from miaotui.schedule.tree import Draft, DraftTree
from miaotui.speculation.controller import Speculation
from miaotui.speculation.multistep import MultistepDrafting
from miaotui.text.tokenizers.tokenizer import Tokenizer
from miaotui.types import SamplingParams

UNSEEN_S = 1 / 60  # that passes may follow each other: one frame of a screen

Drafts = Mapping[int, Draft]  # request number -> the tokens it may get next


class Engine:
    """Runs many requests together.

    `submit`, then `step` until nothing is left; `cancel` at any time between.
    """

    def __init__(self, parts: Built, tokenizer: Tokenizer, speculation: Speculation | None = None) -> None:
        self.parts, self.speculation = parts, speculation
        self.backend, self.scheduler, self.tokenizer = parts.backend, parts.scheduler, tokenizer
        self._sizes = parts.backend.limits
        self.context = self._sizes.context
        self._draft_rows = self._sizes.draft_rows
        self._vocab_size = self._sizes.vocab_size
        self._requests: dict[int, Request] = {}
        self._waiting: set[int] = set()  # numbers of requests that no step has computed for
        self._numbers = itertools.count()
        self.latest = Plan(())  # what the last step ran
        self.went_ahead = False  # whether a draft head guessed within it
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
        self, prompt: Sequence[int], params: SamplingParams, namespace: int = 0, constraint: Constraint | None = None
    ) -> Request:
        """A checked request, not queued yet; prefixes are reused within a ``namespace`` only.

        May be called from any thread at any time. Raises `PromptTooLongError`, or `RequestError`
        for tokens that the model does not have and parameters that no grammar can go with.
        """
        is_answered = params.max_tokens != 0
        self._check(prompt, is_answered)
        if constraint is not None and constraint.decides_end:
            check_endings(params)
        room = self.context - len(prompt)
        limit = room if params.max_tokens is None else min(params.max_tokens, room)
        ends = end_ids(params, self.tokenizer.eos_ids, self._vocab_size)
        sampler = SequenceSampler(params, prompt, self.tokenizer.eos_ids, self._vocab_size, self.backend.sampling)
        ending = Ending(params, ends, max(limit, 1), self.tokenizer.stream(start=True))
        return Request(
            next(self._numbers),
            prompt,
            sampler,
            ending,
            namespace=namespace,
            constraint=constraint,
            scores=scores_for(prompt, params, self.backend.sampling),
            is_answered=is_answered,
        )

    def enter(self, request: Request) -> None:
        """Queue a prepared request. Raises what `Scheduler.add` raises."""
        tokens, limit = request.prompt, request.ending.max_tokens
        if not request.is_answered:  # its last token takes the place of an answer: no row is computed for it
            tokens, limit = tokens[: max(len(tokens) - 1, 1)], 1
        score_from = None if request.scores is None else request.scores.score_from
        self.scheduler.add(request.number, tokens, limit, request.namespace, request.due, score_from)
        self._requests[request.number] = request
        self._waiting.add(request.number)
        if self.speculation is not None and request.is_answered:
            self.speculation.enter(request)

    def _check(self, prompt: Sequence[int], is_answered: bool) -> None:
        if not prompt:
            raise RequestError("the prompt has no tokens: give at least one")
        if len(prompt) + is_answered > self.context:
            raise PromptTooLongError(
                f"the prompt has {len(prompt)} tokens and the context holds {self.context}, the "
                "answer included: shorten the prompt, or load the model with a larger context"
            )
        low, high = min(prompt), max(prompt)
        if low < 0 or high >= self._vocab_size:
            wrong = low if low < 0 else high
            raise RequestError(
                f"the prompt holds token id {wrong}, and this model's ids go from 0 to "
                f"{self._vocab_size - 1}: use this model's own tokenizer"
            )

    def step(self, drafts: Drafts | None = None) -> bool:
        """Advance every running request by one pass; False when there was nothing to do.

        ``drafts`` proposes next tokens by request number, lines or trees, instead of what
        ``speculation`` would; they change speed, never an answer. A fault in the pass fails the
        requests it touched, with the reason, and leaves the others.
        """
        started_s = time.perf_counter()
        if drafts is None and self.speculation is not None:
            before_s = self.speculation.computing_s
            together = self._in_a_run() > 1 and not self.backend.is_tuning
            drafts = self.speculation.propose(self.latest.prompt_rows, together)
            self.choosing_s += self.speculation.computing_s - before_s
        affordable = self._affordable(drafts) if drafts else {}
        ahead = None if self.speculation is None else self.speculation.ahead
        if ahead is not None and (ahead.following is None or affordable):
            ahead = None
        passes = 1 if affordable else self._most_passes(ahead)
        self.latest = plan = self.scheduler.plan(affordable, self.limits, passes)
        if not plan.chunks:
            return False
        if self._waiting:
            self._begin(plan)
        self.went_ahead = ahead is not None and plan.passes > 1
        if ahead is not None and self.went_ahead:
            return self._run_ahead(plan, ahead)
        try:
            choices = [self._requests[chunk.sequence].choice_for(chunk) for chunk in plan.chunks]
            result = self.backend.run(plan, choices, self._masks(plan))
        except Exception as error:
            self._fail(plan, error)
            return True
        self.pass_s, self.passes = result.seconds, result.passes
        chosen = self._choose(plan, result)
        self.scheduler.commit(plan, chosen)
        if self.speculation is not None:
            spent_s = time.perf_counter() - started_s
            self.speculation.note(plan, chosen, spent_s / self.passes, self.passes)
        usual = 1 + LONGEST  # rows of a chunk, as runs have them
        if all(chunk.kind is RowKind.DECODE and chunk.n_logits <= usual for chunk in plan.chunks):
            self._decode_pass_s = self.pass_s / self.passes
        self._retire(plan)
        return True

    def _run_ahead(self, plan: Plan, ahead: MultistepDrafting) -> bool:
        """A step of several passes, for one request whose tokens a draft head guesses meanwhile."""
        (chunk,), speculation = plan.chunks, self.speculation
        assert speculation is not None, "it is who guesses"
        request = self._requests[chunk.sequence]
        try:
            guessing = ahead.set_out(chunk.start, plan.passes)
            choice, watch = request.choice_for(chunk), ahead.watch if ahead.is_watched else None
            result = self.backend.run_drafting(
                chunk, choice, plan.passes, self._in_a_run(), guessing, watch, ahead.quote
            )
        except Exception as error:
            self._fail(plan, error)
            return True
        self.pass_s, self.passes, kept = result.seconds, result.passes, list[int]()
        try:
            kept = request.take_all(result.tokens, result.passes, result.broken)
        except MiaotuiError as error:
            self._drop(request, error)
        self.scheduler.commit(plan, {chunk.sequence: kept})
        if request.number in self._requests:
            speculation.note_run(result.tokens, result.passes)
        self._decode_pass_s = self.pass_s / self.passes
        self._retire(plan)
        return True

    def _in_time(self) -> int:
        """Passes that may follow each other before a reader would see a difference."""
        return min(self._sizes.passes, int(UNSEEN_S / max(self._decode_pass_s, 1e-6)))

    def _in_a_run(self) -> int:
        """The same for a run in which tokens are guessed: two where one is in time, for a long draft takes longer."""
        most = self._in_time()
        return min(2, self._sizes.passes) if most == 1 else most

    def _most_passes(self, ahead: MultistepDrafting | None = None) -> int:
        """How many may follow each other before anybody has to look at what they bring.

        No more than take `UNSEEN_S`, and than bring each answer to its end; one while a token waits for a
        choice that the pass cannot make, or while guesses pay. Where a head goes ``ahead`` it is the number of
        tokens that they may bring.
        """
        if self.backend.is_tuning:
            return 1
        if ahead is not None:
            most = min(self._in_a_run() * (1 + LONGEST), self._sizes.run_tokens)
        elif self.speculation is not None and self.speculation.pays:
            return 1
        else:
            most = self._in_time()
        for request in self._requests.values():
            if most <= 1 or not request.choice:
                return 1
            most = min(most, max(request.ending.max_tokens - len(request.token_ids), 1))
        return most

    def _masks(self, plan: Plan) -> Masks | None:
        """Who has to be asked in each pass: constraints, which say what tokens may come."""
        bound = [
            (row, request)
            for row, chunk in enumerate(plan.chunks)
            if (request := self._requests[chunk.sequence]).constraint is not None
            and request.choice
            and chunk.n_logits == 1
            and not chunk.n_scored
        ]
        guessing = self.speculation is not None

        def masks(tokens: Sequence[int]) -> bool:
            going = True
            for row, request in bound:  # each has a mask to set, whatever the others say
                going &= request.go_on(tokens[row] if tokens else None, guessing)
            return going

        return masks if bound else None

    def _begin(self, plan: Plan) -> None:
        for number in self._waiting.intersection(chunk.sequence for chunk in plan.chunks):
            self._requests[number].begin()
            self._waiting.discard(number)

    def _affordable(self, drafts: Drafts) -> Drafts:
        """The drafts as far as there are rows of logits to verify them, oldest request first.

        A draft ends before a token that the model does not have: the pass trusts its tokens.
        """
        left = self._draft_rows
        kept: dict[int, Draft] = {}
        for number in sorted(drafts):
            draft = drafts[number]
            if isinstance(draft, DraftTree):
                draft = draft.kept(self._is_known).cut(left, len(draft))
            else:
                draft = draft[:left]
                known = [0 <= token < self._vocab_size for token in draft]
                draft = draft if all(known) else draft[: known.index(False)]
            kept[number] = draft
            left -= len(draft)
        return kept

    def _is_known(self, token: int, depth: int) -> bool:
        return 0 <= token < self._vocab_size

    def _choose(self, plan: Plan, result: StepResult) -> dict[int, Sequence[int]]:
        """The tokens each sequence gets, from its rows of the logits."""
        chosen: dict[int, Sequence[int]] = {}
        row, earlier = 0, result.earlier
        for chunk in plan.chunks:
            if chunk.n_scored:
                self._score(chunk, result, row)
                row += chunk.n_scored
            if chunk.n_logits:
                before = earlier[row] if earlier else ()
                tokens = self._take(chunk, result, row, before)
                row += chunk.n_logits
                if tokens:
                    chosen[chunk.sequence] = tokens
        return chosen

    def _take(self, chunk: Chunk, result: StepResult, first: int, earlier: Sequence[int]) -> Sequence[int]:
        """One sequence's tokens; none if it failed, and then it is forgotten."""
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
        """Forget those that have ended."""
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
        self.faults += 1
        for chunk in plan.chunks:
            request = self._requests[chunk.sequence]
            self._drop(request, _fault(request, "in a pass", error))

    def _drop(self, request: Request, error: MiaotuiError) -> None:
        self.scheduler.cancel(request.number)
        request.end("failed", error)
        self._forget(request)

    def cancel(self, request: Request) -> None:
        """End a request now; its pages are free when this returns.

        Nothing happens if it has ended.
        """
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
        """Requests that have not ended."""
        return len(self._requests)


def _fault(request: Request, where: str, error: Exception) -> EngineError:
    fault = EngineError(
        f"request {request.number} failed {where}: {type(error).__name__}: {error}. "
        "Others are not affected; please report this"
    )
    fault.__cause__ = error
    return fault
