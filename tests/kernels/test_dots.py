"""The 8-bit dot product: every lowering that runs here gives the same exact integers."""

from __future__ import annotations

import functools
import re
from typing import Any

import numpy as np
import pytest
from emitted import Target, assembly, compiled_here, lowerings_here, object_code
from kernel_pass import assert_same
from llvmlite import ir
from numpy.typing import NDArray

from miaotui.kernels.linear.dots import splat_inputs
from miaotui.kernels.linear.formats import IQ4_VALUES, Format
from miaotui.kernels.linear.tiles import TILINGS, emit_unit
from miaotui.kernels.platform.cpu import Isa
from miaotui.kernels.runtime.simd import I8, I16, I32, Emitter, Value
from miaotui.kernels.runtime.thread_pool import address_of, aligned_bytes

LOAD = ir.VectorType(I8, 64)  # 16 rows x 4 inputs
STEPS = 8  # of 4 inputs: a group of 32
LOWERINGS = lowerings_here()


KINDS = {"nibble": 15, "five": 31, "six": 63, "byte": 128}  # largest weight that a sum of each kind meets


def blocks(kind: str, scaled: bool) -> Any:
    """An emitter ``(weights, inputs, offset, out)``: a block's 16 sums; ``scaled`` from pairs of int16 behind it."""

    def emit(e: Emitter, weights: Value, inputs: Value, offset: Value, out: Value) -> None:
        total = e.splat(e.load(offset, I32, 4))
        room = min(e.dot.room(KINDS[kind]), STEPS // 2 if scaled else STEPS)
        words = e.load(offset + 64, ir.VectorType(I16, 32), 64)
        for first in range(0, STEPS, room):
            scale = e.dot.scale(words, first * 2 // STEPS) if scaled else None
            partial = None if scaled else e.dot.start(total)
            for index in range(first, first + room):
                lanes = splat_inputs(e, inputs + 4 * index)
                stored = e.load(weights + 64 * index, LOAD, 64)
                signed = kind == "byte"
                if signed and not e.dot.byte_bias:
                    stored = stored ^ 128
                partial = e.dot.step(partial, stored, lanes, signed)
            assert partial is not None
            total = e.dot.fold(total, partial, scale)
        e.store(total, out, 4)

    return emit


@functools.cache
def dots(lowering: str) -> dict[str, Any]:
    steps = {f"{kind}{'_scaled' if s else ''}": (blocks(kind, s), "iiii") for kind in KINDS for s in (False, True)}
    return compiled_here(steps, LOWERINGS[lowering])


def block_sums(
    kind: str,
    lowering: str,
    weights: NDArray[np.uint8],
    inputs: NDArray[np.int8],
    offset: int,
    scales: NDArray[np.int16] | None = None,
) -> NDArray[np.int32]:
    """Sums of ``weights [16, 32]`` with ``inputs [32]``, from ``offset`` on; halves times ``scales [16, 2]``."""
    lanes = aligned_bytes(512)
    lanes[:] = weights.reshape(16, STEPS, 4).transpose(1, 0, 2).reshape(-1)
    x, start, out = aligned_bytes(32), aligned_bytes(128), aligned_bytes(64)
    x[:], start[:4] = inputs.view(np.uint8), np.array([offset], np.int32).view(np.uint8)
    if scales is not None:
        start[64:] = scales.reshape(-1).view(np.uint8)
    arrays = (lanes, x, start, out)
    dots(lowering)[kind if scales is None else kind + "_scaled"](*(address_of(array) for array in arrays))
    return out.view(np.int32).copy()


def exact(
    kind: str,
    lowering: str,
    weights: NDArray[np.uint8],
    inputs: NDArray[np.int8],
    offset: int,
    scales: NDArray[np.int16] | None = None,
) -> NDArray[np.int32]:
    """What it must be; a lowering may leave its bias in, if it says so."""
    bias = 128 - LOWERINGS[lowering].dot.byte_bias if kind == "byte" else 0
    products = (weights.astype(np.int32) - bias) * inputs.astype(np.int32)
    if scales is not None:
        products = products * np.repeat(scales, 16, axis=1)
    return (products.sum(axis=1) + offset).astype(np.int32)


@pytest.mark.parametrize("lowering", LOWERINGS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scaled", [False, True])
def test_random_blocks(kind: str, scaled: bool, lowering: str) -> None:
    rng = np.random.default_rng(0)
    for offset in (0, -12345, 999_999):
        weights = rng.integers(0, 256 if kind == "byte" else KINDS[kind] + 1, (16, 32)).astype(np.uint8)
        inputs = rng.integers(-127, 128, 32).astype(np.int8)
        scales = rng.integers(-128, 128, (16, 2)).astype(np.int16) if scaled else None
        case = (kind, lowering, weights, inputs, offset, scales)
        assert_same(block_sums(*case), exact(*case))


@pytest.mark.parametrize("lowering", LOWERINGS)
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("kind", "weight"), [("nibble", 15), ("nibble", 0), ("five", 31), ("six", 63), ("byte", 0), ("byte", 255)]
)
def test_blocks_of_extremes(kind: str, weight: int, sign: int, lowering: str) -> None:
    """Sums that 16 bits just hold, or just do not."""
    weights = np.full((16, 32), weight, np.uint8)
    weights[3:, ::2] = 1
    inputs = np.full(32, 127 * sign, np.int8)
    for scales in (None, np.full((16, 2), -128, np.int16)):
        case = (kind, lowering, weights, inputs, 7, scales)
        assert_same(block_sums(*case), exact(*case))


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_tables_of_sixteen_bytes(lowering: str) -> None:
    def emit(e: Emitter, codes: Value, out: Value) -> None:
        e.store(e.dot.lookup(IQ4_VALUES, e.load(codes, LOAD, 64)), out, 64)

    codes, out = aligned_bytes(64), aligned_bytes(64)
    codes[:] = np.random.default_rng(0).integers(0, 16, 64, np.uint8)
    compiled_here({"lookup": (emit, "ii")}, LOWERINGS[lowering])["lookup"](address_of(codes), address_of(out))
    assert_same(out.view(np.int8), np.array(IQ4_VALUES, np.int8)[codes])


def units(target: Target, wide: bool = False) -> dict[str, Any]:
    """Matrix products as the target's kernels unroll them."""
    tiling = TILINGS[target.isa]
    forms = (Format.Q4, Format.Q8) if wide else (Format.Q4, Format.Q8, Format.Q6_K, Format.IQ4_XS)
    return {form.value: (emit_unit(form, tiling.most, tiling, wide=wide), "i" * 9) for form in forms}


@pytest.mark.parametrize(
    ("target", "instruction", "wide_instruction"),
    [
        (Target(Isa.AVX_VNNI, "x86_64-unknown-linux-gnu", "alderlake"), "{vex} vpdpbusd", "vpmaddwd|vpdpwssd"),
        (Target(Isa.NEON_DOTPROD, "aarch64-unknown-linux-gnu", "neoverse-n1"), "sdot", "smlal|mla"),
    ],
    ids=["avxvnni", "neon"],
)
def test_products_for_absent_processors_use_their_instruction(
    target: Target, instruction: str, wide_instruction: str
) -> None:
    """LLVM may take a fused instruction apart where its two halves are sooner done."""
    for wide, expected in ((False, instruction), (True, wide_instruction)):
        text = assembly(units(target, wide), target)
        assert len(re.findall(expected, text.replace("\t", " "))) > 50
        assert "zmm" not in text
        assert object_code(units(target, wide), target).startswith(b"\x7fELF")


def test_wide_products_use_512_bits_where_there_are() -> None:
    target = Target(Isa.AVX512_VNNI, "x86_64-unknown-linux-gnu", "icelake-server")
    lines = assembly(units(target, wide=True), target).splitlines()
    assert sum(bool(re.search("vpdpwssd|vpmaddwd", line)) and "zmm" in line for line in lines) > 50
