"""The 8-bit dot product, lowered per processor: 16 rows x 4 inputs of weights times 4 inputs of activations.

One `Dot` sums a block of 32 inputs in eight steps: `start`, eight times `nibble` or `byte`, `finish`. All lowerings
give the same integers. Activations lie in [-127, 127]; 4-bit weights are 0..15, 8-bit weights are stored as value +
128. Activations of 16 bits lie in [-4095, 4095]; `pairs` sums two of them for each output at a time.

    instruction            processor                per 64 products
    vpdpbusd zmm           AVX-512 VNNI             1
    vpdpwssd               AVX-512 VNNI, AVX-VNNI, activations of 16 bits   2 (zmm), 4 (ymm)
    vpmaddwd + vpaddd      AVX2, activations of 16 bits                     4 x 2
    vpdpbusd ymm           AVX-VNNI                 2
    vpmaddubsw + vpaddw    AVX2, 4-bit weights      2 x 2   (int16 holds 8 x 2 x 15 x 127 = 30,480)
    vpsignb, vpmaddubsw, vpmaddwd, vpaddd  AVX2, 8-bit weights  2 x 4, after |w| (int16 holds 2 x 128 x 127 = 32,512)
    sdot                   AArch64 dot product      4
    widen, multiply, add   anything else            LLVM's choice
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir

from miaotui.kernels.platform.cpu import Isa, probe
from miaotui.kernels.runtime.simd import I8, I16, I32, LANES, Emitter, Value


class Dot:
    """Plain LLVM vectors: correct on every processor, and the reference for the others."""

    byte_bias = 0  # what `byte` leaves in: sum of bias x activation, which the kernel takes off through `start`

    def __init__(self, emitter: Emitter) -> None:
        self.e = emitter

    def start(self, offset: Value) -> Value:
        """Begin a sum. ``offset`` (int32, equal in all lanes) is the start value of the whole block."""
        return offset

    def nibble(self, total: Value, weights: Value, inputs: Value) -> Value:
        """Add 16 x 4 products of weights in 0..15."""
        return total + self._products(weights, inputs)

    def byte(self, total: Value, weights: Value, inputs: Value) -> Value:
        """Add 16 x 4 products of weights stored as value + 128."""
        return total + self._products(weights ^ 128, inputs)

    def finish(self, total: Value, offset: Value) -> Value:
        """Return the block's sums as 16 x int32."""
        return total

    def pairs(self, total: Value, weights: Value, inputs: Value) -> Value:
        """Add to each lane its two products of int16 weights (up to 255) and int16 activations (13 bits)."""
        for side in range(2):
            order = range(side, weights.type.count, 2)
            w, x = (self.e.widen(self.e.shuffle(each, order), I32) for each in (weights, inputs))
            total = total + w * x
        return total

    def _products(self, weights: Value, inputs: Value) -> Value:
        total = None
        for step in range(4):
            order = range(step, weights.type.count, 4)
            w = self.e.widen(self.e.shuffle(weights, order), I32)
            x = self.e.widen(self.e.shuffle(inputs, order), I32)
            total = w * x if total is None else total + w * x
        assert total is not None
        return total


class VnniDot(Dot):
    """``vpdpbusd`` on 512-bit or 256-bit registers: unsigned weights times signed activations."""

    byte_bias = 128
    register = 64  # bytes

    def nibble(self, total: Value, weights: Value, inputs: Value) -> Value:
        """Add 16 x 4 products of weights in 0..15."""
        return self.byte(total, weights, inputs)

    def byte(self, total: Value, weights: Value, inputs: Value) -> Value:
        """Add 16 x 4 products of the stored bytes; the bias stays in."""
        return _in_parts(self.e, self.register, self._step, weights, inputs, total)

    def pairs(self, total: Value, weights: Value, inputs: Value) -> Value:
        """Add to each lane its two products."""
        return _in_parts(self.e, self.register, self._step, weights, inputs, total)

    def _step(self, weights: Value, inputs: Value, total: Value) -> Value:
        operand = weights.type if llvm.llvm_version_info[0] >= 22 else total.type
        instruction = "vpdpbusd" if weights.type.element == I8 else "vpdpwssd"
        name = f"llvm.x86.avx512.{instruction}.{8 * self.register}"
        function = self.e.declare(name, total.type, [total.type, operand, operand])
        pair = [self.e.bits(v, operand).ir for v in (weights, inputs)]
        return self.e.wrap(self.e.builder.call(function, [total.ir, *pair]))


class Vnni256Dot(VnniDot):
    """``vpdpbusd`` on two 256-bit registers (AVX-VNNI: laptops from 2021 on)."""

    register = 32


