"""Models that restore masked tokens: read from their public layouts, and who sees whom."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from miaotui.backends.backend import Backend
from miaotui.backends.cpu.build import assemble
from miaotui.backends.options import EngineOptions
from miaotui.backends.reference.build import assemble as assemble_reference
from miaotui.dmlm.decoding.passes import TextPasses
from miaotui.errors import ModelFormatError, UnsupportedModelError
from miaotui.kernels.linear.formats import Format
from miaotui.model.config import MaskedConfig, ModelConfig
from miaotui.model.oracle import Oracle
from miaotui.model.reading.files import open_model
from packed_oracle import PackedOracle, unpacked
from tiny_engine import pack_tiny
from tiny_masked import IN_GGUF, MASK, MASKED, make_masked_folder, make_masked_gguf, masked_config
from tiny_models import tiny_weights

TEXT = [int(token) for token in np.random.default_rng(3).integers(0, 256, 40)]
BLOCKS = {"bd3lm": 8}
SHIFTED = {"dream"}


@pytest.mark.parametrize("variant", MASKED)
def test_public_layouts_are_read_whole(variant: str, tmp_path: Path) -> None:
    with open_model(make_masked_folder(tmp_path, variant)) as files:
        config = files.config
        assert config.masked == MaskedConfig(MASK, BLOCKS.get(variant, 0), variant in SHIFTED)
        weights = tiny_weights(config)
        for name, expected in weights.items():
            assert np.array_equal(files.tensors[name].float32(), expected), name


@pytest.mark.parametrize("variant", IN_GGUF)
def test_gguf_files_are_the_same_model(variant: str, tmp_path: Path) -> None:
    with (
        open_model(make_masked_folder(tmp_path, variant)) as folder,
        open_model(make_masked_gguf(tmp_path, variant)) as file,
    ):
        assert file.config.masked == folder.config.masked
        expected = Oracle(folder.config, folder.tensors).logits(TEXT)
        assert np.array_equal(Oracle(file.config, file.tensors).logits(TEXT), expected)


def test_gguf_says_where_logits_are(tmp_path: Path) -> None:
    path = make_masked_gguf(tmp_path, "dream", **{"diffusion.shift_logits": False})
    with open_model(path) as file:
        assert file.config.masked == MaskedConfig(MASK, 0, shifted=False)


def as_causal(config: ModelConfig) -> ModelConfig:
    return dataclasses.replace(config, masked=None)


def with_block(config: ModelConfig, block: int) -> ModelConfig:
    return dataclasses.replace(config, masked=MaskedConfig(MASK, block))


@pytest.mark.parametrize("variant", ["llada", "bd3lm", "llada_moe"])
def test_blocks_of_one_are_plain_autoregression(variant: str) -> None:
    config = masked_config(variant)
    weights = tiny_weights(config)
    causal = Oracle(as_causal(config), weights).logits(TEXT)
    assert np.array_equal(Oracle(with_block(config, 1), weights).logits(TEXT), causal)
    whole = Oracle(as_causal(config), weights).logits(TEXT, bidirectional=True)
    assert np.array_equal(Oracle(with_block(config, 0), weights).logits(TEXT), whole)
    assert np.array_equal(Oracle(with_block(config, 64), weights).logits(TEXT), whole)
    assert not np.allclose(whole, causal)


def test_blocks_see_themselves_and_what_is_before_them() -> None:
    config = with_block(masked_config("bd3lm"), 8)
    oracle = Oracle(config, tiny_weights(config))
    before = oracle.logits(TEXT)
    changed = oracle.logits([*TEXT[:20], 5, *TEXT[21:]])  # position 20 lies in the third block
    assert np.array_equal(before[:16], changed[:16])
    assert (np.abs(before[16:] - changed[16:]).max(axis=1) > 0).all()


def backends(variant: str, folder: Path) -> tuple[ModelConfig, Backend, Backend, Oracle]:
    """Both backends of one model, and the oracle of the weights as they are packed."""
    config = masked_config(variant)
    packed = pack_tiny(config, folder, Format.Q8)
    sizes = {"chunk_size": 64, "max_sequences": 16}
    compiled = assemble(config, packed, EngineOptions(format=Format.Q8, threads=1, **sizes)).backend
    reference = assemble_reference(config, tiny_weights(config), EngineOptions(backend="reference", **sizes)).backend
    return config, compiled, reference, PackedOracle(config, unpacked(config, packed))


@pytest.mark.parametrize("variant", ["llada", "bd3lm", "rnd1"])
def test_both_backends_compute_blocks_as_the_oracle_does(variant: str, tmp_path: Path) -> None:
    config, compiled, reference, oracle = backends(variant, tmp_path)
    assert config.masked is not None
    exact = Oracle(config, tiny_weights(config)).logits(TEXT)
    found = TextPasses(reference, config.masked).logits(TEXT, 24, 40)
    assert np.abs(found - exact[24:40]).max() < 2e-3 * np.abs(exact).max()  # keys and values are float16
    near, causal = oracle.logits(TEXT)[24:40], Oracle(as_causal(config), tiny_weights(config)).logits(TEXT)[24:40]
    passes = TextPasses(compiled, config.masked).logits(TEXT, 24, 40)
    # as far as a causal pass over these models is from the oracle: one int8 that rounds otherwise spreads
    assert np.abs(passes - near).max() < 0.04 * np.abs(near).max()
    assert np.abs(passes - causal).max() > 0.3 * np.abs(near).max()
    if config.attention_block:
        first = TextPasses(compiled, config.masked).logits(TEXT, 0, config.attention_block)
        exact = oracle.logits(TEXT)[: config.attention_block]
        assert np.abs(first - exact).max() < 1e-4 * np.abs(exact).max()


@pytest.mark.parametrize("block", [0, 2, 4, 8, 16])
def test_threads_change_no_bit(block: int, tmp_path: Path) -> None:
    config = masked_config("bd3lm")
    packed, masked = pack_tiny(config, tmp_path, Format.Q8), MaskedConfig(MASK, block)
    found = []
    for threads in (1, 2, 3):
        options = EngineOptions(format=Format.Q8, threads=threads, chunk_size=64, max_sequences=16)
        passes = TextPasses(assemble(config, packed, options).backend, masked)
        found.append([passes.logits(TEXT[:end], end - 2, end) for end in (2, 4, 8, 16, 24, 40)])
    for one, other in zip(found[0] * 2, found[1] + found[2], strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("compiled", [False, True])
def test_cache_of_blocks_is_exact_bit_for_bit(compiled: bool, tmp_path: Path) -> None:
    config, cpu, reference, _ = backends("bd3lm", tmp_path)
    assert config.masked is not None
    backend = cpu if compiled else reference
    cached, whole = TextPasses(backend, config.masked), TextPasses(backend, config.masked, exact_cache=False)
    for end in (8, 16, 24, 40):  # the last pass fills two blocks
        text = [*TEXT[: end - 4], *[MASK] * 4]
        found = cached.logits(text, end - 4, end).copy()
        rows = cached.rows
        whole.begin()
        assert np.array_equal(found, whole.logits(text, end - 4, end))
    assert rows < whole.rows * 3
    other = [9, *TEXT[1:36], *[MASK] * 4]  # a changed beginning is not taken from the cache
    found = cached.logits(other, 36, 40).copy()
    assert np.array_equal(found, whole.logits(other, 36, 40))


@pytest.mark.parametrize(
    ("variant", "wrong", "words"),
    [
        ("llada", {"alibi": True}, "ALiBi"),
        ("llada", {"block_type": "sequential"}, "block_type"),
        ("llada", {"include_bias": True}, "biases"),
        ("a2d_qwen3", {"use_sliding_window": True}, "use_sliding_window"),
        ("a2d_qwen2", {"mask_token_id": None}, "mask_token_id"),
        ("dream", {"mask_token_id": 400}, "mask token"),
        ("a2d_qwen3", {"mask_token_id": None}, "mask token"),
    ],
)
def test_what_cannot_be_computed_is_refused_by_name(variant: str, wrong: dict[str, object], words: str) -> None:
    with pytest.raises((UnsupportedModelError, ModelFormatError), match=words):
        masked_config(variant, **wrong)
