"""The 8-bit dot product, lowered per processor: 16 rows x 4 inputs of weights times 4 inputs of activations.

Sums of a block begin with `start`, go on with one `step` for each 4 inputs and end with `fold`, which multiplies them
by an integer scale where a format has one. A partial sum that is full (see `room`) is folded in between. All lowerings
give the same integers. Activations lie in [-127, 127]; weights are unsigned, or bytes that stand for ``value +
byte_bias``. Activations of 16 bits lie in [-4095, 4095]; `pairs` sums two of them for each output at a time.

    instruction            processor                per 64 products
    vpdpbusd zmm           AVX-512 VNNI             1
    vpdpwssd               AVX-512 VNNI, AVX-VNNI, activations of 16 bits   2 (zmm), 4 (ymm)
    vpmaddwd + vpaddd      AVX2, activations of 16 bits                     4 x 2
    vpdpbusd ymm           AVX-VNNI                 2
    vpmaddubsw + vpaddw    AVX2, unsigned weights   2 x 2; a fold: 2 x 2 (vpmaddwd by the scale or 1, vpaddd)
    vpabsb, vpsignb, vpmaddubsw, vpmaddwd, vpaddd  AVX2, signed weights  2 x 5
    sdot                   AArch64 dot product      4
    widen, multiply, add   anything else            LLVM's choice

On AVX2 16 bits hold sums of 8 steps of 4-bit weights (8 x 2 x 15 x 127 = 30,480), 4 of 5 bits, 2 of 6 bits (32,004)
and 1 of signed weights (2 x 128 x 127 = 32,512).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir

from miaotui.kernels.platform.cpu import Isa, probe
from miaotui.kernels.runtime.simd import I8, I16, I32, LANES, Emitter, Value


class Dot:
    """Plain LLVM vectors: correct on every processor, and the reference for the others."""

    byte_bias = 0  # of signed weights: the sum of bias x activation stays in, and the kernel takes it off beforehand

    def __init__(self, emitter: Emitter) -> None:
        self.e = emitter

    def room(self, most: int) -> int:
        """Return how many steps of weights up to ``most`` a partial sum holds, of the 8 in a group."""
        return 8

    def start(self, total: Value) -> Value | None:
        """Begin a partial sum that is added to ``total`` with a scale of 1. None: `step` begins it."""
        return total

    def step(self, partial: Value | None, weights: Value, inputs: Value, signed: bool = False) -> Value:
        """Add 16 x 4 products of unsigned weights; ``signed``: of bytes that stand for ``value + byte_bias``."""
        products = self._products(weights, inputs)
        return products if partial is None else partial + products

    def fold(self, total: Value, partial: Value, scale: Value | None = None) -> Value:
        """Return int32 ``total + partial * scale``; without a scale ``partial`` came from ``start(total)``."""
        return partial if scale is None else total + partial * scale

    def scale(self, words: Value, half: int) -> Value:
        """Return the first or second of each lane's two int16 numbers as `fold` takes it."""
        return self.e.widen(self.e.shuffle(words, range(half, words.type.count, 2)), I32)

    def lookup(self, table: Sequence[int], codes: Value) -> Value:
        """Look 4-bit codes up in a table of 16 bytes."""
        found = self.e.const(codes.type, table[0])
        for code in range(1, 16):
            hit = self.e.compare("==", codes, self.e.const(codes.type, code))
            found = self.e.select(hit, self.e.const(codes.type, table[code]), found)
        return found

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

    def step(self, partial: Value | None, weights: Value, inputs: Value, signed: bool = False) -> Value:
        """Add 16 x 4 products of the bytes as they are; the bias stays in."""
        if partial is None:
            partial = self.e.const(ir.VectorType(I32, weights.type.count // 4), 0)
        return _in_parts(self.e, self.register, self._step, weights, inputs, partial)

    def lookup(self, table: Sequence[int], codes: Value) -> Value:
        """Look 4-bit codes up in a table of 16 bytes."""
        return _looked_up(self.e, self.register, table, codes)

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

    def room(self, most: int) -> int:
        """Return how many steps of weights up to ``most`` 16 bits hold: a power of two."""
        fit = min(8, 32767 // (2 * most * 127))
        return 1 << (fit.bit_length() - 1)

    def start(self, total: Value) -> Value | None:
        """Begin with the first step: partial sums have 16 bits."""
        return None

    def step(self, partial: Value | None, weights: Value, inputs: Value, signed: bool = False) -> Value:
        """Add 16 x 4 products, as sums of two in int16. Signed: |w| times the activation with w's sign."""
        products = _in_parts(self.e, 32, self._signed if signed else self._pairs, weights, inputs)
        return products if partial is None else partial + products

    def fold(self, total: Value, partial: Value, scale: Value | None = None) -> Value:
        """Return int32 ``total`` plus the pairs of ``partial``, each times the scale."""
        return self.pairs(total, partial, self.e.const(partial.type, 1) if scale is None else scale)

    def scale(self, words: Value, half: int) -> Value:
        """Return one of each lane's two int16 numbers in both places."""
        return self.e.shuffle(words, [lane // 2 * 2 + half for lane in range(words.type.count)])

    def lookup(self, table: Sequence[int], codes: Value) -> Value:
        """Look 4-bit codes up in a table of 16 bytes."""
        return _looked_up(self.e, 32, table, codes)

    def pairs(self, total: Value, weights: Value, inputs: Value) -> Value:
        """Add to each lane its two products."""
        return total + _in_parts(self.e, 32, functools.partial(_add_products, self.e), weights, inputs)

    def _pairs(self, weights: Value, inputs: Value) -> Value:
        return self._call("llvm.x86.avx2.pmadd.ub.sw", I16, weights, inputs)

    def _signed(self, weights: Value, inputs: Value) -> Value:
        magnitude = self.e.select(
            self.e.compare("<", weights, self.e.const(weights.type, 0)),
            self.e.const(weights.type, 0) - weights,
            weights,
        )
        signed = self._call("llvm.x86.avx2.psign.b", I8, inputs, weights)
        return self._pairs(magnitude, signed)

    def _call(self, name: str, lane: Any, a: Value, b: Value) -> Value:
        result = ir.VectorType(lane, 256 // lane.width)
        function = self.e.declare(name, result, [a.type, b.type])
        return self.e.wrap(self.e.builder.call(function, [a.ir, b.ir]))


class NeonDot(Dot):
    """``sdot`` on four 128-bit registers (AArch64 with the dot-product extension)."""

    def step(self, partial: Value | None, weights: Value, inputs: Value, signed: bool = False) -> Value:
        """Add 16 x 4 products; unsigned weights are below 128."""
        if partial is None:
            partial = self.e.const(ir.VectorType(I32, weights.type.count // 4), 0)
        return _in_parts(self.e, 16, self._step, weights, inputs, partial)

    def lookup(self, table: Sequence[int], codes: Value) -> Value:
        """Look 4-bit codes up in a table of 16 bytes."""
        kind = ir.VectorType(I8, 16)
        values = self.e.wrap(ir.Constant(kind, [entry % 256 for entry in table]))
        function = self.e.declare("llvm.aarch64.neon.tbl1.v16i8", kind, [kind, kind])
        return _in_parts(
            self.e, 16, lambda part: self.e.wrap(self.e.builder.call(function, [values.ir, part.ir])), codes
        )

    def _step(self, weights: Value, inputs: Value, total: Value) -> Value:
        name = "llvm.aarch64.neon.sdot.v4i32.v16i8"
        function = self.e.declare(name, total.type, [total.type, weights.type, weights.type])
        return self.e.wrap(self.e.builder.call(function, [total.ir, weights.ir, inputs.ir]))


def _add_products(e: Emitter, weights: Value, inputs: Value) -> Value:
    """Multiply 16 int16 lanes and add them in pairs (``vpmaddwd``)."""
    function = e.declare("llvm.x86.avx2.pmadd.wd", ir.VectorType(I32, 8), [weights.type, inputs.type])
    return e.wrap(e.builder.call(function, [weights.ir, inputs.ir]))


def _looked_up(e: Emitter, register: int, table: Sequence[int], codes: Value) -> Value:
    """Look 4-bit codes up by one shuffle of bytes for each register, or part of one."""
    register = min(register, codes.type.count)
    kind = ir.VectorType(I8, register)
    values = e.wrap(ir.Constant(kind, [entry % 256 for entry in table] * (register // 16)))
    function = e.declare(_SHUFFLES[register], kind, [kind, kind])

    def part(indices: Value) -> Value:
        return e.wrap(e.builder.call(function, [values.ir, indices.ir]))

    return _in_parts(e, register, part, codes)


def _in_parts(e: Emitter, register: int, step: Callable[..., Value], *vectors: Value) -> Value:
    """Apply ``step`` to each part of the vectors. Each part of the first vector fills a register of bytes."""
    first = vectors[0].type
    parts = first.count * first.element.width // (8 * register)
    if parts <= 1:
        return step(*vectors)
    columns = zip(*[e.split(vector, parts) for vector in vectors], strict=True)
    return e.concat([step(*column) for column in columns])


_SHUFFLES = {16: "llvm.x86.ssse3.pshuf.b.128", 32: "llvm.x86.avx2.pshuf.b", 64: "llvm.x86.avx512.pshuf.b.512"}

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
