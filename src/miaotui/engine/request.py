"""One request on its way: what it asked for, what it has been given so far, and when.

Changed by the thread that steps the engine, read in any thread. Knows text and tokens, not pages or rows.
Invariant: it ends exactly once, as finished, cancelled or failed with a reason.
"""

from __future__ import annotations

import time
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from miaotui.backends.backend import Peak, TokenChoice
from miaotui.engine.constraint import Constraint
from miaotui.engine.sampling.logprobs import PromptScores
from miaotui.engine.sampling.sampler import Choice, Mask, SequenceSampler
from miaotui.engine.stopping import Ending
from miaotui.errors import EngineError, MiaotuiError
from miaotui.schedule.plan import Chunk
from miaotui.types import Completion, Deadline, Delta, FinishReason, Promise, Timing, TokenLogprobs

SettledListener = Callable[[Promise, float, bool], None]  # promise, seconds until it was read, whether it was admitted


@dataclass(frozen=True)
class RequestOptions:
    """Options of a request besides its prompt and sampling parameters.

    Prefixes and past answers are shared within a ``namespace`` only; ``arrived_s`` is the moment, in
    `time.perf_counter` seconds, from which the deadline counts (None: when it is submitted).
    """

    namespace: int = 0
    constraint: Constraint | None = None
    deadline: Deadline | None = None
    arrived_s: float | None = None
    passages: Sequence[Sequence[int]] = ()  # token ids of texts that the answer may quote


