"""Low-rank adapters: read from PEFT folders and GGUF files, equal to merged weights, refused when they do not fit."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapter_files import Pairs, random_pairs, write_gguf_adapter, write_peft
from miaotui.cli import main
from miaotui.errors import MiaotuiError, ModelFormatError, ModelNotFoundError, RequestError, UnsupportedModelError
from miaotui.hub.formats.tensors import BlockType, StoredTensor
from miaotui.hub.writers.blocks import encode_floats
from miaotui.model.adapters.adapter import MAX_RANK
from miaotui.model.adapters.from_peft import read_peft
from miaotui.model.adapters.merge import merge_adapter
from miaotui.model.adapters.reading import read_adapter
from miaotui.model.oracle import Oracle
from miaotui.model.reading.files import open_model
from tiny_models import make_tiny_folder, make_tiny_gguf

TOKENS = [5, 17, 3, 90, 41]


def modules(folder: Path) -> dict[str, tuple[int, int]]:
    """The linear layers of a tiny model by PEFT's names, with their shapes."""
    from safetensors.numpy import load_file  # noqa: PLC0415  (a test extra)

    found = load_file(folder / "model.safetensors")
    linear = {name: array.shape for name, array in found.items() if array.ndim == 2 and "embed" not in name}
    return {name.removesuffix(".weight"): (shape[0], shape[1]) for name, shape in linear.items()}


@pytest.mark.parametrize("variant", ["llama", "qwen2", "qwen3", "gemma3", "phi3"])
def test_an_adapter_beside_the_product_equals_merged_weights(tmp_path: Path, variant: str) -> None:
    base = make_tiny_folder(tmp_path, variant)
    pairs = random_pairs(modules(base), rank=4)
    with open_model(base) as opened:
        adapter = read_adapter(write_peft(tmp_path / "adapter", pairs, alpha=6), opened.config)
        plain = Oracle(opened.config, opened.tensors)
        arrays = {name: tensor.float32() for name, tensor in opened.tensors.items()}
    merged = {name: array + adapter[name].change() if name in adapter else array for name, array in arrays.items()}
    expected = Oracle(opened.config, merged).logits(TOKENS)
    found = plain.with_adapter(adapter).logits(TOKENS)
    assert np.abs(found - expected).max() < 1e-3 * np.abs(expected).max()
    assert np.abs(plain.logits(TOKENS) - expected).max() > 1e-2, "the adapter changes the answer"
    assert adapter.rank == 4


def test_adapters_of_gemma_3n_name_its_text_part_and_keys_that_no_layer_reads(tmp_path: Path) -> None:
    base = make_tiny_folder(tmp_path, "gemma3n")
    shapes = {name: (64 if "v_proj" in name else 128, 64) for name in ("layers.3.self_attn.v_proj",)}
    shapes |= {"layers.0.self_attn.v_proj": (64, 64), "layers.4.self_attn.q_proj": (128, 64)}
    pairs = random_pairs({f"model.language_model.{name}": shape for name, shape in shapes.items()}, 3)
    with open_model(base) as opened:
        adapter = read_adapter(write_peft(tmp_path / "a", pairs), opened.config)
    assert set(adapter) == {"layers.0.v", "layers.4.q"}


def test_a_stored_matrix_changes_as_its_pair_says(tmp_path: Path) -> None:
    """Rows of fused matrices fall to the canonical ones that they make."""
    base = make_tiny_folder(tmp_path, "phi3")
    pairs = {name: pair for name, pair in random_pairs(modules(base), 3).items() if "layers.0." in name}
    with open_model(base) as opened:
        adapter = read_adapter(write_peft(tmp_path / "a", pairs, alpha=3), opened.config)
    down, up = pairs["model.layers.0.self_attn.qkv_proj"]
    change = up @ down
    parts = np.concatenate([adapter[f"layers.0.{name}"].change() for name in "qkv"])
    assert np.allclose(parts, change, atol=1e-5)


def test_scales_follow_pefts_rules(tmp_path: Path) -> None:
    base = make_tiny_folder(tmp_path, "llama")
    pairs = random_pairs({name: shape for name, shape in modules(base).items() if "layers.0.mlp" in name}, 4)
    with open_model(base) as opened:
        config = opened.config

    def scale(name: str, **more: Any) -> float:
        adapter = read_peft(write_peft(tmp_path / "a", pairs, alpha=8, **more), config)
        _, up = pairs[f"model.layers.0.mlp.{name}_proj"]
        return float(adapter[f"layers.0.{name}"].up[0, 0] / up[0, 0])

    assert scale("up") == pytest.approx(2)
    assert scale("up", use_rslora=True) == pytest.approx(8 / math.sqrt(4))
    assert scale("up", alpha_pattern={"up_proj": 2}) == pytest.approx(0.5)
    assert scale("gate", alpha_pattern={"up_proj": 2}) == pytest.approx(2)


