"""Models that restore masked tokens behind `miaotui.load`: the ordinary requests, streams, ends and refusals."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import miaotui
from miaotui.dmlm import load_masked
from miaotui.dmlm.decoding.decode import DecodeOptions
from miaotui.errors import EngineError, OverloadedError, PromptTooLongError, RequestError
from miaotui.kernels.runtime import compiled
from miaotui.llm import LLM
from python_entry import in_flight, wait_until
from tiny_masked import make_masked_folder

CALL: dict[str, Any] = {"max_tokens": 40, "ignore_eos": True}
PROMPTS = ["the end", "and so on", "in the beginning there was", "x"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    made = tmp_path_factory.mktemp("masked-engine")
    compiled.cache_folder()  # remembered for the rest of the process
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIAOTUI_HOME", str(made / "home"))
        yield made


@pytest.fixture(scope="module", params=["bd3lm", "llada"])
def shared(folder: Path, request: pytest.FixtureRequest) -> Iterator[LLM]:
    with miaotui.load(make_masked_folder(folder, request.param), threads=1, chunk_size=128) as llm:
        yield llm


@pytest.fixture
def llm(shared: LLM) -> Iterator[LLM]:
    yield shared
    wait_until(lambda: in_flight(shared) == 0)
    engine: Any = shared.loop.engine
    assert shared.loop.between_steps(lambda: not list(engine.texts) and engine.texts.n_free >= 1)


def test_an_answer_is_that_of_the_plain_loop(llm: LLM, folder: Path) -> None:
    with load_masked(
        folder / llm.config.architecture.replace("a2d_qwen3", "bd3lm"), threads=1, chunk_size=128
    ) as plain:
        for temperature, top_p in ((0.0, 1.0), (0.9, 1.0), (1.5, 0.7)):
            expected = plain.generate("the end", DecodeOptions(40, temperature=temperature, top_p=top_p, seed=5))
            found = llm.generate("the end", temperature=temperature, top_p=top_p, seed=5, **CALL)
            ends = [at for at, token in enumerate(found.token_ids) if token in llm.tokenizer.eos_ids]
            until = ends[0] if ends else 40
            assert found.token_ids[:until] == expected.token_ids[:until]
            assert len(found.token_ids) == 40
            assert found.finish_reason == "length"


def test_streams_and_requests_beside_each_other_give_the_same_answers(llm: LLM) -> None:
    alone = [llm.generate(prompt, **CALL).text for prompt in PROMPTS]
    assert [each.text for each in llm.generate(PROMPTS, **CALL)] == alone
    with ThreadPoolExecutor(4) as threads:
        streams = threads.map(lambda prompt: "".join(d.text for d in llm.stream(prompt, **CALL)), PROMPTS)
        assert list(streams) == alone
    chat = llm.chat([{"role": "user", "content": "the end"}], **CALL)
    assert chat.prompt_tokens > 5
    assert len(chat.token_ids) == 40


def test_answers_end_and_are_cancelled_like_any_other(llm: LLM) -> None:
    whole = llm.generate("the end", **CALL)
    token = whole.token_ids[7]
    cut = llm.generate("the end", stop_token_ids=[token], **CALL)
    assert cut.finish_reason == "stop"
    assert whole.text.startswith(cut.text)
    assert len(cut.token_ids) == whole.token_ids.index(token) + 1
    stream = llm.stream("the end", max_tokens=90, ignore_eos=True)
    next(iter(stream))
    stream.close()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"logprobs": 1}, "logprobs"),
        ({"repetition_penalty": 1.2}, "repetition_penalty"),
        ({"response_format": {"type": "json_object"}}, "no grammars"),
        ({"logit_bias": {3: 1.0}}, "logit_bias"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(llm: LLM, wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        llm.generate("the end", max_tokens=5, **wrong)


def test_next_tokens_have_no_logits(llm: LLM) -> None:
    with pytest.raises(RequestError, match="next token"):
        llm.logits([1, 2, 3])
    with pytest.raises(RequestError, match="prompt_logprobs"):
        llm.score("a", ["b"])
    with pytest.raises(PromptTooLongError):
        llm.generate("x" * 300, max_tokens=10)


def test_a_fault_in_a_pass_fails_its_request_alone(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    engine: Any = llm.loop.engine
    expected = llm.generate("the end", **CALL).text
    run, calls = engine.backend._inner.run, []

    def failing(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise ValueError("broken")
        return run(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(engine.backend._inner, "run", failing)
        with pytest.raises(EngineError, match="broken"):
            llm.generate("and so on", **CALL)
    wait_until(lambda: llm.loop.healthy)
    assert llm.generate("the end", **CALL).text == expected


def test_too_many_requests_are_refused(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("miaotui.dmlm.engine.MOST_REQUESTS", 0)
    with pytest.raises(OverloadedError, match="again"):
        llm.generate("the end", **CALL)
