"""Adapters of single experts, by PEFT's and GGUF's names, each expert's own or all of a layer in one piece."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from adapter_files import Pairs, random_pairs, write_gguf_adapter, write_peft
from miaotui.errors import MiaotuiError, ModelFormatError, UnsupportedModelError
from miaotui.model.adapters.adapter import LowRankPair
from miaotui.model.adapters.merge import merge_adapter
from miaotui.model.adapters.reading import read_adapter
from miaotui.model.config import ModelConfig
from miaotui.model.oracle import Oracle
from miaotui.model.reading.files import open_model
from miaotui.model.reading.names import tensor_shapes
from tiny_models import make_tiny_folder, make_tiny_gguf

Array = NDArray[np.float32]
TOKENS = [5, 17, 3, 90, 41, 250, 7, 33]
RANK = 3
SHARED = {"mlp.shared_expert.up_proj": "shared_up", "mlp.shared_expert_gate": "shared_router"}


def sizes(config: ModelConfig) -> tuple[int, int, int]:
    """Experts, their size, and the hidden width."""
    assert config.experts is not None
    return config.experts.count, config.experts.size, config.hidden_size


def own_pairs(config: ModelConfig) -> Pairs:
    """Pairs by PEFT's names, for some experts of layer 0, all of layer 1, and for what is shared."""
    count, size, hidden = sizes(config)
    shapes = {}
    for layer, experts in ((0, (1, 4)), (1, range(count))):
        for expert in experts:
            name = f"model.layers.{layer}.mlp.experts.{expert}."
            shapes |= {f"{name}{part}_proj": (size, hidden) for part in ("gate", "up")}
            shapes[f"{name}down_proj"] = (hidden, size)
        for module, part in SHARED.items():
            if (canonical := f"layers.{layer}.{part}") in tensor_shapes(config):
                rows, inputs = tensor_shapes(config)[canonical]
                shapes[f"model.layers.{layer}.{module}"] = (rows, inputs)
    return random_pairs(shapes, RANK)


def changed(arrays: Mapping[str, Array], adapter: Mapping[str, LowRankPair]) -> dict[str, Array]:
    """Weights with an adapter's changes, an expert's rows found by its number."""
    found = {name: array.copy() for name, array in arrays.items()}
    for name, pair in adapter.items():
        layer, expert = name.rpartition(".")[::2]
        if not expert.isdigit():
            found[name] += pair.change()
            continue
        rows = len(pair.up)
        found[layer][int(expert) * rows : (int(expert) + 1) * rows] += pair.change()
    return found


@pytest.mark.parametrize("variant", ["qwen3-moe", "qwen2-moe"])
def test_experts_by_their_own_names_equal_merged_weights(variant: str, tmp_path: Path) -> None:
    base = make_tiny_folder(tmp_path, variant)
    with open_model(base) as opened:
        config = opened.config
        adapter = read_adapter(write_peft(tmp_path / "a", own_pairs(config), alpha=6), config)
        plain = Oracle(config, opened.tensors)
        found, without = plain.with_adapter(adapter).logits(TOKENS), plain.logits(TOKENS)
        weights = changed({name: tensor.float32() for name, tensor in opened.tensors.items()}, adapter)
    expected = Oracle(config, weights).logits(TOKENS)
    assert np.abs(found - expected).max() < 1e-3 * np.abs(expected).max()
    assert np.abs(found - without).max() > 1e-2 * np.abs(expected).max()
    with open_model(merge_adapter(base, tmp_path / "a", tmp_path / "merged")) as merged:
        again = Oracle(config, merged.tensors).logits(TOKENS)
    assert np.abs(again - expected).max() < 1e-3 * np.abs(expected).max()


def fused_pairs(config: ModelConfig, modules: Mapping[str, str]) -> Pairs:
    """Pairs of whole parameters, as PEFT's ``ParamWrapper`` has them; ``modules`` says which part each changes."""
    count, size, hidden = sizes(config)
    outer = {"gate_up": (2 * size, hidden), "down": (hidden, size)}
    rng, found = np.random.default_rng(4), {}
    for module, part in modules.items():
        outputs, inputs = outer[part]
        down = rng.normal(0, 0.3, (count * RANK, inputs)).astype(np.float32)
        found[module] = down, rng.normal(0, 0.3, (outputs, RANK * count)).astype(np.float32)
    return found