class Request:
    """A submitted request. Times are `time.perf_counter` seconds."""

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
        self.scores = scores
        self.is_answered = is_answered  # False: it ends with its prompt, and no token is chosen
        self.number = number
        self.prompt = prompt
        self.namespace = namespace
        self.prompt_tokens = len(prompt)
        self.constraint = constraint
        self.cached_tokens = 0
        self.sampler = sampler
        self.ending = ending
        self.finish_reason: FinishReason | None = None
        self.error: MiaotuiError | None = None
        self._token_ids: list[int] = []
        self._logprobs: list[TokenLogprobs] = []
        self._text: list[str] = []
        self._told = 0  # tokens read, where texts are made by whoever reads them
        self._is_late = not ending.needs_text
        self._unread: deque[tuple[str, int, TokenLogprobs | None]] = deque()
        self._submitted_s = time.perf_counter()
        self._first_s = self._last_s = self._over_s = self._submitted_s
        self._begun_s: float | None = None  # when a step first computed for it
        self.gaps = array("f")  # seconds between what one step brought and the next
        self._passes = 0  # after the first token's
        self.arrived_s = self._submitted_s
        self.deadline: Deadline | None = None
        self.due: int | None = None  # the order in which promised requests are served
        self.choosing_s = 0.0  # spent on its logits, since the start
        self.predicted_ms, self.shortened = 0.0, False
        self.passages: Sequence[Sequence[int]] = ()
        self.drawn_from = 0  # which of its rows of logits the newest token was drawn from
        self.settled_listeners: list[SettledListener] = []  # called once, when the whole answer was read
        self._mask: Mask | None = None  # of the pass under way
        self._in_pass = sampler.choice is not None  # whether that pass chooses its token
        self._bound = 0  # of the tokens it brings, those that the constraint has taken already
        self._handed_s: float | None = None  # when the whole answer was read

    @property
    def is_over(self) -> bool:
        """Return whether it has ended, in whatever way."""
        return self.finish_reason is not None

    @property
    def has_news(self) -> bool:
        """Return whether `read` has something to give."""
        told = self._told if self._is_late else len(self._token_ids)
        return len(self._token_ids) > told or bool(self._unread) or self.finish_reason is not None

    @property
    def token_ids(self) -> Sequence[int]:
        """Return the answer's tokens so far; to be read only."""
        return self._token_ids

    def begin(self) -> None:
        """Return a step is about to compute for it; only the first of them counts."""
        if self._begun_s is None:
            self._begun_s = time.perf_counter()

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
        position, self.drawn_from = self.prompt_tokens + len(self._token_ids), 0
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
                row = chunk.follow(row, tokens[-1]) if chunk.n_logits > 1 else -1
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
        self._first_s = self._last_s = self._over_s = time.perf_counter()
        self.finish_reason = "length"
        return [self.prompt[-1]]

    def take_all(self, tokens: list[int], passes: int, broken: Peak | None = None) -> list[int]:
        """Keep the tokens that a run of ``passes`` has brought, several each; those that belong to the answer.

        Raises `EngineError` for logits after them that are not numbers, ``broken`` their peak.
        """
        kept = self._keep_tokens(tokens, passes) if tokens else []
        if broken is not None and not self.is_over:
            self.sampler.take(broken, self.prompt_tokens + len(self._token_ids))
        return kept

    def _keep_bound(self, tokens: Sequence[int], passes: int) -> list[int]:
        """`_keep_tokens`, once a constraint has taken those that it has not yet."""
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
            row = chunk.follow(row, choices[-1].token_id)
        return choices

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
        """`_keep` for tokens alone."""
        if not self._is_late:
            return self._keep(map(Choice, tokens), passes)
        self._time(passes)
        kept, reason = self.ending.note_all(tokens)
        tokens = tokens if kept == len(tokens) else tokens[:kept]
        self._token_ids += tokens  # after all that reading them needs
        if reason is not None:
            self.finish_reason = reason
        return tokens

    def _time(self, passes: int) -> None:
        """Note that tokens have come, by so many passes."""
        now = time.perf_counter()
        if not self._token_ids:
            self._first_s = now
        else:
            self._passes += passes
            gap = (now - self._last_s) / passes
            for _ in range(passes):
                self.gaps.append(gap)
        self._last_s = self._over_s = now

    def _keep(self, choices: Iterable[Choice], passes: int = 1) -> list[int]:
        self._time(passes)
        before = len(self._token_ids)
        for token, logprobs in choices:
            if self._is_late:
                reason = self.ending.note(token)
                if logprobs is not None:
                    self._logprobs.append(logprobs)
                self._token_ids.append(token)  # after all that reading it needs
                if reason is not None:
                    self.finish_reason = reason
                    break
                continue
            self._token_ids.append(token)
            if logprobs is not None:
                self._logprobs.append(logprobs)
            text, reason = self.ending.push(token)
            self._note(text, token, logprobs)
            if reason is not None:
                self.finish_reason = reason
                break
        return self._token_ids[before:]

    def _note(self, text: str, token_id: int, logprobs: TokenLogprobs | None = None) -> None:
        self._unread.append((text, token_id, logprobs))
        if text:
            self._text.append(text)

    def shorten(self, max_tokens: int) -> None:
        """End after so many tokens at the latest, so that it is in time; at least one comes."""
        least = len(self._token_ids) + 1
        self.ending.max_tokens = max(least, min(max_tokens, self.ending.max_tokens))
        self.shortened = True

    def end(self, reason: FinishReason, error: MiaotuiError | None = None) -> None:
        """End it from outside: cancelled, or failed with ``error``."""
        if self.is_over:
            return
        rest = "" if self._is_late else self.ending.close()
        if rest:
            self._note(rest, -1)
        self._over_s = time.perf_counter()
        if not self._token_ids:
            self._first_s = self._over_s
        self.error = error
        self.finish_reason = reason  # last: from now on it may be read by another thread

    def read(self) -> Delta:
        """Return the piece that came since the last call; the last piece carries the completion.

        Raises what the request failed with.
        """
        over = self.is_over  # first: what came before the end is here
        text, ids, logprobs = self._read_late(over) if self._is_late else self._read_unread()
        scored = () if self.scores is None else self.scores.read()
        if not over:
            return Delta(text, ids, logprobs=logprobs, prompt_logprobs=scored)
        self._settle()
        return Delta(text, ids, self.finish_reason, self.completion(), logprobs, scored)

    def _read_late(self, over: bool) -> tuple[str, tuple[int, ...], tuple[TokenLogprobs, ...]]:
        """Make the texts of what has come: here they keep no step waiting."""
        first, end = self._told, len(self._token_ids)
        ids = tuple(self._token_ids[first:end])
        text = self.ending.text_of(ids, first, over)
        self._told = end
        if text:
            self._text.append(text)
        return text, ids, tuple(self._logprobs[first:end]) if self._logprobs else ()

    def _read_unread(self) -> tuple[str, tuple[int, ...], tuple[TokenLogprobs, ...]]:
        pieces = []
        while self._unread:
            pieces.append(self._unread.popleft())
        text = "".join([piece for piece, _, _ in pieces])
        ids = tuple([token for _, token, _ in pieces if token >= 0])
        return text, ids, tuple([each for _, _, each in pieces if each is not None])

    @property
    def promise(self) -> Promise:
        """Return how it stands to its deadline. The answer's time ends when its last piece is read."""
        asked_ms = None if self.deadline is None else self.deadline.total_ms
        if self._handed_s is None:
            return Promise(asked_ms, self.predicted_ms, shortened=self.shortened)
        took_ms = (self._handed_s - self.arrived_s) * 1e3
        met = None if self.deadline is None else self._kept(self.deadline, took_ms)
        return Promise(asked_ms, self.predicted_ms, took_ms, met, self.shortened)

    def _kept(self, deadline: Deadline, took_ms: float) -> bool:
        first_ms = (self._first_s - self.arrived_s) * 1e3
        between_ms = (self._last_s - self._first_s) * 1e3 / max(len(self._token_ids) - 1, 1)
        return (
            (deadline.total_ms is None or took_ms <= deadline.total_ms)
            and (deadline.ttft_ms is None or first_ms <= deadline.ttft_ms)
            and (deadline.tpot_ms is None or between_ms <= deadline.tpot_ms)
        )

    def _settle(self) -> None:
        """Return the whole answer is in its reader's hands: its time is known now."""
        if self._handed_s is None and self.finish_reason in ("stop", "length"):
            self._handed_s = time.perf_counter()
            promise, hand_over_s, admitted = self.promise, self._handed_s - self._over_s, self.due is not None
            for listener in self.settled_listeners:
                listener(promise, hand_over_s, admitted)

    def completion(self) -> Completion:
        """Return the whole answer. Raises what the request failed with."""
        if self.error is not None:
            raise self.error
        assert self.finish_reason is not None, "an answer is complete when it has ended"
        if self._is_late:
            self._read_late(True)  # what nobody has read yet
        count = len(self._token_ids)
        span = self._last_s - self._first_s
        timing = Timing(
            ttft_s=self._first_s - self._submitted_s,
            total_s=self._over_s - self._submitted_s,
            decode_tokens_per_s=(count - 1) / span if count > 1 and span > 0 else 0.0,
            tokens_per_pass=(count - 1) / self._passes if self._passes else 1.0,
            queue_s=(self._begun_s or self._over_s) - self._submitted_s,
        )
        return Completion(
            text="".join(self._text),
            token_ids=tuple(self._token_ids),
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached_tokens,
            finish_reason=self.finish_reason,
            timing=timing,
            logprobs=tuple(self._logprobs),
            prompt_logprobs=() if self.scores is None else self.scores.found,
            promise=None if self.deadline is None else self.promise,
        )
