"""The entry for event loops: the same names, parameters and bytes as the one for threads."""

from __future__ import annotations

import asyncio
import inspect
import json
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

import miaotui
from miaotui.async_llm import AsyncLLM
from miaotui.engine.slo_controller import Promises
from miaotui.errors import DeadlineUnattainableError, EngineError, FieldError, PromptTooLongError, RequestError
from miaotui.llm import LLM
from miaotui.submission import CHAT_NAMES, TEXT_NAMES
from miaotui.types import Completion, Deadline, Delta, SamplingParams
from tiny_models import make_tiny_folder

GREETING = [{"role": "user", "content": "Hello there"}]
LONG: dict[str, Any] = {"max_tokens": 240, "ignore_eos": True}
PERSON = {
    "type": "object",
    "properties": {"age": {"type": "integer"}},
    "required": ["age"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "look", "parameters": PERSON}}
FORMATS: list[dict[str, Any]] = [
    {"response_format": {"type": "json_schema", "json_schema": {"name": "p", "schema": PERSON, "strict": True}}},
    {"response_format": {"type": "regex", "pattern": "[ab]{3,8}"}},
    {"response_format": {"type": "choice", "choices": ["yes", "no"]}},
    {"structured_outputs": {"grammar": 'start: "x" | "yy"'}},
    {"structured_outputs": {"json": PERSON}},
]


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    folder = make_tiny_folder(tmp_path_factory.mktemp("models"), "llama", max_position_embeddings=512)
    with miaotui.load(folder, threads=1) as llm:
        yield llm


def run(llm: LLM, main: Callable[[AsyncLLM], Coroutine[Any, Any, Any]]) -> Any:
    """The result of a coroutine over the loop of ``llm``: both faces have one."""
    return asyncio.run(main(AsyncLLM(llm.loop)))


def same(one: Completion, other: Completion) -> bool:
    """Whether two answers are the same bytes; identifiers of calls are random."""
    calls = [[(call.name, call.arguments) for call in each.tool_calls] for each in (one, other)]
    facts = [(each.text, each.token_ids, each.finish_reason, each.logprobs) for each in (one, other)]
    return facts[0] == facts[1] and calls[0] == calls[1]


# names --------------------------------------------------------------------------------------------


def public(kind: type) -> dict[str, Any]:
    return {name: each for name, each in inspect.getmembers(kind) if not name.startswith("_") and callable(each)}


def test_every_method_is_there_with_the_same_parameters() -> None:
    theirs = public(AsyncLLM)
    for name, method in public(LLM).items():
        assert name in theirs, name
        assert inspect.signature(method).parameters == inspect.signature(theirs[name]).parameters, name
    loads = [inspect.signature(load).parameters for load in (miaotui.load, miaotui.load_async)]
    assert loads[0] == loads[1]


def test_all_sampling_parameters_are_keywords() -> None:
    assert set(SamplingParams.__dataclass_fields__) <= set(TEXT_NAMES) <= set(CHAT_NAMES)


# bytes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [{"max_tokens": 9}, {"max_tokens": 9, "temperature": 1.0, "seed": 4, "logprobs": 2}])
def test_both_say_the_same(llm: LLM, how: dict[str, Any]) -> None:
    async def main(there: AsyncLLM) -> list[Any]:
        pieces = [delta async for delta in there.stream("Hello", **how)]
        chatted = [delta async for delta in there.chat_stream(GREETING, **how)]
        several = await there.generate(["Hello", "Bye"], **how)
        return [await there.generate("Hello", **how), await there.chat(GREETING, **how), several, pieces, chatted]

    one, chat, several, pieces, chatted = run(llm, main)
    assert same(one, llm.generate("Hello", **how))
    assert same(chat, llm.chat(GREETING, **how))
    assert all(same(a, b) for a, b in zip(several, llm.generate(["Hello", "Bye"], **how), strict=True))
    assert "".join(delta.text for delta in pieces) == one.text
    assert same(pieces[-1].completion, one)
    assert same(chatted[-1].completion, chat)


