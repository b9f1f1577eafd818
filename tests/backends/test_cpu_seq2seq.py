"""Compiled encoder-decoders: held to the oracle for every family, and the same bytes whatever shares a pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from marian_files import marian_binary_folder
from miaotui.backends.cpu.seq2seq.backend import CpuSeq2Seq
from miaotui.backends.cpu.seq2seq.build import build_seq2seq, seq2seq_limits
from miaotui.backends.cpu.seq2seq.stack import require_runnable_seq2seq
from miaotui.backends.reference.seq2seq import ReferenceSeq2Seq
from miaotui.backends.seq2seq_backend import NO_PREFIX, Seq2SeqBackend, Seq2SeqLimits, TargetRow
from miaotui.config import Settings
from miaotui.engine.search.search import FoundTarget
from miaotui.engine.seq2seq.searches import SearchQueue
from miaotui.errors import RequestError, UnsupportedModelError
from miaotui.kernels.linear.formats import Format
from miaotui.kernels.runtime.thread_pool import shared_pool
from miaotui.model.seq2seq.generation import GenerationSettings
from miaotui.model.seq2seq.opened import OpenedSeq2Seq, open_seq2seq
from tiny_seq2seq import LEAST_COSINE, VARIANTS, VOCAB, cosines, tiny_folder

Floats = NDArray[np.float32]
SSRU = "marian-ssru"  # with a recurrent decoder, from Marian's own files
EVERY = (*VARIANTS, SSRU)
SIZES = (5, 1, 33, 16, 8, 17)
STEPS = 6


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("seq2seq")


def opened(home: Path, variant: str) -> OpenedSeq2Seq:
    folder = home / variant
    made = marian_binary_folder if variant == SSRU else partial(tiny_folder, variant=variant)
    return open_seq2seq(folder if folder.exists() else made(folder))


def built(
    home: Path, variant: str, form: Format = Format.Q8, threads: int = 1, limits: Seq2SeqLimits | None = None
) -> CpuSeq2Seq:
    model, settings = opened(home, variant), replace(Settings.from_env(), cache_dir=home)
    limits = limits or replace(seq2seq_limits(model.config), kept_rows=256)
    return build_seq2seq(model, settings, form=form, pool=shared_pool(threads), limits=limits)


def sources_of(sizes: Sequence[int] = SIZES) -> list[list[int]]:
    rng = np.random.default_rng(4)
    return [rng.integers(2, VOCAB, size).tolist() for size in sizes]


def targets_of(count: int, steps: int = STEPS) -> NDArray[np.int64]:
    return np.random.default_rng(5).integers(2, VOCAB, (count, steps))


def scores_of(backend: Seq2SeqBackend, sources: list[list[int]], targets: NDArray[np.int64]) -> Floats:
    """Log-probabilities behind each target's tokens, ``[targets, steps, vocab]``; all share their passes."""
    numbers = backend.encode(sources)
    prefixes, found = [NO_PREFIX] * len(sources), []
    for tokens in targets.T.tolist():
        rows = [TargetRow(*each) for each in zip(numbers, prefixes, tokens, strict=True)]
        outcome = backend.run(rows)
        found.append(np.stack([outcome.scores.all(row) for row in range(len(rows))]))
        backend.release([prefix for prefix in prefixes if prefix != NO_PREFIX])
        prefixes = outcome.prefixes
    backend.release(prefixes, numbers)
    return np.stack(found, axis=1)


@pytest.mark.parametrize("form", LEAST_COSINE, ids=lambda form: form.value)
@pytest.mark.parametrize("variant", EVERY)
def test_scores_are_the_oracles(home: Path, variant: str, form: Format) -> None:
    model, sources, targets = opened(home, variant), sources_of(), targets_of(len(SIZES))
    targets[2, 1] = max(model.config.unplaced_token, 1)
    expected = scores_of(ReferenceSeq2Seq(model.config, model.weights), sources, targets)
    backend = built(home, variant, form)
    found = scores_of(backend, sources, targets)
    if form is Format.F32:
        np.testing.assert_allclose(found, expected, atol=1e-3)
    assert np.median(cosines(found, expected)) >= LEAST_COSINE[form]
    assert backend.kept == (0, 0)
    assert backend.free_rows == backend.limits.kept_rows


