"""Operations that touch each value of a row once: embedding, norms with quantization, residual norms, caps, copies.

Each is *idempotent*: it reads one buffer and writes another. For few rows every thread does all of it, which costs
less than a barrier; for many rows the threads share the rows and meet. `ALONE` decides this from the number of values
alone, so all threads agree.
"""

from __future__ import annotations

from typing import Any

from miaotui.kernels.linear.formats import Format
from miaotui.kernels.pointwise.emit import copy_row, embed_row, norm_row, quantize_row, softcap_row, sum_rows
from miaotui.kernels.pointwise.fields import (
    ALONE,
    COPIES,
    COPY_STRIDE,
    EPS,
    FIRST_POSITION,
    GATHER,
    KIND,
    LAYER,
    LAYER_WIDE,
    NORM_BIAS,
    OUT,
    OUT_FLOAT,
    OUT_FLOAT_STRIDE,
    OUT_HEADER_STRIDE,
    OUT_HEADERS,
    OUT_STRIDE,
    OWN_AT,
    OWN_HEADERS_AT,
    OWN_ROWS,
    PLAIN,
    POSITION_STRIDE,
    POSITION_TABLE,
    RESIDUAL,
    RESIDUAL_STRIDE,
    RMS,
    TABLE,
    TABLE_GROUPS,
    TABLE_OUT,
    TABLE_OUT_STRIDE,
    TABLE_ROWS,
    TABLE_SCALE,
    TABLE_STRIDE,
    TYPE_STRIDE,
    TYPE_TABLE,
    WEIGHT,
    WIDTH,
    X_STRIDE,
    X,
)
from miaotui.kernels.runtime.compiler import inline, kernel
from miaotui.kernels.runtime.memory import peek, peek_float
from miaotui.kernels.runtime.ops import (
    ROW_FIELDS,
    ROW_POSITION,
    ROW_TOKEN,
    ROW_TYPE,
    ROWS,
    RUN_LOGIT_ROWS,
    RUN_LOGIT_TABLE,
    RUN_ROW_TABLE,
    RUN_TEAM,
    SLOT,
)
from miaotui.kernels.runtime.simd import intrinsic
from miaotui.kernels.runtime.sync import claim, claim_end, claim_first, own_memory

rms: Any = intrinsic(norm_row(layer=False, residual=False), "iiiifiii")
layer: Any = intrinsic(norm_row(layer=True, residual=False), "iiiifiii")
rms_add: Any = intrinsic(norm_row(layer=False, residual=True), "iiiifiii")
layer_wide: Any = intrinsic(norm_row(layer=True, residual=False, wide=True), "iiiifiii")
quantize: Any = intrinsic(quantize_row(wide=False), "iiii")
quantize_wide: Any = intrinsic(quantize_row(wide=True), "iiii")
copy: Any = intrinsic(copy_row, "iii")
add_rows: Any = intrinsic(sum_rows, "iiiii")
cap: Any = intrinsic(softcap_row, "iif")


@inline
def source_row(op, run, row):  # type: ignore[no-untyped-def]
    """Return which row of the pass the operation's row ``row`` reads."""
    if peek(op, GATHER) == 1:
        return peek(peek(run, RUN_LOGIT_TABLE), row)
    return row


@inline
def norm_one(op, run, row, own):  # type: ignore[no-untyped-def]
    """Norm and quantize one row, into a thread's own memory if it is given."""
    x = peek(op, X) + source_row(op, run, row) * peek(op, X_STRIDE)
    out, headers = peek(op, OUT), peek(op, OUT_HEADERS)
    if own != 0:
        out, headers = own + peek(op, OWN_AT), own + peek(op, OWN_HEADERS_AT)
    if out != 0:
        out += row * peek(op, OUT_STRIDE)
        headers += row * peek(op, OUT_HEADER_STRIDE)
    width, weight, bias, eps = (peek(op, WIDTH), peek(op, WEIGHT), peek(op, NORM_BIAS), peek_float(op, EPS))
    also = peek(op, OUT_FLOAT)
    if also != 0:
        also += row * peek(op, OUT_FLOAT_STRIDE)
    kind = peek(op, KIND)
    if kind == RMS:
        rms(x, width, weight, bias, eps, out, headers, also)
    elif kind == LAYER:
        layer(x, width, weight, bias, eps, out, headers, also)
    elif kind == LAYER_WIDE:
        layer_wide(x, width, weight, bias, eps, out, headers, also)
    elif kind == PLAIN:
        quantize(x, width, out, headers)
    else:
        quantize_wide(x, width, out, headers)
    return 0


