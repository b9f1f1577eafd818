"""Which backends could run a model here, and what was shown for each.

Owns the list. Knows no model. Invariant: a level of proof is what was done on this machine just now: a backend whose
device is not here is lowered at most.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from miaotui.model.config import ModelConfig

PROOF_SIZE = 64  # hidden values of the model that a proof runs


@dataclass(frozen=True)
class BackendChoice:
    """One backend. ``remedy``: what installs it, "" where it is here. ``levels``: of proof, by platform."""

    name: str
    is_default: bool
    remedy: str = ""
    levels: dict[str, str] = field(default_factory=dict)
    runs_models: bool = True  # False: one block of a model is shown, and nothing is served by it


def backend_choices(*, prove: bool) -> tuple[BackendChoice, ...]:
    """Return all backends; with ``prove``, what a small random model shows for those with platforms of their own."""
    has_openvino = importlib.util.find_spec("openvino_genai") is not None
    has_vllm = importlib.util.find_spec("vllm") is not None or bool(os.environ.get("MIAOTUI_VLLM_PYTHON"))
    has_jax = importlib.util.find_spec("jax") is not None
    has_fpga = importlib.util.find_spec("hls4ml") is not None and shutil.which("g++") is not None
    levels = _jax_levels() if prove and has_jax else {}
    fpga_remedy = "" if has_fpga else "pip install 'miaotui[fpga]', and g++"
    circuits = _fpga_levels() if prove and has_fpga else {}
    return (
        BackendChoice("cpu", True),
        BackendChoice("reference", False),
        BackendChoice("jax", False, "" if has_jax else "pip install 'miaotui[jax]'", levels),
        BackendChoice("openvino", False, "" if has_openvino else "pip install 'miaotui[openvino]'"),
        BackendChoice("vllm", False, "" if has_vllm else "pip install 'miaotui[vllm]'"),
        BackendChoice("fpga", False, fpga_remedy, circuits, runs_models=False),
    )


def _jax_levels() -> dict[str, str]:
    from miaotui.backends.jax.program import levels_of_proof

    return dict(levels_of_proof(*_proof_model()))


def _fpga_levels() -> dict[str, str]:
    import tempfile

    from miaotui.backends.fpga.block import block_of
    from miaotui.backends.fpga.simulate import level_by_platform

    with tempfile.TemporaryDirectory() as folder:
        return dict(level_by_platform(block_of(*_proof_model(), 0, range(16)), Path(folder)))


def _proof_model() -> tuple[ModelConfig, dict[str, NDArray[np.float32]]]:
    """Return a small random model."""
    import numpy as np

    from miaotui.model.config import ModelConfig
    from miaotui.model.reading.names import tensor_shapes
    from miaotui.model.rope import RopeConfig

    config = ModelConfig(
        architecture="llama",
        vocab_size=4 * PROOF_SIZE,
        hidden_size=PROOF_SIZE,
        n_layers=2,
        n_heads=4,
        n_kv_heads=2,
        head_dim=PROOF_SIZE // 4,
        ffn_size=2 * PROOF_SIZE,
        context_length=PROOF_SIZE,
        rope=RopeConfig(theta=1e4, dim=PROOF_SIZE // 4),
        windows=(0, 0),
        rope_layers=(True, True),
        attention_scale=(PROOF_SIZE // 4) ** -0.5,
    )
    random = np.random.default_rng(0)
    weights = {
        name: (random.standard_normal(shape, np.float32) / np.sqrt(shape[-1])).astype(np.float32)
        for name, shape in tensor_shapes(config).items()
    }
    return config, weights
