"""Streams of the Python entry, and several threads on one model."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import miaotui
from miaotui.kernels.runtime import compiled
from miaotui.llm import LLM
from python_entry import but_times, held_passes, in_flight, wait_until
from tiny_models import make_tiny_folder


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


@pytest.fixture
def held(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LLM]:
    """A model whose passes wait, after a few, until its first request is left: no answer ends before that."""
    with (
        miaotui.load(path, threads=1, most_passes=1, speculate=False) as llm,
        held_passes(llm.loop.engine.backend, after=3) as go_on,
    ):

        def going_on(end: Callable[[Any], None]) -> Callable[[Any], None]:
            def ended(request: Any) -> None:
                end(request)
                go_on.set()

            return ended

        monkeypatch.setattr(llm.loop, "leave", going_on(llm.loop.leave))
        monkeypatch.setattr(llm.loop, "cancel", going_on(llm.loop.cancel))
        yield llm


def test_a_stream_is_the_completion_in_pieces(llm: LLM) -> None:
    params = {"max_tokens": 25, "temperature": 1.0, "seed": 2, "ignore_eos": True}
    whole = llm.generate("Go", **params)
    deltas = list(llm.stream("Go", **params))
    assert "".join(delta.text for delta in deltas) == whole.text
    assert sum((delta.token_ids for delta in deltas), ()) == whole.token_ids
    assert [delta.completion for delta in deltas[:-1]] == [None] * (len(deltas) - 1)
    last = deltas[-1]
    assert last.completion == but_times(last.completion, whole)
    assert last.finish_reason == "length"


def test_pieces_come_before_the_end(path: Path) -> None:
    with (
        miaotui.load(path, most_passes=1, speculate=False) as llm,
        held_passes(llm.loop.engine.backend, after=6) as go_on,
    ):
        pieces = []
        for delta in llm.stream("Go", max_tokens=12, ignore_eos=True):
            pieces.append(delta)
            go_on.set()
    assert sum(len(delta.token_ids) for delta in pieces) == 12
    assert 0 < len(pieces[0].token_ids) <= 6


def test_leaving_a_stream_cancels_it(llm: LLM) -> None:
    for delta in llm.stream("Go", ignore_eos=True):
        assert in_flight(llm) <= 1
        if delta.token_ids:
            break
    gc.collect()
    wait_until(lambda: in_flight(llm) == 0)


def test_a_closed_stream_has_ended_when_close_returns(held: LLM) -> None:
    with held.stream("Go", ignore_eos=True) as stream:
        next(stream)
    assert in_flight(held) == 0
    assert stream.request.finish_reason == "cancelled"
    assert list(stream) == []
    stream.close()


def test_a_stream_that_nobody_reads_is_cancelled(held: LLM) -> None:
    stream = held.stream("Go", ignore_eos=True)
    request = stream.request
    del stream
    gc.collect()
    wait_until(lambda: request.is_over)
    assert request.finish_reason == "cancelled"


def test_a_stream_dropped_in_the_engines_thread(llm: LLM) -> None:
    """The garbage collector may do so, in the middle of a step: nothing waits for itself."""
    streams = [llm.stream("Go", ignore_eos=True)]
    request = streams[0].request
    llm.loop.between_steps(streams.clear)
    wait_until(lambda: request.is_over)


def test_a_stream_keeps_its_model(path: Path) -> None:
    pieces = list(miaotui.load(path).stream("Go", max_tokens=20, ignore_eos=True))
    assert pieces[-1].finish_reason == "length"


def test_a_model_that_is_dropped_ends_its_thread(path: Path) -> None:
    llm = miaotui.load(path)
    thread = llm.loop._thread
    del llm
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()


def test_streams_advance_together(llm: LLM) -> None:
    first = llm.stream("one", max_tokens=10, ignore_eos=True)
    second = llm.stream("two", max_tokens=10, ignore_eos=True)
    list(first)
    wait_until(lambda: second.request.is_over)  # unread
    assert next(second).completion is not None


# threads, and several models ----------------------------------------------------------------------


def test_many_threads_share_a_model(llm: LLM) -> None:
    params = {"max_tokens": 15, "temperature": 1.0, "ignore_eos": True}
    prompts = [f"Thread {i} says" for i in range(12)]
    expected = [llm.generate(p, seed=i, **params).token_ids for i, p in enumerate(prompts)]
    found: dict[int, Any] = {}

    def work(number: int) -> None:
        if number % 2:
            found[number] = llm.generate(prompts[number], seed=number, **params).token_ids
        else:
            deltas = llm.stream(prompts[number], seed=number, **params)
            found[number] = sum((delta.token_ids for delta in deltas), ())
        llm.logits([number])

    threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [found[i] for i in range(12)] == expected


def test_a_short_request_does_not_wait_for_a_long_one(home: Path) -> None:
    """It joins the batch while the other thread drives on; a step of 48 layers is longer than a thread's turn."""
    started, finished = threading.Event(), []
    path = make_tiny_folder(home, "llama", seed=48, num_hidden_layers=48)

    def long() -> None:
        for delta in llm.stream([1], max_tokens=250, ignore_eos=True):
            started.set()
            if delta.completion:
                finished.append("long")

    with miaotui.load(path, threads=1) as llm:
        thread = threading.Thread(target=long, daemon=True)
        thread.start()
        assert started.wait(30)
        llm.generate([2], max_tokens=2, ignore_eos=True)
        finished.append("short")
        thread.join(60)
    assert finished == ["short", "long"]
