"""Answers as asynchronous streams: many at once, left early, failed."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path

import pytest

from miaotui.config import Settings
from miaotui.engine.build import EngineOptions
from miaotui.engine.loaded import load_model
from miaotui.engine.request import Asked
from miaotui.errors import PromptTooLongError
from miaotui.kernels.formats import Format
from miaotui.serve.hosting import Hosted
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


async def whole(hosted: Hosted, prompt: list[int], params: SamplingParams) -> Completion:
    async for delta in hosted.pieces(hosted.submit(prompt, params, Asked())):
        if delta.completion is not None:
            return delta.completion
    raise AssertionError("an answer ends with its completion")


def host(path: Path, settings: Settings) -> Hosted:
    return Hosted("tiny", load_model(path, OPTIONS, settings))


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
        request = hosted.submit([1, 2, 3], LONG, Asked())
        async with aclosing(hosted.pieces(request)) as pieces:
            async for _ in pieces:
                break
        while not request.is_over:
            await asyncio.sleep(0.001)
        assert request.finish_reason == "cancelled"
        assert hosted.loop.engine.in_flight == 0
        hosted.close()

    asyncio.run(main())


def test_a_refused_prompt_raises_at_once_and_closing_ends_the_rest(
    path: Path, tmp_path: Path
) -> None:
    async def main() -> None:
        hosted = host(path, settings_in(tmp_path))
        with pytest.raises(PromptTooLongError):
            hosted.submit([1] * (hosted.context + 1), SHORT, Asked())
        request = hosted.submit([1, 2, 3], LONG, Asked())
        hosted.close()
        assert request.is_over

    asyncio.run(main())
