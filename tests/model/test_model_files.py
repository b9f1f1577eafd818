"""Opening models: all forms of one model hold the same weights; misfits are refused, named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, quants

from miaotui.errors import ModelError, ModelFormatError, ModelNotFoundError, UnsupportedModelError
from miaotui.hub.formats.safetensors import read_safetensors
from miaotui.hub.formats.tensors import BlockType, StoredTensor
from miaotui.model.reading.files import open_model
from miaotui.model.reading.from_hf import tensors_from_hf
from miaotui.model.reading.stored.unit_rows import UnitRows
from tiny_models import make_tiny_folder, make_tiny_gguf, tiny_weights
from tiny_variants import VARIANTS


@pytest.mark.parametrize("variant", VARIANTS)
def test_folder_and_gguf_hold_the_same_canonical_weights(variant: str, tmp_path: Path) -> None:
    folder, file = make_tiny_folder(tmp_path, variant), make_tiny_gguf(tmp_path, variant)
    with open_model(folder) as first, open_model(file) as second:
        expected = tiny_weights(first.config)
        assert list(first.tensors) == list(second.tensors) == list(expected)
        for name, values in expected.items():
            np.testing.assert_array_equal(first.tensors[name].float32(), values, err_msg=name)
            np.testing.assert_array_equal(second.tensors[name].float32(), values, err_msg=name)
            assert first.tensors[name].name == name
            assert first.tensors[name].shape == values.shape
    assert (first.folder, first.metadata) == (folder, None)
    assert second.folder == tmp_path
    assert second.metadata is not None


def test_rows_of_baichuan_2s_head_have_length_one(tmp_path: Path) -> None:
    """Its vocabulary tells it from the first Baichuan; rows of zeros stay zeros."""
    shape = {"vocab_size": 125_696, "hidden_size": 32, "num_attention_heads": 1, "num_key_value_heads": 1}
    path = make_tiny_folder(tmp_path, "baichuan", num_hidden_layers=1, intermediate_size=32, **shape)
    with open_model(path) as files:
        head, stored = files.tensors["head"], tiny_weights(files.config)["head"]
        lengths = np.sqrt((stored.astype(np.float64) ** 2).sum(axis=1))
        np.testing.assert_allclose(head.float32(7, 99), stored[7:99] / lengths[7:99, None], rtol=1e-6)
        assert (head.name, head.shape, head.size_bytes) == ("head", stored.shape, stored.nbytes)
        zeros = StoredTensor("zeros", (2, 32), BlockType.F32, np.zeros((2, 128), np.uint8))
        assert not UnitRows(zeros).float32().any()


@pytest.mark.parametrize("variant", ["llama", "phi3"])
@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q5_1", "Q4_0"])
def test_rows_are_moved_without_decoding(variant: str, kind: str, tmp_path: Path) -> None:
    block = GGMLQuantizationType[kind]
    with open_model(make_tiny_gguf(tmp_path, variant, kind=kind)) as files:
        weights = tiny_weights(files.config)
        for name in ("layers.0.q", "layers.0.k", "layers.1.v", "layers.2.up", "layers.2.gate"):
            tensor = files.tensors[name]
            assert tensor.kind is BlockType[kind]
            encoded = quants.quantize(weights[name], block).view(np.uint8)
            np.testing.assert_array_equal(tensor.data, encoded, err_msg=name)


def test_weights_in_place_are_not_copied(tmp_path: Path) -> None:
    with open_model(make_tiny_gguf(tmp_path, "phi3")) as files:
        for name in ("embed", "layers.0.k", "layers.0.up", "layers.1.down"):
            assert not files.tensors[name].data.flags.owndata
            assert np.shares_memory(files.tensors[name].data, files.tensors[name].data)


def test_a_tied_model_may_carry_a_copy_of_its_head(tmp_path: Path) -> None:
    with open_model(make_tiny_folder(tmp_path, "llama")) as files:
        untied = files.tensors
    folder = make_tiny_folder(tmp_path, "llama-tied", seed=1)
    config = json.loads((folder / "config.json").read_text())
    stored = dict(read_safetensors(folder)) | {"lm_head.weight": untied["head"]}
    tied = open_model(folder).config
    assert "head" not in tensors_from_hf(tied, config, stored)


def test_buffers_of_old_checkpoints_are_ignored(tmp_path: Path) -> None:
    folder = make_tiny_folder(tmp_path, "llama")
    config = json.loads((folder / "config.json").read_text())
    stored = dict(read_safetensors(folder))
    buffer = stored["model.norm.weight"]
    stored["model.layers.0.self_attn.rotary_emb.inv_freq"] = buffer
    assert len(tensors_from_hf(open_model(folder).config, config, stored)) > 0


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"vocab_size": 352}, ["model.embed_tokens.weight", "(320, 64)", "(352, 64)"]),
        ({"num_key_value_heads": 4}, ["k_proj.weight", "(64, 64)", "(128, 64)"]),
        ({"num_hidden_layers": 4}, ["layers.3.input_layernorm.weight", "missing", "(64,)"]),
        ({"num_hidden_layers": 2}, ["layers.2.", "unexpected"]),
        ({"tie_word_embeddings": True, "attention_bias": True}, ["q_proj.bias", "missing"]),
    ],
)
def test_tensors_that_do_not_fit_are_named(changes: dict[str, object], expected: list[str], tmp_path: Path) -> None:
    folder = make_tiny_folder(tmp_path, "llama")
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ModelFormatError) as refusal:
        open_model(folder)
    assert all(part in str(refusal.value) for part in expected), refusal.value


def test_a_fused_matrix_of_another_size_is_refused(tmp_path: Path) -> None:
    folder = make_tiny_folder(tmp_path, "phi3")
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_key_value_heads": 2}))
    with pytest.raises(ModelFormatError, match=r"qkv_proj.*\(128, 64\).*\(192, 64\)"):
        open_model(folder)


def test_what_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="check the path"):
        open_model(tmp_path / "nothing.gguf")
    with pytest.raises(ModelNotFoundError, match="config"):
        open_model(tmp_path)
    folder = make_tiny_folder(tmp_path, "llama")
    with pytest.raises(UnsupportedModelError, match="folder"):
        open_model(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelNotFoundError, match="safetensors"):
        open_model(folder)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": NaN}', "[" * 100_000, '{"a":1,"a":2}'])
def test_a_damaged_config_is_refused(text: str, tmp_path: Path) -> None:
    folder = make_tiny_folder(tmp_path, "llama")
    (folder / "config.json").write_text(text)
    with pytest.raises(ModelError, match="config"):
        open_model(folder)


def test_a_file_that_is_not_gguf_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF" + bytes(20))
    with pytest.raises(ModelError):
        open_model(path)


def test_encoders_are_named_as_such(tmp_path: Path) -> None:
    """They write no text, whatever they are kept in."""
    for name in ("bert", "distilbert", "modernbert"):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": name}))
        with pytest.raises(UnsupportedModelError, match=rf"an encoder \({name}\).*load_encoder"):
            open_model(tmp_path)
    (tmp_path / "config.json").unlink()
    (tmp_path / "e5.bin").write_bytes(b"E5S1" + bytes(60))
    for path in (tmp_path, tmp_path / "e5.bin"):
        with pytest.raises(UnsupportedModelError, match="holds an encoder"):
            open_model(path)
