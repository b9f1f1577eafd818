"""Experts that safetensors hold in one tensor: MXFP4 as OpenAI stores it has the values that GGML's blocks have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from miaotui.errors import ModelFormatError
from miaotui.hub.formats.tensors import BlockType
from miaotui.model.reading.files import open_model
from tiny_models import make_tiny_folder

DOWN, GATE_UP = "mlp.experts.down_proj", "mlp.experts.gate_up_proj"
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


def in_mxfp4(folder: Path, without: str = "") -> dict[str, NDArray[np.float32]]:
    """Store the experts of a tiny folder as random MXFP4; return their values, ``[experts, outputs, inputs]``."""
    from safetensors.numpy import load_file, save_file  # noqa: PLC0415  (a test extra)

    rng, values, tensors = np.random.default_rng(0), {}, dict[str, Any]()
    for name, array in load_file(folder / "model.safetensors").items():
        if not name.endswith((DOWN, GATE_UP)):
            tensors[name] = array
            continue
        experts, inputs, outputs = array.shape
        codes = rng.integers(0, 16, (experts, outputs, inputs // 32, 32)).astype(np.uint8)
        scales = rng.integers(120, 128, (experts, outputs, inputs // 32)).astype(np.uint8)
        tensors[f"{name}_blocks"] = codes[..., ::2] | codes[..., 1::2] << 4
        tensors[f"{name}_scales"] = scales
        powers = np.ldexp(np.float32(1), scales.astype(np.int32) - 127)[..., None]
        values[name] = (E2M1[codes] * powers).reshape(experts, outputs, inputs)
    save_file({name: array for name, array in tensors.items() if name != without}, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]}
    (folder / "config.json").write_text(json.dumps(config))
    return values


def test_blocks_of_safetensors_keep_their_values(tmp_path: Path) -> None:
    folder = make_tiny_folder(tmp_path, "gpt-oss")
    values = in_mxfp4(folder)
    with open_model(folder) as files:
        for layer in range(files.config.n_layers):
            both, down = (values[f"model.layers.{layer}.{name}"] for name in (GATE_UP, DOWN))
            expected = {"gate": both[:, ::2], "up": both[:, 1::2], "down": down}
            for part, array in expected.items():
                tensor = files.tensors[f"layers.{layer}.expert_{part}"]
                assert tensor.kind is BlockType.MXFP4
                np.testing.assert_array_equal(tensor.float32(), array.reshape(-1, array.shape[2]))


def test_blocks_without_their_scales_are_refused(tmp_path: Path) -> None:
    folder = make_tiny_folder(tmp_path, "gpt-oss")
    in_mxfp4(folder, without=f"model.layers.1.{DOWN}_scales")
    with pytest.raises(ModelFormatError, match=r"layers\.1\.mlp\.experts\.down_proj_blocks.*its scales None"):
        open_model(folder)
