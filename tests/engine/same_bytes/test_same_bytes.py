"""Answers and logits do not depend on what runs beside a request, nor on how: exact comparison.

The yardstick is each request alone: one thread, whole prompts, nothing reused, no drafts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from miaotui.backends.options import BackendName
from miaotui.config import Settings
from miaotui.hub.resolve import resolve
from miaotui.types import SamplingParams
from recorded_answers import ALONE, Ask, Case, Recorder, assert_same, drafter_of
from tiny_engine import settings_in
from tiny_models import make_tiny_folder, make_tiny_gguf

pytestmark = pytest.mark.usefixtures("backend")

MIXED = (
    SamplingParams(),
    SamplingParams(temperature=0.8, top_p=0.9, seed=1),
    SamplingParams(temperature=1.3, min_p=0.02, seed=2, logprobs=3),
    SamplingParams(repetition_penalty=1.2, presence_penalty=0.3, frequency_penalty=0.2),
    SamplingParams(temperature=0.7, top_k=40, seed=3, frequency_penalty=0.5),
    SamplingParams(temperature=1.0, seed=2**62, logit_bias={7: 2.5, 11: -3.0}, min_tokens=4),
    SamplingParams(logprobs=5, stop_token_ids=(42, 43, 44, 45)),
    SamplingParams(temperature=2.0, top_p=0.5, top_k=100, min_p=0.01, seed=5),
)
LENGTHS = (1, 40, 15, 100, 16, 64, 17, 3, 33, 128, 7, 48, 31, 80, 2, 65)


def mixed_asks(vocab_size: int, max_tokens: int, stem: Sequence[int] = ()) -> list[Ask]:
    """Sixteen requests: every other one begins like the one before it, as far as both go."""
    rng = np.random.default_rng(11)
    asks: list[Ask] = []
    for number, length in enumerate(LENGTHS):
        own = [int(i) for i in rng.integers(0, vocab_size, length)]
        common = list(stem or asks[-1][0])[: length // 2] if number % 2 else []
        prompt = tuple(common + own[len(common) :])
        params = dataclasses.replace(MIXED[number % len(MIXED)], max_tokens=max_tokens + number % 5)
        asks.append((prompt, params))
    return asks


LATENT = pytest.param("deepseek-v3", marks=pytest.mark.slow)


@pytest.fixture(scope="module", params=["llama", "gemma2", "mistral-int8", "qwen3-q4", "qwen2-moe", LATENT])
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, backend: BackendName) -> Case:
    folder = tmp_path_factory.mktemp(request.param)
    variant, form = request.param, ""
    if variant.endswith(("-int8", "-q4")):
        variant, _, form = variant.rpartition("-")
    asks = mixed_asks(320, 12)
    if form == "q4":
        return Case(make_tiny_gguf(folder, variant, kind="Q4_0"), settings_in(folder), asks)
    kv = "int8" if form == "int8" else "f16"
    return Case(make_tiny_folder(folder, variant), settings_in(folder), asks, kv=kv)


def test_in_a_batch_of_sixteen(tiny: Case) -> None:
    recorder = tiny.recorder(**ALONE)
    assert_same(recorder.answers(tiny.asks), tiny.alone)
    assert recorder.backend.passes < 40  # they did run together


def test_the_requests_are_worth_comparing(tiny: Case) -> None:
    assert len({answer.token_ids for answer in tiny.alone}) >= 14
    assert sum(len(set(answer.token_ids)) > 2 for answer in tiny.alone) >= 4


@pytest.mark.parametrize("threads", [2, 3])
def test_with_several_threads(tiny: Case, threads: int) -> None:
    recorder = tiny.recorder(threads=threads, reuse_prefix=False)
    assert_same(recorder.answers(tiny.asks), tiny.alone)
    for ask, answer in list(zip(tiny.asks, tiny.alone, strict=True))[:4]:
        assert_same(recorder.answers([ask]), [answer])


@pytest.mark.parametrize("chunk_size", [1, 7, 64, 512])
def test_with_prompts_in_chunks(tiny: Case, chunk_size: int) -> None:
    recorder = tiny.recorder(chunk_size=chunk_size, reuse_prefix=False)
    assert_same(recorder.answers(tiny.asks), tiny.alone)


def test_with_prefixes_reused_and_on_repeated_runs(tiny: Case) -> None:
    recorder = tiny.recorder(reuse_prefix=True)
    for _ in range(3):
        assert_same(recorder.answers(tiny.asks), tiny.alone)
    assert recorder.engine.scheduler.stats().reused_tokens > 500


@pytest.mark.parametrize("every", [0, 1, 3])
def test_in_any_order_of_arrival(tiny: Case, every: int) -> None:
    recorder = tiny.recorder(chunk_size=24, max_sequences=5)
    order = [int(i) for i in np.random.default_rng(every).permutation(len(tiny.asks))]
    assert_same(recorder.answers(tiny.asks, order, every), tiny.alone)


def test_with_so_few_pages_that_sequences_are_paused(tiny: Case) -> None:
    recorder = tiny.recorder(kv_tokens=160, chunk_size=16)
    assert_same(recorder.answers(tiny.asks), tiny.alone)


@pytest.mark.parametrize("kind", ["right", "wrong", "half"])
@pytest.mark.parametrize("reuse_prefix", [True, False])
def test_with_drafts(tiny: Case, kind: str, reuse_prefix: bool) -> None:
    plain, drafted = tiny.recorder(), tiny.recorder(reuse_prefix=reuse_prefix)
    drafter = drafter_of(tiny.alone, kind)
    asks, alone = tiny.asks[:6], tiny.alone[:6]
    assert_same(drafted.answers(asks, drafter=drafter), alone)
    assert_same(plain.answers(asks), alone)
    assert kind == "wrong" or drafted.backend.passes < plain.backend.passes


def test_with_more_drafts_than_a_pass_can_verify(tiny: Case) -> None:
    drafter = drafter_of(tiny.alone, "right", length=50)
    assert_same(tiny.recorder(chunk_size=200).answers(tiny.asks, drafter=drafter), tiny.alone)


def test_drafts_of_unknown_tokens_and_requests_change_nothing(tiny: Case) -> None:
    recorder = tiny.recorder()
    request = recorder.engine.submit(*tiny.asks[0])
    while recorder.engine.step({request.number: [-1, 2**40], 12345: [1, 2]}):
        pass
    assert request.completion().token_ids == tiny.alone[0].token_ids


# the real model -----------------------------------------------------------------------------------

TEXT = (
    "Once upon a time there was a miller who had three sons, and when he died he left them nothing "
    "but his mill, his donkey and his cat. The eldest took the mill, the second the donkey, and "
    "the youngest got the cat. He was very unhappy, and said to himself that his brothers could "
    "make a good living by working together, but that he, when he had eaten his cat and made a "
    "muff of its skin, would have to die of hunger. The cat heard this and answered gravely."
)


@pytest.fixture(scope="module")
def real() -> Case:
    settings = Settings.from_env()
    path = resolve("smollm2-135m", settings=settings)
    tokenizer = Recorder(path, settings).engine.tokenizer
    story = tokenizer.encode(TEXT)
    asks = [
        (tuple(story[:length]) if number % 2 else prompt, params)
        for number, (length, (prompt, params)) in enumerate(zip(LENGTHS, mixed_asks(49_152, 16), strict=True))
    ]
    return Case(path, settings, asks)


REAL = {
    "together": {},
    "two threads": {"threads": 2},
    "chunks of 7": {"chunk_size": 7, "threads": 2},
    "chunks of 64": {"chunk_size": 64},
    "chunks of 512, prefixes reused": {"chunk_size": 512, "reuse_prefix": True, "threads": 2},
}


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.parametrize("how", REAL)
def test_the_real_model_says_the_same(real: Case, how: str) -> None:
    options = {"threads": 1, "reuse_prefix": False, "chunk_size": 512} | REAL[how]
    recorder = real.recorder(**options)
    assert_same(recorder.answers(real.asks), real.alone)
    order = [int(i) for i in np.random.default_rng(1).permutation(len(real.asks))]
    assert_same(recorder.answers(real.asks, order, every=2), real.alone)


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["right", "half", "wrong"])
def test_the_real_model_says_the_same_with_drafts(real: Case, kind: str) -> None:
    recorder = real.recorder(threads=2)
    drafter = drafter_of(real.alone, kind)
    assert_same(recorder.answers(real.asks, drafter=drafter), real.alone)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["gemma3n", "gemma4-moe"])
def test_with_parts_that_only_some_layers_have(variant: str, tmp_path: Path) -> None:
    """Streams, inputs of layers, shared keys and sparse gates; experts beside the feed-forward part."""
    case = Case(make_tiny_folder(tmp_path, variant), settings_in(tmp_path), mixed_asks(320, 12)[:8])
    assert_same(case.recorder(threads=2, chunk_size=7, kv_tokens=192).answers(case.asks), case.alone)
    drafts = drafter_of(case.alone, "half")
    assert_same(case.recorder(reuse_prefix=True).answers(case.asks[:4], drafter=drafts), case.alone[:4])
