"""Encoders against transformers in float32: the states of every family, and every head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from miaotui.model.encoder.config import EncoderConfig
from miaotui.model.encoder.opened import open_encoder
from miaotui.model.encoder.oracle import EncoderOracle
from tiny_encoders import VARIANTS, tiny_encoder_values

N_TOKENS = 70  # beyond every bucket and window
TOLERANCE = 1e-4

pytestmark = pytest.mark.compare


def random_model(variant: str, head: str, **overrides: Any) -> Any:
    """A transformers model with random weights everywhere, norms and biases too; eager attention."""
    import torch  # noqa: PLC0415  (only these tests have it)
    import transformers  # noqa: PLC0415

    torch.manual_seed(11)
    values = tiny_encoder_values(variant, **overrides)
    config = transformers.AutoConfig.for_model(values.pop("model_type"), **values)
    kind = getattr(transformers, f"AutoModel{head}")
    model = kind.from_config(config, attn_implementation="eager").float().eval()
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if weights.ndim > 1:
                weights.normal_(0.0, 1.0 if "embed" in name else 1.5 / weights.shape[1] ** 0.5)
            elif "norm" in name.lower() and name.endswith("weight"):
                weights.normal_(1.0, 0.2)
            else:
                weights.normal_(0.0, 0.3)
    return model


def inputs(config: EncoderConfig) -> tuple[list[int], list[int]]:
    """Token ids, none of them the padding, and types."""
    rng = np.random.default_rng(3)
    types = rng.integers(0, max(config.type_vocab_size, 1), N_TOKENS)
    return rng.integers(5, 320, N_TOKENS).tolist(), types.tolist()


def output_of(model: Any, tokens: list[int], types: list[int]) -> Any:
    import torch  # noqa: PLC0415

    arguments = {"input_ids": torch.tensor([tokens])}
    if any(types):
        arguments["token_type_ids"] = torch.tensor([types])
    with torch.no_grad():
        return model(**arguments)


@pytest.mark.parametrize("variant", [v for v in VARIANTS if not v.startswith("jina")])
def test_states_equal_transformers(variant: str, tmp_path: Path) -> None:
    model = random_model(variant, "")
    model.save_pretrained(tmp_path)
    with open_encoder(tmp_path) as opened:
        tokens, types = inputs(opened.config)
        expected = output_of(model, tokens, types).last_hidden_state[0].numpy()
        found = EncoderOracle(opened.config, opened.weights).states(tokens, types)
    assert np.abs(found - expected).max() <= TOLERANCE
