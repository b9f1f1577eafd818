"""Vector functions that several kernels share: exponential, activations, half precision, quantization.

All are emitted, treat all lanes alike, and use the same operations in the same order everywhere. So equal inputs give
equal bits. Error against float64: `exp` below 2 units in the last place on [-87, 88].
"""

from __future__ import annotations

from miaotui.kernels.runtime.simd import F16, F32, I8X, I16, I32, I32X, LANES, Emitter, Value, like

HALF_MAX = 65504.0
TINY = 1e-35  # a group no larger counts as zeros: 127 / its top would overflow
MOST_BYTE, MOST_WIDE = 127, 4095  # largest magnitude of int8 and int16 activations: sums of 32 stay below 2**24
_PAIRS = [4 * (lane // 4) + (0, 2, 1, 3)[lane % 4] for lane in range(2 * LANES)]  # how int16 activations lie
SWIGLU_ALPHA, SWIGLU_LIMIT = 1.702, 7.0
_LOG2E = 1.4426950408889634
_LN2_HIGH, _LN2_LOW = (0.693359375, -2.12194440e-4)  # their sum is ln 2; the first has few bits (Cephes, expf)
_EXP = (1 / 5040, 1 / 720, 1 / 120, 1 / 24, 1 / 6, 0.5, 1.0, 1.0)  # Taylor: |r| <= ln 2 / 2 leaves 6e-9
# (Phi(x) - 1/2) / x, Phi being the normal distribution, as a polynomial in v = 2 (x / _GELU_LIMIT)^2 - 1, ascending;
# fitted by least squares, weighted so that the largest error of GELU is least.
_GELU = (
    0.134659347, -0.0671267809, 0.0496456585, -0.0397645722, 0.0320341465,
    -0.0250310094, 0.0185180991, -0.0128184824, 0.0084895019, -0.00536684933,
    0.00276780723, -0.00111243152, 0.000769651387, -0.000631905188, 0.000205901518,
)  # fmt: skip
_GELU_LIMIT = 5.25  # beyond it Phi differs from 0 or 1 by less than 1e-7


def exp(e: Emitter, x: Value) -> Value:
    """Compute ``e**x`` as ``2**n * e**r`` with ``|r| <= ln(2)/2``.

    Below -87 the result is about 1e-38; above 88 it saturates.
    """
    x = e.minimum(e.maximum(x, e.const(x.type, -87.0)), e.const(x.type, 88.0))
    n = e.unary("rint", x * _LOG2E)
    r = e.fma(n, e.const(x.type, -_LN2_HIGH), x)
    r = e.fma(n, e.const(x.type, -_LN2_LOW), r)
    total = e.const(x.type, _EXP[0])
    for coefficient in _EXP[1:]:
        total = e.fma(total, r, e.const(x.type, coefficient))
    power = (e.to_int(n) + 127) << 23
    return total * e.bits(power, x.type)


def silu(e: Emitter, x: Value) -> Value:
    """Compute ``x / (1 + exp(-x))``."""
    return x / (exp(e, e.const(x.type, 0.0) - x) + 1.0)


def gelu_tanh(e: Emitter, x: Value) -> Value:
    """Compute GELU in its tanh form, as ``x / (1 + exp(-2u))`` with ``u = sqrt(2/pi) (x + 0.044715 x^3)``."""
    inner = e.fma(x * x * 0.044715, x, x) * (-2 * 0.7978845608028654)
    return x / (exp(e, inner) + 1.0)


def gelu(e: Emitter, x: Value) -> Value:
    """Compute GELU, ``x * Phi(x)``, by a polynomial: its error is below 1e-6 for ``|x| <= 12``, 1e-7 times more beyond.

    No division and no exponential, and few steps one after another: products of short rows wait for it.
    """
    limit = e.const(x.type, _GELU_LIMIT)
    inside = e.minimum(e.maximum(x, e.const(x.type, -_GELU_LIMIT)), limit)
    power = e.fma(inside * inside, e.const(x.type, 2.0 / _GELU_LIMIT**2), e.const(x.type, -1.0))
    terms = [e.const(x.type, coefficient) for coefficient in _GELU]
    while len(terms) > 1:  # Estrin's scheme
        pairs = zip(terms[0::2], terms[1::2], strict=False)
        terms = [e.fma(high, power, low) for low, high in pairs] + terms[len(terms) // 2 * 2 :]
        power = power * power
    return x * e.fma(terms[0], inside, e.const(x.type, 0.5))


def swiglu_clamped(e: Emitter, gate: Value, up: Value) -> Value:
    """Compute ``gate * sigmoid(1.702 gate) * (up + 1)`` of values clamped to 7: gpt-oss' (OpenAI 2025, model card)."""
    limit = e.const(gate.type, SWIGLU_LIMIT)
    gate = e.minimum(gate, limit)
    up = e.minimum(e.maximum(up, e.const(up.type, -SWIGLU_LIMIT)), limit)
    return gate / (exp(e, gate * -SWIGLU_ALPHA) + 1.0) * (up + 1.0)


def relu(e: Emitter, x: Value) -> Value:
    """Compute ``max(x, 0)``."""
    return e.maximum(x, e.const(x.type, 0.0))


def tanh(e: Emitter, x: Value) -> Value:
    """Compute the hyperbolic tangent by one exponential."""
    one = e.const(x.type, 1.0)
    return one - e.const(x.type, 2.0) / (exp(e, x * 2.0) + one)


def softcap(e: Emitter, x: Value, cap: Value) -> Value:
    """Compute ``cap * tanh(x / cap)``."""
    double = exp(e, (x / cap) * 2.0)
    one = e.const(x.type, 1.0)
    return cap * (one - e.const(x.type, 2.0) / (double + one))


def quantize_group(e: Emitter, low: Value, high: Value, integers: Value, header: Value, wide: bool = False) -> None:
    """Round 32 floats to int8 with one scale; store them at ``integers`` and scale, sum, scale x sum at ``header``.

    The fourth field has the sums of both halves as int16. ``wide``: to int16 of 13 bits. Of each four the middle ones
    change places, as `Dot.pairs` reads them; -128 x sum, from which sums with 8-bit weights start, is the fourth field.
    """
    most = MOST_WIDE if wide else MOST_BYTE
    top = e.reduce(e.maximum(e.unary("fabs", low), e.unary("fabs", high)), e.maximum)
    zero, one = e.const(F32, 0.0), e.const(F32, 1.0)
    some = e.compare(">", top, e.const(F32, TINY))
    inverse = e.select(some, e.const(F32, float(most)) / e.select(some, top, one), zero)
    scale = top / float(most)
    factor = e.splat(inverse)
    parts = [e.to_int(e.unary("rint", half * factor)) for half in (low, high)]
    sums = [e.reduce(part, lambda a, b: a + b) for part in parts]
    total = sums[0] + sums[1]
    if wide:
        e.store(e.shuffle(e.join(*(e.narrow(part, I16) for part in parts)), _PAIRS), integers, 2)
    else:
        for index, part in enumerate(parts):
            e.store(e.narrow(part, I8X.element), integers + LANES * index, 1)
    e.store(scale, header, 4)
    e.store(total, header + 4, 4)
    e.store(scale * e.to_float(total), header + 8, 4)
    e.store(total * -128 if wide else (sums[1] << 16) | (sums[0] & 0xFFFF), header + 12, 4)


def narrow_half(e: Emitter, x: Value) -> Value:
    """Convert float32 to float16 bits (int16 lanes), rounding to nearest even. Values beyond ±65504 are clamped."""
    limit = e.const(x.type, HALF_MAX)
    x = e.minimum(e.maximum(x, e.const(x.type, -HALF_MAX)), limit)
    if e.has_half:
        return e.bits(e.narrow(x, F16), like(x.type, I16))
    bits = e.bits(x, like(x.type, I32))
    sign = (bits >> 16) & 0x8000
    magnitude = bits & 0x7FFFFFFF
    normal = (magnitude + ((magnitude >> 13) & 1) + (0xFFF - (112 << 23))) >> 13
    magic = e.const(x.type, 0.5)  # adding it lines the subnormal's last bit up with the float's
    small = e.bits(e.bits(magnitude, x.type) + magic, bits.type) - e.bits(magic, bits.type)
    is_small = e.compare("<", magnitude, e.const(bits.type, 113 << 23))
    return e.narrow(e.select(is_small, small, normal) | sign, I16)


def lanes_between(e: Emitter, first: Value, low: Value, high: Value) -> Value:
    """Mark which of the 16 positions from ``first`` on lie in ``[low, high)`` (int32 scalars)."""
    positions = e.splat(first) + e.lane_numbers()
    zero = e.const(I32X, 0)
    inside = (positions - e.splat(low), e.splat(high) - positions - 1)
    return e.compare(">=", e.minimum(*inside), zero)
