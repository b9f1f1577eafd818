"""Ctrl-C at any moment: it comes, and the model answers on as if nothing had been."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import miaotui
from miaotui.engine.loop import EngineLoop
from miaotui.engine.reading.readers import DeltaStream
from miaotui.engine.reading.sigint import DeferredSigint
from miaotui.llm import LLM
from tiny_models import make_tiny_folder


@pytest.fixture(autouse=True)
def _interrupts_come() -> Iterator[None]:
    """Also where the tests run in the background of a shell, which has them ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupt_after(delay_s: float) -> None:
    time.sleep(delay_s)
    os.kill(os.getpid(), signal.SIGINT)


def answer_until_interrupted(llm: LLM, delay_s: float) -> None:
    threading.Thread(target=interrupt_after, args=(delay_s,)).start()
    while True:
        llm.generate("Hello", max_tokens=200, ignore_eos=True)
        for _ in llm.stream("Hello", max_tokens=20, ignore_eos=True):
            pass


def require_idle(loop: EngineLoop) -> None:
    """A stream that is dropped, not closed, is cancelled before the next step."""
    end_s = time.monotonic() + 10
    while loop.in_flight:
        assert time.monotonic() < end_s
        time.sleep(0.0005)
    loop.between_steps(loop.engine.scheduler.check)
    assert loop.engine.scheduler.stats().pages_used == 0


def test_waiting_ends_at_once_and_its_pages_are_free(tmp_path: Path) -> None:
    """Interrupted while it waits, a call returns when its request has ended: nothing is left to wait for."""
    with miaotui.load(make_tiny_folder(tmp_path, "llama"), threads=1) as llm:
        for call in (llm.generate, lambda *how, **why: next_forever(llm.stream(*how, **why))):
            start_s = time.monotonic()
            threading.Thread(target=interrupt_after, args=(0.05,)).start()
            with pytest.raises(KeyboardInterrupt):
                again_and_again(call)
            assert time.monotonic() - start_s < 5
            assert llm.loop.in_flight == 0


def again_and_again(call: Callable[..., object]) -> None:
    while True:
        call("Hello", max_tokens=200, ignore_eos=True)


def next_forever(stream: DeltaStream) -> None:
    while next(stream).completion is None:
        pass


def test_a_model_survives_interrupts_at_any_moment(tmp_path: Path) -> None:
    delays = random.Random(5)
    with miaotui.load(make_tiny_folder(tmp_path, "llama"), threads=2) as llm:
        expected = llm.generate("Hello", max_tokens=30, ignore_eos=True).token_ids
        for _ in range(40):
            with pytest.raises(KeyboardInterrupt):
                answer_until_interrupted(llm, delays.uniform(0, 0.01))
            require_idle(llm.loop)
            assert llm.generate("Hello", max_tokens=30, ignore_eos=True).token_ids == expected


def interrupted(done: list[str]) -> None:
    with DeferredSigint():
        with DeferredSigint():
            signal.raise_signal(signal.SIGINT)
            done.append("inside")
        done.append("around it")


def test_an_interrupt_comes_when_what_must_not_break_is_done() -> None:
    done: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        interrupted(done)
    assert done == ["inside", "around it"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_other_threads_are_left_alone() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def work() -> None:
        with DeferredSigint():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