def delta(pair: tuple[Array, Array], count: int) -> Array:
    """Return the change of a parameter ``[experts, outputs, inputs]`` by PEFT's formula."""
    down, up = pair
    a, b = down.reshape(count, -1, down.shape[1]), up.reshape(len(up), -1, count)
    result: Array = np.einsum("ore,eri->eoi", b, a)
    return result


@pytest.mark.parametrize(
    ("variant", "gate_up", "down"),
    [
        ("qwen3-moe", "mlp.experts.base_layer", "mlp.experts"),
        ("gpt-oss", "mlp.experts.base_layer", "mlp.experts"),
        ("granitemoe", "block_sparse_moe.input_linear", "block_sparse_moe.output_linear"),
    ],
)
def test_parameters_of_all_experts_are_cut(variant: str, gate_up: str, down: str, tmp_path: Path) -> None:
    prefix = "model.layers.1."
    with open_model(make_tiny_folder(tmp_path, variant)) as opened:
        config = opened.config
        pairs = fused_pairs(config, {prefix + gate_up: "gate_up", prefix + down: "down"})
        folder = write_peft(tmp_path / "a", pairs, alpha=2 * RANK, r=RANK, target_modules=None)
        adapter = read_adapter(folder, config)
    count, size, _ = sizes(config)
    both, downs = (2 * delta(pairs[prefix + name], count) for name in (gate_up, down))
    gates, ups = (both[:, ::2], both[:, 1::2]) if variant == "gpt-oss" else (both[:, :size], both[:, size:])
    assert len(adapter) == 3 * count
    for part, expected in (("gate", gates), ("up", ups), ("down", downs)):
        found = np.stack([adapter[f"layers.1.expert_{part}.{expert}"].change() for expert in range(count)])
        assert np.abs(found - expected).max() < 1e-4


def test_stacks_of_a_gguf_file_equal_merged_weights(tmp_path: Path) -> None:
    base = make_tiny_gguf(tmp_path, "qwen3-moe", kind="Q8_0")
    with open_model(base) as opened:
        config = opened.config
        count, size, hidden = sizes(config)
        rng, pairs = np.random.default_rng(2), {}
        for name, (rows, inputs) in {"gate": (size, hidden), "down": (hidden, size)}.items():
            down = rng.normal(0, 0.2, (count, RANK, inputs)).astype(np.float32)
            pairs[f"blk.0.ffn_{name}_exps.weight"] = down, rng.normal(0, 0.2, (count, rows, RANK)).astype(np.float32)
        file = write_gguf_adapter(tmp_path / "a.gguf", pairs, alpha=RANK, architecture="qwen3moe")
        adapter = read_adapter(file, config)
        plain = Oracle(config, opened.tensors)
        expected, without = plain.with_adapter(adapter).logits(TOKENS), plain.logits(TOKENS)
    down, up = pairs["blk.0.ffn_down_exps.weight"]
    assert np.abs(adapter["layers.0.expert_down.5"].change() - up[5] @ down[5]).max() < 1e-5
    assert np.abs(expected - without).max() > 1e-2 * np.abs(expected).max()
    with open_model(merge_adapter(base, file, tmp_path / "merged.gguf")) as merged:
        found = Oracle(merged.config, merged.tensors).logits(TOKENS)
    assert np.abs(found - expected).max() < 1e-2 * np.abs(expected).max()


def test_joined_stacks_of_gemma_4_are_cut(tmp_path: Path) -> None:
    with open_model(make_tiny_folder(tmp_path, "gemma4-moe")) as opened:
        config = opened.config
    count, size, hidden = sizes(config)
    rng = np.random.default_rng(1)
    down = rng.normal(size=(count, RANK, hidden)).astype(np.float32)
    up = rng.normal(size=(count, 2 * size, RANK)).astype(np.float32)
    pairs = {"blk.0.ffn_gate_up_exps.weight": (down, up)}
    adapter = read_adapter(write_gguf_adapter(tmp_path / "a.gguf", pairs, alpha=RANK, architecture="gemma4"), config)
    assert np.abs(adapter["layers.0.expert_up.2"].change() - up[2, size:] @ down[2]).max() < 1e-4
    assert np.abs(adapter["layers.0.expert_gate.0"].change() - up[0, :size] @ down[0]).max() < 1e-4


