"""The division of a step's rows between decoding sequences, their drafts, and prompts.

Pure: it reads lengths and drafts and changes nothing. Invariant: every decoding sequence has one row, and while
prompts need rows they have at least one; drafts, which can only save time, get the rows that are left.
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
    """Cut each decoding sequence's draft to its length limit, and all of them to ``spare`` rows.

    While ``prompts`` wait for rows, drafts leave half of the spare ones to them. Sequences without a draft are absent.
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
    """Decide whether a sequence must wait so that others keep their promises."""
    if state.group is SequenceGroup.BEST_EFFORT:
        return limits.hold_best_effort
    until = limits.prompts_until
    reading = len(state.tokens) - state.computed > 1
    return until is not None and reading and state.group is SequenceGroup.PROMISED and state.order > until