@pytest.mark.parametrize("how", FORMATS, ids=lambda how: str(next(iter(next(iter(how.values())).items())))[:30])
def test_answers_are_held_to_a_form(llm: LLM, how: dict[str, Any]) -> None:
    told = {"max_tokens": 60, "temperature": 1.0, "seed": 3, **how}
    here = llm.chat(GREETING, **told)
    assert same(run(llm, lambda there: there.chat(GREETING, **told)), here)
    assert same(run(llm, lambda there: there.generate("Hello", **told)), llm.generate("Hello", **told))
    assert here.text
    if "json" in str(how) and here.finish_reason == "stop":
        assert isinstance(json.loads(here.text)["age"], int)
    assert "".join(delta.text for delta in llm.chat_stream(GREETING, **told)) == here.text


def test_tools_are_called(llm: LLM) -> None:
    told = {"tools": [TOOL], "tool_choice": "required", "max_tokens": 200, "temperature": 1.0, "seed": 1}
    here = llm.chat(GREETING, **told, parallel_tool_calls=False)
    there = run(llm, lambda there: there.chat(GREETING, **told, parallel_tool_calls=False))
    assert same(here, there)
    (call,) = here.tool_calls
    assert (here.text, here.finish_reason, call.name) == ("", "tool_calls", "look")
    assert isinstance(json.loads(call.arguments)["age"], int)
    pieces: list[Delta] = list(llm.chat_stream(GREETING, **told, parallel_tool_calls=False))
    streamed = [piece for delta in pieces for piece in delta.tool_calls]
    assert streamed[0].name == "look"
    assert streamed[0].id
    assert "".join(piece.arguments for piece in streamed) == call.arguments
    assert "".join(delta.text for delta in pieces) == ""
    assert pieces[-1].finish_reason == "tool_calls"
    assert not llm.chat(GREETING, tools=[TOOL], tool_choice="none", max_tokens=5).tool_calls


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"adapter": "law"}, "there is no adapter 'law'; adapters here: none is loaded"),
        ({"response_format": {"type": "yaml"}}, "response_format.type: must be one of"),
        ({"response_format": {"type": "text"}, "structured_outputs": {"regex": "a"}}, "not both"),
        ({"structured_outputs": {"regex": "(a"}}, "structured_outputs: "),
        ({"deadline_ms": -1}, "total_ms must be"),
        ({"on_late": "shorten"}, "give deadline_ms"),
        ({"deadline": 7}, "miaotui.Deadline"),
        ({"deadline": Deadline(5.0), "deadline_ms": 5.0}, "not both"),
        ({"passages": "one text"}, "a list of texts"),
        ({"namespace": "mine"}, "whole number"),
        ({"tools": [{"type": "function", "function": {"name": "?"}}]}, r"tools\[0\].function.name"),
        ({"tool_choice": "required"}, "tool_choice: needs tools"),
        ({"toolz": []}, "did you mean 'tools'"),
    ],
)
def test_what_is_wrong_is_refused_by_name(llm: LLM, how: dict[str, Any], reason: str) -> None:
    with pytest.raises(RequestError, match=reason):
        llm.chat(GREETING, **how)
    with pytest.raises(RequestError, match=reason):
        run(llm, lambda there: there.chat(GREETING, **how))
    assert llm.loop.in_flight == 0


def test_tools_are_for_conversations(llm: LLM) -> None:
    with pytest.raises(RequestError, match="unknown parameter 'tools'"):
        llm.generate("Hello", tools=[TOOL])  # type: ignore[call-overload]
    with pytest.raises(FieldError) as caught:
        llm.chat(GREETING, tools=[TOOL, TOOL])
    assert caught.value.field == "tools"


# time ---------------------------------------------------------------------------------------------


def test_deadlines_are_kept_or_refused(tmp_path: Path) -> None:
    with miaotui.load(make_tiny_folder(tmp_path, "llama"), threads=1) as llm:
        assert llm.loop.promises is None, "nothing is measured before a deadline asks for it"
        answer = llm.generate("Hello", max_tokens=5, deadline_ms=60_000)
        assert llm.loop.promises is not None
        assert answer.promise is not None
        assert answer.promise.met
        assert llm.generate("Hello", max_tokens=5).promise is None
        with pytest.raises(DeadlineUnattainableError):
            llm.generate("Hello", **LONG, deadline_ms=0.01)
        with pytest.raises(DeadlineUnattainableError):
            run(llm, lambda there: there.generate("Hello", **LONG, deadline=Deadline(ttft_ms=0.001)))
        late = run(llm, lambda there: there.chat(GREETING, **LONG, deadline_ms=0.01, on_late="best_effort"))
        assert same(late, llm.chat(GREETING, **LONG))
        assert not late.promise.met
        assert "answers of 120 tokens" in str(llm.capacity())
        assert llm.prompt_budget(60_000.0, 10) == run(llm, lambda there: there.prompt_budget(60_000.0, 10))


