"""The tables of a suffix index: `speculation.drafters.suffix` fills them, the kernels of `suffix` read them."""

from __future__ import annotations

ORDERS = (1, 2, 4, 8)  # the lengths of token runs that can be looked up
MAX_MATCH = 64  # a match is measured up to this many tokens
WALK = 16  # places looked at for each order, the latest first
ENOUGH = 16  # a match this long makes shorter runs uninteresting
BRANCHES = 4  # different next tokens that a search tells apart
MAX_TOKENS = 24  # tokens of a continuation
NOTHING = -1  # the token that separates texts, and the ring's end from its beginning

# a store: int64 fields
CAPACITY = 0  # tokens of the ring
HEAD = 1  # where the next token goes
TOKENS = 2  # address of int32 [CAPACITY]
FIRST = 3  # address of int32 [len(ORDERS), MASK + 1]: 1 + the latest place after a run, 0: none
PREVIOUS = 4  # address of int32 [len(ORDERS), CAPACITY]: the place before it, likewise
MASK = 5  # slots of FIRST for one order, a power of two, less one
STORE_FIELDS = 6

# what a search finds: the number of branches, then each branch
BRANCH_LENGTH = 0  # tokens that match before it
BRANCH_COUNT = 1  # places seen that go on with the same token
BRANCH_SIZE = 2  # tokens of its continuation
BRANCH_TOKENS = 3
BRANCH_FIELDS = BRANCH_TOKENS + MAX_TOKENS
FOUND_FIELDS = 1 + BRANCHES * BRANCH_FIELDS
