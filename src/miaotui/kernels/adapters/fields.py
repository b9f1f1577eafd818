"""Fields of low-rank adapters in the table of operations, and in an adapter's own table. Imports no compiler.

An adapter's table has a record for each matrix that it may change: `MOST_PARTS` for each operation, since queries, keys
and values are one product, and gate and up are one; then `MOST_PARTS` for each expert: gate, up, down. A row of a pass
names its adapter's table (`ops.ROW_ADAPTER`).
"""

from __future__ import annotations

# fields of the operations, besides the inputs of `linear.fields`
PAIRS = 3  # bytes from the start of an adapter's table to the operation's first record
PARTS = 4
HIDDEN = 19  # float32 rows between the two thin matrices: `PART_VALUES` for each part
HIDDEN_STRIDE = 20
IS_GATHERED = 21  # 1: row i is the row of wanted logits number i
UNITS = 22  # of 32 outputs, over all parts
SECOND = 23  # first unit of the second part
THIRD = 24
WIDE = 25  # float32 outputs before the activation: 32 of gate and 32 of up in turns, or 32 of up
WIDE_STRIDE = 26
DOWN_STRIDE = 27  # bytes from one tile of 16 ranks to the next

# fields of products with experts, and of what is before them, besides those of `experts.fields`
EXPERT_PAIRS = 33  # bytes from the start of an adapter's table to the first expert's record; 0: no row has an adapter
EXPERT_HIDDEN = 34  # float32 rows between the two thin matrices: `PART_VALUES` for each part, a row for each route
EXPERT_HIDDEN_STRIDE = 35
EXPERT_PARTS = 36

# a record of an adapter's table
PART_FIELDS = 4
DOWN = 0  # address of the first thin matrix, packed as q8; 0: the adapter leaves this matrix as it is
TILES = 1  # of 16 ranks
UP = 2  # address of the second one: units of 32 outputs, see `up_unit_bytes`
RANK = 3

MOST_PARTS = 3
MOST_RANK = 256
PART_VALUES = MOST_RANK
SCALE_BYTES = 128  # of a unit: a float32 for each output
FEW = 32  # rows up to which each is a task of its own, as each may have another adapter
TOGETHER = 4  # rows of one adapter that read a tile together, where there are many


def up_unit_bytes(rank: int) -> int:
    """Return the bytes of 32 outputs: scales, then 32 codes for each rank."""
    return SCALE_BYTES + 32 * rank