def test_adapters_of_other_experts_are_refused(tmp_path: Path) -> None:
    with open_model(make_tiny_folder(tmp_path, "qwen3-moe")) as opened:
        config = opened.config
    count, size, hidden = sizes(config)
    prefix = "model.layers.0.mlp.experts"

    def refused(pairs: Pairs, match: str, error: type[Exception] = ModelFormatError, **settings: Any) -> None:
        with pytest.raises(error, match=match):
            read_adapter(write_peft(tmp_path / "a", pairs, **settings), config)

    refused(random_pairs({f"{prefix}.{count}.up_proj": (size, hidden)}, RANK), "does not have as a linear layer")
    refused(random_pairs({f"{prefix}.0.up_proj": (hidden, hidden)}, RANK), "have shapes")
    whole = fused_pairs(config, {prefix: "down"})
    refused(whole, "24 ranks, and adapter_config.json says 4", r=4)
    down, up = whole[prefix]
    refused({prefix: (down, up[:-1])}, "and the model has 8 experts of 64 inputs", r=RANK)
    refused({prefix: (down, up[:, :-1])}, "and the model has 8 experts of 64 inputs", r=RANK)
    twice = random_pairs({f"{prefix}.0.down_proj": (hidden, size)}, RANK) | whole
    refused(twice, "changes layers.0.expert_down.0 twice", r=RANK, rank_pattern={"experts.0.down_proj": RANK})
    stack = {
        "blk.0.ffn_up_exps.weight": (np.zeros((4, RANK, hidden), np.float32), np.zeros((4, size, RANK), np.float32))
    }
    with pytest.raises(ModelFormatError, match="of 8 experts"):
        read_adapter(write_gguf_adapter(tmp_path / "a.gguf", stack, architecture="qwen3moe"), config)


@st.composite
def shapes(draw: st.DrawFn) -> tuple[int, ...]:
    return tuple(draw(st.lists(st.sampled_from([0, 1, 2, 3, 4, 7, 8, 24, 32, 64]), min_size=1, max_size=4)))


@given(shapes(), shapes(), st.sampled_from(["ffn_up_exps", "ffn_gate_up_exps", "ffn_gate_inp", "attn_q"]))
@settings(max_examples=20, deadline=None)
def test_matrices_of_any_shape_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, down: tuple[int, ...], up: tuple[int, ...], name: str
) -> None:
    folder = tmp_path_factory.getbasetemp() / "expert-adapters"
    if not folder.is_dir():
        folder.mkdir()
        make_tiny_folder(folder, "qwen3-moe")
    with open_model(folder / "qwen3-moe-0") as opened:
        config = opened.config
    matrices = np.ones(down, np.float32), np.ones(up, np.float32)
    modules = {"ffn_up_exps": "mlp.experts", "attn_q": "self_attn.q_proj"}
    peft = write_peft(folder / "a", {f"model.layers.0.{modules.get(name, 'mlp.gate')}": matrices}, r=1)
    gguf = write_gguf_adapter(folder / "a.gguf", {f"blk.0.{name}.weight": matrices}, architecture="qwen3moe")
    for path in (peft, gguf):
        with suppress(MiaotuiError):
            read_adapter(path, config)


def test_experts_in_one_tensor_of_a_folder_are_not_merged(tmp_path: Path) -> None:
    base = make_tiny_folder(tmp_path, "granitemoe")
    with open_model(base) as opened:
        module = "model.layers.1.block_sparse_moe.output_linear"
        folder = write_peft(tmp_path / "a", fused_pairs(opened.config, {module: "down"}), r=RANK)
    with pytest.raises(UnsupportedModelError, match=r"stores layers\.1\.expert_down\.0 as a part of another tensor"):
        merge_adapter(base, folder, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
