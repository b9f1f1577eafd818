"""The table through which tokens are drafted within a run of passes: plain numbers, free of any compiler import.

Python fills it before a run (`backends.cpu.multistep`). Compiled code reads it, and writes into it what was drafted
and accepted in each pass. Fields are int64 unless a comment says float64.
"""

from __future__ import annotations

from miaotui.kernels.draft.policy_fields import EVIDENCE_CLASSES

MAX_HEAD_DRAFT = 6  # tokens that a head drafts
MAX_DRAFT = 24  # tokens of a draft from text, which may be longer

# what a head's step writes for each row
DRAFTED_TOKEN = 0
DRAFTED_EVIDENCE = 1  # 1 to `MAX_HEAD_EVIDENCE`
DRAFTED_FIELDS = 2

# the head (see `backends.cpu.program`)
TABLES = 0  # [3] addresses of its operations: of the first step, and of the others in turn
COUNTS = 3  # [3] numbers of operations
HEAD_RUN = 6  # address of the head's run
HEAD_SOURCES = 7  # address of the row of the last pass that the head starts from
HEAD_ROWS = 8  # address of the head's row
HEAD_DRAFTED = 9  # address of what its step writes: `DRAFTED_FIELDS`

# the sequence
ROW = 10  # row of the last pass that the newest token was drawn from; -1: none
TOKEN = 11  # the newest token, which no pass has computed yet
POSITION = 12  # its position
LEFT = 13  # tokens that may still come
TOTAL = 14  # tokens that this run has brought
BROKEN = 15  # row of the last pass whose logits are no numbers; -1: none

# the draft under way
LENGTH = 16  # its tokens so far
MAX_LENGTH = 17  # of a head's draft: rows that a pass has for it, at most `MAX_HEAD_DRAFT`
TABLE = 18  # address of the operations of the head's next step
COUNT = 19  # number of these operations
CHANCE = 20  # float64: probability that all of its tokens are accepted
ROOM = 21  # of a quoted draft: rows that a pass has for it, at most `MAX_DRAFT`
QUOTE = 22  # address of a function that drafts from texts; 0: none
IS_QUOTE_REQUESTED = 23  # 1: call it before the head
IS_QUOTED = 24  # 1: the draft is from a text
TOKENS = 25  # [MAX_DRAFT]
EVIDENCE = TOKENS + MAX_DRAFT  # [MAX_DRAFT] of a head's tokens
CHANCES = EVIDENCE + MAX_DRAFT  # [MAX_DRAFT] float64: probability that all tokens up to each are accepted

# what the policy needs (float64)
HEAD_STEP = CHANCES + MAX_DRAFT  # cost of a head's step, in units of `COSTS`
MEAN_RATES = HEAD_STEP + 1  # [2] acceptance rates of a head's first and later tokens
COSTS = MEAN_RATES + 2  # [1 + MAX_DRAFT] costs of a pass with 0, 1, ... drafted rows
RATES = COSTS + 1 + MAX_DRAFT  # [2, EVIDENCE_CLASSES] the acceptance rates by class of evidence

# for each pass: tokens drafted, verified, brought; whether they are quoted; then a head's tokens, and their evidence
LOG = RATES + 2 * EVIDENCE_CLASSES
LOG_LENGTH, LOG_VERIFIED, LOG_BROUGHT, LOG_QUOTED, LOG_TOKENS = range(5)
LOG_EVIDENCE = LOG_TOKENS + MAX_HEAD_DRAFT
LOG_FIELDS = LOG_EVIDENCE + MAX_HEAD_DRAFT


def table_fields(passes: int) -> int:
    """Fields of a table for runs of so many passes."""
    return LOG + passes * LOG_FIELDS
