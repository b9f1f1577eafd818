"""The oracle's logits equal those of transformers in float32, for every architecture and variant.

transformers builds a tiny random model and saves it; `open_model` reads that folder. Texts are
several windows long, and models deep enough to have every kind of layer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from miaotui.model.oracle import Oracle
from miaotui.model.reading.files import open_model
from tiny_models import VARIANTS, tiny_values

N_TOKENS = 48  # six windows
TOLERANCE = 2e-4  # of the largest logit

pytestmark = pytest.mark.compare


def random_model(variant: str, seed: int) -> Any:
    """A transformers model with random weights everywhere, norms and biases too."""
    import torch  # noqa: PLC0415  (only these tests have it)
    from transformers import AutoConfig, AutoModelForCausalLM  # noqa: PLC0415

    torch.manual_seed(seed)
    values = tiny_values(variant)
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
    gemma = variant.startswith("gemma")
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if "norm" in name:
                weights.normal_(0.0 if gemma else 1.0, 0.3)
            elif weights.ndim == 1:
                weights.normal_(0.0, 0.3)
            else:
                weights.normal_(0.0, 1.5 / weights.shape[1] ** 0.5)
    return model


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_equal_transformers(variant: str, tmp_path: Path) -> None:
    import torch  # noqa: PLC0415

    model = random_model(variant, seed=7)
    model.save_pretrained(tmp_path)
    tokens = np.random.default_rng(3).integers(0, 320, N_TOKENS).tolist()
    with torch.no_grad():
        output = model(torch.tensor([tokens]), output_hidden_states=True)
    expected = output.logits[0].numpy()
    with open_model(tmp_path) as files:
        oracle = Oracle(files.config, files.tensors)
    found = oracle.logits(tokens)
    error = np.abs(found - expected).max() / np.abs(expected).max()
    assert error <= TOLERANCE
    for layer in range(files.config.n_layers):  # transformers' last one is after the final norm
        state = output.hidden_states[layer][0].numpy()
        difference = oracle.hidden_states(tokens)[layer] - state
        assert np.abs(difference).max() <= TOLERANCE * np.abs(state).max()
