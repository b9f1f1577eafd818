"""The compiled engine computes what the oracle computes, for every architecture and format.

Two yardsticks. *Layer by layer*: each layer gets the engine's own input, and the oracle rounds
where the engine rounds, so that only the order of float32 sums differs, about 1e-6 of a value. Now
and then that tips a key or value into the next float16 (1e-5 of a sum), or an activation into the
next of its 255 steps (a few thousandths of the products it takes part in); so most rows must agree
to 1e-4, and every one to 0.1, all in units of the outputs' spread.
*Whole model*: against the oracle without any rounding of activations. One product rounded to int8
in groups of 32 errs by 0.5 % (a step of max/127, uniform within it, max about 2.4 sigma). These
random models have steep attention and no training to keep errors small: six to fourteen products
in a row make 2 to 5 % of the logits' spread, and 10 % is the limit. A wrong formula gives 30 % and
more. Mixtures of experts may differ by 25 %: a rounding tips a row to another expert now and then.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from miaotui.backends.cpu.backend import Runner, require_cpu
from miaotui.backends.cpu.build import assemble
from miaotui.backends.cpu.program import PassPart, Program
from miaotui.backends.cpu.shape_limits import require_runnable
from miaotui.backends.cpu.workspace import KvPages, Workspace, float_rows, rotation_tables
from miaotui.backends.options import EngineOptions, KvKind
from miaotui.errors import UnsupportedModelError
from miaotui.hub.formats.tensors import BlockType
from miaotui.hub.store import PackedStore
from miaotui.kernels.linear.formats import Format
from miaotui.kernels.runtime.thread_pool import shared_pool
from miaotui.model.config import ModelConfig
from miaotui.model.oracle import Heads, Oracle
from miaotui.model.packed import PackedModel, load_packed, pack_model
from miaotui.model.reading.files import ModelFiles, open_model
from miaotui.model.reading.names import tensor_shapes
from miaotui.schedule.plan import Chunk
from packed_oracle import PackedOracle, unpacked
from random_blocks import HALVES, random_tensor
from tiny_engine import pack_tiny, stored_weights
from tiny_models import make_tiny_folder, make_tiny_gguf, tiny_config
from tiny_variants import VARIANTS

N_TOKENS = 61  # seven windows, more than three pages, and no multiple of any block
CHUNK = 25
PAGES = tuple(range(-(-N_TOKENS // 16)))

Array = NDArray[np.float32]


def tokens(seed: int = 3) -> list[int]:
    return [int(i) for i in np.random.default_rng(seed).integers(0, 320, N_TOKENS)]


def packed_variant(variant: str, folder: Path, form: Format) -> tuple[ModelConfig, PackedModel]:
    path = make_tiny_folder(folder, variant)
    with open_model(path) as files:
        return files.config, load_packed(path, PackedStore(folder / "packed"), form)


def layer_inputs_and_logits(config: ModelConfig, weights: PackedModel, kv: KvKind) -> tuple[list[Array], Array]:
    """What goes into every layer (and comes out of the last), and the logits, from one pass."""
    taps = {i: float_rows(N_TOKENS, config.state_size) for i in range(config.n_layers + 1)}
    program = Program(
        config,
        weights,
        Workspace(config, N_TOKENS, N_TOKENS),
        KvPages(config, len(PAGES), kv),
        rotation_tables(config, N_TOKENS),
        part=PassPart(range(config.n_layers), has_embedding=True, has_head=True, taps=taps),
    )
    logits = Runner(program, shared_pool(1)).run([Chunk(0, 0, tuple(tokens()), PAGES, N_TOKENS)])
    return [taps[i].floats(N_TOKENS, config.state_size) for i in sorted(taps)], logits


def assert_agree(found: Array, expected: Array, share: float = 0.5) -> None:
    """A share of the rows to the order of float32 sums, every row to a few tipped roundings."""
    error = np.sort(np.abs(found - expected).max(axis=1) / expected.std())
    assert np.quantile(error, share) <= 1e-4
    assert error[-1] <= 0.1


def assert_layers_agree(config: ModelConfig, weights: PackedModel, kv: KvKind = "f16", share: float = 0.5) -> None:
    states, logits = layer_inputs_and_logits(config, weights, kv)
    oracle = PackedOracle(config, unpacked(config, weights), kv)
    first, known = oracle.embedded(tokens()), dict[int, Heads]()
    np.testing.assert_allclose(states[0][:, : config.hidden_size], first[:, : config.hidden_size], rtol=2e-7, atol=0)
    assert_agree(states[0], first, share)
    for layer in range(config.n_layers):
        assert_agree(states[layer + 1], oracle.layer(states[layer], layer, known=known), share)
    assert_agree(logits, oracle.head(states[-1]), share)


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_layer_equals_the_oracles(variant: str, tmp_path: Path) -> None:
    share = (
        0.25 if variant in ("granite", "granitemoe", "minicpm", "minicpm3") else 0.5
    )  # their large streams tip more roundings
    assert_layers_agree(*packed_variant(variant, tmp_path, Format.Q8), share=share)


@pytest.mark.parametrize("variant", ["llama", "gemma2"])
def test_each_layer_with_int8_keys_and_values(variant: str, tmp_path: Path) -> None:
    assert_layers_agree(*packed_variant(variant, tmp_path, Format.Q8), "int8")


@pytest.mark.parametrize("form", [Format.Q4, Format.Q4M])
def test_each_layer_in_four_bits(form: Format, tmp_path: Path) -> None:
    assert_layers_agree(*packed_variant("llama-tied", tmp_path, form))


@pytest.mark.slow
@pytest.mark.parametrize("form", [Format.Q5_0, Format.Q6, Format.BF16])
def test_each_layer_in_formats_that_are_asked_for(form: Format, tmp_path: Path) -> None:
    assert_layers_agree(*packed_variant("llama-tied", tmp_path, form))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [BlockType[name] for name in HALVES], ids=lambda kind: kind.name)
def test_each_layer_of_every_block_type(kind: BlockType, tmp_path: Path) -> None:
    """The weights are the blocks' own values, bit for bit, and so is what is looked up in the embedding."""
    values = {"hidden_size": 256, "ffn_size": 512, "n_heads": 8, "n_kv_heads": 4, "head_dim": 32}
    config = dataclasses.replace(tiny_config("llama-tied"), **values)
    tensors = dict(stored_weights(config))
    for number, (name, shape) in enumerate(tensor_shapes(config).items()):
        if len(shape) == 2:
            tensors[name] = random_tensor(kind, shape[0], shape[1] // kind.block_size, number, 0.1, name)
    weights = pack_model(ModelFiles(config, tensors), PackedStore(tmp_path / "packed"), "blocks")
    for name, found in unpacked(config, weights).items():
        np.testing.assert_array_equal(found, tensors[name].float32())
    assert_layers_agree(config, weights, share=0.1)  # so wide layers tip a rounding in most rows; Q4_0's do, too


@pytest.mark.parametrize("norm_bias", [True, False])
def test_each_layer_with_layer_norms(norm_bias: bool, tmp_path: Path) -> None:
    config = dataclasses.replace(tiny_config("llama-bias"), norm="layer", norm_bias=norm_bias)
    assert_layers_agree(config, pack_tiny(config, tmp_path))


@pytest.mark.parametrize("group", [1, 3, 8])
def test_each_layer_with_any_number_of_query_heads_per_key_head(group: int, tmp_path: Path) -> None:
    config = dataclasses.replace(tiny_config("llama"), n_heads=2 * group, n_kv_heads=2)
    assert_layers_agree(config, pack_tiny(config, tmp_path))


def test_each_layer_with_widths_that_fill_no_record(tmp_path: Path) -> None:
    """An odd number of groups of 32 leaves the last record of a tile half empty."""
    config = dataclasses.replace(
        tiny_config("llama"),
        hidden_size=96,
        ffn_size=160,
        head_dim=96,
        vocab_size=333,
        rope=dataclasses.replace(tiny_config("llama").rope, dim=96),
    )
    assert_layers_agree(config, pack_tiny(config, tmp_path))


@pytest.mark.parametrize("kv", ["f16", "int8"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_stay_close_to_the_oracles(variant: str, kv: KvKind, tmp_path: Path) -> None:
    config, weights = packed_variant(variant, tmp_path, Format.Q8)
    assert_close(config, weights, kv, unpacked(config, weights))


@pytest.mark.parametrize("kind", ["F16", "Q8_0", "Q4_0", "Q4_1"])
@pytest.mark.parametrize("variant", ["llama", "qwen2", "gemma3", "phi3"])
def test_block_types_of_gguf_lose_nothing(variant: str, kind: str, tmp_path: Path) -> None:
    """The weights packed from blocks are the blocks' own values, F16's to the 8 bits asked for."""
    path = make_tiny_gguf(tmp_path, variant, kind=kind)
    with open_model(path) as files:
        weights = load_packed(path, PackedStore(tmp_path / "packed"), Format.Q8)
        decoded = {name: tensor.float32() for name, tensor in files.tensors.items()}
        config = files.config
    for name, values in unpacked(config, weights).items():
        if kind != "F16":
            np.testing.assert_allclose(values, decoded[name], rtol=1e-6, atol=1e-7)
    assert_close(config, weights, "f16", decoded)


def assert_close(config: ModelConfig, weights: PackedModel, kv: KvKind, tensors: dict[str, Array]) -> None:
    options = EngineOptions(kv=kv, chunk_size=CHUNK, max_sequences=CHUNK, threads=1)
    runner = require_cpu(assemble(config, weights, options).backend).runner
    parts = []
    for at in range(0, N_TOKENS, CHUNK):
        part = tuple(tokens()[at : at + CHUNK])
        logits = runner.run([Chunk(0, at, part, PAGES, len(part))])
        best = logits.argmax(axis=1).tolist()
        assert runner.peaks() == list(zip(best, logits.max(axis=1).tolist(), strict=True))
        parts.append(logits.copy())
    # where a rounding sends a row to another expert, its logits are others: there the oracle rounds too
    oracle = PackedOracle(config, tensors, kv) if config.experts else Oracle(config, tensors)
    expected = oracle.logits(tokens())
    error = (np.concatenate(parts) - expected).std(axis=1) / expected.std()
    if config.experts:  # a tipped rounding may still do that to a row, and rows behind read what it leaves
        assert np.median(error) <= 0.1
    else:
        assert np.sqrt(np.mean(error**2)) <= 0.1


HEADS = [(8, 8), (16, 16), (16, 8), (24, 24), (40, 40), (80, 80), (80, 32), (80, 20), (96, 96), (112, 112), (128, 64)]


@pytest.mark.parametrize("kv", ["f16", "int8"])
@pytest.mark.parametrize(("dim", "rotated"), HEADS)
def test_each_layer_with_heads_of_any_multiple_of_eight(dim: int, rotated: int, kv: KvKind, tmp_path: Path) -> None:
    """Also with norms of queries and keys, biases and a layer without positions."""
    for variant in ("llama-bias", "qwen3", "smollm3"):
        config = tiny_config(variant)
        config = dataclasses.replace(
            config, head_dim=dim, n_heads=8, n_kv_heads=4, rope=dataclasses.replace(config.rope, dim=rotated)
        )
        assert_layers_agree(config, pack_tiny(config, tmp_path / f"{variant}{dim}"), kv)


@pytest.mark.parametrize(("dim", "rotated"), [(8, 8), (24, 24), (80, 20)])
def test_heads_of_any_size_give_equal_bytes_in_any_batch(dim: int, rotated: int, tmp_path: Path) -> None:
    config = tiny_config("qwen3")
    config = dataclasses.replace(
        config, head_dim=dim, n_heads=8, n_kv_heads=4, rope=dataclasses.replace(config.rope, dim=rotated)
    )
    assert_equal_bytes(config, pack_tiny(config, tmp_path))


@pytest.mark.parametrize("variant", ["gemma3n", "gemma4", "gemma4-moe", "baichuan-13b"])
def test_parts_of_single_layers_give_equal_bytes_in_any_batch(variant: str, tmp_path: Path) -> None:
    assert_equal_bytes(*packed_variant(variant, tmp_path, Format.Q8))


def assert_equal_bytes(config: ModelConfig, weights: PackedModel) -> None:
    """A text gives the same logits whatever it is cut into, and by however many threads."""
    found = []
    for threads, chunk in ((1, 1), (1, 7), (2, N_TOKENS)):
        options = EngineOptions(chunk_size=N_TOKENS, max_sequences=N_TOKENS, threads=threads)
        runner = require_cpu(assemble(config, weights, options).backend).runner
        parts = [tuple(tokens()[at : at + chunk]) for at in range(0, N_TOKENS, chunk)]
        rows = [runner.run([Chunk(0, i * chunk, part, PAGES, len(part))]).copy() for i, part in enumerate(parts)]
        found.append(np.concatenate(rows).tobytes())
    assert found[0] == found[1] == found[2]


def test_shapes_beyond_the_kernels_are_refused() -> None:
    llama = tiny_config("llama")
    steep = dataclasses.replace(llama, n_heads=2048, n_kv_heads=1)
    wide = dataclasses.replace(llama, head_dim=1024, rope=dataclasses.replace(llama.rope, dim=1000))
    odd = dataclasses.replace(tiny_config("qwen3"), norm="layer")
    for config, reason in ((steep, "2048 query heads"), (wide, "1056 places"), (odd, "layer norm")):
        with pytest.raises(UnsupportedModelError, match=reason):
            require_runnable(config)
    require_runnable(llama)
