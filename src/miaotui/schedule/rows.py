"""How the rows of one step are divided between decoding sequences, their drafts, and prompts.

Pure: it reads lengths and drafts and changes nothing. Invariant: every decoding sequence has one
row, and while prompts need rows they have at least one; drafts, which can only save time, get what
is left over.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from miaotui.schedule.plan import StepLimits
from miaotui.schedule.sequence import SequenceGroup, SequenceState
from miaotui.schedule.tree import Draft, DraftTree

NO_DRAFT: Sequence[int] = ()


def share_rows(
    decoding: Iterable[SequenceState], drafts: Mapping[int, Draft], spare: int, prompts: bool
) -> dict[int, Draft]:
    """Each decoding sequence's draft, cut to its length limit and to ``spare`` rows over all.

    While ``prompts`` wait for rows, drafts leave half of the spare ones to them. Sequences without
    a draft are absent.
    """
    left = spare // 2 if prompts else spare
    shares: dict[int, Draft] = {}
    for state in decoding:
        # The last token it may get comes from the row before it and needs no row of its own.
        allowed = state.max_length - len(state.tokens) - 1
        draft = drafts.get(state.id, NO_DRAFT)
        short = min(left, allowed)
        draft = draft.cut(left, allowed) if isinstance(draft, DraftTree) else draft[:short]
        if draft:
            shares[state.id] = draft
            left -= len(draft)
    return shares


def is_held(state: SequenceState, limits: StepLimits) -> bool:
    """Whether it must wait, so that others keep their promises."""
    if state.group is SequenceGroup.BEST_EFFORT:
        return limits.hold_best_effort
    until = limits.prompts_until
    reading = len(state.tokens) - state.computed > 1
    return until is not None and reading and state.group is SequenceGroup.PROMISED and state.order > until
