"""Fields of the recurrent unit in the table of operations. Plain numbers; imports no compiler."""

from __future__ import annotations

X = 3  # float32 rows: gates, then candidates
X_STRIDE = 4
WIDTH = 5  # of a state, a multiple of 32
STATES = 6  # address of slot 0's state of this layer
STATE_STRIDE = 7
FIRST_STATE = 8  # address of the state before the first token
OUT = 9  # float32 rows, to which the activated states are added
OUT_STRIDE = 10
