"""One request on its way: what it asked for, how its tokens are chosen, and how it ends.

Its answer so far is a `RequestOutput`, its times are a `Timeline`. Changed by the thread that steps the engine, read
in any thread. Knows tokens, not pages or rows. Invariant: it ends exactly once, as finished, cancelled or failed with
a reason.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from miaotui.backends.backend import Peak, TokenChoice
from miaotui.engine.adapters import LoadedAdapter
from miaotui.engine.constraint import Constraint
from miaotui.engine.output import Ending, RequestOutput, Timeline
from miaotui.engine.sampling.logprobs import PromptScores
from miaotui.engine.sampling.sampler import Choice, Mask, SequenceSampler
from miaotui.errors import EngineError, MiaotuiError, RequestError
from miaotui.schedule.plan import NO_ADAPTER, Chunk
from miaotui.types import Completion, Deadline, Delta, FinishReason, Promise

MODEL, GIVEN = "model", "given"  # who proposed a token that no draft had: the model, or who asked
SettledListener = Callable[[Promise, float, bool], None]  # promise, seconds until it was read, whether it was admitted


@dataclass(frozen=True)
class RequestOptions:
    """Options of a request besides its prompt and sampling parameters.

    Prefixes and past answers are shared within a ``namespace`` only, and under one ``adapter`` (a loaded one, or its
    name; None: the model as it is); ``arrived_s`` is the moment, in
    `time.perf_counter` seconds, from which the deadline counts (None: when it is submitted).
    """

    namespace: int = 0
    constraint: Constraint | None = None
    deadline: Deadline | None = None
    arrived_s: float | None = None
    passages: Sequence[Sequence[int]] = ()  # token ids of texts that the answer may quote
    adapter: LoadedAdapter | str | None = None
    begun: Sequence[int] = ()  # token ids of the answer that are known already; it begins with them
    explains: bool = False  # whether to note who proposed each token, and the times of steps


class Request:
    """A submitted request."""

    def __init__(
        self,
        number: int,
        prompt: Sequence[int],
        sampler: SequenceSampler,
        ending: Ending,
        *,
        namespace: int = 0,
        constraint: Constraint | None = None,
        scores: PromptScores | None = None,
        is_answered: bool = True,
    ) -> None:
        self.number = number
        self.prompt = prompt
        self.prompt_tokens = len(prompt)
        self.namespace, self.adapter = namespace, NO_ADAPTER
        self.constraint = constraint
        self.scores = scores
        self.is_answered = is_answered  # False: it ends with its prompt, and no token is chosen
        self.cached_tokens = 0
        self.sampler = sampler
        self.output, self.timeline = RequestOutput(ending), Timeline()
        self.ending = ending
        self.token_ids: Sequence[int] = self.output.token_ids  # so far; to be read only
        self.finish_reason: FinishReason | None = None
        self.error: MiaotuiError | None = None
        self.deadline: Deadline | None = None
        self.due: int | None = None  # the order in which promised requests are served
        self.choosing_s = 0.0  # spent on its logits, since the start
        self.predicted_ms, self.shortened = 0.0, False
        self.passages: Sequence[Sequence[int]] = ()
        self.drawn_from = 0  # which of its rows of logits the newest token was drawn from
        self.begun: Sequence[int] = ()  # tokens of the answer that were known before; they end the prompt
        self.begun_text = ""
        self.origins: dict[int, str] | None = None  # who proposed drafted tokens, by place; None: not wanted
        self.draft_sources = ("", "")  # of a draft's trunk and branch
        self._read = 0  # tokens
        self.settled_listeners: list[SettledListener] = []  # called once, when the whole answer was read
        self._mask: Mask | None = None  # of the pass under way
        self._in_pass = sampler.choice is not None  # whether that pass chooses its token
        self._bound = 0  # of the tokens it brings, those that the constraint has taken already

    @property
    def is_over(self) -> bool:
        """Return whether it has ended, in whatever way."""
        return self.finish_reason is not None

    @property
    def has_news(self) -> bool:
        """Return whether `read` has something to give."""
        return self.output.is_unread or self.finish_reason is not None

    @property
    def choice(self) -> TokenChoice | None:
        """Return how a pass chooses its tokens; None: only `take` can."""
        return self.sampler.choice

    def choice_for(self, chunk: Chunk) -> TokenChoice | None:
        """Return the choice for a pass over ``chunk``, in which `go_on` is called under a constraint; None: `take`."""
        self._bound = 0
        chooses = not chunk.n_scored and (self.constraint is None or chunk.n_logits == 1)
        self._in_pass = self.choice is not None and chooses
        return self.choice if self._in_pass else None

    def go_on(self, token: int | None, speculates: bool) -> bool:
        """Set the mask of a pass before it chooses; ``token`` is that of the pass before in the same run.

        Returns whether another pass may follow in the run. None may where this one cannot choose (`take` will), nor
        where the engine ``speculates`` and the constraint forces tokens: then they are drafted.
        """
        assert self.constraint is not None, "called for requests with a constraint"
        try:
            if token is not None:
                self.constraint.accept(token)
                self._bound += 1
            self._mask = self.constraint.mask()  # it stays where it is until the pass is over
            self._in_pass = self.sampler.choice_within(self._mask) is not None
        except Exception:
            self._in_pass = False  # it comes again where it is this request's alone
        if not self._in_pass:
            self.sampler.leave()
            return False
        return not speculates or not self.constraint.forced()

    def take(
        self, logits: NDArray[np.float32], peaks: Sequence[Peak], first: int, chunk: Chunk, earlier: Sequence[int] = ()
    ) -> Sequence[int]:
        """Choose tokens from a pass's logits ``[rows, vocab]``; those that belong to the answer.

        ``peaks`` are the rows' best tokens, or those chosen in the pass if there is a `choice`, with the
        best one's logits. The chunk's rows begin with ``first``, which no draft is needed for; `Chunk.follow`
        leads from it along a line or a tree of drafts. ``earlier`` are the tokens of the passes before.
        Raises `EngineError` for logits that are not numbers.
        """
        position, self.drawn_from = self.prompt_tokens + len(self.token_ids), 0
        if not self._in_pass:
            kept = self._keep_bound(earlier, len(earlier)) if earlier else []
            if self.is_over:
                return kept
            picked = self._picked(logits, peaks, first, chunk, position + len(earlier))
            return [*kept, *self._keep(picked)]
        tokens, row, passes = list(earlier), 0, 1 + len(earlier)
        try:
            while row >= 0:
                tokens.append(self.sampler.take(peaks[first + row], position + len(tokens)))
                self.drawn_from = row
                row = self._follow(chunk, row, tokens, len(self.token_ids)) if chunk.n_logits > 1 else -1
        except EngineError:
            self._keep_bound(tokens, passes)  # what came before can be read
            raise
        return self._keep_bound(tokens, passes)

    def take_scores(self, logits: NDArray[np.float32], peaks: Sequence[Peak], first: int, count: int) -> None:
        """Score prompt tokens by ``count`` rows of a pass's logits ``[rows, vocab]``, from row ``first`` on.

        Raises `EngineError` for logits that are not numbers.
        """
        assert self.scores is not None, "a plan has scored rows only for requests that asked"
        self.scores.take(logits[first : first + count], peaks[first : first + count])

    def end_with_prompt(self, logits: NDArray[np.float32], peaks: Sequence[Peak], row: int) -> list[int]:
        """End a request for its prompt alone; ``row`` is the last of its rows of logits.

        Returns the token that the scheduler gets instead of a chosen one: the prompt's last.
        """
        if self.prompt_tokens > 1:
            self.take_scores(logits, peaks, row, 1)
        self.timeline.end(has_tokens=False)
        self.finish_reason = "length"
        return [self.prompt[-1]]

    def take_all(self, tokens: list[int], passes: int, broken: Peak | None = None) -> list[int]:
        """Keep the tokens that a run of ``passes`` has brought, several each; those that belong to the answer.

        Raises `EngineError` for logits after them that are not numbers, ``broken`` their peak.
        """
        kept = self._keep_tokens(tokens, passes) if tokens else []
        if broken is not None and not self.is_over:
            self.sampler.take(broken, self.prompt_tokens + len(self.token_ids))
        return kept

    def _keep_bound(self, tokens: Sequence[int], passes: int) -> list[int]:
        """Call `_keep_tokens`, once a constraint has taken those that it has not yet."""
        if self.constraint is not None:
            taken = self._bound
            try:
                for token in tokens[taken:]:
                    self.constraint.accept(token)
                    taken += 1
            except Exception:
                if taken:
                    self._keep_tokens(list(tokens[:taken]), passes)
                raise
        return self._keep_tokens(list(tokens), passes)

    def _picked(
        self, logits: NDArray[np.float32], peaks: Sequence[Peak], first: int, chunk: Chunk, position: int
    ) -> list[Choice]:
        """Return the sampler's choices from the chunk's rows, as far as its drafts hold."""
        choices: list[Choice] = []
        row = 0
        while row >= 0:
            at = first + row
            choices.append(self._choose(logits[at], peaks[at], position + len(choices)))
            self.drawn_from = row
            row = self._follow(chunk, row, [each.token_id for each in choices], position - self.prompt_tokens)
        return choices

    def _follow(self, chunk: Chunk, row: int, tokens: Sequence[int], before: int) -> int:
        """Return the row that the newest of a pass's ``tokens`` leads to, as a draft; -1 if none does.

        ``before`` is the number of tokens of the answer before the first of them.
        """
        row = chunk.follow(row, tokens[-1])
        if row >= 0 and self.origins is not None:
            self.origins[before + len(tokens) - 1] = self.draft_sources[row >= chunk.trunk]
        return row

    def resume(self, begun: Sequence[int]) -> None:
        """Begin with tokens of the answer that are known already, which the prompt ends with.

        Raises `RequestError` if the answer had ended, or if its form does not allow them.
        """
        self.begun, self.begun_text = begun, self.ending.resume(begun)
        for place, token in enumerate(begun):
            self.sampler.accept(token)
            if self.constraint is not None:
                try:
                    self.constraint.mask()
                    self.constraint.accept(token)
                except Exception as error:
                    raise RequestError(f"token {place} of the answer, {token}, does not fit its form") from error

    def follow(self, options: RequestOptions) -> None:
        """Take over the options that no other part needed."""
        self.deadline, self.passages = options.deadline, options.passages
        if options.arrived_s is not None:
            self.timeline.arrived_s = options.arrived_s
        if options.explains:
            self.origins, self.timeline.steps = {}, []

    def note_sources(self, sources: Iterable[str]) -> None:
        """Note who proposed the tokens that come next; "" for the model's own."""
        assert self.origins is not None, "called for requests that are explained"
        for place, source in enumerate(sources, len(self.token_ids)):
            if source:
                self.origins[place] = source

    def _choose(self, row: NDArray[np.float32], peak: Peak, position: int) -> Choice:
        constraint = self.constraint
        allowed = None if constraint is None else constraint.mask()
        start_s = time.perf_counter()
        choice = self.sampler.pick(row, position, allowed, peak)
        self.choosing_s += time.perf_counter() - start_s
        self.sampler.accept(choice.token_id)
        if constraint is not None:
            constraint.accept(choice.token_id)
        return choice

    def _keep_tokens(self, tokens: list[int], passes: int) -> list[int]:
        """Take tokens that ``passes`` have brought; those that belong to the answer."""
        self.timeline.note(passes, is_first=not self.token_ids, tokens=len(tokens))
        kept, reason = self.output.note_all(tokens)
        if reason is not None:
            self.finish_reason = reason
        return kept

    def _keep(self, choices: Sequence[Choice], passes: int = 1) -> list[int]:
        """Take choices of one pass or several; the tokens that belong to the answer."""
        self.timeline.note(passes, is_first=not self.token_ids, tokens=len(choices))
        kept, reason = self.output.note(choices)
        if reason is not None:
            self.finish_reason = reason
        return kept

    def receive(self, choices: Sequence[Choice], passes: int) -> None:
        """Take tokens that an engine in another process has chosen in so many passes."""
        self._keep(choices, passes)

    def shorten(self, max_tokens: int) -> None:
        """End after so many tokens at the latest, so that it is in time; at least one comes."""
        least = len(self.token_ids) + 1
        self.ending.max_tokens = max(least, min(max_tokens, self.ending.max_tokens))
        self.shortened = True

    def end(self, reason: FinishReason, error: MiaotuiError | None = None) -> None:
        """End it from outside: cancelled, or failed with ``error``."""
        if self.is_over:
            return
        self.output.close()
        self.timeline.end(has_tokens=bool(self.token_ids))
        self.error = error
        self.finish_reason = reason  # last: from now on it may be read by another thread

    def read(self) -> Delta:
        """Return the piece that came since the last call; the last piece carries the completion.

        Raises what the request failed with.
        """
        over = self.is_over  # first: what came before the end is here
        text, ids, logprobs = self.output.read(over)
        scored = () if self.scores is None else self.scores.read()
        if self.begun and not self._read:
            text, ids = self.begun_text + text, (*self.begun, *ids)
        sources = self._sources_of(range(self._read, self._read + len(ids)))
        self._read += len(ids)
        if not over:
            return Delta(text, ids, logprobs=logprobs, prompt_logprobs=scored, sources=sources)
        self._settle()
        return Delta(text, ids, self.finish_reason, self.completion(), logprobs, scored, sources=sources)

    def _sources_of(self, places: Iterable[int]) -> tuple[str, ...]:
        """Return who proposed the tokens at these places of the whole answer; none if that is not wanted."""
        if self.origins is None:
            return ()
        known = len(self.begun)
        return tuple(GIVEN if place < known else self.origins.get(place - known, MODEL) for place in places)

    @property
    def promise(self) -> Promise:
        """Return how it stands to its deadline. The answer's time ends when its last piece is read."""
        deadline, took_ms = self.deadline, self.timeline.took_ms
        if deadline is None:
            return Promise(None, self.predicted_ms, took_ms, None, self.shortened)
        met = self.timeline.keeps(deadline, len(self.token_ids))
        return Promise(deadline.total_ms, self.predicted_ms, took_ms, met, self.shortened)

    def _settle(self) -> None:
        """Tell the listeners that the whole answer is in its reader's hands: its time is known now."""
        if self.finish_reason in ("stop", "length") and self.timeline.hand_over():
            promise, hand_over_s, admitted = self.promise, self.timeline.hand_over_s, self.due is not None
            for listener in self.settled_listeners:
                listener(promise, hand_over_s, admitted)

    def completion(self) -> Completion:
        """Return the whole answer. Raises what the request failed with."""
        if self.error is not None:
            raise self.error
        assert self.finish_reason is not None, "an answer is complete when it has ended"
        return Completion(
            text=self.begun_text + self.output.whole_text(),
            token_ids=(*self.begun, *self.token_ids),
            prompt_tokens=self.prompt_tokens - len(self.begun),
            cached_tokens=min(self.cached_tokens, self.prompt_tokens - len(self.begun)),
            finish_reason=self.finish_reason,
            timing=self.timeline.timing(len(self.token_ids)),
            logprobs=tuple(self.output.logprobs),
            prompt_logprobs=() if self.scores is None else self.scores.found,
            promise=None if self.deadline is None else self.promise,
            times=None if self.origins is None else self.timeline.times(self.origins),
            sources=self._sources_of(range(len(self.begun) + len(self.token_ids))),
        )
