"""Memory of a draw: the fields that the engine fills and the kernels of `draw` read."""

from __future__ import annotations

WEIGHT_BITS = 40  # the best token weighs 2**40
FEW = 128  # a top-k up to this is kept as a sorted list
BLOCK = 512  # logits at a time: small enough for the first-level cache
BUCKETS = 1024  # of the histogram that finds the border of top-k or top-p
SPILL = 8  # more buckets, for weightless tokens: in one alone, each addition would await the last

# numbers: float64 fields
PEAK = 0  # the greatest logit; finite
SCALE = 1  # log2(e) / temperature; 1e-30 to 1e30
SPREAD = 2  # from the peak to the least logit, times the scale; above 0, at most WEIGHT_BITS + 1
TOP_K = 3  # 0: all
TOP_P = 4  # in (0, 1]
LEAST = 5  # min-p as a weight
KEY_LOW = 6  # 32 bits of the draw's key
KEY_HIGH = 7  # 32 more
NUMBERS = 8

# how a sequence's tokens are chosen: int64 fields, the same for all its positions
CHOICE_NOISY = 0  # 0: the greatest logit wins, and only the ends matter
CHOICE_START = 1  # what its seed makes of noise (see `backends.sampling`)
CHOICE_SCALE = 2  # float64, like the numbers of the same names
CHOICE_TOP_K = 3
CHOICE_TOP_P = 4
CHOICE_LEAST = 5
CHOICE_MASK = 6  # address of words whose bits allow tokens (see `draw.restrict`), or one of these:
ALL_ALLOWED, NOT_HERE = 0, -1  # all tokens are; the pass is to leave the row's logits as they are
CHOICE_ENDS = 7  # how many tokens end it; they follow
CHOICE_FIELDS = 8

# scratch: int64 fields
SCRATCH_MASS = 0  # [BUCKETS + SPILL]
SCRATCH_WEIGHTS = SCRATCH_MASS + BUCKETS + SPILL  # [BLOCK]
SCRATCH_PLACES = SCRATCH_WEIGHTS + BLOCK  # [BLOCK]
SCRATCH_IDS = SCRATCH_PLACES + BLOCK  # [FEW]
SCRATCH_TOP = SCRATCH_IDS + FEW  # [FEW] float32
SCRATCH_LISTS = SCRATCH_TOP + FEW  # a list of up to one field per logit


def scratch_fields(size: int) -> int:
    """Return how many int64 fields of scratch memory the kernels need for ``size`` logits."""
    return SCRATCH_LISTS + max(size, 1)