class Avx2Dot(Dot):
    """``vpmaddubsw`` on two 256-bit registers. Pairs are summed in int16, which cannot overflow (see the table)."""

    def start(self, offset: Value) -> Value:
        """Begin a sum of nibble products in int16; `byte` widens it to int32."""
        return self.e.const(ir.VectorType(I16, 2 * offset.type.count), 0)

    def nibble(self, total: Value, weights: Value, inputs: Value) -> Value:
        """Add 16 x 4 products of weights in 0..15, still as pairs."""
        return total + _in_parts(self.e, 32, self._pairs, weights, inputs)

    def byte(self, total: Value, weights: Value, inputs: Value) -> Value:
        """Add 16 x 4 products: |w| times the activation with w's sign."""
        if total.type.element == I16:
            total = self.e.const(ir.VectorType(I32, total.type.count // 2), 0)
        return total + _in_parts(self.e, 32, self._signed, weights ^ 128, inputs)

    def pairs(self, total: Value, weights: Value, inputs: Value) -> Value:
        """Add to each lane its two products."""
        return total + _in_parts(self.e, 32, partial(_add_products, self.e), weights, inputs)

    def finish(self, total: Value, offset: Value) -> Value:
        """Return the block's sums as 16 x int32."""
        if total.type.element == I16:
            total = _in_parts(self.e, 32, self._add_pairs, total)
        return total + offset

    def _pairs(self, weights: Value, inputs: Value) -> Value:
        return self._call("llvm.x86.avx2.pmadd.ub.sw", I16, weights, inputs)

    def _signed(self, weights: Value, inputs: Value) -> Value:
        magnitude = self.e.select(
            self.e.compare("<", weights, self.e.const(weights.type, 0)),
            self.e.const(weights.type, 0) - weights,
            weights,
        )
        signed = self._call("llvm.x86.avx2.psign.b", I8, inputs, weights)
        return self._add_pairs(self._pairs(magnitude, signed))

    def _add_pairs(self, pairs: Value) -> Value:
        return _add_products(self.e, pairs, self.e.const(pairs.type, 1))

    def _call(self, name: str, lane: Any, a: Value, b: Value) -> Value:
        result = ir.VectorType(lane, 256 // lane.width)
        function = self.e.declare(name, result, [a.type, b.type])
        return self.e.wrap(self.e.builder.call(function, [a.ir, b.ir]))


class NeonDot(Dot):
    """``sdot`` on four 128-bit registers (AArch64 with the dot-product extension)."""

    def nibble(self, total: Value, weights: Value, inputs: Value) -> Value:
        """Add 16 x 4 products of weights in 0..15."""
        return _in_parts(self.e, 16, self._step, weights, inputs, total)

    def byte(self, total: Value, weights: Value, inputs: Value) -> Value:
        """Add 16 x 4 products of weights stored as value + 128."""
        return self.nibble(total, weights ^ 128, inputs)

    def _step(self, weights: Value, inputs: Value, total: Value) -> Value:
        name = "llvm.aarch64.neon.sdot.v4i32.v16i8"
        function = self.e.declare(name, total.type, [total.type, weights.type, weights.type])
        return self.e.wrap(self.e.builder.call(function, [total.ir, weights.ir, inputs.ir]))


def _add_products(e: Emitter, weights: Value, inputs: Value) -> Value:
    """Multiply 16 int16 lanes and add them in pairs (``vpmaddwd``)."""
    function = e.declare("llvm.x86.avx2.pmadd.wd", ir.VectorType(I32, 8), [weights.type, inputs.type])
    return e.wrap(e.builder.call(function, [weights.ir, inputs.ir]))


def _in_parts(e: Emitter, register: int, step: Callable[..., Value], *vectors: Value) -> Value:
    """Apply ``step`` to each part of the vectors. Each part of the first vector fills a register of bytes."""
    first = vectors[0].type
    parts = first.count * first.element.width // (8 * register)
    if parts <= 1:
        return step(*vectors)
    columns = zip(*[e.split(vector, parts) for vector in vectors], strict=True)
    return e.concat([step(*column) for column in columns])


LOWERINGS: dict[Isa, type[Dot]] = {
    Isa.AVX512_VNNI: VnniDot,
    Isa.AVX_VNNI: Vnni256Dot,
    Isa.AVX2: Avx2Dot,
    Isa.NEON_DOTPROD: NeonDot,
    Isa.PLAIN: Dot,
}


def host_lowering() -> tuple[type[Dot], bool]:
    """Return the lowering for the target processor, and whether that processor converts float16."""
    isa = probe().isa
    return LOWERINGS[isa], isa is not Isa.PLAIN


def splat_inputs(e: Emitter, address: Value, lanes: int = LANES) -> Value:
    """Load four int8 activations, repeated for each row of a weight load."""
    return e.bits(e.splat(e.load(address, I32), lanes), ir.VectorType(I8, 4 * lanes))


def splat_pair(e: Emitter, address: Value, lanes: int = LANES) -> Value:
    """Load two int16 activations, repeated for each row of a weight load."""
    return e.bits(e.splat(e.load(address, I32), lanes), ir.VectorType(I16, 2 * lanes))
