"""A real encoder against transformers in float32: all-MiniLM-L6-v2 from its sentence-transformers folder."""

from __future__ import annotations

import numpy as np
import pytest

from miaotui.hub.resolve import resolve
from miaotui.model.encoder.opened import open_encoder
from miaotui.model.encoder.oracle import EncoderOracle
from miaotui.model.encoder.pooling import Pooler
from reference_models import english

pytestmark = [pytest.mark.slow, pytest.mark.model, pytest.mark.compare]

CHINESE = "我在网上买的电动自行车想退货，请问需要多长时间？运费由谁承担？" * 6


def test_all_minilm_embeds_as_transformers_does() -> None:
    import torch  # noqa: PLC0415  (only these tests have it)
    from transformers import AutoModel, AutoTokenizer  # noqa: PLC0415

    path = resolve("all-minilm-l6-v2")
    reference = AutoModel.from_pretrained(path).float().eval()
    tokenizer = AutoTokenizer.from_pretrained(path)
    ids = tokenizer(english()[:60_000], add_special_tokens=False)["input_ids"]
    chinese = tokenizer(CHINESE, add_special_tokens=False)["input_ids"]
    with open_encoder(path) as opened, torch.no_grad():
        assert opened.pooling is not None
        oracle = EncoderOracle(opened.config, opened.weights)
        pooler = Pooler(opened.pooling, opened.weights, opened.config.hidden_size)
        assert opened.config.max_tokens == 256
        for index, length in enumerate((5, 8, 13, 30, 64, 100, 180, 256)):
            start = 700 * index
            body = ids[start : start + length - 2] if index % 2 else (chinese + ids)[: length - 2]
            tokens = [101, *body, 102]
            states = reference(input_ids=torch.tensor([tokens])).last_hidden_state[0].numpy()
            mean = states.mean(axis=0)
            found = pooler.embedding(oracle.states(tokens))
            assert float(found @ mean) / float(np.linalg.norm(mean)) >= 0.99999
            assert np.abs(oracle.states(tokens) - states).max() <= 1e-4
