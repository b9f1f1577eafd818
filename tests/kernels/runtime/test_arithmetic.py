"""Functions of single values: how far from the truth, and the same wherever they are computed."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from emitted import compiled_here, lowerings_here
from kernel_pass import assert_same
from numpy.typing import NDArray

from miaotui.kernels import reference
from miaotui.kernels.runtime import arithmetic
from miaotui.kernels.runtime.simd import F32X, LANES, Emitter, Value
from miaotui.kernels.runtime.thread_pool import address_of, aligned_bytes

CAPS = (1.0, 30.0, 50.0)
Floats = NDArray[np.float32]


def mapped(function: Callable[[Emitter, Value], Value]) -> Any:
    """An emitter ``(source, target, count)`` that applies ``function`` to vectors of 16 floats."""

    def emit(e: Emitter, source: Value, target: Value, count: Value) -> None:
        def step(index: Value, _: list[Value]) -> list[Value]:
            value = function(e, e.load(source + index * 64, F32X, 4))
            e.store(value, target + index * 64, 4)
            return []

        e.loop(count >> 4, [], step)

    return emit


def widened(e: Emitter, source: Value, target: Value, count: Value) -> None:
    def step(index: Value, _: list[Value]) -> list[Value]:
        e.store(e.load_half(source + index * 32), target + index * 64, 4)
        return []

    e.loop(count >> 4, [], step)


def narrowed(e: Emitter, source: Value, target: Value, count: Value) -> None:
    def step(index: Value, _: list[Value]) -> list[Value]:
        half = arithmetic.narrow_half(e, e.load(source + index * 64, F32X, 4))
        e.store(half, target + index * 32, 2)
        return []

    e.loop(count >> 4, [], step)


def multiplied(e: Emitter, source: Value, target: Value, count: Value) -> None:
    """``a * b + c`` of triples that lie ``count`` floats apart."""

    def step(index: Value, _: list[Value]) -> list[Value]:
        at = source + index * 64
        a, b, c = (e.load(at + (count << 2) * i, F32X, 4) for i in range(3))
        e.store(e.fma(a, b, c), target + index * 64, 4)
        return []

    e.loop(count >> 4, [], step)


FUNCTIONS = {
    "exp": mapped(arithmetic.exp),
    "silu": mapped(arithmetic.silu),
    "gelu": mapped(arithmetic.gelu_tanh),
    "gelu_erf": mapped(arithmetic.gelu),
    "relu": mapped(arithmetic.relu),
    "tanh": mapped(arithmetic.tanh),
    "widen": widened,
    "narrow": narrowed,
    "fma": multiplied,
    **{f"cap_{cap:g}": mapped(lambda e, x, cap=cap: arithmetic.softcap(e, x, e.const(F32X, cap))) for cap in CAPS},
}


LOWERINGS = lowerings_here()


@functools.cache
def functions(lowering: str) -> dict[str, Any]:
    emitters = {name: (emit, "iii") for name, emit in FUNCTIONS.items()}
    return compiled_here(emitters, LOWERINGS[lowering])


def apply(name: str, x: NDArray[Any], kind: Any = np.float32, lowering: str = "") -> NDArray[Any]:
    """A function of every value of ``x``, on this processor."""
    count = -(-x.shape[-1] // LANES) * LANES
    source = aligned_bytes(count * x.itemsize * (x.size // x.shape[-1])).view(x.dtype)
    source.reshape(-1, count)[:, : x.shape[-1]] = x
    out = aligned_bytes(count * np.dtype(kind).itemsize).view(kind)
    functions(lowering or next(iter(LOWERINGS)))[name](address_of(source), address_of(out), count)
    return out[: x.shape[-1]].copy()


def spaced(low: float, high: float, step: int = 97) -> Floats:
    """Every ``step``-th float32 from ``low`` to ``high``, both of one sign."""
    first, last = sorted(int(np.float32(end).view(np.int32)) for end in (low, high))
    return np.arange(first, last + 1, step, dtype=np.int32).view(np.float32)


def spread() -> Floats:
    """Values of every size from 1e-6 up to 100, and zero."""
    sizes = spaced(1e-6, 100.0, 1999)
    return np.concatenate([sizes, -sizes, np.zeros(1, np.float32)])


def ulps(found: Floats, exact: NDArray[np.float64]) -> float:
    """The greatest error, in units of the last place of the exact result."""
    size = np.spacing(np.abs(exact).astype(np.float32)).astype(np.float64)
    return float((np.abs(found - exact) / size).max())


def test_exp_is_within_two_units_in_the_last_place() -> None:
    for x in (spaced(1e-8, 88.0), spaced(-1e-8, -87.0)):
        assert ulps(apply("exp", x), np.exp(x.astype(np.float64))) < 2


def test_exp_of_round_values() -> None:
    x = np.array([0.0, -0.0, -87.0, -100.0, -1e30, 88.0, 1e30], np.float32)
    found = apply("exp", x)
    assert found[0] == found[1] == 1
    assert found[2] == found[3] == found[4] < 2e-38
    assert found[5] == found[6]
    assert np.isfinite(found).all()


def test_silu_is_accurate() -> None:
    x = spread()
    x = x[np.abs(x) < 80]
    exact = x.astype(np.float64) / (1 + np.exp(-x.astype(np.float64)))
    assert ulps(apply("silu", x), exact) < 4


def test_gelu_is_accurate() -> None:
    """Relative to the input: where GELU vanishes, only what a sum would notice counts."""
    x = spread()
    wide = x.astype(np.float64)
    exact = wide / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (wide + 0.044715 * wide**3)))
    error = np.abs(apply("gelu", x) - exact)
    assert (error <= 5e-7 * np.abs(wide)).all()
    assert ulps(apply("gelu", x[x > 0]), exact[x > 0]) < 4


def test_gelu_by_the_error_function_is_accurate() -> None:
    x = spread()
    exact = np.array([each * 0.5 * math.erfc(-each / math.sqrt(2)) for each in x.astype(np.float64).tolist()])
    error = np.abs(apply("gelu_erf", x) - exact)
    assert (error <= 3e-7 * np.abs(x.astype(np.float64))).all()
    assert (error[np.abs(x) < 12] < 1e-6).all()


def test_tanh_is_accurate() -> None:
    x = spread()
    assert (np.abs(apply("tanh", x) - np.tanh(x.astype(np.float64))) < 2e-7).all()


@pytest.mark.parametrize("cap", CAPS)
def test_softcap_is_accurate(cap: float) -> None:
    x = np.concatenate([spread() * np.float32(40), np.array([1e30, -1e30], np.float32)])
    found = apply(f"cap_{cap:g}", x)
    exact = cap * np.tanh(x.astype(np.float64) / cap)
    assert (np.abs(found - exact) <= 4e-7 * cap).all()
    assert (np.abs(found) <= cap).all()


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_every_half_is_widened_exactly(lowering: str) -> None:
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)]
    found = apply("widen", halves, np.float32, lowering)
    assert_same(found.view(np.uint32), halves.astype(np.float32).view(np.uint32))


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_floats_are_narrowed_to_the_nearest_even_half(lowering: str) -> None:
    """All halves, what lies midway between neighbours and next to it, and what is too large."""
    bits = np.arange(0x7C00, dtype=np.uint16)
    halves = bits.view(np.float16).astype(np.float32)
    middles = (halves[:-1] + halves[1:]) / 2
    beside = [np.nextafter(middles, np.float32(end), dtype=np.float32) for end in (0, np.inf)]
    large = np.array([65504, 65519.9, 65520, 7e4, 3e38, np.inf, 1e-9, 1e-45], np.float32)
    x = np.concatenate([halves, middles, *beside, large])
    x = np.concatenate([x, -x])
    found = apply("narrow", x, np.uint16, lowering)
    assert_same(found, reference.half(x).view(np.uint16))


def triples() -> Floats:
    """Factors and terms of every kind: near cancellation, ties, subnormal results."""
    rng = np.random.default_rng(3)
    a, b, c = rng.standard_normal((3, 20_000), np.float32)
    near = np.stack([a, b, -(a * b)])  # what is left is the rounding error of the product
    powers = np.ldexp(np.float32(1), rng.integers(-40, 40, (2, 20_000)))
    tie = np.stack([np.float32(1) + a.round(2), *powers])
    odd = np.float32(1) + np.ldexp(np.float32(1), rng.integers(-23, -10, 20_000))
    double = np.stack([odd, odd, np.ldexp(np.float32(1), rng.integers(-60, 30, 20_000))])
    small = np.stack([a * np.float32(1e-20), b * np.float32(1e-20), c * np.float32(1e-38)])
    return np.concatenate([np.stack([a, b, c]), near, tie, double, small], axis=1, dtype=np.float32)


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_multiply_add_rounds_once(lowering: str) -> None:
    x = triples()
    assert_same(apply("fma", x, lowering=lowering), reference.fma(*x))


@pytest.mark.parametrize("lowering", LOWERINGS)
@pytest.mark.parametrize("name", ["exp", "silu", "gelu", "gelu_erf", "relu", "tanh", "cap_30"])
def test_every_lowering_gives_the_references_bits(name: str, lowering: str) -> None:
    functions_of = {
        "exp": reference.exp,
        "silu": reference.silu,
        "gelu": reference.gelu_tanh,
        "gelu_erf": reference.gelu,
        "relu": reference.relu,
        "tanh": reference.tanh,
        "cap_30": lambda x: reference.softcap(x, 30.0),
    }
    assert_same(apply(name, spread(), lowering=lowering), functions_of[name](spread()))


def test_a_lowering_without_float16_of_its_own_is_among_them() -> None:
    assert any(not target.has_half for target in LOWERINGS.values())
