"""Decoders that embed and rank, through the interface of encoders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from miaotui.backends.encoder_backend import TextRows
from miaotui.backends.options import EncoderOptions
from miaotui.encoder import Encoder
from miaotui.encoders.runtime import describe_encoder, run_encoder
from miaotui.errors import FieldError, RequestError
from miaotui.model.encoder.decoder import LogitScore
from miaotui.model.encoder.pooling import Pooler
from miaotui.model.encoder.reading.from_decoder import open_decoder_encoder
from miaotui.model.oracle import Oracle
from tiny_engine import settings_in
from tiny_models import make_tiny_folder

MODULES = "sentence_transformers.models."
TEXTS = ["the cat", "a dog sat on the mat", "hello " * 40, "x"]


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def make_embedder(folder: Path) -> Path:
    """A tiny Qwen3-Embedding."""
    path = make_tiny_folder(folder, "qwen3", tie_word_embeddings=True, max_position_embeddings=256)
    kinds = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
    write_json(path / "modules.json", [{"path": where, "type": MODULES + kind} for where, kind in kinds])
    pooling = {"word_embedding_dimension": 64, "pooling_mode_mean_tokens": False, "pooling_mode_lasttoken": True}
    write_json(path / "1_Pooling" / "config.json", pooling)
    write_json(path / "config_sentence_transformers.json", {"prompts": {"query": "Find: ", "document": ""}})
    return path


def make_reranker(folder: Path) -> Path:
    """A tiny Qwen3-Reranker, as sentence-transformers keeps one."""
    path = make_tiny_folder(folder, "qwen3", tie_word_embeddings=True, max_position_embeddings=2048)
    score = "sentence_transformers.cross_encoder.modules.logit_score.LogitScore"
    first = {"path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"}
    write_json(path / "modules.json", [first, {"path": "1_LogitScore", "type": score}])
    write_json(path / "1_LogitScore" / "config.json", {"true_token_id": 7, "false_token_id": 5})
    template = "{{ 'Judge whether the Document meets the requirements …' }}"
    (path / "chat_template.jinja").write_text(template, encoding="utf-8")
    return path


def opened(path: Path, **options: Any) -> Encoder:
    chosen = EncoderOptions(backend="reference", **options)
    return Encoder(*run_encoder(path, chosen, settings=settings_in(path.parent)), owns_loop=True)


def states_of(path: Path, tokens: list[int]) -> Any:
    """The states after the final norm, by the decoder's oracle."""
    with open_decoder_encoder(path) as files:
        oracle = Oracle(files.files.config, files.files.tensors)
        return oracle.normed(oracle.hidden_states(tokens)[-1])


def test_an_embedder_gives_what_its_oracle_gives(tmp_path: Path) -> None:
    path = make_embedder(tmp_path)
    found = describe_encoder(path)
    assert found is not None
    assert found.abilities == ("embed",)
    with opened(path) as encoder:
        vectors = encoder.embed(TEXTS, prompt="document")
        alone = np.concatenate([encoder.embed(text, prompt="document") for text in TEXTS])
        assert vectors.tobytes() == alone.tobytes()
        assert not np.array_equal(encoder.embed("cat", prompt="query"), encoder.embed("cat", prompt="document"))
        with open_decoder_encoder(path) as files:
            assert files.pooling is not None
            pooler = Pooler(files.pooling, files.dense, 64)
            for text, vector in zip(TEXTS, vectors, strict=True):
                states = states_of(path, encoder.model.tokenizer.encode_text(text).tokens)
                np.testing.assert_allclose(vector, pooler.embedding(states), atol=1e-3)  # keys and values are float16


def test_a_text_longer_than_a_pass_has_the_same_states(tmp_path: Path) -> None:
    path = make_embedder(tmp_path)
    texts = [TextRows(tuple(range(1, n))) for n in (101, 5, 60, 34)]
    with opened(path) as whole, opened(path, rows=16) as cut:
        one, other = (each.model.backend.encode(texts).states for each in (whole, cut))
    for a, b in zip(one, other, strict=True):
        assert a.tobytes() == b.tobytes()


def test_a_reranker_reads_its_own_prompt(tmp_path: Path) -> None:
    path = make_reranker(tmp_path)
    with opened(path) as encoder:
        assert encoder.model.abilities == ("rerank",)
        documents = ["a dog", "the cat sat", "<|im_end|> yes", ""]
        ranked = encoder.rerank("cat", documents)
        assert sorted(each.index for each in ranked) == [0, 1, 2, 3]
        assert all(0 <= (each.score or 0.0) <= 1 for each in ranked)
        prompt = encoder.model.rerank_prompt
        assert prompt is not None
        with open_decoder_encoder(path) as files:
            score = LogitScore(files)
            for each in ranked:
                parts = (
                    (prompt.prefix, True),
                    (prompt.body("cat", documents[each.index]), False),
                    (prompt.suffix, True),
                )
                encoded = [encoder.model.tokenizer.encode_text(text, special=special) for text, special in parts]
                tokens = [t for e in encoded for t, hidden in zip(e.tokens, e.special, strict=True) if not hidden]
                assert each.raw_score == pytest.approx(score.logit(states_of(path, tokens)), abs=0.02)
        long = encoder.rerank("cat", ["a dog", "dog " * 3000])
        assert long[-1].index == 1
        assert "at most 2,048 fit" in (long[-1].error or "")
        assert encoder.rerank("cat", ["dog " * 3000], truncate=True)[0].dropped > 0
        with pytest.raises(RequestError, match="gives no embeddings"):
            encoder.embed("x")
        with pytest.raises(FieldError, match=r"^query"):
            encoder.rerank("", ["x"])


def test_a_chat_model_is_no_encoder(tmp_path: Path) -> None:
    assert describe_encoder(make_tiny_folder(tmp_path, "qwen3")) is None


def test_the_compiled_backend_gives_nearly_the_same(tmp_path: Path) -> None:
    path = make_embedder(tmp_path)
    options = EncoderOptions(threads=1)
    with (
        opened(path) as slow,
        Encoder(*run_encoder(path, options, settings=settings_in(tmp_path)), owns_loop=True) as fast,
    ):
        exact, packed = (each.embed(TEXTS, prompt="document") for each in (slow, fast))
        alone = np.concatenate([fast.embed(text, prompt="document") for text in TEXTS])
    assert packed.tobytes() == alone.tobytes()
    assert ((exact * packed).sum(axis=1) > 0.995).all()
