"""Fields of mixtures of experts in the table of operations, and of their tables. Plain numbers; imports no compiler.

A *route* is what a row and an expert that it chose have to do with each other. Routes are in the order of experts,
and those of an expert in the order of rows.
"""

from __future__ import annotations

# fields of `route` and `group`
LOGITS = 3  # float32 rows; scores are written over them
LOGITS_STRIDE = 4
COUNT = 5
CHOSEN = 6
BIAS = 7  # address of float32, or 0
SCALE = 8
IS_SIGMOID = 9
IS_NORMALIZED = 10
PICKS = 11  # for each row and expert that it chose: the expert, the weight
ROUTED = 12  # address of the table of those that are used
ROUTES = 13  # for each route: the row, the weight
SHARED = 14  # address of the table of the shared expert, 0: there is none
SHARED_ROUTES = 15
SHARED_LOGIT = 16  # which logit's sigmoid is the shared expert's weight, 0: the weight is 1
EXPERT_GROUPS = 17  # groups of experts that follow each other, of which a row chooses some; 1: no groups
KEPT_GROUPS = 18
GROUP_BEST = 27  # how many of its highest ranks are a group's: 1 or 2

ROUTE_SCALES = 32  # address of a float32 factor of each expert's weight, or 0

# fields of `gather` and of products, besides those of `linear.fields`
TABLE = 19  # which experts are used, and by which routes
TABLE_ROUTES = 20
EXPERT_BYTES = 21  # from one expert's weights to those of the next one
GATHERED = 22  # quantized inputs, a row for each route
GATHERED_STRIDE = 23
GATHERED_HEADERS = 24
GATHERED_HEADER_STRIDE = 25
EXPERT_BIAS = 26  # address of the first expert's biases, float32 in the order of outputs, or 0

# the table of experts in use
USED = 0  # how many
FIRST_USED = 8  # from here on, for each of them:
USED_FIELDS = 3  # the expert, its first route, the number of its routes

ROUTE_FIELDS = 2  # of a pick, or of a route
ROUTE_ROW = ROUTE_EXPERT = 0
ROUTE_WEIGHT = 1

FEW = 16  # rows that one thread routes: up to here a meeting of threads costs more


def table_fields(count: int) -> int:
    """Return the number of fields of a table of ``count`` experts: the used ones, then a cursor for each."""
    return FIRST_USED + (USED_FIELDS + 1) * count
