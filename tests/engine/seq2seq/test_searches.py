"""Many searches over one backend: the results of searches alone, nothing left behind, and refusals."""

from __future__ import annotations

import dataclasses

import pytest

from miaotui.backends.reference.seq2seq import ReferenceSeq2Seq
from miaotui.backends.seq2seq_backend import Seq2SeqLimits
from miaotui.engine.search.search import FoundTarget
from miaotui.engine.seq2seq.searches import SearchQueue
from miaotui.errors import FieldError, PromptTooLongError, RequestError
from miaotui.model.seq2seq.generation import GenerationSettings
from miaotui.model.seq2seq.opened import OpenedSeq2Seq, open_seq2seq
from tiny_seq2seq import VOCAB, tiny_folder

SOURCES = [[9, 4, 77, 2], [5, 2], [100, 101, 102, 8, 8, 2], [60, 2], [31, 30, 2]]
SMALL = Seq2SeqLimits(source_tokens=8, source_rows=10, target_tokens=20, target_rows=6, sources=3)


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> OpenedSeq2Seq:
    return open_seq2seq(tiny_folder(tmp_path_factory.mktemp("bart"), "bart", generation={"max_length": 9}))


def queue_of(opened: OpenedSeq2Seq, limits: Seq2SeqLimits | None = None) -> tuple[SearchQueue, ReferenceSeq2Seq]:
    backend = ReferenceSeq2Seq(opened.config, opened.weights, limits)
    return SearchQueue(backend, VOCAB), backend


def found(queue: SearchQueue, sources: list[list[int]], settings: GenerationSettings) -> list[FoundTarget | None]:
    requests = [queue.submit(source, settings) for source in sources]
    while not queue.is_idle:
        queue.step()
    return [request.result for request in requests]


@pytest.mark.parametrize("beams", [1, 3])
def test_a_search_finds_alone_what_it_finds_beside_others(opened: OpenedSeq2Seq, beams: int) -> None:
    settings = dataclasses.replace(opened.generation, num_beams=beams)
    together, backend = queue_of(opened)
    expected = [found(queue_of(opened)[0], [source], settings)[0] for source in SOURCES]
    assert found(together, SOURCES, settings) == expected
    small, narrow = queue_of(opened, SMALL)
    assert found(small, SOURCES[::-1], settings) == expected[::-1]
    assert backend.kept == narrow.kept == (0, 0)


def test_a_cancelled_search_leaves_nothing_and_disturbs_nothing(opened: OpenedSeq2Seq) -> None:
    queue, backend = queue_of(opened, SMALL)
    expected = found(queue, SOURCES[:1], opened.generation)
    requests = [queue.submit(source, opened.generation) for source in SOURCES]
    queue.step()
    for request in requests[1:]:
        queue.cancel(request)
        queue.cancel(request)
    while not queue.is_idle:
        queue.step()
    assert [requests[0].result] == expected
    assert all(request.is_over and request.result is None for request in requests[1:])
    assert backend.kept == (0, 0)


def test_sources_that_fail_end_alone_those_encoded_with_them(
    opened: OpenedSeq2Seq, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, backend = queue_of(opened)
    requests = [queue.submit(source, opened.generation) for source in ([9, 2], [5])]
    monkeypatch.setattr(backend, "encode", lambda sources: backend.missing)  # type: ignore[attr-defined]
    with pytest.raises(AttributeError):
        queue.step()
    assert all(request.is_over for request in requests)
    assert queue.is_idle
    assert backend.kept == (0, 0)


def test_searches_that_are_due_go_first(opened: OpenedSeq2Seq) -> None:
    queue, _ = queue_of(opened, SMALL)
    slow, due = (queue.request(source, opened.generation) for source in SOURCES[:2])
    due.due_s = 1.0
    for request in (slow, due):
        queue.add(request)
    while not due.is_over:
        assert queue.step(promised_only=True).requests == [due, due][: 1 + (due.steps == 1)]
    assert slow.steps == 0
    queue.step(promised_only=True)
    assert slow.steps == 0
    while not queue.is_idle:
        queue.step()
    assert slow.result == found(queue_of(opened)[0], SOURCES[:1], opened.generation)[0]


def test_requests_that_do_not_fit_are_refused(opened: OpenedSeq2Seq) -> None:
    queue, _ = queue_of(opened, SMALL)
    with pytest.raises(PromptTooLongError, match="9 tokens"):
        queue.submit([5] * 9, opened.generation)
    with pytest.raises(RequestError, match="at least one"):
        queue.submit([], opened.generation)
    with pytest.raises(RequestError, match="num_beams"):
        queue.submit([5], dataclasses.replace(opened.generation, num_beams=7))
    with pytest.raises(RequestError, match="max_length"):
        queue.submit([5], dataclasses.replace(opened.generation, max_length=21))
    with pytest.raises(RequestError, match="source token ids"):
        queue.submit([VOCAB], opened.generation)
    with pytest.raises(FieldError, match="prefix"):
        queue.submit([5], dataclasses.replace(opened.generation, prefix=(VOCAB,)))
    assert queue.is_idle
