"""Encoders against transformers in float32: the states of every family, and every head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from miaotui.model.encoder.config import EncoderConfig
from miaotui.model.encoder.opened import open_encoder
from miaotui.model.encoder.oracle import EncoderOracle
from miaotui.model.encoder.positions import log_buckets, t5_buckets
from miaotui.model.encoder.task_head import TaskHead
from tiny_encoders import VARIANTS, tiny_encoder_values, write_encoder

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
                weights.normal_(0.0, 0.2 if "embed" in name else 1.5 / weights.shape[1] ** 0.5)
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


def test_jina_equals_bert_with_biased_scores_and_gated_layers(tmp_path: Path) -> None:
    """transformers has no Jina BERT: its BERT with ALiBi as an attention mask and gated layers put in is one."""
    import torch  # noqa: PLC0415

    model = random_model("bert", "")
    with torch.no_grad():
        model.embeddings.position_embeddings.weight.zero_()
    for layer in model.encoder.layer:
        layer.intermediate = gated_layer()
    state = {name: array.numpy() for name, array in model.state_dict().items() if "intermediate" not in name}
    state = {name: array for name, array in state.items() if "position_embeddings" not in name}
    tensors = {
        name.replace("output.dense", "mlp.wo").replace("output.LayerNorm", "mlp.layernorm")
        if "attention" not in name
        else name: array
        for name, array in state.items()
    }
    for index, layer in enumerate(model.encoder.layer):
        tensors[f"encoder.layer.{index}.mlp.gated_layers.weight"] = layer.intermediate.dense.weight.detach().numpy()
    path = write_encoder(tmp_path, tiny_encoder_values("jina-bert-v2"), tensors)
    with open_encoder(path) as opened:
        tokens, types = inputs(opened.config)
        found = EncoderOracle(opened.config, opened.weights).states(tokens, types)
    distance = torch.arange(N_TOKENS)[:, None] - torch.arange(N_TOKENS)[None]
    slopes = torch.tensor([2.0**-4, 2.0**-8])
    mask = -slopes[:, None, None] * distance.abs()
    with torch.no_grad():
        expected = model(
            input_ids=torch.tensor([tokens]), token_type_ids=torch.tensor([types]), attention_mask=mask[None]
        ).last_hidden_state[0]
    assert np.abs(found - expected.numpy()).max() <= TOLERANCE


def gated_layer() -> Any:
    import torch  # noqa: PLC0415

    class Gated(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dense = torch.nn.Linear(64, 2 * 96, bias=False)

        def forward(self, x: Any) -> Any:
            gate, up = self.dense(x).chunk(2, dim=-1)
            return torch.nn.functional.gelu(gate) * up

    return Gated()


@pytest.mark.parametrize("variant", [v for v in VARIANTS if not v.startswith("jina")])
def test_heads_equal_transformers(variant: str, tmp_path: Path) -> None:
    for name in ("ForMaskedLM", "ForSequenceClassification", "ForTokenClassification"):
        model = random_model(variant, name, num_labels=3)
        model.save_pretrained(tmp_path / name)
        with open_encoder(tmp_path / name) as opened:
            tokens, types = inputs(opened.config)
            expected = output_of(model, tokens, types).logits[0].numpy()
            states = EncoderOracle(opened.config, opened.weights).states(tokens, types)
            found = TaskHead(opened.config, opened.head, opened.weights).logits(states)
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= TOLERANCE, name


def test_buckets_equal_transformers_at_every_distance() -> None:
    import torch  # noqa: PLC0415
    from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position  # noqa: PLC0415
    from transformers.models.mpnet.modeling_mpnet import MPNetEncoder  # noqa: PLC0415

    distances = np.arange(-2048, 2049)
    for buckets, farthest in ((256, 512), (16, 80), (32, 512), (128, 1024)):
        expected = make_log_bucket_position(torch.from_numpy(distances), buckets, farthest).long().tolist()
        assert log_buckets(distances, buckets, farthest).tolist() == expected
    expected = MPNetEncoder.relative_position_bucket(torch.from_numpy(-distances)).tolist()
    assert t5_buckets(distances, 32, 128).tolist() == expected