@pytest.mark.parametrize("form", LEAST_COSINE, ids=lambda form: form.value)
@pytest.mark.parametrize("variant", ["flan-t5", "bart", "m2m100", SSRU])
def test_a_target_has_the_same_bytes_alone_and_among_others(home: Path, variant: str, form: Format) -> None:
    sources, targets = sources_of(), targets_of(len(SIZES))
    alone = built(home, variant, form)
    expected = [scores_of(alone, [source], target[None])[0] for source, target in zip(sources, targets, strict=True)]
    for threads in (1, 2, 3):
        backend = built(home, variant, form, threads)
        for order in ([0, 1, 2, 3, 4, 5], [4, 2, 0, 5, 3, 1], [1, 1, 1, 4, 4, 2]):
            found = scores_of(backend, [sources[i] for i in order], targets[order])
            for index, scores in zip(order, found, strict=True):
                np.testing.assert_array_equal(scores, expected[index])


@pytest.mark.parametrize("variant", ["bart", SSRU])
def test_beams_share_their_prefix_and_leave_it_unchanged(home: Path, variant: str) -> None:
    backend, source, targets = built(home, variant), sources_of()[:1], targets_of(30, 3)
    targets[:, :2] = targets[0, :2]
    expected = [scores_of(backend, source, target[None])[0, 2] for target in targets]
    (number,) = backend.encode(source)
    prefix = NO_PREFIX
    for token in targets[0, :2].tolist():
        prefix = backend.run([TargetRow(number, prefix, token)]).prefixes[0]
    outcome = backend.run([TargetRow(number, prefix, token) for token in targets[:, 2].tolist()])
    assert backend.kept == (1, 32)
    for row, scores in enumerate(expected):
        np.testing.assert_array_equal(outcome.scores.all(row), scores)
    backend.release([*outcome.prefixes, prefix], [number])


def test_rows_of_one_target_may_share_a_pass_of_the_recurrent_unit(home: Path) -> None:
    backend, sources, targets = built(home, SSRU), sources_of((7, 20)), targets_of(2, 5)
    expected = scores_of(backend, sources, targets)
    numbers = backend.encode(sources)
    rows = [
        TargetRow(n, NO_PREFIX, int(t[4]), 1, tuple(map(int, t[:4]))) for n, t in zip(numbers, targets, strict=True)
    ]
    outcome = backend.run(rows)
    for row in range(2):
        np.testing.assert_array_equal(outcome.scores.all(row), expected[row, 4])
    backend.release(outcome.prefixes, numbers)


def test_the_best_tokens_are_those_of_all(home: Path) -> None:
    backend = built(home, "marian")
    numbers = backend.encode(sources_of((7, 20)))
    wanted = [3, 0, 64, 100]
    rows = [TargetRow(numbers[i % 2], NO_PREFIX, 5 + i, count) for i, count in enumerate(wanted)]
    scores = backend.run(rows).scores
    for row in (0, 2, 3):
        everything = scores.all(row)
        best = scores.best(row, wanted[row])
        order = np.argsort(-everything, kind="stable")[: wanted[row]]
        assert best.tokens.tolist() == order.tolist()
        np.testing.assert_allclose(best.scores, everything[order], atol=1e-5)


