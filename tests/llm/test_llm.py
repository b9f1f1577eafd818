"""The Python entry: loading, closing, and several models."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import miaotui
from miaotui.errors import EngineError, ModelNotFoundError, PromptTooLongError, RequestError
from miaotui.kernels.runtime import compiled
from miaotui.llm import LLM
from miaotui.types import Completion
from python_entry import in_flight, wait_until
from tiny_models import make_tiny_folder, make_tiny_gguf


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


# loading ------------------------------------------------------------------------------------------


def test_a_gguf_file_and_a_folder_are_the_same_model(path: Path, home: Path) -> None:
    gguf = make_tiny_gguf(home, "llama")
    with miaotui.load(path) as one, miaotui.load(str(gguf)) as other:
        assert one.generate("Hi", max_tokens=12).text == other.generate("Hi", max_tokens=12).text


def test_loading_tells_its_progress(home: Path) -> None:
    heard: list[tuple[str, int, int | None]] = []
    fresh = make_tiny_folder(home, "qwen2", seed=9)
    miaotui.load(fresh, progress=lambda *args: heard.append(args)).close()
    packing = [(done, total) for stage, done, total in heard if stage == "packing"]
    assert packing[0][0] == 0
    assert packing[-1][0] == packing[-1][1]
    assert [done for done, _ in packing] == sorted(done for done, _ in packing)
    heard.clear()
    miaotui.load(fresh, progress=lambda *args: heard.append(args)).close()
    assert heard == []  # packed and compiled already


@pytest.mark.parametrize("options", [{"format": "q4"}, {"kv": "int8"}, {"threads": 2}])
def test_options_that_change_how_it_runs(path: Path, options: dict[str, Any]) -> None:
    with miaotui.load(path, **options) as llm:
        assert len(llm.generate([1, 2, 3], max_tokens=5, ignore_eos=True).token_ids) == 5


def test_context_bounds_prompt_plus_answer(path: Path) -> None:
    with miaotui.load(path, context=20) as llm:
        assert llm.context == 20
        assert len(llm.generate([1] * 12, ignore_eos=True).token_ids) == 8
        assert llm.logits([1] * 20).shape == (20, 320)
        with pytest.raises(PromptTooLongError, match="context of 20"):
            llm.logits([1] * 21)
    with miaotui.load(path, context=10**6) as llm:
        assert llm.context == 256  # the model's own


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"kvv": "int8"}, "did you mean 'kv'"),
        ({"quux": 1}, "known are: "),
        ({"format": "q7"}, "one of q4, q5, q6, q8, bf16, not 'q7'"),
        ({"kv": "f8"}, "'f16' or 'int8', not 'f8'"),
        ({"threads": 0}, "threads must be a whole number"),
        ({"context": "long"}, "context must be a whole number"),
        ({"chunk_size": None}, "chunk_size must be"),
        ({"max_sequences": 2.5}, "max_sequences must be"),
        ({"kv_tokens": True}, "kv_tokens must be"),
    ],
)
def test_wrong_options_are_refused(path: Path, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(RequestError, match=reason):
        miaotui.load(path, **options)


def test_what_is_not_there(home: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        miaotui.load(home / "missing.gguf")


def test_the_package_has_no_other_names() -> None:
    with pytest.raises(AttributeError, match="lod"):
        _ = miaotui.lod


def test_two_models_share_the_team(path: Path, home: Path) -> None:
    (home / "second").mkdir()
    other_path = make_tiny_folder(home / "second", "gemma3")
    with miaotui.load(path, threads=2) as llm, miaotui.load(other_path, threads=2) as other:
        assert other.loop.engine.backend.runner.team is llm.loop.engine.backend.runner.team
        alone = llm.generate("Hi", max_tokens=20, ignore_eos=True).token_ids
        expected = other.generate("Hi", max_tokens=20, ignore_eos=True).token_ids
        found: dict[str, Any] = {}

        def work(name: str, model: LLM) -> None:
            found[name] = model.generate("Hi", max_tokens=20, ignore_eos=True).token_ids

        threads = [threading.Thread(target=work, args=pair, daemon=True) for pair in (("one", llm), ("other", other))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert found == {"one": alone, "other": expected}


# closing ------------------------------------------------------------------------------------------


def test_a_closed_model_says_so(path: Path) -> None:
    llm = miaotui.load(path)
    llm.close()
    llm.close()
    for call in (lambda: llm.generate("a"), lambda: llm.stream("a"), lambda: llm.logits([1]), lambda: llm.weight_bytes):
        with pytest.raises(EngineError, match="closed"):
            call()


def test_closing_ends_streams(path: Path) -> None:
    with miaotui.load(path) as llm:
        stream = llm.stream("a", ignore_eos=True)
        got = next(stream).token_ids
    rest = list(stream)
    assert rest[-1].finish_reason == "cancelled"
    assert rest[-1].completion is not None
    assert rest[-1].completion.token_ids[: len(got)] == got


def test_closing_while_another_thread_waits(path: Path) -> None:
    llm = miaotui.load(path)
    answers: list[Completion] = []
    stream = llm.stream([3], ignore_eos=True)
    next(stream)
    thread = threading.Thread(
        target=lambda: answers.append(llm.generate([1], max_tokens=250, ignore_eos=True)), daemon=True
    )
    thread.start()
    while in_flight(llm) < 2 and not answers:
        pass
    llm.close()
    thread.join(30)
    assert answers[0].finish_reason in ("cancelled", "length")


def test_closing_gives_the_memory_back(path: Path) -> None:
    import weakref  # noqa: PLC0415

    llm = miaotui.load(path)
    llm.generate("a", max_tokens=2)
    pages = weakref.ref(llm.loop.engine.backend.runner.program.pages)
    llm.close()
    gc.collect()
    assert pages() is None
