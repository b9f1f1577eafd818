"""Constants of the draft policy and the table of its kernels: plain numbers, free of any compiler import.

Owns what Python (`miaotui.speculation`) and compiled code (`policy`, `multistep`) must agree on: the classes of
evidence and the margins. Knows neither where chances and costs come from nor who drafts. Invariant: each of these
constants is defined here alone.
"""

from __future__ import annotations

# Evidence is a whole number from 1: the longer the match, or the clearer a head's choice, the more.
EVIDENCE_BOUNDS = (1, 2, 3, 4, 5, 6, 8, 11, 15, 23, 31, 47)  # the greatest evidence of each class but the last
EVIDENCE_CLASSES = len(EVIDENCE_BOUNDS) + 1
EVIDENCE_PER_OCTAVE = 4  # of a head's token: how far it leads the second, in quarters of an octave
MAX_HEAD_EVIDENCE = 61

MIN_CHANCE = 0.02  # no token below it is worth a row: what rows cost is not known so exactly
PASS_MARGIN = 1.015  # a pass with drafts must bring so many times the tokens per second: drafting costs time too
STEP_MARGIN = 1.02  # a step of the head must bring so many times the tokens that its time is worth

# The table of the kernels. All fields are float64, but for WORTH_COUNT, which is int64.
MAX_CHANCES = 128
WORTH_COUNT = 0  # chances that are given
WORTH_GAIN = 1  # tokens that the pass brings without drafts
WORTH_MARGIN = 2
WORTH_EXTRA = 3  # cost of any draft besides its rows
WORTH_SPEED = 4  # result: tokens per cost with the rows that are worth it
STEP_TOKENS = 5  # tokens that one more step of the head promises
STEP_PRICE = 6  # its own cost and that of its rows
STEP_COST = 7  # cost of the pass without it
WORTH_CHANCES = 8  # [MAX_CHANCES] that each token is accepted; descending
WORTH_COSTS = WORTH_CHANCES + MAX_CHANCES  # [MAX_CHANCES + 1] costs of a pass with 0, 1, ... drafted rows
POLICY_FIELDS = WORTH_COSTS + MAX_CHANCES + 1


def evidence_class(evidence: int) -> int:
    """The class of ``evidence``, from 0 to `EVIDENCE_CLASSES` - 1."""
    found = 0
    for bound in EVIDENCE_BOUNDS:
        if evidence > bound:
            found += 1
    return found
