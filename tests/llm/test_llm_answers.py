"""Answers of the Python entry: prompts, parameters, chats, log-probabilities and scores."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import miaotui
from miaotui.errors import PromptTooLongError, RequestError, TemplateError
from miaotui.kernels.runtime import compiled
from miaotui.llm import LLM
from miaotui.types import Completion, SamplingParams
from python_entry import GREETING, but_times, in_flight, wait_until
from tiny_models import make_tiny_folder
from tiny_tokenizer import CHAT_TEMPLATE, END, EOS


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Packed weights go to a folder of their own; compiled kernels are used where they are."""
    folder = tmp_path_factory.mktemp("home")
    compiled.cache_folder()  # remembered for the rest of the process
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIAOTUI_HOME", str(folder))
        yield folder


@pytest.fixture(scope="module")
def path(home: Path) -> Path:
    return make_tiny_folder(home, "llama")


@pytest.fixture(scope="module")
def shared(path: Path) -> Iterator[LLM]:
    with miaotui.load(path, threads=1) as llm:
        yield llm


@pytest.fixture
def llm(shared: LLM) -> Iterator[LLM]:
    """A loaded model; after each test nothing may run on it."""
    yield shared
    wait_until(lambda: in_flight(shared) == 0)
    engine = shared.loop.engine
    shared.loop.between_steps(engine.scheduler.check)
    assert engine.scheduler.stats().pages_used == 0


# generating ---------------------------------------------------------------------------------------


def test_text_ids_and_lists_are_prompts(llm: LLM) -> None:
    ids = llm.tokenizer.encode("Hello")
    whole = llm.generate("Hello", max_tokens=6)
    assert whole.prompt_tokens == len(ids)
    for prompt in (ids, tuple(ids), np.array(ids)):
        assert llm.generate(prompt, max_tokens=6).token_ids == whole.token_ids
    several = llm.generate(["Hello", ids, "Bye"], max_tokens=6)
    assert [type(one) for one in several] == [Completion] * 3
    assert several[0].token_ids == several[1].token_ids == whole.token_ids
    assert llm.generate([], max_tokens=6) == []


def test_many_prompts_at_once(llm: LLM) -> None:
    """More than run together."""
    prompts = [f"Number {i}" for i in range(40)]
    together = llm.generate(prompts, max_tokens=3, ignore_eos=True)
    assert [one.token_ids for one in together[::13]] == [
        llm.generate(prompt, max_tokens=3, ignore_eos=True).token_ids for prompt in prompts[::13]
    ]


def test_the_text_is_the_tokens(llm: LLM) -> None:
    done = llm.generate("Once", max_tokens=30, temperature=1.5, seed=3, ignore_eos=True)
    assert done.text == llm.tokenizer.decode(done.token_ids)
    assert done.finish_reason == "length"
    assert len(done.token_ids) == 30


def test_parameters_as_an_object(llm: LLM) -> None:
    params = SamplingParams(max_tokens=7, temperature=0.9, seed=11)
    as_object = llm.generate("a", params).token_ids
    as_keywords = llm.generate("a", max_tokens=7, temperature=0.9, seed=11).token_ids
    assert as_object == as_keywords
    assert as_object != llm.generate("a", max_tokens=7, temperature=0.9, seed=12).token_ids
    with pytest.raises(RequestError, match="not both"):
        llm.generate("a", params, max_tokens=7)


def test_without_a_limit_it_fills_the_context(llm: LLM) -> None:
    done = llm.generate([5] * 200, ignore_eos=True)
    assert len(done.token_ids) == 56
    assert done.finish_reason == "length"


def test_the_models_own_end_and_how_to_ignore_it(llm: LLM) -> None:
    bias = {END: 100.0}
    done = llm.generate("a", logit_bias=bias)
    assert (done.token_ids, done.text, done.finish_reason) == ((END,), "", "stop")
    ignored = llm.generate("a", logit_bias=bias, ignore_eos=True, max_tokens=3)
    assert (ignored.token_ids, ignored.finish_reason) == ((END,) * 3, "length")
    later = llm.generate("a", logit_bias=bias, min_tokens=4)
    assert len(later.token_ids) == 5
    assert {END, EOS}.isdisjoint(later.token_ids[:4])


def test_stop_strings_end_the_text_before_them(llm: LLM) -> None:
    params = {"max_tokens": 60, "temperature": 1.2, "seed": 4, "ignore_eos": True}
    whole = llm.generate("Tell", **params).text
    stop = whole[20:22]
    cut = whole[: whole.index(stop)]
    for given in (stop, [stop], ("never there", stop)):
        done = llm.generate("Tell", stop=given, **params)
        assert (done.text, done.finish_reason) == (cut, "stop")
    pieces = list(llm.stream("Tell", stop=stop, **params))
    assert "".join(piece.text for piece in pieces) == cut


