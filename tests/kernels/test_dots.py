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
from miaotui.kernels.linear.formats import Format
from miaotui.kernels.linear.tiles import TILINGS, emit_unit
from miaotui.kernels.platform.cpu import Isa
from miaotui.kernels.runtime.simd import I8, I32, Emitter, Value
from miaotui.kernels.runtime.thread_pool import address_of, aligned_bytes

LOAD = ir.VectorType(I8, 64)  # 16 rows x 4 inputs
STEPS = 8  # of 4 inputs: a group of 32
LOWERINGS = lowerings_here()


def blocks(step: str) -> Any:
    """An emitter ``(weights, inputs, offset, out)``: a block's 16 sums."""

    def emit(e: Emitter, weights: Value, inputs: Value, offset: Value, out: Value) -> None:
        start = e.splat(e.load(offset, I32, 4))
        total = e.dot.start(start)
        for index in range(STEPS):
            lanes = splat_inputs(e, inputs + 4 * index)
            total = getattr(e.dot, step)(total, e.load(weights + 64 * index, LOAD, 64), lanes)
        e.store(e.dot.finish(total, start), out, 4)

    return emit


@functools.cache
def dots(lowering: str) -> dict[str, Any]:
    steps = {step: (blocks(step), "iiii") for step in ("nibble", "byte")}
    return compiled_here(steps, LOWERINGS[lowering])


def block_sums(
    step: str, lowering: str, weights: NDArray[np.uint8], inputs: NDArray[np.int8], offset: int
) -> NDArray[np.int32]:
    """Sums of 16 rows ``weights [16, 32]`` with ``inputs [32]``, from ``offset`` on."""
    lanes = aligned_bytes(512)
    lanes[:] = weights.reshape(16, STEPS, 4).transpose(1, 0, 2).reshape(-1)
    x, start, out = aligned_bytes(32), aligned_bytes(4).view(np.int32), aligned_bytes(64)
    x[:], start[:] = inputs.view(np.uint8), offset
    arrays = (lanes, x, start, out)
    dots(lowering)[step](*(address_of(array) for array in arrays))
    return out.view(np.int32).copy()


def exact(
    step: str, lowering: str, weights: NDArray[np.uint8], inputs: NDArray[np.int8], offset: int
) -> NDArray[np.int32]:
    """What it must be; a lowering may leave its bias in, if it says so."""
    bias = 0 if step == "nibble" else 128 - LOWERINGS[lowering].dot.byte_bias
    return ((weights.astype(np.int32) - bias) @ inputs.astype(np.int32) + offset).astype(np.int32)


@pytest.mark.parametrize("lowering", LOWERINGS)
@pytest.mark.parametrize(("step", "most"), [("nibble", 15), ("byte", 255)])
def test_random_blocks(step: str, most: int, lowering: str) -> None:
    rng = np.random.default_rng(0)
    for offset in (0, -12345, 999_999):
        weights = rng.integers(0, most + 1, (16, 32)).astype(np.uint8)
        inputs = rng.integers(-127, 128, 32).astype(np.int8)
        case = (step, lowering, weights, inputs, offset)
        assert_same(block_sums(*case), exact(*case))


@pytest.mark.parametrize("lowering", LOWERINGS)
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("step", "weight"), [("nibble", 15), ("nibble", 0), ("byte", 0), ("byte", 128), ("byte", 255)])
def test_blocks_of_extremes(step: str, weight: int, sign: int, lowering: str) -> None:
    """Sums that 16 bits just hold, or just do not."""
    weights = np.full((16, 32), weight, np.uint8)
    weights[3:, ::2] = 1
    inputs = np.full(32, 127 * sign, np.int8)
    case = (step, lowering, weights, inputs, 7)
    assert_same(block_sums(*case), exact(*case))


def units(target: Target, wide: bool = False) -> dict[str, Any]:
    """Matrix products as the target's kernels unroll them."""
    tiling = TILINGS[target.isa]
    return {form.value: (emit_unit(form, tiling.most, tiling, wide=wide), "i" * 9) for form in (Format.Q4, Format.Q8)}


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
