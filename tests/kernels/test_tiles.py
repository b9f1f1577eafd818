"""The inner loops of products: every tiling that runs here gives the reference's bits."""

from __future__ import annotations

import numpy as np
import pytest
from emitted import compiled_here, lowerings_here
from kernel_pass import Floating, Quantized, assert_same, packed, random_blocks

from miaotui.kernels import reference
from miaotui.kernels.linear.formats import Format, tile_stride, values
from miaotui.kernels.linear.tiles import TILINGS, emit_unit
from miaotui.kernels.platform.cpu import probe
from miaotui.kernels.runtime.thread_pool import address_of

GROUPS = 5
WIDTH = 32 * GROUPS
TARGETS = lowerings_here()
LESSER = {isa.value for isa in probe().isas[1:]}  # their kernels are tested as a whole, too
NAMES = [pytest.param(n, marks=[pytest.mark.slow] if n in LESSER else []) for n in TARGETS]


@pytest.mark.parametrize("name", NAMES)
def test_a_unit_of_32_outputs(name: str) -> None:
    tiling = TILINGS[TARGETS[name].isa]
    shapes = {
        f"{f.value}_{n}_{wide}": (f, n, wide)
        for f in Format
        for n in {1, tiling.most}
        for wide in ((False,) if f is Format.F32 else (False, True))
    }
    emitters = {
        label: (emit_unit(form, rows, tiling, wide=wide), "i" * 9) for label, (form, rows, wide) in shapes.items()
    }
    functions = compiled_here(emitters, TARGETS[name])
    for label, (form, rows, wide) in shapes.items():
        rng = np.random.default_rng(rows)
        blocks = random_blocks(form, 32, WIDTH, rng)
        x = rng.standard_normal((rows, WIDTH), np.float32)
        weights, out = packed(blocks), Floating(rows, 32)
        activations = reference.quantize_wide(x) if wide else reference.quantize(x)
        source = Quantized(rows, WIDTH, activations, wide)
        inputs = Floating(rows, WIDTH, x) if form is Format.F32 else source.integers
        functions[label](
            address_of(weights),
            tile_stride(form, WIDTH),
            GROUPS,
            inputs.address,
            inputs.stride,
            source.headers.address,
            source.headers.stride,
            out.address,
            out.stride,
        )
        expected = (
            reference.linear_f32(values(blocks), x) if form is Format.F32 else reference.linear(blocks, activations)
        )
        assert_same(out.read(), expected)
