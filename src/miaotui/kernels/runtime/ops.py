"""Tables that a pass reads: fields of an operation, a run, a row and a thread's rendezvous.

All fields are int64; an operation has 40 of them. The program builder fills operations once per model, the runner
fills the run and its rows in each step, kernels only read. Field numbers are plain constants, because compiled code
folds them.
"""

from __future__ import annotations

import struct

OP_FIELDS = 40

# every operation
FUNCTION = 0  # address of the kernel
SLOT = 1  # which claim counters it uses among operations between two barriers
ROWS = 2  # which field of the run holds its number of rows
AHEAD = 28  # address of weights that are read soon after it, in units that are shared out evenly; 0: none
AHEAD_UNITS = 29
AHEAD_BYTES = 30  # of a unit
KEEP_GOING = 31  # 1: no meeting after it, though its work is shared; the next one's meeting serves both

# the run: what one pass works on
RUN_FIELDS = 32
RUN_ROWS = 0  # rows in this pass
RUN_LOGIT_ROWS = 1  # rows whose logits are wanted
RUN_TEAM = 2  # threads taking part
RUN_SYNC = 3  # address of the rendezvous
RUN_ROW_TABLE = 4
RUN_LOGIT_TABLE = 5  # row number of each wanted logits row
RUN_BLOCKS = 6  # attention blocks: up to 8 rows of one sequence
RUN_BLOCK_TABLE = 7
RUN_STORES = 8  # (row, page, slot): where keys and values go
RUN_STORE_TABLE = 9
RUN_COPIES = 10  # (from page, to page): pages copied first, for rows that see a tree
RUN_COPY_TABLE = 11
RUN_SINGLE = 12  # 1: every block is the only one of its sequence, and row i's only store is store i
RUN_SCRATCH = 13  # address of the threads' scratch memory
RUN_SCRATCH_STRIDE = 14  # the last `OWN_BYTES` of which each thread keeps between operations
RUN_BEST = 15  # address of the token chosen for each wanted logits row (see `peaks_fields`)
RUN_DRAW = 16  # address of the threads' memory for draws (see `draw_ops`)
RUN_DRAW_STRIDE = 17
RUN_PASSES = 18  # how many passes may follow each other, each going on with the tokens chosen; 0: one
RUN_DONE = 19  # passes that were made
RUN_TOKENS = 20  # int64 [passes, rows]: the tokens chosen in each
RUN_HALT = 21  # written by any thread: 1 if no further pass is to follow
RUN_MORE = 22  # whether one follows
RUN_ASK = 23  # address of a function to ask in each pass what tokens may be chosen; 0: none
RUN_GOING = 24  # what it said: whether another pass may follow
RUN_DRAFT = 25  # address of the table through which this run drafts (see `draft_fields`); 0: it does not
RUN_FRAMES = 26  # frames of sound in this pass over a source
RUN_CHAINED = 27  # 1: rows of one target follow each other in this pass over targets

OWN_BYTES = 1 << 16

ROW_FIELDS = 8
ROW_TOKEN = 0
ROW_POSITION = 1
ROW_PAGES = 2  # address of the list of page numbers this row sees
ROW_VIEW_END = 3  # one past the last position it sees: position + 1, or the whole text when bidirectional
ROW_TYPE = 5  # of an encoder's token: 0 for the first segment
ROW_PANEL = 6  # of an encoder's row: the first panel of its text's keys (see `attention.bidirectional`)
ROW_CHOICE = 4  # address of how its token is chosen (see `draw_ops`), 0: the best
ROW_ADAPTER = 7  # address of its low-rank adapter's table (see `adapters.fields`), 0: none; read in such passes alone
ROW_TOPS = 4  # of a target's row, which has no choice: how many of the best tokens are listed (see `tops_fields`)

BLOCK_FIELDS = 2
BLOCK_ROW = 0  # first row
BLOCK_COUNT = 1
BLOCK_ROWS = 8  # at most

STORE_FIELDS = 3
COPY_FIELDS = 2

# the rendezvous: one 64-byte line per counter
LINE_FIELDS = 8
SYNC_GENERATION = 0
SYNC_ARRIVED = LINE_FIELDS
SYNC_CLAIMS = 2 * LINE_FIELDS
CLAIM_SLOTS = 4
MAX_TEAM = 64
SYNC_FIELDS = SYNC_CLAIMS + CLAIM_SLOTS * MAX_TEAM * LINE_FIELDS

# quantized activations: int8 rows, and per 32 values a header of four 4-byte fields
HEADER_BYTES = 16  # scale (f32), sum of integers (i32), scale x sum (f32), sums of both halves (2 x i16)
# of int16 activations the last field is -128 x sum (i32)

# the mailbox through which the workers learn of a run
TEAM_BITS = 8  # a run's number holds the size of its team in its low bits
MAIL_NUMBER = 0
MAIL_OPERATIONS = LINE_FIELDS
MAIL_COUNT = LINE_FIELDS + 1
MAIL_RUN = LINE_FIELDS + 2
MAIL_STOP = LINE_FIELDS + 3
MAIL_ASLEEP = 2 * LINE_FIELDS  # one field for each member, written by that member alone
MAIL_FIELDS = MAIL_ASLEEP + MAX_TEAM


def float_field(value: float) -> int:
    """Return a float32 as the int64 that `peek_float` reads."""
    return int(struct.unpack("<I", struct.pack("<f", value))[0])
