"""The loop of an encoder-decoder: results, cancellation, errors, promises, closing."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from miaotui.backends.reference.seq2seq import ReferenceSeq2Seq
from miaotui.engine.jobs.admission import QueueLimits
from miaotui.engine.seq2seq.loaded import LoadedSeq2Seq
from miaotui.engine.seq2seq.loop import Seq2SeqLoop
from miaotui.engine.turns import CoreTurns
from miaotui.errors import DeadlineUnattainableError, EngineError, OverloadedError, RequestError
from miaotui.model.seq2seq.opened import open_seq2seq
from miaotui.text.seq2seq.tokenizer import Seq2SeqTokenizer, SourceForm
from miaotui.types import Deadline
from tiny_seq2seq import VOCAB, tiny_folder

SOURCES = [[9, 4, 77, 2], [5, 2], [100, 101, 102, 8, 8, 2], [60, 2], [31, 30, 2]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedSeq2Seq:
    folder = tiny_folder(tmp_path_factory.mktemp("bart"), "bart", generation={"max_length": 20})
    opened = open_seq2seq(folder)
    tokenizer = Seq2SeqTokenizer(cut=lambda text: [len(text)], join=str, form=SourceForm())
    backend = ReferenceSeq2Seq(opened.config, opened.weights)
    return LoadedSeq2Seq(Path(folder), opened.config, opened.generation, tokenizer, backend, {})


@pytest.fixture
def loop(model: LoadedSeq2Seq) -> Iterator[Seq2SeqLoop]:
    running = Seq2SeqLoop(model, QueueLimits(jobs=4), CoreTurns())
    yield running
    running.close()  # the reference backend may be used again


def wait_until_idle(loop: Seq2SeqLoop) -> None:
    """Wait for the loop's thread to forget what has ended."""
    end_s = time.perf_counter() + 10
    while loop.in_flight and time.perf_counter() < end_s:
        time.sleep(0.005)
    assert loop.in_flight == 0


def test_jobs_get_the_targets_of_their_sources_in_order(loop: Seq2SeqLoop) -> None:
    settings = loop.model.generation
    beams = dataclasses.replace(settings, num_beams=3)
    alone = [loop.run([(source, settings)])[0] for source in SOURCES]
    jobs = [loop.submit([(source, settings) for source in SOURCES]), loop.submit([(SOURCES[0], beams)])]
    assert jobs[0].future.result(30) == alone
    assert jobs[1].future.result(30) == loop.run([(SOURCES[0], beams)])
    assert loop.run([]) == []
    assert jobs[0].written_tokens == sum(len(each.tokens) - 1 for each in alone)
    assert loop.counts["stop"] == 9
    wait_until_idle(loop)
    assert loop.model.backend.kept == (0, 0)  # type: ignore[attr-defined]


def test_a_cancelled_job_leaves_nothing(loop: Seq2SeqLoop) -> None:
    settings = dataclasses.replace(loop.model.generation, num_beams=4, min_length=20)
    jobs = [loop.submit([(source, settings) for source in SOURCES]) for _ in range(3)]
    for job in jobs[1:]:
        assert job.cancel()
    assert len(jobs[0].future.result(30)) == len(SOURCES)
    wait_until_idle(loop)
    assert loop.counts["cancelled"] == 2
    assert loop.model.backend.kept == (0, 0)  # type: ignore[attr-defined]


def test_wrong_sources_are_refused_before_anything_runs(loop: Seq2SeqLoop) -> None:
    with pytest.raises(RequestError, match="source token ids"):
        loop.submit([([VOCAB], loop.model.generation)])
    with pytest.raises(RequestError, match="max_length"):
        loop.submit([([5], loop.model.generation), ([5], dataclasses.replace(loop.model.generation, max_length=70000))])
    assert loop.in_flight == 0


def test_a_pass_that_fails_ends_its_jobs_and_the_loop_goes_on(
    loop: Seq2SeqLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = loop.model.generation
    expected = loop.run([(SOURCES[0], settings)])
    with monkeypatch.context() as patched:
        patched.setattr(loop.model.backend, "run", lambda rows: rows.missing)
        with pytest.raises(EngineError, match="AttributeError"):
            loop.run([(SOURCES[0], settings)])
    assert loop.run([(SOURCES[0], settings)]) == expected


def test_deadlines_are_kept_or_refused_at_once(loop: Seq2SeqLoop) -> None:
    settings = dataclasses.replace(loop.model.generation, num_beams=4)
    with pytest.raises(DeadlineUnattainableError):
        loop.submit([(source, settings) for source in SOURCES * 4], Deadline(2))
    job = loop.submit([(SOURCES[0], settings)], Deadline(20_000))
    beside = loop.submit([(source, settings) for source in SOURCES])
    job.future.result(30)
    assert job.promise.met
    assert 0 < job.predicted_ms < 20_000
    assert len(beside.future.result(30)) == len(SOURCES)
    assert loop.admission.counts.met == 1


def test_a_full_queue_refuses_and_closing_ends_what_waits(model: LoadedSeq2Seq) -> None:
    opened = open_seq2seq(model.path)
    own = dataclasses.replace(model, backend=ReferenceSeq2Seq(opened.config, opened.weights))
    loop = Seq2SeqLoop(own, QueueLimits(jobs=2), CoreTurns())
    settings = dataclasses.replace(model.generation, num_beams=4, min_length=20)
    jobs = [loop.submit([(source, settings) for source in SOURCES * 4]) for _ in range(2)]
    with pytest.raises(OverloadedError):
        loop.submit([(SOURCES[0], settings)])
    loop.close()
    for job in jobs:
        assert job.is_over
    with pytest.raises(OverloadedError, match="stopping"):
        loop.submit([(SOURCES[0], settings)])
    loop.close()
