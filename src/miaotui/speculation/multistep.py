"""Runs of passes that draft by themselves: when they pay, and what is learned from them.

Owns one such run from `prepare` to `learn`. Between its passes the backend runs the draft head, and calls back for
a quote where a text is likely to go on. The policy is that of single steps, with the chances and costs known when the
run begins. Knows neither pages nor how a backend drafts. Invariant: what a run has brought is learned as if each
pass had been a step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from miaotui.backends.backend import Masks
from miaotui.backends.drafting import DraftRun, PassLog, PolicyInputs
from miaotui.kernels.draft.draft_fields import MAX_DRAFT
from miaotui.speculation.acceptance_rates import DraftState, Verified, head_kind, head_rates
from miaotui.speculation.drafters.head import CONFIDENT
from miaotui.speculation.drafters.protocol import Candidate
from miaotui.speculation.policy import DraftPolicy, RowCost

STEP_SHARE = 0.7  # of the time that a step of the head takes from Python, what it takes within a run
ONE_IN = 8  # runs that are left out, so that single steps go on measuring what rows cost

# All candidates of texts after the tokens that a request has, the best of them, and the chances of its tokens.
Quotes = Callable[[DraftState], tuple[Sequence[Candidate], Candidate | None, Sequence[float]]]


class MultistepDrafting:
    """One engine's runs (`MultistepDraft`).

    ``source`` is the head's name, ``extend`` gives new tokens to the drafters, ``quotes`` asks them for candidates.
    """

    def __init__(
        self,
        draft_run: DraftRun,
        source: str,
        policy: DraftPolicy,
        extend: Callable[[int, Sequence[int]], None],
        quotes: Quotes,
    ) -> None:
        self._run, self._source, self._policy = draft_run, source, policy
        self._extend, self._quotes = extend, quotes
        self._state: DraftState | None = None  # of the request of the run
        self.passes = 0  # the most of the run
        self._head_tokens = 0.0  # tokens that the head's draft promises
        self._extended = 0  # tokens of the run that the drafters know already
        self._is_quoted = False  # whether the run begins with a quote
        self._watches = True  # whether the run asks in each pass if a text promises more
        # For each pass with a quote: all candidates, and the source of the best.
        self._quoted: list[tuple[Sequence[Candidate], str]] = []
        self._prepared = 0  # runs, so that one in `ONE_IN` is left out
        self._inputs = PolicyInputs((), (), (), 0.0)

    @property
    def max_tokens(self) -> int:
        """Return `MultistepDraft.max_tokens`."""
        return self.passes * (1 + MAX_DRAFT)

    @property
    def watch(self) -> Masks | None:
        """Return `MultistepDraft.watch`."""
        return self._watch if self._watches else None

    def prepare(self, state: DraftState, quote: Sequence[float], head_step: float, cost: RowCost, passes: int) -> bool:
        """Decide whether the next step of a request is a run of up to ``passes`` passes, and prepare it.

        ``quote`` are the chances of the best candidate from a text, ``head_step`` is the cost of a step of the head.
        """
        request, record, means = state.request, state.head_record, state.learned.mean_rates
        if state.row < 0 or request.constraint is not None or not request.choice:
            return False
        head_step *= STEP_SHARE
        first = record.rate(means.rate(0))
        self._head_tokens = first * (1.0 + means.rate(1))
        costs = cost.costs(1, MAX_DRAFT)
        self._is_quoted = self._promises_more(quote)
        price = costs[1] - costs[0] + head_step
        if not self._is_quoted and not self._policy.step_worth(first, price, 1.0, costs[0]):
            return False
        self._prepared += 1
        if self._prepared % ONE_IN == 0:
            return False
        rates = [record.rate(rate) for rate in head_rates(state.rates(self._source))]
        mean_rates = [record.rate(means.rate(depth)) for depth in range(2)]
        self._inputs = PolicyInputs(rates, mean_rates, costs, head_step)
        self._state, self.passes, self._extended = state, passes, 0
        self._quoted = []
        self._watches = self._is_quoted or state.quoting.admits()
        return True

    def _promises_more(self, quote: Sequence[float]) -> bool:
        """Return whether a quote promises more than the head's draft."""
        return bool(quote) and (quote[0] >= CONFIDENT or sum(quote) > self._head_tokens)

    def begin(self, position: int, max_tokens: int) -> DraftRun:
        """See `MultistepDraft.begin`."""
        state = self._prepared_state()
        newest = state.request.token_ids[-1]
        self._run.begin(state.row, newest, position, max_tokens, self._inputs)
        if self._is_quoted:
            self._run.request_quote()
        return self._run

    def _prepared_state(self) -> DraftState:
        assert self._state is not None, "a run is prepared before it begins"
        return self._state

    def _watch(self, tokens: Sequence[int]) -> bool:
        """Request a quote after the pass under way if the ``tokens`` of the passes before make a text promise more."""
        state = self._prepared_state()
        self._note_tokens(tokens)
        if tokens and not self._run.is_quote_requested:
            _, _, chances = self._quotes(state)
            if self._promises_more(chances):
                state.quoting.found += 1
                self._run.request_quote()
        return True

    def quote(self, tokens: Sequence[int]) -> int:
        """Draft from a text after ``tokens``, the latest, between two passes; return the draft's size, 0 for none."""
        self._note_tokens(tokens)
        candidates, best, chances = self._quotes(self._prepared_state())
        if best is None or not self._promises_more(chances):
            return 0
        count = self._run.put(best.tokens, chances)
        if count:
            self._quoted.append((candidates, best.source))
        return count

    def _note_tokens(self, tokens: Sequence[int]) -> None:
        """Give new tokens of the run to the drafters."""
        if tokens:
            self._extend(self._prepared_state().request.number, tokens)
            self._extended += len(tokens)

    def learn(self, tokens: Sequence[int], passes: int) -> Iterator[Verified]:
        """Learn from a run of ``passes`` passes that brought ``tokens``; yield the drafts that were verified."""
        state = self._prepared_state()
        self._note_tokens(tokens[self._extended :])
        state.row = self._run.row if self._run.broken < 0 else -1
        quoted, at = iter(self._quoted), 0
        for log in self._run.log(passes):
            came = tokens[at : at + log.brought]
            at += log.brought
            source = self._source
            if log.is_quoted:
                state.candidates, source = next(quoted)
                state.source = source
                state.learn(came)
            else:
                self._learn_of_head(state, log, came)
            if log.verified:
                yield Verified(source, log.verified, min(log.brought - 1, log.verified))

    def sources(self, passes: int) -> list[str]:
        """See `MultistepDraft.sources`."""
        quoted, found = iter(self._quoted), list[str]()
        for log in self._run.log(passes):
            source = next(quoted)[1] if log.is_quoted else self._source
            found += [source] * (log.brought - 1) + [""]
        return found

    def _learn_of_head(self, state: DraftState, log: PassLog, came: Sequence[int]) -> None:
        """Learn from the head's draft of one pass, as far as it was right."""
        acceptance = state.learned.acceptance[self._source]
        for depth, (token, evidence, real) in enumerate(zip(log.tokens, log.evidence, came, strict=False)):
            state.learn_of_head(acceptance, head_kind(depth, evidence), depth, token == real)
            if token != real:
                break
