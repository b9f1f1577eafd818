"""Log-probabilities of prompts: right by the oracle, the same however they are computed, bounded in memory."""

from __future__ import annotations

import dataclasses
import itertools
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from miaotui.backends.options import BackendName
from miaotui.engine.engine import Engine
from miaotui.engine.request import Request
from miaotui.errors import EngineError, PromptTooLongError, RequestError
from miaotui.hub.store import PackedStore
from miaotui.kernels.linear.formats import Format
from miaotui.model import packing
from miaotui.model.oracle import Oracle
from miaotui.model.packed import load_packed
from miaotui.model.reading.files import open_model
from miaotui.types import PromptLogprobs, SamplingParams, TokenLogprobs
from packed_oracle import unpacked
from tiny_engine import open_changed, open_engine, run, submit_all
from tiny_models import make_tiny_folder

pytestmark = pytest.mark.usefixtures("backend")

SCORED = SamplingParams(max_tokens=0, prompt_logprobs=3)


def tokens(length: int, seed: int = 3) -> list[int]:
    return [int(i) for i in np.random.default_rng(seed).integers(0, 320, length)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scored")


@pytest.fixture(scope="module")
def model(folder: Path) -> Path:
    return make_tiny_folder(folder, "llama")


@pytest.fixture(scope="module")
def engine(model: Path, folder: Path, backend: BackendName) -> Engine:
    return open_engine(model, folder)


def scores(engine: Engine, prompt: list[int], **changes: Any) -> PromptLogprobs:
    request = engine.submit(prompt, dataclasses.replace(SCORED, **changes))
    run(engine)
    return request.completion().prompt_logprobs


def known(found: PromptLogprobs) -> list[TokenLogprobs]:
    return [each for each in found if each is not None]


def values(found: PromptLogprobs) -> NDArray[np.float64]:
    return np.array([each.logprob for each in known(found)])


def oracle_logprobs(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    rows = logits.astype(np.float64)
    rows -= rows.max(axis=1, keepdims=True)
    return rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))


def test_scores_are_those_of_the_models_own_logits(engine: Engine, model: Path, folder: Path) -> None:
    """Against NumPy's float64 softmax of the oracle, whose logits differ by the rounding of activations."""
    prompt = tokens(100)
    found = scores(engine, prompt)
    with open_model(model) as files:
        weights = load_packed(model, PackedStore(folder / "oracle"), Format.Q8)
        config = files.config
    logits = Oracle(config, unpacked(config, weights)).logits(prompt)
    expected = oracle_logprobs(logits)[np.arange(99), prompt[1:]]
    assert np.std(values(found) - expected) <= 0.1 * logits.std()
    assert found[0] is None
    assert [each.token_id for each in known(found)] == prompt[1:]


def test_a_token_that_is_the_best_has_one_float_and_rank_one(engine: Engine) -> None:
    prompt = tokens(8)
    answered = engine.submit(prompt, SamplingParams(max_tokens=30, ignore_eos=True, logprobs=3))
    run(engine)
    answer = answered.completion()
    found = known(scores(engine, [*prompt, *answer.token_ids])[len(prompt) :])
    for scored, generated in zip(found, answer.logprobs, strict=True):
        assert scored == dataclasses.replace(generated, rank=1)
        assert scored.top[0] == (scored.token_id, scored.logprob)
    for scored in known(scores(engine, tokens(60), prompt_logprobs=64)):
        places = [token for token, _ in scored.top]
        assert scored.rank is not None
        assert (
            places[scored.rank - 1 :][:1] == [scored.token_id] if scored.rank <= 64 else scored.token_id not in places
        )


@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 64, 65, 66, 128, 200, 255])
def test_every_length_gets_one_entry_for_each_token(engine: Engine, length: int) -> None:
    prompt = tokens(length)
    found = scores(engine, prompt)
    assert len(found) == length
    assert found[0] is None
    assert None not in found[1:]
    alone = scores(engine, prompt, max_tokens=2)
    assert alone == found


def test_scores_do_not_depend_on_batches_chunks_threads_or_drafts(model: Path, folder: Path) -> None:
    prompts = [tokens(length, seed) for seed, length in enumerate((200, 3, 64, 65, 130, 1, 77))]
    found = []
    for options in ({}, {"chunk_size": 7, "max_sequences": 2}, {"threads": 2}, {"max_sequences": 4, "kv_tokens": 512}):
        engine = open_engine(model, folder, **options)
        chatting = submit_all(
            engine, [[1, 2, 3], [4, 5]], SamplingParams(max_tokens=40, ignore_eos=True, temperature=1.0)
        )
        requests = submit_all(engine, prompts, SCORED)
        while engine.step({each.number: [7, 8, 9] for each in chatting if each.token_ids}):
            engine.scheduler.check()
        found.append([request.completion().prompt_logprobs for request in requests])
        found.append([scores(engine, prompt) for prompt in prompts])
    assert all(each == found[0] for each in found)