def test_stop_tokens(llm: LLM) -> None:
    ids = llm.generate([1, 2], max_tokens=9, temperature=1.5, seed=8, ignore_eos=True).token_ids
    stop = next(i for i in ids[3:] if i not in ids[:3])
    done = llm.generate([1, 2], max_tokens=9, temperature=1.5, seed=8, ignore_eos=True, stop_token_ids={stop})
    assert done.token_ids == ids[: ids.index(stop) + 1]
    assert done.finish_reason == "stop"


def test_logprobs_are_the_models(llm: LLM) -> None:
    done = llm.generate([1, 2, 3], max_tokens=4, logprobs=2, ignore_eos=True)
    logits = llm.logits([1, 2, 3, *done.token_ids]).astype(np.float64)[2:-1]
    expected = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    for row, one in zip(expected, done.logprobs, strict=True):
        assert one.token_id == one.top[0][0] == row.argmax()
        assert one.logprob == one.top[0][1] == pytest.approx(row.max(), abs=1e-5)
        assert one.top[1][1] == pytest.approx(np.sort(row)[-2], abs=1e-5)
    assert llm.generate([1], max_tokens=2).logprobs == ()


def test_times_make_sense(llm: LLM) -> None:
    timing = llm.generate("a", max_tokens=20, ignore_eos=True).timing
    assert 0 < timing.ttft_s < timing.total_s
    assert timing.decode_tokens_per_s == pytest.approx(19 / (timing.total_s - timing.ttft_s))


def test_a_second_prompt_reuses_the_first_ones_pages(llm: LLM) -> None:
    ids = [int(i) for i in np.random.default_rng(5).integers(0, 300, 60)]
    assert llm.generate(ids, max_tokens=1).cached_tokens == 0
    assert llm.generate(ids, max_tokens=1).cached_tokens == 48


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"temprature": 1.0}, "did you mean 'temperature'"),
        ({"max_new_tokens": 1}, "did you mean 'max_tokens'"),
        ({"zzz": 1}, "known are: "),
        ({"temperature": -1}, "temperature must be >= 0"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 4.5}, "max_tokens"),
        ({"max_tokens": "4"}, "max_tokens"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": True}, "top_p"),
        ({"top_k": 1.5}, "top_k"),
        ({"min_p": 2}, "min_p"),
        ({"seed": -1}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"stop": ""}, "stop"),
        ({"stop": [3]}, "stop"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stop_token_ids": [1.5]}, "stop_token_ids"),
        ({"stop_token_ids": [320]}, "names token 320"),
        ({"ignore_eos": "yes"}, "ignore_eos"),
        ({"min_tokens": -1}, "min_tokens"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"presence_penalty": float("inf")}, "presence_penalty"),
        ({"frequency_penalty": None, "logit_bias": {1: "x"}}, "logit_bias"),
        ({"logit_bias": [1, 2]}, "logit_bias"),
        ({"logit_bias": {400: 1.0}}, "names token 400"),
        ({"logprobs": 65}, "logprobs"),
        ({"temperature": 10**400}, "temperature"),
    ],
)
def test_nonsense_parameters_are_refused(llm: LLM, parameters: dict[str, Any], reason: str) -> None:
    with pytest.raises(RequestError, match=reason):
        llm.generate("a", **parameters)
    with pytest.raises(RequestError, match=reason):
        llm.stream("a", **parameters)


def test_numbers_of_numpy_are_numbers(llm: LLM) -> None:
    one = llm.generate("a", max_tokens=np.int64(5), temperature=np.float32(0.5), seed=np.uint8(3))
    assert one.token_ids == llm.generate("a", max_tokens=5, temperature=0.5, seed=3).token_ids


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ("", "no tokens"),
        ([1, 2, 320], "id 320"),
        ([-1], "id -1"),
        ([[1], []], "no tokens"),
        ([1, "a"], "text or token ids"),
        ([1.5], "text or token ids|must be text"),
        (None, "must be text"),
        (7, "must be text"),
        (b"bytes", "must be text"),
        ({"a": 1}, "must be text"),
        ("half a \ud800 character", "surrogate"),
    ],
)
def test_prompts_that_are_none(llm: LLM, prompt: Any, reason: str) -> None:
    with pytest.raises(RequestError, match=reason):
        llm.generate(prompt, max_tokens=1)


def test_a_prompt_longer_than_the_context(llm: LLM) -> None:
    for call in (llm.generate, llm.stream):
        with pytest.raises(PromptTooLongError, match="256 tokens and the context holds 256"):
            call([1] * 256)
    with pytest.raises(PromptTooLongError, match="larger context"):
        llm.generate(["short", [1] * 300])


# chatting and streaming ---------------------------------------------------------------------------


def test_chat_goes_through_the_template(llm: LLM) -> None:
    text = "<|im_start|>user\nHello there<|im_end|>\n<|im_start|>assistant\n"
    assert llm.chat_tokens(GREETING) == llm.tokenizer.encode(text)
    answer = llm.chat(GREETING, max_tokens=8, ignore_eos=True)
    assert answer == but_times(answer, llm.generate(text, max_tokens=8, ignore_eos=True))
    deltas = list(llm.chat_stream(GREETING, max_tokens=8, ignore_eos=True))
    assert "".join(delta.text for delta in deltas) == answer.text


