"""The table through which tokens are guessed within a run of passes: plain numbers, free of any compiler import.

Filled before a run; compiled code reads it, and leaves what a draft head guessed and what came in it.
"""

from __future__ import annotations

DEEPEST = 6  # tokens of a head's guess
LONGEST = 24  # tokens of a draft: a text's may be longer
PARTS_OF_OCTAVE = 4  # evidence: how far a token leads, in quarters of an octave
CLASSES = 13  # of evidence (see `speculation.acceptance_rates`)

# the head (see `backends.cpu.head_program`)
TABLES = 0  # [3] addresses of its operations: of the first step, and of the others in turn
COUNTS = 3  # [3] how many operations
HEAD_RUN = 6  # address of its run
SOURCES = 7  # address of the row it sets out from
HEAD_ROWS = 8  # address of its row
GUESSED = 9  # address of the token it guesses, with its lead

# where the sequence stands
ROW = 10  # of the last pass, that the newest token was drawn from; -1: none
TOKEN = 11  # the newest, which no pass has computed yet
POSITION = 12  # its own
LEFT = 13  # tokens that may still come
TOTAL = 14  # tokens that came in this run
BROKEN = 15  # the row of the last pass whose logits are no numbers; -1: none

# the guess under way
DEPTH = 16  # tokens so far
MOST = 17  # of a head: what a pass has rows for, at most `DEEPEST`
TABLE = 18  # address of the operations of the head's next step
COUNT = 19  # how many they are
CHANCE = 20  # float64: that all of them hold
ROOM = 21  # tokens of a draft: what a pass has rows for, at most `LONGEST`
QUOTE = 22  # address of a function to ask for what a text goes on with; 0: none
IS_WISHED = 23  # 1: ask it before the head
IS_QUOTED = 24  # 1: the guess is what a text goes on with
GUESSES = 25  # [LONGEST] tokens
EVIDENCE = GUESSES + LONGEST  # [LONGEST] of a head's
CHAIN = EVIDENCE + LONGEST  # [LONGEST] float64: that all up to here hold

# what decides (float64)
SHARE = CHAIN + LONGEST  # what a step of the head costs, in units of `RATIOS`
STEP_MARGIN = SHARE + 1  # what a step must promise over none
PASS_MARGIN = STEP_MARGIN + 1  # what a pass with a draft must promise over one without
MEANS = PASS_MARGIN + 1  # [2] how often first and deeper tokens hold on the whole
RATIOS = MEANS + 2  # [2 + LONGEST] what a pass costs by its rows
CHANCES = RATIOS + 2 + LONGEST  # [2, CLASSES] how often they hold by class of evidence
CLASS_OF = CHANCES + 2 * CLASSES  # [MOST_EVIDENCE + 2] int64
MOST_EVIDENCE = 61

# for each pass: tokens guessed, verified, that came; whether a text was quoted; then a head's tokens, and evidence
LOG = CLASS_OF + MOST_EVIDENCE + 2
LOG_GUESSED, LOG_DRAFTED, LOG_CAME, LOG_QUOTED, LOG_TOKENS = range(5)
LOG_EVIDENCE = LOG_TOKENS + DEEPEST
LOG_FIELDS = LOG_EVIDENCE + DEEPEST


def guess_fields(passes: int) -> int:
    """Fields of a table for runs of so many passes."""
    return LOG + passes * LOG_FIELDS
