"""Whisper's passes: held to transformers, compiled ones to the oracle, and the same bytes however a prompt is cut."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from miaotui.backends.cpu.seq2seq.backend import CpuSeq2Seq
from miaotui.backends.cpu.seq2seq.build import build_seq2seq
from miaotui.backends.cpu.seq2seq.packed import HEAD_REST, REST, _rest
from miaotui.backends.reference.seq2seq import ReferenceSeq2Seq
from miaotui.backends.seq2seq_backend import NO_PREFIX, Seq2SeqBackend, TargetRow
from miaotui.config import Settings
from miaotui.engine.seq2seq.searches import SearchQueue
from miaotui.errors import ModelFormatError, RequestError
from miaotui.kernels.linear.formats import Format
from miaotui.kernels.linear.packed_blocks import quantize, values
from miaotui.kernels.runtime.thread_pool import shared_pool
from miaotui.model.seq2seq.opened import OpenedSeq2Seq, open_seq2seq
from miaotui.model.seq2seq.oracle import Seq2SeqOracle, TargetCache
from tiny_seq2seq import LEAST_COSINE, cosines
from tiny_whisper import (
    LANGUAGES,
    MEL_BINS,
    SOT,
    SOURCE_ROWS,
    TIMESTAMPS,
    TRANSCRIBE,
    VOCAB,
    sound_frames,
    whisper_folder,
)

Floats = NDArray[np.float32]
TOKENS = [SOT, LANGUAGES["en"], TRANSCRIBE, TIMESTAMPS, 5, 9, 60, 77, 3, TIMESTAMPS + 9]
HEADS = [(0, 1), (2, 0)]
LEAST_OF_SOUND = {Format.F32: 0.99999, Format.Q8: 0.9996}  # of the worst row: inputs of products have 13 bits


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("whisper")


@pytest.fixture(scope="module")
def model(home: Path) -> OpenedSeq2Seq:
    return open_seq2seq(whisper_folder(home / "model"))


def built(home: Path, model: OpenedSeq2Seq, form: Format, threads: int = 1) -> Seq2SeqBackend:
    settings = replace(Settings.from_env(), cache_dir=home)
    return build_seq2seq(model, settings, form=form, pool=shared_pool(threads))


def scores_behind(backend: Seq2SeqBackend, frames: list[Floats], cuts: list[int]) -> Floats:
    """Log-probabilities behind the last of each part of `TOKENS`, ``[sources, parts, vocab]``; sources share passes."""
    numbers, found = [number for each in frames for number in backend.encode([each])], []
    prefixes = [NO_PREFIX] * len(frames)
    for first, last in zip([0, *cuts], [*cuts, len(TOKENS)], strict=True):
        part = TOKENS[first:last]
        rows = [
            TargetRow(number, prefix, part[-1], 1, tuple(part[:-1]))
            for number, prefix in zip(numbers, prefixes, strict=True)
        ]
        outcome = backend.run(rows)
        found.append(np.stack([outcome.scores.all(row) for row in range(len(rows))]))
        backend.release([prefix for prefix in prefixes if prefix != NO_PREFIX])
        prefixes = outcome.prefixes
    backend.release(prefixes, numbers)
    return np.stack(found, axis=1)


ONE_BY_ONE = list(range(1, len(TOKENS)))


@pytest.mark.compare
def test_logits_are_those_of_transformers(model: OpenedSeq2Seq) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    theirs = transformers.WhisperForConditionalGeneration.from_pretrained(model.folder, attn_implementation="eager")
    (frames,) = sound_frames()
    with torch.no_grad():
        output = theirs(
            torch.from_numpy(frames.T.copy())[None], decoder_input_ids=torch.tensor([TOKENS]), output_attentions=True
        )
    oracle = Seq2SeqOracle(model.config, model.weights)
    memory = oracle.memory(oracle.encode(frames))
    logits, _ = oracle.decode(memory, TargetCache(), TOKENS)
    np.testing.assert_allclose(logits, output.logits[0].numpy(), atol=2e-4)
    scores, _ = oracle.align(memory, TOKENS, HEADS)
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares /= shares.sum(axis=-1, keepdims=True)
    for share, (layer, head) in zip(shares, HEADS, strict=True):
        np.testing.assert_allclose(share, output.cross_attentions[layer][0, head].numpy(), atol=1e-4)


@pytest.mark.parametrize("form", LEAST_COSINE, ids=lambda form: form.value)
def test_compiled_scores_and_alignments_are_the_oracles(home: Path, model: OpenedSeq2Seq, form: Format) -> None:
    plain, backend = ReferenceSeq2Seq(model.config, model.weights), built(home, model, form)
    frames = [*sound_frames(2), *sound_frames(1, 9)]
    expected, found = (scores_behind(each, frames, ONE_BY_ONE) for each in (plain, backend))
    assert cosines(found, expected).min() >= LEAST_OF_SOUND[form]
    aligned = []
    for each in (plain, backend):
        (number,) = each.encode(frames[:1])
        aligned.append(each.align(number, TOKENS, HEADS))
        each.release([], [number])
        assert each.kept == (0, 0)  # type: ignore[attr-defined]
    if form is Format.F32:
        np.testing.assert_allclose(found, expected, atol=1e-3)
        np.testing.assert_allclose(aligned[1].scores, aligned[0].scores, atol=1e-3)
    behind = aligned[1].logits - np.log(np.exp(aligned[1].logits).sum(axis=-1, keepdims=True))
    np.testing.assert_allclose(behind, found[0], atol=1e-4)


def test_the_output_matrix_is_nearly_exact(home: Path, model: OpenedSeq2Seq) -> None:
    """Its 8 bits and what they leave, in 8 bits more, hold a matrix of floats to a few parts in a hundred thousand."""
    exact = model.weights["embed"].float32()
    rest = _rest(model.weights["embed"]).float32()
    rounded = values(quantize(Format.Q8, exact)).reshape(exact.shape)
    total = rounded + values(quantize(Format.Q8, rest)).reshape(exact.shape)
    assert np.abs(rounded - exact).max() > 1e-3 * np.abs(exact).max()
    assert np.abs(total - exact).max() < 5e-5 * np.abs(exact).max()
    backend = built(home, model, Format.Q8)
    assert isinstance(backend, CpuSeq2Seq)
    assert HEAD_REST in backend.weights
    for name in ("qkv", "o", "cross_q", "cross_kv", "cross_o", "down"):
        assert f"decoder.layers.0.{name}{REST}" in backend.weights


@pytest.mark.parametrize("form", LEAST_COSINE, ids=lambda form: form.value)
def test_bytes_depend_neither_on_the_cut_of_a_prompt_nor_on_threads(
    home: Path, model: OpenedSeq2Seq, form: Format
) -> None:
    frames = [*sound_frames(2), *sound_frames(1, 9)]
    expected = scores_behind(built(home, model, form), frames, ONE_BY_ONE)
    for threads in (1, 2):
        backend = built(home, model, form, threads)
        for cuts in ([], [3], [1, 4, 5]):
            found = scores_behind(backend, frames, cuts)
            for place, end in enumerate([*cuts, len(TOKENS)]):
                np.testing.assert_array_equal(found[:, place], expected[:, end - 1])
        alone = scores_behind(backend, frames[2:], [])
        np.testing.assert_array_equal(alone[0, 0], expected[2, -1])


def test_frames_of_another_shape_are_refused(home: Path, model: OpenedSeq2Seq) -> None:
    for backend in (ReferenceSeq2Seq(model.config, model.weights), built(home, model, Format.Q8)):
        for shape in ((0, MEL_BINS), (7, MEL_BINS), (8, MEL_BINS + 1), (2 * SOURCE_ROWS + 2, MEL_BINS)):
            with pytest.raises(RequestError, match="a source of sound has"):
                backend.encode([np.zeros(shape, np.float32)])
        (number,) = backend.encode(sound_frames())
        with pytest.raises(RequestError, match="target token ids"):
            backend.run([TargetRow(number, NO_PREFIX, 1, 1, (VOCAB,))])
        with pytest.raises(RequestError):
            backend.run([TargetRow(number, NO_PREFIX, 1, 1, (1,) * 60)])
        backend.release([], [number])


def test_a_convolution_of_another_shape_is_refused(tmp_path: Path) -> None:
    folder = whisper_folder(tmp_path)
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"num_mel_bins": 16', '"num_mel_bins": 18'))
    with pytest.raises(ModelFormatError, match="conv1"):
        open_seq2seq(folder)


@pytest.mark.compare
@pytest.mark.parametrize("beams", [1, 3])
def test_targets_are_those_of_transformers(model: OpenedSeq2Seq, beams: int) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    theirs = transformers.WhisperForConditionalGeneration.from_pretrained(model.folder, attn_implementation="eager")
    settings = replace(model.generation, num_beams=beams, max_length=20)
    queue = SearchQueue(ReferenceSeq2Seq(model.config, model.weights), VOCAB)
    for frames in sound_frames(4):
        request = queue.submit(frames, settings)
        while not queue.is_idle:
            queue.step()
        assert request.result is not None
        with torch.no_grad():
            expected = transformers.GenerationMixin.generate(
                theirs,
                torch.from_numpy(frames.T.copy())[None],
                generation_config=transformers.GenerationConfig(
                    num_beams=beams,
                    max_length=20,
                    do_sample=False,
                    decoder_start_token_id=SOT,
                    bos_token_id=SOT,
                    eos_token_id=model.generation.eos_ids[0],
                    pad_token_id=model.generation.eos_ids[0],
                ),
            )
        assert list(request.result.tokens) == expected[0].tolist()[: len(request.result.tokens)]