def test_chat_without_a_template(home: Path) -> None:
    (home / "base").mkdir()
    folder = make_tiny_folder(home / "base", "llama")
    config = folder / "tokenizer_config.json"
    text = config.read_text(encoding="utf-8")
    assert CHAT_TEMPLATE[:10] in text
    config.write_text(text.replace('"chat_template"', '"no_template"'), encoding="utf-8")
    with miaotui.load(folder) as llm:
        assert llm.generate("plain text works", max_tokens=1).token_ids
        with pytest.raises(TemplateError, match="no chat template"):
            llm.chat(GREETING)


def test_messages_at_fault(llm: LLM) -> None:
    with pytest.raises(RequestError):
        llm.chat([{"role": "user"}])
    with pytest.raises(RequestError, match="did you mean 'max_tokens'"):
        llm.chat(GREETING, max_token=3)


# numbers ------------------------------------------------------------------------------------------


def test_logits_do_not_depend_on_what_runs(llm: LLM) -> None:
    ids = [int(i) for i in np.random.default_rng(1).integers(0, 320, 200)]
    alone = llm.logits(ids)
    assert alone.shape == (200, 320)
    assert alone.dtype == np.float32
    stream = llm.stream(ids[:50], max_tokens=20, ignore_eos=True)
    tokens = list(next(stream).token_ids)
    assert np.array_equal(llm.logits(ids), alone)
    assert np.array_equal(llm.logits(ids[:77]), alone[:77])
    tokens += [i for delta in stream for i in delta.token_ids]
    assert tokens == list(llm.generate(ids[:50], max_tokens=20, ignore_eos=True).token_ids)
    assert alone[49].argmax() == tokens[0]


@pytest.mark.parametrize("ids", [[], [320], [-1], [1.5], "text"])
def test_logits_of_nonsense(llm: LLM, ids: Any) -> None:
    if ids == "text":
        assert llm.logits(ids).shape == (len(llm.tokenizer.encode(ids)), 320)
        return
    with pytest.raises(RequestError):
        llm.logits(ids)


def test_the_share_of_the_memory_limit(llm: LLM) -> None:
    done = llm.generate("a", max_tokens=20, ignore_eos=True)
    assert 0 < llm.memory_share(done) <= 1.01
    assert llm.weight_bytes > 100_000


# scores -------------------------------------------------------------------------------------------


def test_scores_are_the_log_probabilities_of_what_follows(llm: LLM) -> None:
    """Texts and ids give equal scores, alone and together, and those of the answer that the model gives itself."""
    prompt = "the end"
    answer = llm.generate(prompt, max_tokens=12, ignore_eos=True, logprobs=0)
    ids = llm.tokenizer.encode(prompt)
    own, other = llm.score(ids, [answer.token_ids, [5, 6, 7]])
    assert own.is_greedy
    assert [token.logprob for token in own.tokens] == [token.logprob for token in answer.logprobs]
    assert own.logprob == pytest.approx(sum(token.logprob for token in answer.logprobs))
    assert not other.is_greedy
    assert other.logprob < own.logprob
    assert llm.score(ids, [[5, 6, 7]]) == [other]
    texts = llm.score(prompt, [" and on", "ing"])
    tokens = [llm.tokenizer.encode(prompt + more) for more in (" and on", "ing")]
    for score, whole in zip(texts, tokens, strict=True):
        start = len(whole) - len(score.tokens)
        assert [token.token_id for token in score.tokens] == whole[start:]
        assert score == llm.score(whole[:start], [whole[start:]])[0]
    assert llm.score(prompt, []) == []


def test_scores_need_a_token_on_either_side(llm: LLM) -> None:
    for prompt, continuation in (("", "a"), ("a", ""), ([], [1]), ([1], []), ([1], "")):
        with pytest.raises(RequestError, match="at least one token"):
            llm.score(prompt, [continuation])
    with pytest.raises(RequestError, match="must be a list"):
        llm.score("a", "b")
    with pytest.raises(PromptTooLongError):
        llm.score("a", [[5] * llm.context])
    with pytest.raises(RequestError, match="ids go from"):
        llm.score([1], [[100_000]])


def test_generate_gives_the_prompts_log_probabilities(llm: LLM) -> None:
    completion = llm.generate([5, 6, 7, 8], max_tokens=0, prompt_logprobs=2)
    assert (completion.text, completion.token_ids, completion.finish_reason) == ("", (), "length")
    logits = llm.logits([5, 6, 7, 8]).astype(np.float64)
    for position, found in enumerate(completion.prompt_logprobs[1:], 1):
        assert found is not None
        row = logits[position - 1]
        expected = row - row.max() - np.log(np.exp(row - row.max()).sum())
        assert found.logprob == pytest.approx(expected[found.token_id], abs=1e-5)
        assert [token for token, _ in found.top] == np.argsort(-row, kind="stable")[:2].tolist()
        assert found.rank == 1 + int((row > row[found.token_id]).sum())
