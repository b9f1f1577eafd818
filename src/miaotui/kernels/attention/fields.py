"""Fields of attention in the table of operations. Plain numbers; imports no compiler."""

from __future__ import annotations

PAGE_TOKENS = 16

# operation fields, shared by all kernels of this module
QKV = 3  # float32 rows: queries, keys, values
QKV_STRIDE = 4
KEY_OFFSET = 5  # bytes from a row's start to its keys
VALUE_OFFSET = 6
KV_HEADS = 7
GROUP_HEADS = 8  # query heads per key/value head
DIM = 9
PAGES = 10  # address of this layer's pages
PAGE_STRIDE = 11
HEAD_STRIDE = 12  # bytes of one head's keys and values in a page
VALUES_IN_HEAD = 13  # bytes from a head's keys to its values
COS = 14  # float32 tables [positions, rotated / 2]
SIN = 15
ROTATED = 16  # rotated dimensions, 0: none
QUERY_NORM = 17  # address of float32 weights, or 0
KEY_NORM = 18
NORM_EPS = 19
SCALE = 20
WINDOW = 21  # 0: unlimited
CAP = 22
OUT = 23  # int8 rows [heads x dim], or float32 rows [heads x HEAD_VALUES]
OUT_STRIDE = 24
OUT_HEADERS = 25  # 0: the results are not quantized
OUT_HEADER_STRIDE = 26
QUERY_WEIGHTS = 33  # address of float32 factors of each query after its rotation, or 0
SLOPES = 34  # address of a float32 for each query head, or 0: scores fall with distance (see `emit.attend_emitters`)
VALUE_NORM = 35  # address of float32 weights of a norm of each value head, or 0
SHARED = 36  # 1: keys and values are another layer's, and nothing is stored
SINKS = 32  # address of a float32 for each query head, or 0: a score that takes part in the softmax and has no value

# fields of attention over whole texts (`attention.bidirectional`), besides those above
KEYS = 10  # address of head 0's keys: panels of 16 tokens [dim, 16]
HEAD_BYTES = 12  # from one head's keys (or values) to the next one's
VALUES = 13  # address of head 0's values [tokens, dim]
BIAS_TABLE = 22  # address of head 0's bias of distance 0; further on those of keys that follow the query; 0: none
RELATIVE_KEYS = 17  # address of head 0's keys of positions at distance 0: [dim, distances]; 0: none
RELATIVE_QUERIES = 18  # and of their queries, scaled as the rows' own
RELATIVE_STRIDE = 8  # bytes from one of a head's values to the next one's
RELATIVE_HEAD_BYTES = 11
STORED = 19  # 1: one pass stores keys and values, and others attend to them (cross-attention)
HEAD_VALUES = 27  # of paged attention: values of a head that go out as float32, where OUT_HEADERS is 0
BIAS_STRIDE = 27  # bytes from one head's bias to the next one's