@inline
def norm_add_one(op, run, row, _own):  # type: ignore[no-untyped-def]
    """Compute ``out = residual + norm(x)`` for one row."""
    x = peek(op, X) + row * peek(op, X_STRIDE)
    out = peek(op, OUT) + row * peek(op, OUT_STRIDE)
    residual = peek(op, RESIDUAL) + row * peek(op, RESIDUAL_STRIDE)
    rms_add(x, peek(op, WIDTH), peek(op, WEIGHT), 0, peek_float(op, EPS), out, 0, residual)
    return 0


@inline
def copy_one(op, run, row, _own):  # type: ignore[no-untyped-def]
    """Copy one row out, for readers of hidden states."""
    x = peek(op, X) + row * peek(op, X_STRIDE)
    copy(x, peek(op, WIDTH), peek(op, OUT) + row * peek(op, OUT_STRIDE))
    return 0


@inline
def spread_one(op, run, row, _own):  # type: ignore[no-untyped-def]
    """Copy a part of one row to several places of another: what all heads of a key share."""
    copies = peek(op, COPIES)
    width = peek(op, WIDTH) // copies
    x, out = peek(op, X) + row * peek(op, X_STRIDE), peek(op, OUT) + row * peek(op, OUT_STRIDE)
    for number in range(copies):
        copy(x, width, out + number * peek(op, COPY_STRIDE))
    return 0


@inline
def sum_one(op, run, row, _own):  # type: ignore[no-untyped-def]
    """Add the embeddings of a row's position and type to that of its token."""
    table = peek(run, RUN_ROW_TABLE) + 8 * ROW_FIELDS * row
    place = peek(table, ROW_POSITION) + peek(op, FIRST_POSITION)
    position = peek(op, POSITION_TABLE) + place * peek(op, POSITION_STRIDE)
    kind = peek(op, TYPE_TABLE) + peek(table, ROW_TYPE) * peek(op, TYPE_STRIDE)
    x, out = peek(op, X) + row * peek(op, X_STRIDE), peek(op, OUT) + row * peek(op, OUT_STRIDE)
    add_rows(x, peek(op, WIDTH), position, kind, out)
    return 0


def row_kernel(one: Any, name: str, owns: bool = False) -> Any:
    """Make a kernel that applies ``one`` to every row: on every thread when small, shared when large.

    If it ``owns``, it may leave a small result in each thread's own memory.
    """

    def rows_kernel(op, run, member):  # type: ignore[no-untyped-def]
        rows = peek(run, peek(op, ROWS))
        own = own_memory(run, member) if owns and rows <= peek(op, OWN_ROWS) else 0
        if own != 0 or rows * peek(op, WIDTH) <= ALONE:
            for row in range(rows):
                one(op, run, row, own)
            return 0
        team, slot = peek(run, RUN_TEAM), peek(op, SLOT)
        claimed = claim(run, slot, member, team, rows)
        while claimed >= 0:
            for row in range(claim_first(claimed), claim_end(claimed)):
                one(op, run, row, 0)
            claimed = claim(run, slot, member, team, rows)
        return 1

    rows_kernel.__name__ = rows_kernel.__qualname__ = name
    return kernel()(rows_kernel)


def _embed_one(form: Format) -> Any:
    emitted = intrinsic(embed_row(form), "iiiif")

    def one(op, run, row, _own):  # type: ignore[no-untyped-def]
        token = peek(peek(run, RUN_ROW_TABLE), row * ROW_FIELDS + ROW_TOKEN)
        if peek(op, TABLE_ROWS) != 0 and token >= peek(op, TABLE_ROWS):
            token = 0
        tile = peek(op, TABLE) + (token >> 4) * peek(op, TABLE_STRIDE)
        out = peek(op, TABLE_OUT) + row * peek(op, TABLE_OUT_STRIDE)
        emitted(tile, peek(op, TABLE_GROUPS), token & 15, out, peek_float(op, TABLE_SCALE))
        return 0

    return inline(one)