def test_answers_do_not_depend_on_being_scored(engine: Engine) -> None:
    prompt = tokens(90)
    for temperature in (0.0, 1.0):
        params = SamplingParams(max_tokens=12, ignore_eos=True, temperature=temperature, seed=5)
        plain = engine.submit(prompt, params)
        run(engine)
        scored = engine.submit(prompt, dataclasses.replace(params, prompt_logprobs=0))
        run(engine)
        assert scored.completion().token_ids == plain.completion().token_ids


def test_a_stored_prefix_is_used_up_to_the_first_scored_token(engine: Engine) -> None:
    prompt = tokens(120, seed=8)
    whole = scores(engine, prompt)
    request = engine.submit(prompt, SCORED)
    run(engine)
    assert request.completion().cached_tokens == 0
    for start in (1, 50, 100, 119):
        request = engine.submit(prompt, dataclasses.replace(SCORED, prompt_logprobs_start=start))
        run(engine)
        part = request.completion()
        assert part.prompt_logprobs[start:] == whole[start:]
        assert part.prompt_logprobs[:start] == (None,) * start
        assert part.cached_tokens == (start - 1) // 16 * 16
    with pytest.raises(RequestError, match="prompt of 120 tokens"):
        engine.submit(prompt, dataclasses.replace(SCORED, prompt_logprobs_start=120))


def test_others_flow_beside_a_long_prompt(model: Path, folder: Path) -> None:
    engine = open_engine(model, folder, chunk_size=32)
    talking = engine.submit([1, 2, 3], SamplingParams(max_tokens=30, ignore_eos=True))
    engine.step()
    scored = engine.submit(tokens(200), SCORED)
    steps = 0
    while not scored.is_over:
        before = len(talking.token_ids)
        assert engine.step()
        steps += 1
        assert len(talking.token_ids) == before + 1
    assert steps == 7
    run(engine)


def test_a_prompt_may_fill_the_context_when_nothing_is_to_be_answered(engine: Engine) -> None:
    full = tokens(engine.context)
    assert len(scores(engine, full)) == engine.context
    for prompt, most in ((full, 1), ([*full, 1], 0)):
        with pytest.raises(PromptTooLongError):
            engine.submit(prompt, dataclasses.replace(SCORED, max_tokens=most))


def test_what_is_out_of_range_is_refused() -> None:
    for wrong, name in (
        ({"max_tokens": 0}, "max_tokens"),
        ({"prompt_logprobs": 65}, "prompt_logprobs"),
        ({"prompt_logprobs": -1}, "prompt_logprobs"),
        ({"prompt_logprobs": True}, "prompt_logprobs"),
        ({"prompt_logprobs": 1, "prompt_logprobs_start": -1}, "prompt_logprobs_start"),
        ({"prompt_logprobs": 1, "max_tokens": -1}, "max_tokens"),
    ):
        with pytest.raises(RequestError, match=name):
            SamplingParams(**wrong)


def test_leaving_in_the_middle_frees_all_pages(engine: Engine) -> None:
    requests = submit_all(engine, [tokens(200, seed) for seed in (31, 32)], SCORED)
    engine.step()
    used = engine.scheduler.stats().pages_used
    for request in requests:
        engine.cancel(request)
        engine.scheduler.check()
    assert used > 0
    assert engine.scheduler.stats().pages_used == engine.in_flight == 0
    assert requests[0].finish_reason == "cancelled"


def test_a_request_with_broken_logits_fails_and_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(arrays: dict[str, NDArray[np.float32]]) -> None:
        arrays["embed"][7] = np.nan

    monkeypatch.setattr(packing, "require_finite", lambda *_: None)  # which refuses such weights
    engine = open_changed(tmp_path, "llama", broken)
    bad, good = submit_all(engine, [[1, 2, 7, 3, 4], [1, 2, 3]], SCORED)
    run(engine)
    with pytest.raises(EngineError, match="expected a number"):
        bad.completion()
    assert len(good.completion().prompt_logprobs) == 3


def test_memory_grows_with_the_prompt_and_not_with_the_vocabulary(folder: Path, backend: BackendName) -> None:
    if backend == "reference":
        pytest.skip("NumPy's attention takes memory of its own for each pass, which grows with the text")
    path = make_tiny_folder(folder, "llama", seed=4, max_position_embeddings=16_384)
    engine = open_engine(path, folder, chunk_size=512)
    short, length = tokens(600), 10_000
    scores(engine, short, prompt_logprobs=0)
    tracemalloc.start()
    try:
        found = scores(engine, tokens(length), prompt_logprobs=0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(found) == length
    assert peak < length * 320 * 4  # a row of logits for each token


def test_pieces_bring_the_scores_once(engine: Engine) -> None:
    request: Request = engine.submit(tokens(80), dataclasses.replace(SCORED, max_tokens=5))
    pieces = []
    for _ in itertools.takewhile(lambda _: not request.is_over, itertools.count()):
        engine.step()
        if request.has_news:
            pieces.append(request.read())
    assert [bool(piece.prompt_logprobs) for piece in pieces] == [True, *[False] * (len(pieces) - 1)]
    assert pieces[-1].completion is not None
    assert pieces[0].prompt_logprobs == pieces[-1].completion.prompt_logprobs
