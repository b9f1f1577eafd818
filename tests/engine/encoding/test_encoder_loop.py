"""The thread that runs an encoder: ends, errors, cancellation, closing, many submitters."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from scripted_encoder import FIRST, TableEncoder, texts_of

from miaotui.engine.encoding.job import Reduction
from miaotui.engine.encoding.loop import EncoderLoop
from miaotui.engine.turns import CoreTurns
from miaotui.errors import DeadlineUnattainableError, EngineError, OverloadedError, RequestError
from miaotui.types import Deadline


@pytest.fixture
def backend() -> TableEncoder:
    return TableEncoder()


@pytest.fixture
def loop(backend: TableEncoder) -> Iterator[EncoderLoop]:
    running = EncoderLoop(backend, turns=CoreTurns())
    yield running
    backend.gate.set()
    running.close()


def test_results_come_in_the_order_of_the_texts(loop: EncoderLoop, backend: TableEncoder) -> None:
    texts = [texts_of(n, token=n)[0] for n in range(1, 65)]
    results = loop.submit(texts, FIRST).future.result(10)
    alone = [loop.submit([text], FIRST).future.result(10)[0] for text in texts]
    assert all(np.array_equal(a, b) for a, b in zip(results, alone, strict=True))
    assert loop.counts["stop"] == 65


def test_no_texts_have_no_results(loop: EncoderLoop) -> None:
    assert loop.submit([], FIRST).future.result(10) == []


def test_a_cancelled_job_leaves_the_queue(loop: EncoderLoop, backend: TableEncoder) -> None:
    backend.gate.clear()
    running, waiting = loop.submit(texts_of(4), FIRST), loop.submit(texts_of(*[64] * 100), FIRST)
    assert waiting.cancel()
    backend.gate.set()
    running.future.result(10)
    for _ in range(1000):
        if not loop.in_flight:
            break
        time.sleep(0.005)
    assert loop.in_flight == 0
    assert waiting.finish_reason == "cancelled"
    assert loop.counts["cancelled"] == 1


def test_a_reduction_that_fails_fails_its_job_and_the_loop_goes_on(loop: EncoderLoop) -> None:
    def broken(_index: int, _states: object) -> None:
        raise ValueError("no")

    with pytest.raises(EngineError, match="ValueError: no"):
        loop.submit(texts_of(3), Reduction("broken", broken)).future.result(10)
    assert len(loop.submit(texts_of(3), FIRST).future.result(10)) == 1


def test_an_error_of_ours_comes_as_it_is(loop: EncoderLoop, backend: TableEncoder) -> None:
    with pytest.raises(RequestError, match="another vocabulary"):
        loop.submit(texts_of(3, token=5000), FIRST).future.result(10)


def test_closing_ends_what_waits(backend: TableEncoder) -> None:
    loop = EncoderLoop(backend, turns=CoreTurns())
    backend.gate.clear()
    jobs = [loop.submit(texts_of(*[64] * 50), FIRST) for _ in range(3)]
    closing = threading.Thread(target=loop.close)
    closing.start()
    backend.gate.set()
    closing.join(10)
    for job in jobs:
        with pytest.raises(OverloadedError, match="stopping"):
            job.future.result(10)
    assert backend.closed
    with pytest.raises(OverloadedError):
        loop.submit(texts_of(1), FIRST)
    loop.close()


def test_deadlines_are_kept_or_refused_at_once() -> None:
    backend = TableEncoder(row_s=2e-4)
    loop = EncoderLoop(backend, turns=CoreTurns())
    try:
        start_s = time.perf_counter()
        with pytest.raises(DeadlineUnattainableError) as caught:
            loop.submit(texts_of(*[64] * 20), FIRST, Deadline(50))
        assert time.perf_counter() - start_s < 0.05
        assert caught.value.predicted_ms > 200
        job = loop.submit(texts_of(32), FIRST, Deadline(2000))
        job.future.result(10)
        assert job.promise.met
        assert loop.admission.counts.met == 1
    finally:
        loop.close()


def test_many_threads_submit_and_cancel(loop: EncoderLoop) -> None:
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        random = np.random.default_rng(seed)
        try:
            for _ in range(40):
                lengths = random.integers(1, 64, random.integers(1, 6)).tolist()
                job = loop.submit(texts_of(*lengths, token=seed), FIRST)
                if random.random() < 0.3:
                    job.cancel()
                elif len(job.future.result(10)) != len(lengths):
                    raise AssertionError(lengths)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not failures
    assert sum(loop.counts[end] for end in ("stop", "cancelled", "failed")) == 240
