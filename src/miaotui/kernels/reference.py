"""Every kernel in plain NumPy: the definition that the compiled kernels equal bit for bit.

Owns the meaning of the kernels: the roundings, and the order of sums. Knows nothing of addresses, layouts or threads,
and is slow. Equality can be exact because `fma` is: it rounds to odd in float64 before it rounds to float32 (Boldo
and Melquiond 2008, theorem 5). Invariant: a row of a result depends on that row of the input alone.
"""

# mypy: disable-error-code="no-any-return"
# (NumPy's annotations lose the type where arrays meet scalars)

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miaotui.kernels.linear.formats import GROUP, Format
from miaotui.kernels.linear.packed_blocks import Blocks, group_scales, values

Floats = NDArray[np.float32]
Integers = NDArray[np.int32]

LANES = PAGE = 16  # of a vector; tokens of a page
HALF_MAX = np.float32(65504.0)
TINY = np.float32(1e-35)  # a group no larger counts as zeros: 127 / its top would overflow
MASKED = np.float32(-1e30)
_GELU_LIMIT = 5.25
_GELU = (
    0.134659347, -0.0671267809, 0.0496456585, -0.0397645722, 0.0320341465,
    -0.0250310094, 0.0185180991, -0.0128184824, 0.0084895019, -0.00536684933,
    0.00276780723, -0.00111243152, 0.000769651387, -0.000631905188, 0.000205901518,
)  # fmt: skip


def fma(a: Any, b: Any, c: Any) -> Floats:
    """Compute ``a * b + c`` of float32 arrays, rounded once."""
    product = np.asarray(a, np.float64) * np.asarray(b, np.float64)  # exact: 24 + 24 bits
    term = np.asarray(c, np.float64)
    total = product + term
    back = total - product
    missed = (product - (total - back)) + (term - back)  # exact (Knuth's two-sum)
    bits = total.view(np.int64)
    towards = np.where((missed > 0) == (total > 0), 1, -1)
    odd = bits + np.where((missed != 0) & (bits & 1 == 0), towards, 0)
    return odd.view(np.float64).astype(np.float32)


def halve(lanes: Floats) -> Floats:
    """Sum over the last axis, whose length is a power of two: upper half onto lower, repeatedly."""
    while lanes.shape[-1] > 1:
        middle = lanes.shape[-1] // 2
        lanes = lanes[..., :middle] + lanes[..., middle:]
    return lanes[..., 0]


# functions of single values -----------------------------------------------------------------------


def exp(x: Floats) -> Floats:
    """Compute ``e**x`` for x clipped to [-87, 88]: ``2**n`` times a Taylor polynomial of the remainder."""
    x = np.clip(x, np.float32(-87), np.float32(88))
    n = np.rint(x * np.float32(1.4426950408889634))
    r = fma(n, np.float32(-0.693359375), x)
    r = fma(n, np.float32(2.12194440e-4), r)
    total = np.full_like(x, 1 / 5040)
    for coefficient in (1 / 720, 1 / 120, 1 / 24, 1 / 6, 0.5, 1.0, 1.0):
        total = fma(total, r, np.float32(coefficient))
    return total * ((n.astype(np.int32) + 127) << 23).view(np.float32)


def silu(x: Floats) -> Floats:
    """Compute ``x / (1 + e**-x)``."""
    return x / (exp(-x) + np.float32(1))


def gelu_tanh(x: Floats) -> Floats:
    """Compute ``x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x**3)))`` by one exponential."""
    inner = fma(x * x * np.float32(0.044715), x, x) * np.float32(-2 * 0.7978845608028654)
    return x / (exp(inner) + np.float32(1))


