"""The compiled product with the token embedding: the packed matrix's values, and the same bytes among any rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from miaotui.backends.cpu.encoder.backend import CpuEncoder
from miaotui.backends.cpu.encoder.build import build_encoder
from miaotui.backends.cpu.encoder.output import BLOCK_ROWS
from miaotui.config import Settings
from miaotui.kernels.linear.formats import Format
from miaotui.kernels.linear.packed_blocks import quantize, values
from miaotui.model.encoder.heads import HeadConfig, head_shapes
from miaotui.model.encoder.opened import open_encoder
from miaotui.model.encoder.task_head import TaskHead
from tiny_encoders import make_tiny_encoder

ROWS = np.random.default_rng(0).standard_normal((2 * BLOCK_ROWS + 3, 64)).astype(np.float32)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_encoder(tmp_path_factory.mktemp("output"), "bert")


def built(path: Path, form: Format, threads: int = 1) -> CpuEncoder:
    with open_encoder(path) as opened:
        return build_encoder(path, opened, replace(Settings.from_env(), cache_dir=path), form=form, threads=threads)


@pytest.mark.parametrize(("form", "error"), [(Format.F32, 1e-6), (Format.Q8, 5e-4)], ids=["f32", "q8"])
def test_logits_are_the_products_with_the_packed_embedding(path: Path, form: Format, error: float) -> None:
    with open_encoder(path) as opened:
        embed = opened.weights["embed"].float32()
    matrix = values(quantize(form, embed))
    expected = ROWS @ matrix.T
    found = built(path, form).output_product()(ROWS)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= error * np.abs(expected).max()


@pytest.mark.parametrize("form", [Format.F32, Format.Q8], ids=lambda form: form.value)
def test_a_row_has_the_same_bytes_alone_and_among_others(path: Path, form: Format) -> None:
    alone = built(path, form).output_product()
    expected = np.concatenate([alone(row[None]) for row in ROWS])
    for threads in (1, 2, 3):
        product = built(path, form, threads).output_product()
        np.testing.assert_array_equal(product(ROWS), expected)
        np.testing.assert_array_equal(product(ROWS[5:9]), expected[5:9])
    assert product(ROWS[:0]).shape == (0, expected.shape[1])


@pytest.mark.parametrize("kind", ["mlm", "splade"])
def test_a_tied_head_computes_by_the_product(path: Path, kind: str) -> None:
    encoder = built(path, Format.F32)
    head = HeadConfig(kind=kind, outputs=encoder.program.config.vocab_size, tied=True)  # type: ignore[arg-type]
    with open_encoder(path) as opened:
        embed = opened.weights["embed"].float32()
        config = opened.config
    bias = np.random.default_rng(1).standard_normal(head_shapes(config, head)["head.output_bias"]).astype(np.float32)
    weights = {"embed": embed, "head.output_bias": bias}
    by_numpy = TaskHead(config, head, weights).logits(ROWS)
    by_product = TaskHead(config, head, weights, encoder.output_product()).logits(ROWS)
    np.testing.assert_allclose(by_product, by_numpy, atol=1e-4)