def test_gguf_adapters_equal_pefts(tmp_path: Path) -> None:
    """Llama's GGUF files have the rows of q and k in another order; an adapter's rows follow them."""
    base = make_tiny_folder(tmp_path, "llama")
    wanted = {name: shape for name, shape in modules(base).items() if "layers.1." in name}
    pairs = random_pairs(wanted, 4, seed=3)
    names = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output"}
    names |= {"gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down"}
    with open_model(base) as opened:
        config = opened.config
        first = read_adapter(write_peft(tmp_path / "peft", pairs, alpha=8), config)
    stored: Pairs = {}
    for module, (down, up) in pairs.items():
        last = module.rpartition(".")[2]
        rows = _side_by_side(up, config.head_dim) if last in ("q_proj", "k_proj") else up
        stored[f"blk.1.{names[last]}.weight"] = (down, rows)
    file = write_gguf_adapter(tmp_path / "adapter.gguf", stored, alpha=8)
    with open_model(make_tiny_gguf(tmp_path, "llama")) as opened:
        second = read_adapter(file, opened.config)
    assert first.keys() == second.keys()
    for name in first:
        assert np.allclose(first[name].change(), second[name].change(), atol=1e-6), name


def _side_by_side(matrix: Any, head_dim: int) -> Any:
    """The rows of each head with the two of each rotated pair next to each other, as in Llama's GGUF files."""
    rows = matrix.reshape(-1, 2, head_dim // 2, matrix.shape[1])
    return np.ascontiguousarray(rows.swapaxes(1, 2).reshape(matrix.shape))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_folder(tmp_path_factory.mktemp("adapters"), "llama")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"bias": "all"}, "biases"),
        ({"modules_to_save": ["lm_head"]}, "whole modules"),
        ({"peft_type": "IA3"}, "not a LORA adapter"),
        ({"r": 5}, "says 5"),
        ({"lora_alpha": None}, "expected a number"),
        ({"rank_pattern": {"(a+)+$": 3}}, "names of modules"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(
    tiny: Path, tmp_path: Path, changed: dict[str, Any], words: str
) -> None:
    with open_model(tiny) as opened:
        folder = write_peft(tmp_path / "a", random_pairs(modules(tiny), 4), **changed)
        with pytest.raises(MiaotuiError, match=words):
            read_adapter(folder, opened.config)


def test_adapters_of_another_model_are_refused(tiny: Path, tmp_path: Path) -> None:
    with open_model(tiny) as opened:
        config = opened.config
    shapes = modules(tiny)
    wider = {name: (outputs + 32, inputs) for name, (outputs, inputs) in shapes.items()}
    for number, pairs in enumerate((random_pairs(wider, 4), random_pairs({"model.layers.9.mlp.up_proj": (96, 64)}, 4))):
        with pytest.raises(ModelFormatError, match="an adapter of another model"):
            read_adapter(write_peft(tmp_path / str(number), pairs), config)
    name, shape = next(iter(shapes.items()))
    with pytest.raises(UnsupportedModelError, match=f"at most {MAX_RANK}"):
        read_adapter(write_peft(tmp_path / "wide", random_pairs({name: shape}, MAX_RANK + 1)), config)
    other = write_gguf_adapter(tmp_path / "q.gguf", random_pairs({"blk.0.ffn_up.weight": (96, 64)}, 2), 4, "qwen2")
    with pytest.raises(ModelFormatError, match="of the architecture 'qwen2', not 'llama'"):
        read_adapter(other, config)
    half = write_gguf_adapter(
        tmp_path / "h.gguf", random_pairs({"blk.0.ffn_up.weight": (96, 64)}, 2), without=["blk.0.ffn_up.weight.lora_b"]
    )
    with pytest.raises(ModelFormatError, match="half a pair"):
        read_adapter(half, config)


def test_what_is_no_adapter_is_named(tiny: Path, tmp_path: Path) -> None:
    with open_model(tiny) as opened:
        config = opened.config
    with pytest.raises(ModelNotFoundError, match="there is no adapter"):
        read_adapter(tmp_path / "none", config)
    with pytest.raises(ModelNotFoundError, match=r"no adapter_config\.json"):
        read_adapter(tiny, config)
    folder = write_peft(tmp_path / "a", random_pairs(modules(tiny), 4))
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(ModelNotFoundError, match="never loaded, because it can run code"):
        read_adapter(folder, config)
    with pytest.raises(UnsupportedModelError, match="not a lora adapter"):
        read_adapter(make_tiny_gguf(tmp_path, "llama"), config)


def test_a_merged_folder_answers_as_model_and_adapter_do(tiny: Path, tmp_path: Path) -> None:
    folder = write_peft(tmp_path / "a", random_pairs(modules(tiny), 4))
    assert main(["merge-adapter", str(tiny), str(folder), str(tmp_path / "merged")]) == 0
    with open_model(tiny) as opened, open_model(tmp_path / "merged") as merged:
        adapter = read_adapter(folder, opened.config)
        expected = Oracle(opened.config, opened.tensors).with_adapter(adapter).logits(TOKENS)
        found = Oracle(merged.config, merged.tensors).logits(TOKENS)
    assert np.abs(found - expected).max() < 1e-3 * np.abs(expected).max()
    assert {p.name for p in (tmp_path / "merged").iterdir()} >= {"config.json", "model.safetensors", "tokenizer.json"}
    with pytest.raises(RequestError, match="is there already"):
        merge_adapter(tiny, folder, tmp_path / "merged")


@pytest.mark.parametrize("kind", ["F32", "Q8_0"])
def test_a_merged_gguf_file_answers_as_model_and_adapter_do(tmp_path: Path, kind: str) -> None:
    base = make_tiny_gguf(tmp_path, "llama", kind=kind)
    shapes = {"blk.0.attn_q.weight": (64, 64), "blk.1.attn_k.weight": (32, 64), "blk.1.ffn_down.weight": (64, 96)}
    with open_model(base) as opened:
        config, stored = opened.config, opened.tensors
        sizes = {"q": "layers.0.q", "k": "layers.1.k", "down": "layers.1.down"}
        shapes = dict(zip(shapes, ((s.shape[0], s.cols) for s in map(stored.__getitem__, sizes.values())), strict=True))
        file = write_gguf_adapter(tmp_path / "adapter.gguf", random_pairs(shapes, 4))
        adapter = read_adapter(file, config)
        expected = Oracle(config, stored).with_adapter(adapter).logits(TOKENS)
    out = merge_adapter(base, file, tmp_path / "merged.gguf")
    with open_model(out) as merged:
        assert merged.metadata is not None
        assert merged.tensors["layers.0.q"].kind.name == "F16"
        assert merged.tensors["layers.0.v"].kind.name == kind
        found = Oracle(merged.config, merged.tensors).logits(TOKENS)
    assert np.abs(found - expected).max() < 1e-2 * np.abs(expected).max()


@pytest.mark.parametrize("kind", [BlockType.F32, BlockType.F16, BlockType.BF16])
def test_weights_are_encoded_to_the_nearest(kind: BlockType) -> None:
    weights = np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32)
    tensor = StoredTensor.from_bytes("w", weights.shape, kind, encode_floats(weights, kind))
    error = {BlockType.F32: 0, BlockType.F16: 2**-11, BlockType.BF16: 2**-8}[kind]
    assert (np.abs(tensor.float32() - weights) <= error * np.abs(weights)).all()
    assert (encode_floats(tensor.float32(), kind) == encode_floats(weights, kind)).all()


values = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=6), st.just({}), st.just([]))


@given(st.dictionaries(st.sampled_from(["r", "lora_alpha", "use_rslora", "rank_pattern", "bias"]), values))
@settings(max_examples=50, deadline=None)
def test_any_configuration_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, changed: dict[str, Any]
) -> None:
    root = tmp_path_factory.getbasetemp() / "adapter-fuzz"
    base = root / "llama-0"
    if not base.is_dir():
        root.mkdir(exist_ok=True)
        make_tiny_folder(root, "llama")
        write_peft(root / "a", random_pairs(modules(base), 4))
    settings_ = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, **changed}
    (root / "a" / "adapter_config.json").write_text(json.dumps(settings_))
    with open_model(base) as opened:
        try:
            adapter = read_adapter(root / "a", opened.config)
        except MiaotuiError:
            return
    assert all(np.isfinite(pair.up).all() for pair in adapter.values())
