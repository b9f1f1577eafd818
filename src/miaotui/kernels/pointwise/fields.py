"""Fields of pointwise operations in the table of operations. Plain numbers; imports no compiler."""

from __future__ import annotations

# fields of norm, residual norm, softcap and tap
X = 3
X_STRIDE = 4
WIDTH = 5
WEIGHT = 6
NORM_BIAS = 7
EPS = 8
OUT = 9  # int8 (norm) or float32
OUT_STRIDE = 10
OUT_HEADERS = 11
OUT_HEADER_STRIDE = 12
KIND = 13
GATHER = 14  # 1: rows come through the logits table
RESIDUAL = 15
RESIDUAL_STRIDE = 16
OUT_FLOAT = 17  # 0, or where the float32 result goes as well
OUT_FLOAT_STRIDE = 18
OWN_ROWS = 19  # rows up to which each thread keeps the quantized result to itself
OWN_AT = 20  # where in its own memory
OWN_HEADERS_AT = 21
RMS, LAYER, PLAIN = range(3)
LAYER_WIDE, PLAIN_WIDE = range(3, 5)  # results are int16 (see `runtime.arithmetic.quantize_group`)

# fields of operations on streams and inputs of layers (and those above)
FACTOR = 22  # float32: of the result, or a gate's bound in deviations
PARTS = 23  # parts of a row that are normed each for itself
COEFFICIENTS = 24  # address of float32 rows
SCALES = 25  # address of float32 factors of what is read next, which goes to READ
READ = 26
READ_STRIDE = 27

# fields of `spread` (and X, X_STRIDE, OUT, OUT_STRIDE; WIDTH counts the values of all copies)
COPIES = 13
COPY_STRIDE = 14  # bytes from one copy to the next

# fields of the sum of embeddings (and X, X_STRIDE, WIDTH, OUT, OUT_STRIDE)
POSITION_TABLE = 6  # float32 rows
POSITION_STRIDE = 7
FIRST_POSITION = 8  # row of a text's first token
TYPE_TABLE = 13  # float32 rows
TYPE_STRIDE = 14

# fields of the embedding (and WIDTH)
TABLE = 3
TABLE_STRIDE = 4
TABLE_SCALE = 6
TABLE_GROUPS = 7
TABLE_ROWS = 8  # tokens from this one on are looked up as token 0; 0: none
TABLE_OUT = 9
TABLE_OUT_STRIDE = 10

ALONE = 8192  # values up to which every thread does the whole operation