def found(queue: SearchQueue, sources: list[list[int]], settings: GenerationSettings) -> list[FoundTarget | None]:
    """Targets of sources whose searches share passes."""
    requests = [queue.submit(source, settings) for source in sources]
    while not queue.is_idle:
        queue.step()
    return [request.result for request in requests]


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("variant", EVERY)
def test_searches_find_the_tokens_of_the_oracle(home: Path, variant: str, beams: int) -> None:
    model, sources = opened(home, variant), sources_of((3, 9, 30, 17, 1, 12))
    settings = replace(model.generation, num_beams=beams, max_length=14, no_repeat_ngram_size=3)
    plain = ReferenceSeq2Seq(model.config, model.weights)
    expected = found(SearchQueue(plain, VOCAB), sources, settings)
    backend = built(home, variant, Format.F32)
    mine = found(SearchQueue(backend, VOCAB), sources, settings)
    assert [each and each.tokens for each in mine] == [each and each.tokens for each in expected]
    assert backend.kept == (0, 0)


def test_a_search_that_has_no_room_begins_again_and_finds_what_it_would(home: Path) -> None:
    sources = sources_of((5, 3, 8))
    settings = replace(opened(home, "bart").generation, num_beams=3, max_length=9, min_length=9)
    roomy = built(home, "bart")
    expected = [found(SearchQueue(roomy, VOCAB), [source], settings)[0] for source in sources]
    backend = built(home, "bart", limits=Seq2SeqLimits(20, 60, 20, 9, 3, kept_rows=28))
    queue = SearchQueue(backend, VOCAB)
    requests = [queue.submit(source, settings) for source in sources]
    encoded = 0
    while not queue.is_idle:
        encoded += queue.step().source_rows
    assert [request.result for request in requests] == expected
    assert encoded > sum(map(len, sources))  # one at least began again
    assert backend.kept == (0, 0)


def test_what_does_not_fit_is_refused(home: Path) -> None:
    limits = Seq2SeqLimits(source_tokens=20, source_rows=40, target_tokens=3, target_rows=4, sources=3, kept_rows=6)
    backend = built(home, "bart", limits=limits)
    assert backend.fitting([20, 20, 1, 1]) == 2
    for wrong, words in (([[5] * 21], "1 to 20 fit"), ([[]], "1 to 20"), ([[VOCAB]], "source token ids")):
        with pytest.raises(RequestError, match=words):
            backend.encode(wrong)
    with pytest.raises(RequestError, match="share them out"):
        backend.encode([[5]] * 4)
    (number,) = backend.encode([[5, 6]])
    assert backend.fitting([1, 1, 1]) == 2
    first = backend.run([TargetRow(number, NO_PREFIX, 5)]).prefixes[0]
    with pytest.raises(RequestError, match="1 to 4 target rows"):
        backend.run([TargetRow(number, NO_PREFIX, 5)] * 5)
    with pytest.raises(RequestError, match="target token ids"):
        backend.run([TargetRow(number, NO_PREFIX, VOCAB)])
    second = backend.run([TargetRow(number, first, 6)] * 3).prefixes
    third = backend.run([TargetRow(number, second[0], 6)]).prefixes[0]
    with pytest.raises(RequestError, match="at most 3"):
        backend.run([TargetRow(number, third, 6)])
    with pytest.raises(RequestError, match="release rows"):
        backend.run([TargetRow(number, first, 6)] * 3)
    backend.release([first, *second, third], [number])
    assert backend.kept == (0, 0)


def test_models_that_the_kernels_cannot_run_are_refused(home: Path) -> None:
    config = opened(home, "flan-t5").config
    with pytest.raises(UnsupportedModelError, match="no gated tanh"):
        require_runnable_seq2seq(replace(config, activation="tanh"))
    stack = replace(config.decoder, norm_at_end=False)
    with pytest.raises(UnsupportedModelError, match="reference"):
        require_runnable_seq2seq(replace(config, decoder=stack))
    with pytest.raises(UnsupportedModelError, match="scales logits"):
        require_runnable_seq2seq(replace(config, norm_first=False, logit_scale=0.5, decoder=stack))
