"""The Python entry of encoders, sync and async, over tiny models and the reference backend."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import miaotui
from miaotui.async_encoder import AsyncEncoder
from miaotui.backends.encoder_backend import TextRows
from miaotui.backends.options import EncoderOptions
from miaotui.encoder import Encoder
from miaotui.encoders.prompts import E5_PROMPTS, NO_PREFIX, prefix_of, prompts_for
from miaotui.encoders.runtime import run_encoder
from miaotui.encoders.spans import spans_of
from miaotui.errors import (
    DeadlineUnattainableError,
    EngineError,
    FieldError,
    InputTooLongError,
    ModelFormatError,
    PromptTooLongError,
    RequestError,
)
from miaotui.model.encoder.pooling import Pooler
from miaotui.text.encoders.layout import EncodedText
from tiny_encoder_models import LIMIT, NER, TASKS, make_encoder_folder, open_tiny
from tiny_engine import settings_in


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Encoder]]:
    folder = tmp_path_factory.mktemp("encoders")
    opened = {task: open_tiny(make_encoder_folder(folder, task), settings_in(folder)) for task in TASKS}
    yield opened
    for encoder in opened.values():
        encoder.close()


TEXTS = ["the cat sat on the mat", "ping", "a dog, is good!", "你好吗 我们", "x", "query: cat " * 6]


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    path = make_encoder_folder(tmp_path)
    words = (path / "vocab.txt").read_text(encoding="utf-8") + "".join(f"word{i}\n" for i in range(320))
    (path / "vocab.txt").write_text(words, encoding="utf-8")
    with pytest.raises(ModelFormatError, match="tokens and the model 320"):
        open_tiny(path, settings_in(tmp_path))


# embeddings -----------------------------------------------------------------------------------------


def test_embeddings_are_the_same_bytes_alone_and_in_any_batch(encoders: dict[str, Encoder]) -> None:
    encoder = encoders["embed"]
    together = encoder.embed(TEXTS)
    assert together.shape == (len(TEXTS), 64)
    assert together.dtype == np.float32
    backwards = encoder.embed(TEXTS[::-1])[::-1]
    alone = np.concatenate([encoder.embed(text) for text in TEXTS])
    assert together.tobytes() == alone.tobytes() == backwards.tobytes()


def test_compiled_embeddings_are_the_same_bytes_too(encoders: dict[str, Encoder], tmp_path: Path) -> None:
    options = EncoderOptions(pooling="mean", threads=2)
    path, settings = make_encoder_folder(tmp_path), settings_in(tmp_path)
    with Encoder(*run_encoder(path, options, settings=settings), owns_loop=True) as encoder:
        together = encoder.embed(TEXTS)
        alone = np.concatenate([encoder.embed(text) for text in TEXTS])
        assert together.tobytes() == alone.tobytes() == encoder.embed(TEXTS[::-1])[::-1].tobytes()
    exact = encoders["embed"].embed(TEXTS, normalize=True)
    assert ((together / np.linalg.norm(together, axis=1, keepdims=True) * exact).sum(axis=1) > 0.995).all()


def test_a_text_is_its_token_ids(encoders: dict[str, Encoder]) -> None:
    encoder = encoders["embed"]
    tokens = encoder.model.tokenizer.encode_text(TEXTS[0]).tokens
    text = encoder.embed(TEXTS[0])
    assert np.array_equal(encoder.embed([tokens]), text)
    assert np.array_equal(encoder.embed(tokens), text)
    assert np.array_equal(encoder.embed(np.array(tokens)), text)


def test_many_texts_are_read_beside_the_computing(encoders: dict[str, Encoder]) -> None:
    texts = [f"cat {i}" for i in range(700)]
    found = encoders["embed"].embed(iter(texts))
    assert found.shape == (700, 64)
    assert np.array_equal(found[699], encoders["embed"].embed(texts[699])[0])


def test_no_texts_give_no_rows(encoders: dict[str, Encoder]) -> None:
    assert encoders["embed"].embed([]).shape == (0, 64)
    assert encoders["classify"].classify([]) == []


def test_too_long_is_an_error_and_with_truncate_cut(encoders: dict[str, Encoder]) -> None:
    encoder = encoders["embed"]
    fits, over = "cat " * (LIMIT - 2), "cat " * (LIMIT - 1)
    assert encoder.embed([fits, "cat " * (LIMIT - 3)]).shape == (2, 64)
    with pytest.raises(InputTooLongError, match=r"^texts\[1\]: the text has 81 tokens, and at most 80 fit") as caught:
        encoder.embed(["ok", over])
    assert isinstance(caught.value, PromptTooLongError)
    assert np.array_equal(encoder.embed([over], truncate=True), encoder.embed([fits]))


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["", "x"], r"^texts\[0\]: must not be empty"),
        (["x", "\ud800"], r"^texts\[1\]: the text has a lone surrogate"),
        ([[1, 2, 5000]], r"^texts\[0\]: token ids of this model are in \[0, 320\)"),
        ([[]], r"^texts\[0\]: must not be empty"),
        (["x", 3], r"^texts\[1\]: must be a text or token ids, not int"),
        (7, "^texts: give a text"),
        (b"x", "^texts: give a text"),
    ],
)
def test_wrong_texts_are_named(encoders: dict[str, Encoder], texts: Any, message: str) -> None:
    with pytest.raises(FieldError, match=message):
        encoders["embed"].embed(texts)


def test_errors_of_later_stretches_name_the_right_text(encoders: dict[str, Encoder]) -> None:
    with pytest.raises(FieldError, match=r"^texts\[600\]: must not be empty"):
        encoders["embed"].embed(["x"] * 600 + [""])
    assert encoders["embed"].loop.in_flight == 0 or encoders["embed"].embed("x").shape == (1, 64)


@given(text=st.text(st.characters(codec="utf-8"), min_size=1, max_size=60))
def test_any_text_is_embedded_or_refused_by_name(encoders: dict[str, Encoder], text: str) -> None:
    found = encoders["embed"].embed(text, truncate=True)
    assert np.isfinite(found).all()


def test_100000_tokens(encoders: dict[str, Encoder]) -> None:
    with pytest.raises(InputTooLongError, match="100,002 tokens"):
        encoders["embed"].embed("cat " * 100_000)
    assert encoders["embed"].embed("cat " * 100_000, truncate=True).shape == (1, 64)


def test_dimensions_only_for_models_trained_for_them(encoders: dict[str, Encoder], tmp_path: Path) -> None:
    with pytest.raises(FieldError, match=r"^dimensions: must be 64 or left out"):
        encoders["embed"].embed("x", dimensions=32)
    assert encoders["embed"].embed("x", dimensions=64).shape == (1, 64)
    with open_tiny(make_encoder_folder(tmp_path), settings_in(tmp_path), dimensions=(16, 32)) as encoder:
        whole, short = encoder.embed("x", normalize=False), encoder.embed("x", dimensions=16)
        assert np.linalg.norm(short) == pytest.approx(1)
        assert np.allclose(short[0], whole[0, :16] / np.linalg.norm(whole[0, :16]))
        with pytest.raises(FieldError, match="one of 16, 32, not 20"):
            encoder.embed("x", dimensions=20)


def test_normalize_overrides_the_models_rule(encoders: dict[str, Encoder]) -> None:
    plain, unit = encoders["embed"].embed(TEXTS), encoders["embed"].embed(TEXTS, normalize=True)
    assert np.allclose(np.linalg.norm(unit, axis=1), 1)
    assert np.allclose(plain / np.linalg.norm(plain, axis=1, keepdims=True), unit, atol=1e-6)


def test_a_pooling_can_leave_the_prompt_out(encoders: dict[str, Encoder], monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = encoders["embed"]
    model = encoder.model
    assert model.pooler is not None
    monkeypatch.setitem(model.__dict__, "prompts", {"query": "query: "})
    without = Pooler(replace(model.pooler.pooling, include_prompt=False), {}, model.hidden_size)
    monkeypatch.setitem(model.__dict__, "pooler", without)
    before = len(model.tokenizer.encode_text("query: ").tokens) - 1  # all but the last special token
    rows = TextRows(model.tokenizer.encode_text("query: cat").tokens)
    states = model.backend.encode([rows]).states[0].copy()
    found = encoder.embed("cat", prompt="query", normalize=False)[0]
    np.testing.assert_allclose(found, states[before:].mean(axis=0), rtol=1e-6)
    written = encoder.embed("query: cat", prompt=None, normalize=False)[0]  # by the caller: it is text
    np.testing.assert_allclose(written, states.mean(axis=0), rtol=1e-6)


def test_prompts_are_put_in_front(encoders: dict[str, Encoder], monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = encoders["embed"]
    monkeypatch.setitem(encoder.model.__dict__, "prompts", {"query": "query: ", "passage": "passage: "})
    expected = encoder.embed("query: cat", prompt=None)
    for name in ("query", "search_query", "retrieval.query"):
        assert np.array_equal(encoder.embed("cat", prompt=name), expected)
    assert np.array_equal(encoder.embed("cat", prompt="document"), encoder.embed("passage: cat", prompt=None))
    assert prefix_of(encoder.model, "clustering") == NO_PREFIX
    with pytest.raises(FieldError, match="no prompt 'nonsense'; it has: document, passage, query"):
        encoder.embed("cat", prompt="nonsense")


def test_e5_has_its_prefixes_by_default(encoders: dict[str, Encoder], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("multilingual-e5-small", "models--intfloat--e5-base-v2/snapshots/0123", "e5-small.gguf"):
        assert prompts_for(Path("/x") / name, {}, None) == (E5_PROMPTS, "query")
    for name in ("bge-small", "multilingual-e5-large-instruct", "e5-mistral-7b", "phone5-case"):
        assert prompts_for(Path("/x") / name, {}, None) == ({}, None)
    encoder = encoders["embed"]
    monkeypatch.setitem(encoder.model.__dict__, "prompts", E5_PROMPTS)
    monkeypatch.setitem(encoder.model.__dict__, "default_prompt", "query")
    once = encoder.embed("cat", prompt="query")
    assert np.array_equal(encoder.embed("cat", prompt=None), once)
    assert np.array_equal(encoder.embed("query: cat", prompt=None), once)  # a client that puts it there itself
    assert not np.array_equal(encoder.embed("query: cat", prompt="query"), once)


# heads ----------------------------------------------------------------------------------------------


def test_texts_are_classified(encoders: dict[str, Encoder]) -> None:
    for result in encoders["classify"].classify(TEXTS):
        assert set(result.scores) == {"bad", "fair", "good"}
        assert sum(result.scores.values()) == pytest.approx(1, abs=1e-6)
        assert result.score == max(result.scores.values()) == result.scores[result.label]
    alone = [encoders["classify"].classify(text)[0] for text in TEXTS]
    assert alone == encoders["classify"].classify(TEXTS)


def test_spans_are_characters_of_the_text(encoders: dict[str, Encoder]) -> None:
    text = "Ana sat on the mat, in Paris; 你好 ana"
    for aggregation in ("none", "simple", "first", "average", "max"):
        (spans,) = encoders["tag"].tag(text, aggregation=aggregation)  # type: ignore[arg-type]
        assert all(span.text == text[span.start : span.end] and span.text for span in spans)
        assert [span.start for span in spans] == sorted(span.start for span in spans)
        assert all(0 <= span.score <= 1 for span in spans)
    with pytest.raises(FieldError, match=r"^aggregation: must be one of none, simple"):
        encoders["tag"].tag(text, aggregation="all")  # type: ignore[arg-type]


def test_words_of_several_tokens_have_one_label() -> None:
    text = "Ana Paris"
    encoded = EncodedText(
        [2, 9, 9, 9, 3], [0] * 5, [True, False, False, False, True], [(0, 0), (0, 3), (4, 6), (6, 9), (0, 0)]
    )
    rows = np.full((5, len(NER)), 0.05, np.float32)
    for row, label in ((1, "B-PER"), (2, "B-LOC"), (3, "O")):
        rows[row, NER.index(label)] = 0.8
    rows[3, NER.index("I-LOC")] = 0.75

    def found(aggregation: Any) -> list[tuple[str, str]]:
        return [(span.label, span.text) for span in spans_of(text, encoded, rows, NER, aggregation)]

    assert found("none") == [("B-PER", "Ana"), ("B-LOC", "Pa")]
    assert found("simple") == [("PER", "Ana"), ("LOC", "Pa")]
    assert found("first") == [("PER", "Ana"), ("LOC", "Paris")]
    assert found("max") == [("PER", "Ana"), ("LOC", "Paris")]


def test_masks_are_filled(encoders: dict[str, Encoder]) -> None:
    (two, one) = encoders["fill_mask"].fill_mask(["the [MASK] sat on [MASK].", "[MASK] is good"], top_k=3)
    assert [len(fills) for fills in two] == [3, 3]
    assert len(one) == 1
    scores = [fill.score for fill in one[0]]
    assert scores == sorted(scores, reverse=True)
    assert all(fill.token in fill.text for fill in one[0])
    with pytest.raises(FieldError, match=r"^texts\[1\]: has no mask: write \[MASK\]"):
        encoders["fill_mask"].fill_mask(["[MASK] x", "x"])
    with pytest.raises(FieldError, match=r"^top_k"):
        encoders["fill_mask"].fill_mask("[MASK]", top_k=0)
    with pytest.raises(PromptTooLongError, match="tokens"):
        encoders["fill_mask"].fill_mask("[MASK] " * 1000)


@pytest.mark.parametrize("task", ["rerank", "embed"])
def test_documents_are_ranked(encoders: dict[str, Encoder], task: str) -> None:
    encoder = encoders[task]
    ranked = encoder.rerank("the cat", TEXTS)
    raw = [each.raw_score or 0.0 for each in ranked]
    assert raw == sorted(raw, reverse=True)
    assert {each.index for each in ranked} == set(range(len(TEXTS)))
    assert all(0 <= (each.score or 0.0) <= 1 for each in ranked)
    assert encoder.rerank("the cat", TEXTS, top_n=2) == ranked[:2]
    by_index = {each.index: each.raw_score for each in ranked}
    pairs = encoder.score([("the cat", text) for text in TEXTS])
    if task == "rerank":
        assert [np.float32(by_index[i]) for i in range(len(TEXTS))] == pairs.tolist()


def test_equal_documents_are_in_their_order(encoders: dict[str, Encoder]) -> None:
    assert [each.index for each in encoders["rerank"].rerank("cat", ["dog"] * 5)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("task", ["rerank", "embed"])
def test_one_document_that_is_too_long_fails_alone(encoders: dict[str, Encoder], task: str) -> None:
    encoder = encoders[task]
    long = "cat " * 200
    ranked = encoder.rerank("the cat", ["dog", long, "mat", ""])
    assert [each.index for each in ranked if each.error is None].count(1) == 0
    assert ranked[-1].index == 1
    assert ranked[-1].score is None
    assert "documents[1]" in (ranked[-1].error or "")
    assert len(ranked) == 4
    cut = {each.index: each for each in encoder.rerank("the cat", ["dog", long], truncate=True)}
    assert cut[1].dropped > 100
    assert cut[0].dropped == 0


def test_a_query_that_cannot_be_taken_fails_the_ranking(encoders: dict[str, Encoder]) -> None:
    for query in ("", "\udc00", "cat " * 200):
        with pytest.raises(FieldError, match=r"^query"):
            encoders["rerank"].rerank(query, ["dog"])


def test_what_a_model_cannot_do_is_refused_by_name(encoders: dict[str, Encoder]) -> None:
    with pytest.raises(RequestError, match=r"gives no embeddings \(it gives classes of texts\)"):
        encoders["classify"].embed("x")
    with pytest.raises(RequestError, match=r"gives no labels of words \(it gives embeddings\)"):
        encoders["embed"].tag("x")


def test_a_model_without_pooling_says_so(tmp_path: Path) -> None:
    with (
        open_tiny(make_encoder_folder(tmp_path), settings_in(tmp_path), pooling=None) as encoder,
        pytest.raises(RequestError, match="no file says how they become an embedding"),
    ):
        encoder.embed("x")


# times and ends -------------------------------------------------------------------------------------


def test_a_deadline_is_kept_or_refused(encoders: dict[str, Encoder]) -> None:
    assert encoders["embed"].embed("x", deadline_ms=10_000).shape == (1, 64)
    with pytest.raises(DeadlineUnattainableError):
        encoders["embed"].embed(["cat dog " * 20] * 300, deadline_ms=5)


def test_a_closed_encoder_says_so(tmp_path: Path) -> None:
    encoder = open_tiny(make_encoder_folder(tmp_path), settings_in(tmp_path))
    encoder.close()
    with pytest.raises(EngineError, match="closed"):
        encoder.embed("x")
    encoder.close()


# the async twin -------------------------------------------------------------------------------------


def test_the_twin_has_every_method_with_the_same_parameters() -> None:
    for name, method in inspect.getmembers(Encoder, inspect.isfunction):
        if not name.startswith("_"):
            ours, theirs = (inspect.signature(each) for each in (method, getattr(AsyncEncoder, name)))
            assert list(ours.parameters.values()) == list(theirs.parameters.values()), name


def test_the_twin_gives_the_same(encoders: dict[str, Encoder]) -> None:
    def twin(task: str) -> AsyncEncoder:
        return AsyncEncoder(encoders[task].model, encoders[task].loop)

    async def main() -> None:
        found = await asyncio.gather(*(twin("embed").embed(text) for text in TEXTS))
        assert np.concatenate(found).tobytes() == encoders["embed"].embed(TEXTS).tobytes()
        assert await twin("classify").classify(TEXTS) == encoders["classify"].classify(TEXTS)
        assert await twin("tag").tag(TEXTS) == encoders["tag"].tag(TEXTS)
        assert await twin("fill_mask").fill_mask("[MASK]") == encoders["fill_mask"].fill_mask("[MASK]")
        assert await twin("rerank").rerank("cat", TEXTS) == encoders["rerank"].rerank("cat", TEXTS)
        pairs = [("cat", text) for text in TEXTS]
        assert (await twin("rerank").score(pairs)).tolist() == encoders["rerank"].score(pairs).tolist()

    asyncio.run(main())


def test_a_cancelled_task_cancels_its_job(encoders: dict[str, Encoder]) -> None:
    encoder = encoders["embed"]

    async def main() -> None:
        before = encoder.loop.counts["cancelled"]
        task = asyncio.create_task(AsyncEncoder(encoder.model, encoder.loop).embed(["cat dog " * 20] * 400))
        while not encoder.loop.in_flight:
            await asyncio.sleep(0.002)
        task.cancel()
        await asyncio.wait([task])
        for _ in range(1000):
            if encoder.loop.counts["cancelled"] > before:
                break
            await asyncio.sleep(0.01)
        assert encoder.loop.counts["cancelled"] == before + 1

    asyncio.run(main())


def test_names_of_the_package() -> None:
    assert miaotui.load_encoder.__module__ == "miaotui.encoder"
    assert miaotui.load_encoder_async.__module__ == "miaotui.async_encoder"
    with pytest.raises(RequestError, match="speling"):
        miaotui.load_encoder("nothing", speling=3)
