"""Answers as asynchronous streams: many at once, left early, failed."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from miaotui.backends.options import EngineOptions
from miaotui.config import Settings
from miaotui.engine.request import RequestOptions
from miaotui.errors import OverloadedError, PromptTooLongError
from miaotui.kernels.linear.formats import Format
from miaotui.runtime import ModelOptions, open_model
from miaotui.serve.models import ObservedModel
from miaotui.types import Completion, SamplingParams
from tiny_engine import settings_in
from tiny_models import make_tiny_folder
from tiny_tokenizer import write_tokenizer

OPTIONS = EngineOptions(format=Format.Q8, threads=1, chunk_size=64)
SHORT = SamplingParams(max_tokens=5, ignore_eos=True)
LONG = SamplingParams(max_tokens=200, ignore_eos=True)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_tiny_folder(tmp_path_factory.mktemp("models"), "llama")
    write_tokenizer(folder)
    return folder


async def whole(hosted: ObservedModel, prompt: list[int], params: SamplingParams) -> Completion:
    async for delta in hosted.pieces(hosted.submit(prompt, params, RequestOptions())):
        if delta.completion is not None:
            return delta.completion
    raise AssertionError("an answer ends with its completion")


def slow_down(hosted: ObservedModel, seconds: float = 0.02) -> None:
    """Let each run of passes take longer."""
    run = hosted.loop.engine.backend.run

    def slowly(*how: Any) -> Any:
        time.sleep(seconds)
        return run(*how)

    hosted.loop.engine.backend.run = slowly  # type: ignore[method-assign]


def host(path: Path, settings: Settings) -> ObservedModel:
    return ObservedModel("tiny", open_model(path, ModelOptions(OPTIONS), settings=settings))


def test_many_at_once_say_what_each_says_alone(path: Path, tmp_path: Path) -> None:
    async def main() -> None:
        hosted = host(path, settings_in(tmp_path))
        prompts = [[n, n + 1, 2 * n + 3] for n in range(20)]
        alone = [await whole(hosted, prompt, SHORT) for prompt in prompts]
        together = await asyncio.gather(*(whole(hosted, prompt, SHORT) for prompt in prompts))
        assert [a.token_ids for a in alone] == [t.token_ids for t in together]
        hosted.close()

    asyncio.run(main())


def test_leaving_early_cancels(path: Path, tmp_path: Path) -> None:
    async def main() -> None:
        hosted = host(path, settings_in(tmp_path))
        slow_down(hosted)
        request = hosted.submit([1, 2, 3], LONG, RequestOptions())
        async with aclosing(hosted.pieces(request)) as pieces:
            async for _ in pieces:
                break
        while not request.is_over:
            await asyncio.sleep(0.001)
        assert request.finish_reason == "cancelled"
        assert hosted.loop.engine.in_flight == 0
        hosted.close()

    asyncio.run(main())


def test_the_event_loop_wakes_up_once_for_a_step(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        hosted = host(path, settings_in(tmp_path))
        counts = {"steps": 0, "wake-ups": 0}
        step, event_loop = hosted.loop.engine.step, asyncio.get_running_loop()
        call_soon = event_loop.call_soon_threadsafe

        def stepping(*args: Any) -> bool:
            counts["steps"] += 1
            return step(*args)

        def calling(*args: Any) -> Any:
            counts["wake-ups"] += 1
            return call_soon(*args)

        monkeypatch.setattr(hosted.loop.engine, "step", stepping)
        monkeypatch.setattr(event_loop, "call_soon_threadsafe", calling)
        await asyncio.gather(*(whole(hosted, [n, n + 1], LONG) for n in range(6)))
        assert 0 < counts["wake-ups"] <= counts["steps"]
        hosted.close()

    asyncio.run(main())


def test_several_are_read_together_and_left_together(path: Path, tmp_path: Path) -> None:
    async def main() -> None:
        hosted = host(path, settings_in(tmp_path))
        alone = [await whole(hosted, [n, n + 1], SHORT) for n in range(3)]
        requests = hosted.submit_all(([n, n + 1], SHORT, RequestOptions()) for n in range(3))
        together = await hosted.whole(requests)
        assert [a.token_ids for a in together] == [a.token_ids for a in alone]
        requests = hosted.submit_all(([n, n + 1], SHORT, RequestOptions()) for n in range(3))
        texts = ["", "", ""]
        async with aclosing(hosted.pieces_of(requests)) as steps:
            async for pieces in steps:
                for index, delta in pieces:
                    texts[index] += delta.text
        assert texts == [a.text for a in alone]
        questions = [([1, 2], LONG, RequestOptions()), ([1] * (hosted.context + 1), LONG, RequestOptions())]
        with pytest.raises(PromptTooLongError):
            hosted.submit_all(questions)
        while hosted.loop.engine.in_flight:
            await asyncio.sleep(0.001)
        hosted.close()

    asyncio.run(main())


def test_who_waits_is_told_when_the_server_stops(path: Path, tmp_path: Path) -> None:
    async def main() -> None:
        hosted = host(path, settings_in(tmp_path))
        slow_down(hosted)  # else the answer may be there first
        request = hosted.submit([1, 2, 3], LONG, RequestOptions())
        waiting = asyncio.ensure_future(hosted.whole([request]))
        await asyncio.sleep(0)
        await asyncio.to_thread(hosted.loop.close)
        with pytest.raises(OverloadedError, match="stopping"):
            await waiting
        hosted.close()

    asyncio.run(main())


def test_a_refused_prompt_raises_at_once_and_closing_ends_the_rest(path: Path, tmp_path: Path) -> None:
    async def main() -> None:
        hosted = host(path, settings_in(tmp_path))
        with pytest.raises(PromptTooLongError):
            hosted.submit([1] * (hosted.context + 1), SHORT, RequestOptions())
        request = hosted.submit([1, 2, 3], LONG, RequestOptions())
        hosted.close()
        assert request.is_over

    asyncio.run(main())


def test_every_listener_hears_once_that_an_answer_was_read(path: Path, tmp_path: Path) -> None:
    async def main() -> None:
        hosted = host(path, settings_in(tmp_path))
        request = hosted.submit([1, 2, 3], SHORT, RequestOptions())
        heard: list[tuple[str, bool]] = []
        for name in ("first", "second"):
            request.settled_listeners.append(
                lambda promise, late_s, admitted, name=name: heard.append((name, admitted))
            )
        await hosted.whole([request])
        request.read()
        assert heard == [("first", False), ("second", False)]
        hosted.close()

    asyncio.run(main())
