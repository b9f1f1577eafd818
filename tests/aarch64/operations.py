"""Every emitter of the kernels, with calls that exercise it: for comparing processors.

`functions(isa)` are the emitters as a processor's kernels use them; `arena()` holds their inputs,
which come from seeded generators, and the calls. Results lie in marked memory, so a write beside
them shows too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from arena import Arena, Place, float_bits
from kernel_pass import Quantized, group_counts, packed, random_blocks
from numpy.typing import NDArray

from miaotui.kernels import reference
from miaotui.kernels.attention import fields as att
from miaotui.kernels.attention.emit import (
    TOGETHER,
    attend_emitters,
    clear_query,
    finish_query,
    query_bytes,
    rotate_head,
)
from miaotui.kernels.attention.store_emit import store_key_value
from miaotui.kernels.linear.formats import Format, tile_stride
from miaotui.kernels.linear.tiles import TILINGS, emit_unit
from miaotui.kernels.platform.cpu import Isa
from miaotui.kernels.pointwise.emit import embed_row, norm_row, quantize_row, softcap_row
from miaotui.kernels.runtime import arithmetic
from miaotui.kernels.runtime.ops import OP_FIELDS
from miaotui.kernels.runtime.simd import F32X, Emitter, Value
from miaotui.kernels.sampling.peaks_emit import vectors_peak

ROWS = range(1, 9)
WIDTH = 160
DIM, ROTATED = 96, 64
PAGE = 16
Functions = dict[str, tuple[Callable[..., Any], str]]


def gated(activation: Callable[..., Value]) -> Callable[..., None]:
    """What follows a gated product: ``(gate, up, integers, header)``, 32 values."""

    def emit(e: Emitter, gate: Value, up: Value, integers: Value, header: Value) -> None:
        low, high = (activation(e, e.load(gate + at, F32X, 4)) * e.load(up + at, F32X, 4) for at in (0, 64))
        arithmetic.quantize_group(e, low, high, integers, header)

    return emit


def peak(e: Emitter, x: Value, count: Value, out: Value) -> None:
    """The greatest of some vectors, where it can be compared."""
    e.store(vectors_peak(e, x, count), out, 4)


def functions(isa: Isa) -> Functions:
    """Emitters and signatures by name, tiled for a processor."""
    found: Functions = {
        f"unit_{form.value}_{rows}": (emit_unit(form, rows, TILINGS[isa]), "i" * 9) for form in Format for rows in ROWS
    }
    found |= {f"embed_{form.value}": (embed_row(form), "iiiif") for form in Format}
    found |= {
        "norm_rms": (norm_row(layer=False, residual=False), "iiiifiii"),
        "norm_layer": (norm_row(layer=True, residual=False), "iiiifiii"),
        "norm_add": (norm_row(layer=False, residual=True), "iiiifiii"),
        "quantize": (quantize_row(wide=False), "iiii"),
        "cap": (softcap_row, "iif"),
        "peak": (peak, "iii"),
        "gated_silu": (gated(arithmetic.silu), "iiii"),
        "gated_gelu": (gated(arithmetic.gelu_tanh), "iiii"),
        "rotate": (rotate_head, "iiiiiiiff"),
        "clear": (clear_query, "ii"),
        "finish": (finish_query, "iiii"),
    }
    for int8, capped in ((False, False), (False, True), (True, False), (True, True)):
        kind = name_of(int8, capped)
        emitters = attend_emitters(int8, capped)
        for count, emitter in zip(TOGETHER, emitters, strict=True):
            found[f"attend_{count}_{kind}"] = (emitter, "iiiiiiif")
    found |= {f"store_{name_of(int8)}": (store_key_value(int8), "i" * 6) for int8 in (False, True)}
    return found


def name_of(int8: bool, capped: bool = False) -> str:
    return ("int8" if int8 else "f16") + ("_capped" if capped else "")


def arena() -> Arena:
    """All calls."""
    a, rng = Arena(), np.random.default_rng(21)
    add_products(a, rng)
    add_pointwise(a, rng)
    for int8 in (False, True):
        add_attention(a, rng, int8)
    return a


def normal(rng: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    return rng.standard_normal(shape, np.float32) * np.float32(2)


def add_products(a: Arena, rng: np.random.Generator) -> None:
    """Units of every format, for 1 to 8 rows."""
    most = 32 * group_counts(Format.Q4_K, WIDTH // 32)
    x = normal(rng, len(ROWS), most)
    activations = Quantized(len(ROWS), most, reference.quantize(x))
    integers, floats, heads = a.put(activations.integers.data), a.put(x), a.put(activations.headers.data)
    for form in Format:
        wide = 32 * group_counts(form, WIDTH // 32)
        blocks = random_blocks(form, 32, wide, rng)
        weights, stride = a.put(packed(blocks)), tile_stride(form, wide)
        source, width = (floats, 4 * most) if form is Format.F32 else (integers, activations.integers.stride)
        for rows in ROWS:
            a.call(
                f"unit_{form.value}_{rows}",
                weights,
                stride,
                wide // 32,
                source,
                width,
                heads,
                activations.headers.stride,
                a.room(rows * 192),
                192,
            )
        for lane in (0, 7, 15):
            out = a.room(4 * wide)
            a.call(f"embed_{form.value}", weights, wide // 32, lane, out, 11.3125)


def add_pointwise(a: Arena, rng: np.random.Generator) -> None:
    x, weight, bias, also = (a.put(normal(rng, WIDTH)) for _ in range(4))
    for name in ("norm_rms", "norm_layer"):
        out, headers, floats = a.room(WIDTH), a.room(WIDTH // 2), a.room(4 * WIDTH)
        a.call(name, x, WIDTH, weight, bias, 1e-5, out, headers, floats)
    a.call("norm_add", x, WIDTH, weight, bias, 1e-5, a.room(4 * WIDTH), 0, also)
    wide = np.concatenate([normal(rng, 128) * np.float32(30), np.zeros(32, np.float32)])
    a.call("quantize", a.put(wide), WIDTH, a.room(WIDTH), a.room(WIDTH // 2))
    a.call("cap", a.put(wide), WIDTH, 30.0)
    for count in (0, 1, 4, 10):
        a.call("peak", x, count, a.room(4))
    strange = normal(rng, WIDTH)
    strange[[70, 90]] = np.inf, np.nan
    for count in (5, 6):
        a.call("peak", a.put(strange), count, a.room(4))
    for name in ("gated_silu", "gated_gelu"):
        for size in (0.01, 1.0, 30.0):
            gate, up = a.put(normal(rng, 32) * np.float32(size)), a.put(normal(rng, 32))
            a.call(name, gate, up, a.room(32), a.room(16))


def add_attention(a: Arena, rng: np.random.Generator, int8: bool) -> None:
    """Rotated, scaled queries and two pages of stored keys and values; then they meet."""
    half = DIM * PAGE + 4 * PAGE if int8 else 2 * DIM * PAGE
    turns = rng.uniform(0, 6, (2 * PAGE, ROTATED // 2))
    cos, sin = a.put(np.cos(turns).astype(np.float32)), a.put(np.sin(turns).astype(np.float32))
    weight = a.put(normal(rng, DIM))
    fields: dict[int, Place | int] = {
        att.DIM: DIM,
        att.ROTATED: ROTATED,
        att.COS: cos,
        att.SIN: sin,
        att.KEY_NORM: weight,
        att.NORM_EPS: float_bits(1e-6),
        att.VALUES_IN_HEAD: half,
    }
    op, pages = a.put_table(fields, OP_FIELDS), a.put(np.zeros(4 * half, np.uint8))
    for position in range(2 * PAGE - 3):
        key, value = a.put(normal(rng, DIM)), a.put(normal(rng, DIM))
        page = Place(pages.offset + position // PAGE * 2 * half)
        a.call(f"store_{name_of(int8)}", op, key, value, page, position % PAGE, position)
    for capped in (False, True):
        for count in TOGETHER:
            meet(a, rng, name_of(int8, capped), count, pages, half, (cos, sin, weight))


def meet(
    a: Arena,
    rng: np.random.Generator,
    kind: str,
    count: int,
    pages: Place,
    half: int,
    tables: tuple[Place, Place, Place],
) -> None:
    """Some queries meet both pages; their views differ."""
    stride = query_bytes(DIM)
    queries = a.put(np.zeros(count * stride, np.uint8))
    cos, sin, weight = tables
    scratch = a.parts[-1]
    for i in range(count):
        at = Place(queries.offset + i * stride)
        norm = weight if i % 2 else 0
        a.call("rotate", a.put(normal(rng, DIM)), at, DIM, ROTATED, cos, sin, norm, 1e-6, 0.125)
        a.call("clear", at, DIM)
        bounds = scratch[i * stride + 4 * (2 * DIM + 48) :].view(np.int32)
        bounds[:2] = 3 * i, 2 * PAGE - 3 - i
    for page in range(2):
        keys = Place(pages.offset + page * 2 * half)
        values = Place(keys.offset + half)
        a.call(f"attend_{count}_{kind}", queries, stride, keys, values, DIM, keys, PAGE * page, 4.0)
    for i in range(count):
        at = Place(queries.offset + i * stride)
        a.call("finish", at, DIM, a.room(DIM), a.room(DIM // 2))
