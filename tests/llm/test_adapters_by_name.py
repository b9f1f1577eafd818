"""Low-rank adapters by name through the Python entries: one batch, no mixing in any cache, clear refusals."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import miaotui
from adapter_files import random_pairs, write_adapter, write_peft
from miaotui.errors import MiaotuiError, ModelFormatError, ModelNotFoundError, RequestError
from miaotui.kernels.runtime import compiled
from miaotui.llm import LLM
from miaotui.types import Completion
from python_entry import in_flight, wait_until
from tiny_models import make_tiny_folder

PROMPT = [7 * number % 320 for number in range(60)]  # three whole pages and more
HOW: dict[str, Any] = {"max_tokens": 24, "ignore_eos": True}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("home")
    compiled.cache_folder()  # remembered for the rest of the process
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIAOTUI_HOME", str(folder))
        yield folder


@pytest.fixture(scope="module")
def path(home: Path) -> Path:
    return make_tiny_folder(home, "llama")


@pytest.fixture(scope="module")
def adapters(home: Path) -> dict[str, Path]:
    return {name: write_adapter(home, seed) for seed, name in enumerate(("law", "code", "poems"))}


@pytest.fixture
def llm(path: Path, adapters: dict[str, Path]) -> Iterator[LLM]:
    with miaotui.load(path, threads=2) as model:
        for name, where in adapters.items():
            model.load_adapter(name, where)
        yield model
        wait_until(lambda: in_flight(model) == 0)
        model.loop.between_steps(model.loop.engine.scheduler.check)


@pytest.fixture(scope="module")
def alone(path: Path, adapters: dict[str, Path]) -> dict[str | None, tuple[int, ...]]:
    """The answer with each adapter, and with none, each from a model that has seen nothing else."""
    found: dict[str | None, tuple[int, ...]] = {}
    for name in (None, *adapters):
        with miaotui.load(path, threads=1, speculate=False, reuse_prefix=False) as model:
            if name is not None:
                model.load_adapter(name, adapters[name])
            found[name] = model.generate(PROMPT, adapter=name, **HOW).token_ids
    assert len(set(found.values())) == len(found), "each changes the answer"
    return found


def test_one_batch_gives_what_each_gives_alone(llm: LLM, alone: dict[str | None, tuple[int, ...]]) -> None:
    names = [None, "law", "code", "poems", "law", None]
    streams = [llm.stream(PROMPT, adapter=name, **HOW) for name in names]
    answers = [list(stream)[-1].completion for stream in streams]
    assert [answer.token_ids for answer in answers if answer] == [alone[name] for name in names]


def test_prefixes_and_past_answers_are_never_mixed(llm: LLM, alone: dict[str | None, tuple[int, ...]]) -> None:
    """The prompt is the same each time, so that a page, or a draft's source, under a wrong key would be found."""
    for turn in range(3):
        for name in ("law", None, "code", "law", "poems", None):
            answer = llm.generate(PROMPT, adapter=name, **HOW)
            assert answer.token_ids == alone[name]
            if turn:
                assert answer.cached_tokens == 48, "its own pages are used again"


def test_a_name_can_stand_for_another_adapter_later(llm: LLM, adapters: dict[str, Path], alone: dict[Any, Any]) -> None:
    assert llm.generate(PROMPT, adapter="law", **HOW).token_ids == alone["law"]
    llm.unload_adapter("law")
    assert set(llm.adapters) == {"code", "poems"}
    with pytest.raises(RequestError, match="there is no adapter 'law'; adapters here: code, poems"):
        llm.generate(PROMPT, adapter="law", **HOW)
    llm.load_adapter("law", adapters["poems"])
    assert llm.generate(PROMPT, adapter="law", **HOW).token_ids == alone["poems"]
    assert llm.adapters["law"].digest == llm.adapters["poems"].digest


def test_one_that_answers_is_unloaded_when_it_has_ended(llm: LLM, alone: dict[str | None, tuple[int, ...]]) -> None:
    longer = {**HOW, "max_tokens": 190}
    stream = llm.stream(PROMPT, adapter="code", **longer)
    tokens = list(next(stream).token_ids)
    number = llm.adapters["code"].number
    llm.unload_adapter("code")
    with pytest.raises(RequestError, match="there is no adapter 'code'"):
        llm.generate(PROMPT, adapter="code", **HOW)
    for delta in stream:
        tokens += delta.token_ids
    assert tuple(tokens[:24]) == alone["code"]
    assert len(tokens) == 190
    held = llm.loop.adapters
    wait_until(lambda: number not in held._held)


def test_a_request_that_came_too_late_fails_alone(llm: LLM, alone: dict[str | None, tuple[int, ...]]) -> None:
    """Its adapter is gone when it is entered: others in the batch are answered."""
    number = llm.adapters["law"].number
    llm.unload_adapter("law")
    loop = llm.loop
    loop.adapters._by_name["law"] = llm.adapters["code"]._replace(name="law", number=number)  # as if resolved before
    with pytest.raises(RequestError, match="was unloaded before the request began"):
        llm.generate(PROMPT, adapter="law", **HOW)
    assert llm.generate(PROMPT, **HOW).token_ids == alone[None]


def test_the_reference_backend_has_them_too(path: Path, adapters: dict[str, Path]) -> None:
    with miaotui.load(path, backend="reference") as model:
        plain = model.generate(PROMPT[:9], max_tokens=6)
        model.load_adapter("law", adapters["law"])
        changed = model.generate(PROMPT[:9], max_tokens=6, adapter="law")
        assert changed.token_ids != plain.token_ids
        assert model.generate(PROMPT[:9], max_tokens=6).token_ids == plain.token_ids


def test_event_loops_have_the_same(path: Path, adapters: dict[str, Path], alone: dict[str | None, Any]) -> None:
    async def main() -> list[Completion]:
        async with await miaotui.load_async(path, threads=1) as model:
            await model.load_adapter("law", adapters["law"])
            asked = [model.generate(PROMPT, adapter=name, **HOW) for name in ("law", None)]
            answers = await asyncio.gather(*asked)
            await model.unload_adapter("law")
            assert not model.adapters
            return answers

    assert [answer.token_ids for answer in asyncio.run(main())] == [alone["law"], alone[None]]


@pytest.mark.parametrize(
    ("name", "where", "error", "words"),
    [
        ("law", "adapter-1", RequestError, "'law' is loaded already: unload it"),
        ("", "adapter-1", RequestError, "must be 1 to 200 printable characters"),
        ("new", "nowhere", ModelNotFoundError, "no adapter"),
        ("new", "wide", ModelFormatError, "adapter of another model"),
    ],
)
def test_what_is_wrong_loads_nothing(
    llm: LLM, home: Path, name: str, where: str, error: type[MiaotuiError], words: str
) -> None:
    wide = random_pairs({"model.layers.0.self_attn.q_proj": (256, 64)}, 4)
    write_peft(home / "wide", wide)
    before = dict(llm.adapters)
    with pytest.raises(error, match=words):
        llm.load_adapter(name, home / where)
    assert dict(llm.adapters) == before
    with pytest.raises(RequestError, match="there is no adapter 'x'"):
        llm.unload_adapter("x")
    with pytest.raises(RequestError, match="adapter must be the name"):
        llm.generate(PROMPT, adapter=7)  # type: ignore[call-overload]