norm = row_kernel(norm_one, "norm", owns=True)
norm_add = row_kernel(norm_add_one, "norm_add")
tap = row_kernel(copy_one, "tap")
spread = row_kernel(spread_one, "spread")
sum_embeddings = row_kernel(sum_one, "sum_embeddings")
embed_q4 = row_kernel(_embed_one(Format.Q4), "embed_q4")
embed_q4m = row_kernel(_embed_one(Format.Q4M), "embed_q4m")
embed_q8 = row_kernel(_embed_one(Format.Q8), "embed_q8")
embed_f32 = row_kernel(_embed_one(Format.F32), "embed_f32")
embed_bf16 = row_kernel(_embed_one(Format.BF16), "embed_bf16")
embed_q5_0 = row_kernel(_embed_one(Format.Q5_0), "embed_q5_0")
embed_q5_1 = row_kernel(_embed_one(Format.Q5_1), "embed_q5_1")
embed_q6 = row_kernel(_embed_one(Format.Q6), "embed_q6")
embed_iq4_nl = row_kernel(_embed_one(Format.IQ4_NL), "embed_iq4_nl")
embed_mxfp4 = row_kernel(_embed_one(Format.MXFP4), "embed_mxfp4")
embed_q2_k = row_kernel(_embed_one(Format.Q2_K), "embed_q2_k")
embed_q3_k = row_kernel(_embed_one(Format.Q3_K), "embed_q3_k")
embed_q4_k = row_kernel(_embed_one(Format.Q4_K), "embed_q4_k")
embed_q5_k = row_kernel(_embed_one(Format.Q5_K), "embed_q5_k")
embed_q6_k = row_kernel(_embed_one(Format.Q6_K), "embed_q6_k")
embed_iq4_xs = row_kernel(_embed_one(Format.IQ4_XS), "embed_iq4_xs")
embed_iq1 = row_kernel(_embed_one(Format.IQ1), "embed_iq1")
embed_iq2 = row_kernel(_embed_one(Format.IQ2), "embed_iq2")
embed_iq3_xxs = row_kernel(_embed_one(Format.IQ3_XXS), "embed_iq3_xxs")
embed_iq3_s = row_kernel(_embed_one(Format.IQ3_S), "embed_iq3_s")
embed_tq2 = row_kernel(_embed_one(Format.TQ2), "embed_tq2")


@kernel()
def norm_within(op, run, member):  # type: ignore[no-untyped-def]
    """Norm a part of each row in place: of all query heads, or of all key heads. Always shared, as `cap_logits`."""
    rows = peek(run, peek(op, ROWS))
    width, weight, eps = peek(op, WIDTH), peek(op, WEIGHT), peek_float(op, EPS)
    team, slot = peek(run, RUN_TEAM), peek(op, SLOT)
    claimed = claim(run, slot, member, team, rows)
    while claimed >= 0:
        for row in range(claim_first(claimed), claim_end(claimed)):
            x = peek(op, X) + row * peek(op, X_STRIDE)
            rms(x, width, weight, 0, eps, 0, 0, x)
        claimed = claim(run, slot, member, team, rows)
    return 1


@kernel()
def cap_logits(op, run, member):  # type: ignore[no-untyped-def]
    """Apply a soft cap to the logits in place. Always shared, so that no two threads cap a row."""
    rows = peek(run, RUN_LOGIT_ROWS)
    chunks = (peek(op, WIDTH) + 511) // 512
    team, slot = peek(run, RUN_TEAM), peek(op, SLOT)
    claimed = claim(run, slot, member, team, rows * chunks)
    while claimed >= 0:
        for unit in range(claim_first(claimed), claim_end(claimed)):
            row, chunk = unit // chunks, unit % chunks
            start = peek(op, WIDTH) * chunk // chunks // 16 * 16
            end = peek(op, WIDTH) * (chunk + 1) // chunks // 16 * 16
            x = peek(op, X) + row * peek(op, X_STRIDE) + 4 * start
            cap(x, end - start, peek_float(op, EPS))
        claimed = claim(run, slot, member, team, rows * chunks)
    return 1
