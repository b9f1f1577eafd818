"""Whisper's encoder for `benchmarks.optimize.quantize_encoder`: matrices that can be replaced, sounds, their states.

Owns the sounds: recordings of digits and one of a speech, in windows of a few seconds. Speakers of the test say nothing
in the calibration, which is also played slower and faster. Knows no quantisation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from miaotui.model.seq2seq.opened import open_seq2seq
from miaotui.model.seq2seq.oracle import Seq2SeqOracle
from miaotui.optimize.quantization.block_grids import kinds_for
from miaotui.speech.audio import read_audio
from miaotui.speech.log_mel import log_mel

Array = NDArray[np.float32]
SPEEDS = (1.0, 0.8, 1.25)
WINDOW_FRAMES = 600
TEST_SPEAKERS = (("lucas", "theo", "yweweler"), ("george", "jackson", "nicolas"))  # by seed; the others are known


class SpeechEncoder:
    """The encoder of a model of sound; its "texts" are frames ``[n, mel bins]``."""

    def __init__(self, path: Path) -> None:
        opened = open_seq2seq(path)
        self.config = opened.config
        self.weights: dict[str, Array] = {name: opened.weights[name].float32() for name in opened.weights}
        encoder = [name for name in self.weights if name.startswith("encoder.layers.")]
        self.matrices = [n for n in encoder if self.weights[n].ndim == 2 and kinds_for(self.weights[n].shape[1])]

    def embeddings(
        self, texts: Sequence[Array], replaced: Mapping[str, Array], watch: Callable[[str, Array], None] | None = None
    ) -> Array:
        """Return the states of all rows, ``[rows, hidden]``."""
        oracle = _WatchedOracle(self.config, {**self.weights, **replaced})
        oracle.watch = watch
        return np.concatenate([oracle.encode(frames) for frames in texts])

    def sounds(self, folder: Path, seed: int = 0) -> tuple[list[Array], dict[str, list[Array]]]:
        """Return the windows to calibrate on, and those of each test; ``seed`` chooses the speakers of each."""
        speakers = TEST_SPEAKERS[seed % len(TEST_SPEAKERS)]
        digits = sorted((folder / "fsdd").glob("*.wav"))
        sides: dict[bool, list[Array]] = {True: [], False: []}
        for path in digits:
            sides[path.stem.split("_")[1] in speakers].append(np.asarray(read_audio(path), np.float32))
        known = [window for speed in SPEEDS for window in self._windows(_played(np.concatenate(sides[False]), speed))]
        clips = {"digits": np.concatenate(sides[True]), "jfk": np.asarray(read_audio(folder / "jfk.flac"), np.float32)}
        return known, {name: self._windows(samples) for name, samples in clips.items()}

    def _windows(self, samples: Array) -> list[Array]:
        frames = log_mel(samples, self.config.mel_bins)
        cut = [frames[start : start + WINDOW_FRAMES] for start in range(0, len(frames), WINDOW_FRAMES)]
        return [each[: len(each) // 2 * 2] for each in cut if len(each) > 50]


class _WatchedOracle(Seq2SeqOracle):
    watch: Callable[[str, Array], None] | None = None

    def _linear(self, x: Array, name: str) -> Array:
        if self.watch is not None:
            self.watch(name, x)
        return super()._linear(x, name)


def _played(samples: Array, speed: float) -> Array:
    places = np.arange(0, len(samples) - 1, speed)
    played: Array = np.interp(places, np.arange(len(samples)), samples).astype(np.float32)
    return played
