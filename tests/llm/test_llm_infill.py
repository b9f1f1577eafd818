"""`LLM.infill` and its twins: the ordinary engine answers a prompt that fills in."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

import miaotui
from infill_models import make_infill_folder
from miaotui.async_llm import AsyncLLM
from miaotui.errors import PromptTooLongError, RequestError
from miaotui.kernels.runtime import compiled
from miaotui.llm import LLM
from miaotui.text.infill import NamedText, require_infiller
from tiny_models import make_tiny_folder


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("infill")
    compiled.cache_folder()  # remembered for the rest of the process
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIAOTUI_HOME", str(folder))
        yield folder


@pytest.fixture(scope="module")
def llm(home: Path) -> Iterator[LLM]:
    with miaotui.load(make_infill_folder(home), threads=1) as loaded:
        yield loaded


def test_a_gap_is_filled_by_continuing_the_familys_prompt(llm: LLM) -> None:
    files = [NamedText("a.py", "x = 1")]
    prompt = require_infiller(llm.tokenizer).encode("def f(", "return x", files=files)
    plain = llm.generate(prompt, max_tokens=12, ignore_eos=True)
    filled = llm.infill("def f(", "return x", files=[("a.py", "x = 1")], max_tokens=12, ignore_eos=True)
    assert filled.token_ids == plain.token_ids
    assert filled.prompt_tokens == len(prompt)
    pieces = list(llm.infill_stream("def f(", "return x", files=files, max_tokens=12, ignore_eos=True))
    assert "".join(piece.text for piece in pieces) == filled.text


@pytest.mark.parametrize("name", ["<|fim_pad|>", "<|file_sep|>", "<|fim_middle|>"])
def test_control_tokens_of_filling_in_end_the_answer(llm: LLM, name: str) -> None:
    token = llm.tokenizer.control_texts[name]
    filled = llm.infill("a", "b", max_tokens=12, logit_bias={token: 1000.0})
    assert filled.text == ""
    assert filled.finish_reason == "stop"


def test_event_loops_fill_in_likewise(llm: LLM) -> None:
    async def fill() -> tuple[str, str]:
        model = AsyncLLM(llm.loop)
        whole = await model.infill("a", "b", max_tokens=8)
        pieces = [piece.text async for piece in model.infill_stream("a", "b", max_tokens=8)]
        return whole.text, "".join(pieces)

    assert set(asyncio.run(fill())) == {llm.infill("a", "b", max_tokens=8).text}


def test_wrong_calls_are_refused(llm: LLM, home: Path) -> None:
    with pytest.raises(PromptTooLongError):
        llm.infill("a" * llm.context, "b")
    for parts, files, said in (
        ((b"a", "b"), (), "prefix: must be text, not bytes"),
        (("a", None), (), "suffix: must be text, not NoneType"),
        (("a", "b"), [("a.py",)], r"files\[0\]: must be a pair"),
        (("a", "b"), [("a.py", "x"), "ab"], r"files\[1\]: must be a pair"),
        (("a", "b"), [("a.py", 5)], r"files\[0\]: must be a pair"),
    ):
        with pytest.raises(RequestError, match=said):
            llm.infill(*parts, files=files)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="max_token"):
        llm.infill("a", "b", max_toknes=3)  # type: ignore[call-arg]
    folder = home / "plain"
    folder.mkdir()
    with (
        miaotui.load(make_tiny_folder(folder, "llama"), threads=1) as plain,
        pytest.raises(RequestError, match="cannot fill in"),
    ):
        plain.infill("a", "b")
