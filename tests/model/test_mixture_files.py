"""Mixtures of experts and latent attention in damaged files: each is refused, and the error names what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from miaotui.errors import ModelError, ModelFormatError, UnsupportedModelError
from miaotui.hub.formats.gguf import read_gguf
from miaotui.hub.formats.tensors import StoredTensor
from miaotui.model.reading.files import open_model
from miaotui.model.reading.from_gguf import config_from_gguf, tensors_from_gguf
from tiny_models import make_tiny_folder, make_tiny_gguf

Tensors = dict[str, Any]
ROUTER = "model.layers.1.mlp.gate.weight"
EXPERT = "model.layers.1.mlp.experts.{}.up_proj.weight"


def changed_folder(folder: Path, variant: str, change: Callable[[Tensors], None], **values: Any) -> Path:
    """A tiny folder with its tensors changed, and values of config.json."""
    model = make_tiny_folder(folder, variant)
    tensors = load_file(model / "model.safetensors")
    change(tensors)
    save_file(tensors, model / "model.safetensors")
    config = json.loads((model / "config.json").read_text()) | values
    (model / "config.json").write_text(json.dumps(config))
    return model


def nothing(_: Tensors) -> None:
    """Leave the tensors as they are."""


def dropped(*names: str) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        for name in names:
            del tensors[name]

    return change


def cut(name: str, rows: int) -> Callable[[Tensors], None]:
    def change(tensors: Tensors) -> None:
        tensors[name] = np.ascontiguousarray(tensors[name][:rows])

    return change


def as_half(tensors: Tensors) -> None:
    """Store one expert in another type than the others."""
    tensors[EXPERT.format(3)] = tensors[EXPERT.format(3)].astype(np.float16)


@pytest.mark.parametrize(
    ("change", "values", "named"),
    [
        (dropped(EXPERT.format(7)), {}, r"experts\.7\.up_proj.* is missing"),
        (dropped(ROUTER), {}, r"mlp\.gate\.weight.* is missing"),
        (dropped(*[EXPERT.format(n) for n in range(8)]), {}, "is missing"),  # a router without experts
        (cut(ROUTER, 7), {}, r"mlp\.gate\.weight.*has shape \(7, 64\).*\(8, 64\)"),
        (cut(EXPERT.format(0), 16), {}, r"experts\.0\.up_proj.*has shape"),
        (nothing, {"num_experts": 7}, "shape|unexpected"),
        (nothing, {"num_experts": 9}, "shape|missing"),
        (nothing, {"num_experts_per_tok": 9}, "chosen experts"),
        (nothing, {"num_experts": 1 << 20}, "num_experts"),
        (nothing, {"num_experts": None}, "number of experts"),
        (nothing, {"n_group": 3, "topk_group": 1}, "expert groups"),
        (nothing, {"n_group": 4, "topk_group": 1}, "chosen groups"),
    ],
)
def test_wrong_experts_in_a_folder(
    change: Callable[[Tensors], None], values: dict[str, Any], named: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelFormatError, match=named):
        open_model(changed_folder(tmp_path, "qwen3-moe", change, **values))


def test_experts_of_several_types_are_refused_when_they_are_read(tmp_path: Path) -> None:
    with (
        open_model(changed_folder(tmp_path, "qwen3-moe", as_half)) as files,
        pytest.raises(ModelFormatError, match=r"F32 and F16.*all experts must be of one"),
    ):
        files.tensors["layers.1.expert_up"].float32()


def gguf_with(path: Path, change: Callable[[dict[str, StoredTensor]], None], **metadata: Any) -> None:
    """Open a GGUF model with its tensors and metadata changed."""
    with read_gguf(path) as file:
        pairs, tensors = dict(file.metadata), dict(file.tensors)
        change(tensors)
        pairs |= {f"{pairs['general.architecture']}.{key}": value for key, value in metadata.items()}
        tensors_from_gguf(config_from_gguf(pairs, tensors), pairs, tensors)


def reshaped(name: str, shape: tuple[int, ...]) -> Callable[[dict[str, StoredTensor]], None]:
    def change(tensors: dict[str, StoredTensor]) -> None:
        data = np.zeros(int(np.prod(shape)), np.float32)
        tensors[name] = StoredTensor.from_bytes(name, shape, tensors[name].kind, data.view(np.uint8))

    return change


@pytest.mark.parametrize(
    ("change", "metadata", "named"),
    [
        (reshaped("blk.1.ffn_up_exps.weight", (7, 32, 64)), {}, "ffn_up_exps.*has shape"),
        (dropped("blk.1.ffn_gate_exps.weight"), {}, "ffn_gate_exps.*is missing"),
        (dropped("blk.1.ffn_gate_inp.weight"), {}, "ffn_gate_inp.*is missing"),
        (reshaped("blk.1.ffn_gate_inp.weight", (9, 64)), {}, "ffn_gate_inp.*has shape"),
        (nothing, {"expert_used_count": 17}, "expert"),
        (nothing, {"expert_group_count": 5}, "expert groups"),
        (reshaped("blk.1.attn_k_b.weight", (4, 24, 64)), {}, "attn_k_b.*has shape"),
        (reshaped("blk.1.attn_k_b.weight", (96, 64)), {}, "attn_k_b.*a matrix for each head"),
        (reshaped("blk.1.attn_v_b.weight", (4, 64, 40)), {}, "attn_v_b.*has shape"),
        (reshaped("blk.1.attn_kv_a_mqa.weight", (64, 64)), {}, "attn_kv_a_mqa.*has shape"),
        (dropped("blk.1.attn_v_b.weight"), {}, "attn_v_b.*is missing"),
        (nothing, {"rope.dimension_count": 56}, "rope.dimension_count"),
        (nothing, {"attention.value_length_mla": 64}, "values of a head"),
    ],
)
def test_wrong_experts_and_latent_attention_in_gguf(
    change: Callable[[Any], None], metadata: dict[str, Any], named: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelFormatError, match=named):
        gguf_with(make_tiny_gguf(tmp_path, "deepseek-v3"), change, **metadata)


def test_an_unknown_router_is_refused_by_its_number(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="kind 9"):
        gguf_with(make_tiny_gguf(tmp_path, "deepseek-v3"), nothing, expert_gating_func=9)


def test_pairs_in_another_order_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="rope_interleave"):
        open_model(changed_folder(tmp_path, "deepseek-v3", nothing, rope_interleave=False))


@pytest.fixture(scope="module")
def latent_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_gguf(tmp_path_factory.mktemp("latent"), "deepseek-v3")


NUMBERS = (
    "attention.q_lora_rank",
    "attention.kv_lora_rank",
    "attention.key_length_mla",
    "attention.value_length_mla",
    "rope.dimension_count",
    "expert_count",
    "expert_used_count",
    "expert_feed_forward_length",
    "expert_group_count",
    "expert_group_used_count",
    "leading_dense_block_count",
    "attention.head_count",
)
VALUES = st.sampled_from([0, 1, 3, 8, 16, 31, 32, 64, 96, 2**31, 2**63 - 1]) | st.floats() | st.text(max_size=3)


@given(st.dictionaries(st.sampled_from(NUMBERS), VALUES, min_size=1, max_size=3))
def test_any_numbers_give_a_model_or_a_model_error(latent_gguf: Path, metadata: dict[str, Any]) -> None:
    with suppress(ModelError):
        gguf_with(latent_gguf, nothing, **metadata)
