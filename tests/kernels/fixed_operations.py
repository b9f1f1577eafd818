"""A fixed set of operations; run as a program, it prints a hash of what each of them gave.

Inputs come from seeded generators, so the lines depend on the instruction set alone, that is:
they must not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
from kernel_pass import Floating, Quantized, packed, random_blocks, run_pass
from numpy.typing import NDArray
from paged_attention import Cache, Kind
from whole_texts import Whole, run_whole

from miaotui.kernels import reference
from miaotui.kernels.linear import fields as lin
from miaotui.kernels.linear.formats import Format, tile_stride
from miaotui.kernels.platform.cpu import probe
from miaotui.kernels.pointwise import fields as pw
from miaotui.kernels.reference import Bytes
from miaotui.kernels.runtime import ops
from miaotui.kernels.runtime.ops import float_field
from miaotui.kernels.runtime.thread_pool import address_of, aligned_bytes, aligned_int64
from miaotui.kernels.sampling import peaks_fields as pk

ROWS, WIDTH, OUTPUTS = 11, 352, 192
FORMATS = (Format.Q4, Format.Q4M, Format.Q8, Format.F32, Format.Q5_0, Format.IQ4_NL)  # others: test_tiles


def outputs() -> Iterator[tuple[str, NDArray[np.generic]]]:
    """Operations by name, and the bytes of their results."""
    rng = np.random.default_rng(11)
    x = rng.standard_normal((ROWS, WIDTH), np.float32) * np.float32(2)
    weight = aligned_bytes(4 * WIDTH).view(np.float32)
    weight[:] = rng.standard_normal(WIDTH)
    for form in FORMATS:
        blocks = packed(random_blocks(form, 2 * OUTPUTS, WIDTH, rng))
        modes = {"store": lin.STORE, "silu": lin.GATED_SILU, "gelu": lin.GATED_GELU, "gelu_erf": lin.GATED_GELU_ERF}
        for name, mode in modes.items():
            yield f"linear {form.value} {name}", product(form, blocks, x, mode)
        if form in (Format.Q4, Format.Q4M, Format.Q8):
            yield f"linear {form.value} wide", product(form, blocks, x, lin.STORE, wide=True)
    for name, kind in (("rms", pw.RMS), ("layer", pw.LAYER), ("layer wide", pw.LAYER_WIDE)):
        yield f"norm {name}", norm(x, weight, kind)
    kinds = (Kind(), Kind(int8=True, group=3, dim=96, window=20), Kind(cap=5.0, normed=True))
    for kind_of in kinds:
        tokens = kind_of.tokens(45)
        yield f"attention {kind_of}", raw(Cache(kind_of).chunk(tokens, 0, (3, 1, 2)))
    for whole in (Whole(), Whole(dim=64, rotated=32, window=9, biased=True), Whole(relative=True)):
        found = run_whole(whole, [whole.tokens(45), whole.tokens(7)], most=7)
        assert isinstance(found, Quantized)
        yield f"attention {whole}", raw(found.read(52))
    logits = Floating(2, 1024, rng.standard_normal((2, 1024)).astype(np.float32) * np.float32(90))
    fields = {pw.X: logits.address, pw.X_STRIDE: logits.stride, pw.WIDTH: 1024}
    fields |= {pw.EPS: float_field(30.0)}
    run_pass([("pointwise.rows:cap_logits", fields)], {ops.RUN_LOGIT_ROWS: 2})
    yield "cap", logits.read()
    yield "peaks", peaks(logits)


def product(
    form: Format, weights: NDArray[np.uint8], x: NDArray[np.float32], mode: int, wide: bool = False
) -> NDArray[np.generic]:
    source = Quantized(ROWS, WIDTH, reference.quantize_wide(x) if wide else reference.quantize(x), wide)
    inputs = Floating(ROWS, WIDTH, x) if form is Format.F32 else source.integers
    floats, gated = Floating(ROWS, 2 * OUTPUTS), Quantized(ROWS, OUTPUTS)
    out = floats if mode == lin.STORE else gated.integers
    fields = {
        ops.ROWS: ops.RUN_ROWS,
        lin.WEIGHTS: address_of(weights),
        lin.GROUPS: WIDTH // 32,
        lin.TILE_STRIDE: tile_stride(form, WIDTH),
        lin.X: inputs.address,
        lin.X_STRIDE: inputs.stride,
        lin.UNITS: OUTPUTS // (16 if mode == lin.STORE else 32),
        lin.MODE: mode,
        lin.HEADERS: source.headers.address,
        lin.HEADER_STRIDE: source.headers.stride,
        lin.OUT: out.address,
        lin.OUT_STRIDE: out.stride,
        lin.OUT_HEADERS: gated.headers.address,
        lin.OUT_HEADER_STRIDE: gated.headers.stride,
    }
    run_pass([(f"linear.matmul:linear_{form.value}{'_wide' if wide else ''}", fields)], {ops.RUN_ROWS: ROWS})
    return floats.read() if mode == lin.STORE else raw(gated.read(ROWS))


def norm(x: NDArray[np.float32], weight: NDArray[np.float32], kind: int) -> NDArray[np.generic]:
    source, out = Floating(ROWS, WIDTH, x), Quantized(ROWS, WIDTH, wide=kind == pw.LAYER_WIDE)
    fields = {
        ops.ROWS: ops.RUN_ROWS,
        pw.X: source.address,
        pw.X_STRIDE: source.stride,
        pw.WIDTH: WIDTH,
        pw.WEIGHT: address_of(weight),
        pw.NORM_BIAS: address_of(weight),
        pw.KIND: kind,
        pw.EPS: float_field(1e-5),
        pw.OUT: out.integers.address,
        pw.OUT_STRIDE: out.integers.stride,
        pw.OUT_HEADERS: out.headers.address,
        pw.OUT_HEADER_STRIDE: out.headers.stride,
    }
    run_pass([("pointwise.rows:norm", fields)], {ops.RUN_ROWS: ROWS})
    return raw(out.read(ROWS))


def peaks(logits: Floating) -> NDArray[np.generic]:
    parts, out = Floating(2, pk.parts_of(1024)), aligned_int64(2 * pk.PEAK_FIELDS)
    fields = {
        ops.ROWS: ops.RUN_LOGIT_ROWS,
        pk.X: logits.address,
        pk.X_STRIDE: logits.stride,
        pk.WIDTH: 1024,
        pk.PARTS: parts.address,
        pk.PARTS_STRIDE: parts.stride,
        pk.OUT: address_of(out),
    }
    run_pass([("sampling.peaks:part_peaks", fields), ("sampling.peaks:row_peaks", fields)], {ops.RUN_LOGIT_ROWS: 2})
    return out


def raw(values: Bytes) -> NDArray[np.generic]:
    parts = [np.ascontiguousarray(part).view(np.uint8) for part in (values.integers, values.scales)]
    return np.concatenate([part.reshape(-1) for part in parts])


if __name__ == "__main__":
    print(probe().isa.value)
    for label, values in outputs():
        print(hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()[:16], label)