def gelu(x: Floats) -> Floats:
    """Compute ``x * Phi(x)`` by the polynomial of `arithmetic.gelu`."""
    limit = np.float32(_GELU_LIMIT)
    inside = np.minimum(np.maximum(x, -limit), limit)
    power = fma(inside * inside, np.float32(2.0 / _GELU_LIMIT**2), np.float32(-1))
    terms = [np.full_like(x, coefficient) for coefficient in _GELU]
    while len(terms) > 1:
        pairs = zip(terms[0::2], terms[1::2], strict=False)
        terms = [fma(high, power, low) for low, high in pairs] + terms[len(terms) // 2 * 2 :]
        power = power * power
    return x * fma(terms[0], inside, np.float32(0.5))


def relu(x: Floats) -> Floats:
    """Compute ``max(x, 0)``."""
    return np.where(x > 0, x, np.float32(0))


def tanh(x: Floats) -> Floats:
    """Compute the hyperbolic tangent by one exponential."""
    one, two = np.float32(1), np.float32(2)
    return one - two / (exp(x * two) + one)


def softcap(x: Floats, cap: float) -> Floats:
    """Compute ``cap * tanh(x / cap)`` by one exponential."""
    one, two, limit = np.float32(1), np.float32(2), np.float32(cap)
    return limit * (one - two / (exp(x / limit * two) + one))


def half(x: Floats) -> NDArray[np.float16]:
    """Round to float16, nearest even, clipped to ±65504."""
    return np.clip(x, -HALF_MAX, HALF_MAX).astype(np.float16)


# quantization and products ------------------------------------------------------------------------


@dataclass(frozen=True)
class Bytes:
    """Float32 values as int8 or int16 ``[..., n]`` with one scale per n: a value is ``integer * scale``."""

    integers: NDArray[np.int8] | NDArray[np.int16]
    scales: Floats

    @property
    def sums(self) -> Integers:
        """Return the sum of each n integers."""
        return self.integers.sum(axis=-1, dtype=np.int32)

    @property
    def offsets(self) -> Floats:
        """Return ``scale * sum``: what a minimum of 1 would add to a product."""
        return self.scales * self.sums.astype(np.float32)


def to_bytes(x: Floats) -> Bytes:
    """Quantize the last axis to int8: the largest magnitude becomes 127."""
    top = np.abs(x).max(axis=-1)
    inverse = np.divide(np.float32(127), top, out=np.zeros_like(top), where=top > TINY)
    integers = np.rint(x * inverse[..., None]).astype(np.int8)
    return Bytes(integers, top / np.float32(127))


def to_words(x: Floats) -> Bytes:
    """Quantize the last axis to int16: the largest magnitude becomes 4095."""
    top = np.abs(x).max(axis=-1)
    inverse = np.divide(np.float32(4095), top, out=np.zeros_like(top), where=top > TINY)
    integers = np.rint(x * inverse[..., None]).astype(np.int16)
    return Bytes(integers, top / np.float32(4095))


def quantize(x: Floats) -> Bytes:
    """Quantize activations ``[rows, width]``: int8 ``[rows, groups, 32]``, scales ``[rows, groups]``."""
    return to_bytes(x.reshape(len(x), -1, GROUP))


def quantize_wide(x: Floats) -> Bytes:
    """Quantize activations ``[rows, width]``: int16 ``[rows, groups, 32]``, scales ``[rows, groups]``."""
    return to_words(x.reshape(len(x), -1, GROUP))


def gated(gate: Floats, up: Floats, activation: Any) -> Bytes:
    """Compute ``activation(gate) * up``, quantized for the next product."""
    return quantize(activation(gate) * up)


def linear(weights: Blocks, x: Bytes) -> Floats:
    """Multiply ``x`` by the packed matrix ``[outputs, inputs]``: float32 ``[rows, outputs]``.

    Exact integers within a group of 32 inputs, those of halves times their scales too; groups in ascending order.
    """
    if weights.format is Format.BF16:  # floats times integers times their scale
        return linear_f32(values(weights), (x.integers * x.scales[..., None]).reshape(len(x.integers), -1))
    assert weights.scales is not None
    whole, layout = weights.whole_codes(), weights.format.layout
    scales, minimums = weights.float_scales(), weights.minimums
    total = np.zeros((len(x.integers), len(whole)), np.float32)
    for g in range(whole.shape[1]):
        dots, record = _group_sums(weights, whole, x, g), g // layout.groups if layout.subs else g
        own = scales[:, record] if weights.subs is None or weights.subs.shape[2] == 2 else _one_scale(weights, g)
        total = fma(dots.astype(np.float32) * x.scales[:, g, None], own, total)
        if minimums is not None:
            total = _add_minimums(total, weights, x, g, minimums[:, record].astype(np.float32))
    return total


def _group_sums(weights: Blocks, whole: Integers, x: Bytes, g: int) -> Integers:
    """Sum the products of a group, halves times their integer scales: int32 ``[rows, outputs]``."""
    inputs = x.integers[:, g].astype(np.int32)
    if weights.subs is None or weights.subs.shape[2] == 1:
        return inputs @ whole[:, g].T
    subs = weights.subs[:, g].view(np.int8).astype(np.int32)
    parts = whole[:, g].reshape(len(whole), subs.shape[1], -1) * subs[..., None]
    return inputs @ parts.reshape(len(whole), -1).T


def _one_scale(weights: Blocks, g: int) -> Floats:
    """Return a group's integer scale times its record's, which is exact."""
    scales, subs = weights.float_scales(), weights.subs
    assert subs is not None
    return scales[:, g // weights.format.layout.groups] * subs[:, g, 0].view(np.int8)


def _add_minimums(total: Floats, weights: Blocks, x: Bytes, g: int, minimums: Floats) -> Floats:
    """Add a group's minimums times its inputs' sums."""
    least = weights.sub_minimums
    if least is None or least.shape[2] == 1:
        return fma(minimums if least is None else minimums * least[:, g, 0], x.offsets[:, g, None], total)
    halves = x.integers[:, g].reshape(len(x.integers), 2, -1).sum(axis=2, dtype=np.int32)
    under = halves @ least[:, g].astype(np.int32).T
    return fma(under.astype(np.float32) * x.scales[:, g, None], minimums, total)


def linear_f32(matrix: Floats, x: Floats) -> Floats:
    """Multiply inputs ``[rows, inputs]`` by float32 weights ``[outputs, inputs]``, in ascending order."""
    total = np.zeros((len(x), len(matrix)), np.float32)
    for k in range(x.shape[1]):
        total = fma(x[:, k, None], matrix[:, k], total)
    return total


def embed(table: Blocks, tokens: NDArray[np.int64], factor: float = 1.0) -> Floats:
    """Return rows of a packed table ``[tokens, width]`` times ``factor``: float32 ``[rows, width]``."""
    scaled = np.float32(factor)
    chosen = table.mapped(lambda array: array[tokens])
    if chosen.scales is None:
        return values(chosen) * scaled
    scales, minimums = group_scales(chosen)
    whole = chosen.whole_codes().astype(np.float32).reshape(*scales.shape, -1)
    result = whole * (scales * scaled)[..., None]
    if minimums is not None:
        result = result + (minimums * scaled)[..., None]
    return result.reshape(len(tokens), -1)


# norms and rotation -------------------------------------------------------------------------------


def norm(x: Floats, weight: Floats, eps: float, bias: Floats | None = None) -> Floats:
    """Compute the RMS norm of rows ``[rows, width]``; with a ``bias``, the layer norm."""
    count = np.float32(x.shape[1])
    mean = np.zeros((len(x), 1), np.float32)
    if bias is not None:
        mean = (_sum(x, squares=False) / count)[:, None]
    variance = _sum(x - mean, squares=True) / count
    inverse = np.float32(1) / np.sqrt(variance + np.float32(eps))
    result = (x - mean) * inverse[:, None] * weight
    return result if bias is None else result + bias


def peaks(logits: Floats) -> NDArray[np.int64]:
    """Find the first of the highest in each row of ``[rows, width]``; the first NaN if there is one."""
    return logits.argmax(axis=1)


def _sum(x: Floats, squares: bool, chains: int = 2) -> Floats:
    """Sum rows (of squares) in ``chains`` vectors of 16 partial sums that run along the row."""
    pieces = x.reshape(len(x), -1, chains, LANES)
    total = np.zeros((len(x), chains, LANES), np.float32)
    for step in range(pieces.shape[1]):
        piece = pieces[:, step]
        total = fma(piece, piece, total) if squares else total + piece
    return halve(total.sum(axis=1, dtype=np.float32))


def norm_head(x: Floats, weight: Floats, eps: float) -> Floats:
    """Compute the RMS norm of heads ``[n, dim]``."""
    total = _sum(x, squares=True, chains=1) / np.float32(x.shape[1])
    inverse = np.float32(1) / np.sqrt(total + np.float32(eps))
    return x * inverse[:, None] * weight


def rotate(x: Floats, cos: Floats, sin: Floats, scale: float = 1.0) -> Floats:
    """Scale heads ``[n, dim]`` and rotate pairs ``(i, i + r)`` by cosines and sines ``[n, r]``."""
    r = cos.shape[1]
    low, high, rest = x[:, :r], x[:, r : 2 * r], x[:, 2 * r :]
    turned = [fma(low, cos, 0 - high * sin), fma(high, cos, low * sin), rest]
    return np.concatenate(turned, axis=1) * np.float32(scale)


# attention ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Views:
    """Views of n queries: positions ``[start, end)``, int ``[n]`` each."""

    starts: NDArray[np.int64]
    ends: NDArray[np.int64]

    def mask(self, first: int) -> NDArray[np.bool_]:
        """Mark which of a page's tokens each query sees: ``[n, 16]``."""
        at = first + np.arange(PAGE)
        return (at >= self.starts[:, None]) & (at < self.ends[:, None])


def attention(
    queries: Floats, keys: Floats | Bytes, values: Floats | Bytes, views: Views, cap: float = 0.0, slope: float = 0.0
) -> Floats:
    """Compute softmax attention of rotated, scaled queries ``[n, dim]`` to one head of a cache.

    ``keys`` and ``values`` are ``[tokens, dim]``, tokens a multiple of 16; a query meets pages of 16 in ascending
    order (online softmax, Milakov and Gimelshein 2018). With a ``slope`` query i is at position i, and scores fall by
    it with distance (ALiBi). Returns float32 ``[n, dim]``.
    """
    n, dim = queries.shape
    k, k_scales = _lanes(keys)
    v, v_scales = _lanes(values)
    sums, tops = np.zeros((n, PAGE), np.float32), np.full((n, 1), MASKED)
    result = np.zeros((n, dim), np.float32)
    for first in range(0, len(k), PAGE):
        page = slice(first, first + PAGE)
        scores = _scores(queries, k[page]) * k_scales[page]
        seen = views.mask(first)
        if slope:
            back = (np.arange(first, first + PAGE) - np.arange(n)[:, None]).astype(np.float32)
            scores = fma(np.float32(slope), back, scores)
        scores = np.where(seen, softcap(scores, cap) if cap else scores, MASKED)
        now = np.maximum(tops, scores.max(axis=1, keepdims=True))
        chances, factors = np.where(seen, exp(scores - now), np.float32(0)), exp(tops - now)
        sums, tops = sums * factors + chances, now
        chances, result = chances * v_scales[page], result * factors
        for token in range(PAGE):
            result = fma(chances[:, token, None], v[first + token], result)
    return result * (np.float32(1) / halve(sums))[:, None]


def whole_text_attention(
    queries: Floats,
    keys: Floats,
    values: Floats,
    views: Views,
    bias: Floats | None = None,
    positions: tuple[Floats, Floats] | None = None,
) -> Floats:
    """Compute softmax attention of rotated, scaled queries ``[n, dim]`` to a head of ``n`` keys and values.

    ``bias`` ``[n, n]`` is added to the scores, and before it the products of queries and ``positions[0]``, and of keys
    and ``positions[1]``, both ``[n, n, dim]`` for each query and key (DeBERTa). A softmax of two passes; every sum runs
    in ascending order, that of the chances in 16 lanes. Returns float32 ``[n, dim]``.
    """
    n, dim = queries.shape
    scores = np.zeros((n, n), np.float32)
    for d in range(dim):
        scores = fma(queries[:, d, None], keys[None, :, d], scores)
    if positions is not None:
        terms = np.zeros((2, n, n), np.float32)
        for d in range(dim):
            terms[0] = fma(queries[:, d, None], positions[0][:, :, d], terms[0])
            terms[1] = fma(keys[None, :, d], positions[1][:, :, d], terms[1])
        scores = scores + (terms[0] + terms[1])
    at = np.arange(n)
    seen = (at >= views.starts[:, None]) & (at < views.ends[:, None])
    scores = np.where(seen, scores if bias is None else scores + bias, MASKED)
    chances = np.where(seen, exp(scores - scores.max(axis=1, keepdims=True)), np.float32(0))
    lanes = np.pad(chances, [(0, 0), (0, -n % LANES)]).reshape(n, -1, LANES)
    sums, result = np.zeros((n, LANES), np.float32), np.zeros((n, dim), np.float32)
    for panel in range(lanes.shape[1]):
        sums = sums + lanes[:, panel]
    for token in range(n):
        result = fma(chances[:, token, None], values[token], result)
    return result * (np.float32(1) / halve(sums))[:, None]


def _scores(queries: Floats, keys: Floats) -> Floats:
    """Multiply queries by one page's keys: two running sums, over each half of the head."""
    q = queries.reshape(len(queries), 2, -1).transpose(1, 0, 2)
    k = keys.reshape(PAGE, 2, -1).transpose(1, 0, 2)
    total = np.zeros((2, len(queries), PAGE), np.float32)
    for d in range(q.shape[2]):
        total = fma(q[:, :, d, None], k[:, None, :, d], total)
    return total[0] + total[1]


def _lanes(stored: Floats | Bytes) -> tuple[Floats, Floats]:
    """Return stored values as float32, and each token's scale."""
    if isinstance(stored, Bytes):
        return stored.integers.astype(np.float32), stored.scales
    return stored, np.ones(len(stored), np.float32)