def test_the_first_deadline_counts_from_when_costs_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pause_s = 0.4
    make = Promises.__init__

    def slowly(self: Promises, *how: Any) -> None:
        time.sleep(pause_s)
        make(self, *how)

    monkeypatch.setattr(Promises, "__init__", slowly)
    with miaotui.load(make_tiny_folder(tmp_path, "llama"), threads=1) as llm:
        start_s = time.monotonic()
        promise = llm.generate("Hello", max_tokens=3, deadline_ms=60_000).promise
        took_ms = (time.monotonic() - start_s) * 1e3
    assert promise is not None
    assert promise.took_ms is not None
    assert promise.took_ms <= took_ms - pause_s * 1e3


def test_requests_that_run_when_the_first_deadline_comes_are_reckoned_with(tmp_path: Path) -> None:
    with miaotui.load(make_tiny_folder(tmp_path, "llama"), threads=1, max_sequences=4) as llm:
        streams = [llm.stream("Go", **LONG) for _ in range(3)]
        answer = llm.generate("Hello", max_tokens=5, deadline_ms=60_000)
        assert answer.promise is not None
        for stream in streams:
            assert list(stream)[-1].completion is not None
        assert len(llm.loop.admission) == 0


# leaving ------------------------------------------------------------------------------------------


def test_leaving_and_cancelling_end_requests(llm: LLM) -> None:
    async def main(there: AsyncLLM) -> None:
        async with aclosing(there.stream("Go", **LONG)) as pieces:
            async for _ in pieces:
                break
        waiting = asyncio.ensure_future(there.generate("Go", **LONG))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        while there.loop.in_flight:
            await asyncio.sleep(0.001)

    run(llm, main)
    assert llm.loop.unread == 0


def test_two_at_once_from_tasks_and_threads(llm: LLM) -> None:
    prompts = [f"Number {n} says" for n in range(8)]
    params = {"max_tokens": 12, "temperature": 1.0, "ignore_eos": True}
    alone = [llm.generate(prompt, seed=n, **params).token_ids for n, prompt in enumerate(prompts)]

    async def main(there: AsyncLLM) -> list[Completion]:
        threads = [asyncio.to_thread(llm.generate, prompts[n], seed=n, **params) for n in range(0, 8, 2)]
        tasks = [there.generate(prompts[n], seed=n, **params) for n in range(1, 8, 2)]
        found = await asyncio.gather(*threads, *tasks)
        return [each for pair in zip(found[:4], found[4:], strict=True) for each in pair]

    assert [each.token_ids for each in run(llm, main)] == alone


def test_one_that_cannot_run_cancels_its_siblings(llm: LLM) -> None:
    for generate in (
        lambda: llm.generate(["short", [1] * 600]),
        lambda: run(llm, lambda it: it.generate(["a", [1] * 600])),
    ):
        with pytest.raises(PromptTooLongError):
            generate()
    assert llm.loop.unread == 0


def test_numbers_are_the_same(llm: LLM) -> None:
    async def main(there: AsyncLLM) -> list[Any]:
        return [await there.logits([1, 2, 3]), await there.score("a", ["b", "c"]), there.weight_bytes, there.drafts]

    logits, scores, weight_bytes, drafts = run(llm, main)
    assert (logits == llm.logits([1, 2, 3])).all()
    assert scores == llm.score("a", ["b", "c"])
    assert weight_bytes == llm.weight_bytes
    assert [one.name for one in drafts] == [one.name for one in llm.drafts]


def test_closing(tmp_path: Path) -> None:
    async def main() -> None:
        llm = await miaotui.load_async(make_tiny_folder(tmp_path, "llama"), threads=1)
        await llm.close()
        await llm.close()
        with pytest.raises(EngineError, match="closed"):
            await llm.generate("Hello")

    asyncio.run(main())
