"""Voice activity: which stretches of a recording may hold speech.

Owns a gate on the energy between 300 and 3,400 Hz over the noise around it: speech rises and falls within seconds,
silence and steady noise do not. Music rises too, and is left to the model's own thresholds. The gate prefers to let
sound through: what it takes out is never heard. WebRTC's detector (webrtcvad) calls white noise of -20 dB speech, in
all frames and modes; this gate none of them. Knows no models. Invariant: a frame's answer depends on the samples around
it, never on how they came. Method: minimum statistics (Martin 2001), without its model of speech.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from miaotui.speech.transcript import SAMPLE_RATE, Samples

FRAME = 480  # samples: 30 ms
FRAME_S = FRAME / SAMPLE_RATE
LOW_HZ, HIGH_HZ = 300, 3400
LEAST_DB = -72.0  # of full scale within the band: below is silence, whatever surrounds it
RISE_DB = 4.0  # over the noise
NOISE_S = 6.0  # the noise is the least smoothed energy within so many seconds
SMOOTHED = 5  # frames
LEAST_FRAMES = 3  # of one sound; a click is shorter
_FFT = 512
_BLOCK = 1 << 12  # frames whose spectra are in memory at once

Span = tuple[int, int]  # of samples: first, and behind the last


@dataclass(frozen=True)
class ActivityOptions:
    """Rules that join stretches: pauses shorter than ``pause_s`` stay, and ``pad_s`` is kept around speech."""

    pause_s: float = 2.0
    pad_s: float = 0.4


def speech_spans(samples: Samples, options: ActivityOptions | None = None) -> list[Span]:
    """Return the stretches of samples ``(n,)`` that may hold speech, in order, apart from one another."""
    options = options or ActivityOptions()
    pad, pause = round(options.pad_s * SAMPLE_RATE), round(options.pause_s * SAMPLE_RATE)
    spans: list[Span] = []
    for first, end in _runs(active_frames(band_energy_db(samples))):
        start, stop = max(0, first * FRAME - pad), min(len(samples), end * FRAME + pad)
        if spans and start <= spans[-1][1] + max(pause - 2 * pad, 0):
            spans[-1] = spans[-1][0], stop
        else:
            spans.append((start, stop))
    return _without_short_rests(spans, len(samples), pause)


def band_energy_db(samples: Samples) -> NDArray[np.float32]:
    """Return the energy of each frame within the band, decibels of full scale; a last part is measured with its past.

    Padded with zeros it would be softer than the noise around it.
    """
    if len(samples) < FRAME:
        samples = np.pad(samples, (0, FRAME - len(samples))) if len(samples) else samples
    whole = len(samples) // FRAME
    frames = samples[: whole * FRAME].reshape(-1, FRAME)
    energies = [_energies_db(frames[first : first + _BLOCK]) for first in range(0, whole, _BLOCK)]
    if len(samples) > whole * FRAME:
        energies.append(_energies_db(samples[None, -FRAME:]))
    found: NDArray[np.float32] = np.concatenate([np.empty(0, np.float32), *energies])
    return found


def _energies_db(frames: NDArray[np.float32]) -> NDArray[np.float32]:
    spectra = np.fft.rfft(frames * _window(), _FFT, axis=1)[:, _band()]
    power = (spectra.real**2 + spectra.imag**2).sum(axis=1) * (2 / (_FFT * float((_window() ** 2).sum())))
    decibels: NDArray[np.float32] = (10 * np.log10(power + 1e-12)).astype(np.float32)
    return decibels


def active_frames(energies_db: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return which frames stand above the noise within `NOISE_S` before and after them."""
    reach = round(NOISE_S / FRAME_S)
    noise = _least_around(_mean_around(energies_db, SMOOTHED), reach)
    active: NDArray[np.bool_] = energies_db > np.maximum(noise + RISE_DB, LEAST_DB)
    return active


class VoicedSamples:
    """A recording without its long silences, and the way back to its times.

    ``samples`` are those of all spans, one behind another; where a span covers the recording they are its own.
    """

    def __init__(self, samples: Samples, spans: Sequence[Span]) -> None:
        self.spans = tuple(spans)
        self.is_whole = self.spans == ((0, len(samples)),)
        parts = [samples[start:stop] for start, stop in self.spans]
        self.samples = samples if self.is_whole else np.concatenate([samples[:0], *parts])
        lengths = [stop - start for start, stop in self.spans]
        self._starts = np.cumsum([0, *lengths])[:-1] / SAMPLE_RATE  # seconds, of the spans one behind another
        self._shifts = np.array([start for start, _ in self.spans]) / SAMPLE_RATE - self._starts

    def time_of(self, seconds: float, *, is_end: bool = False) -> float:
        """Return the recording's time for a time of `samples`; where two spans meet, an end is the first one's."""
        if self.is_whole or not self.spans:
            return seconds
        place = int(np.searchsorted(self._starts, seconds - 1e-6 if is_end else seconds + 1e-6, "right")) - 1
        return float(seconds + self._shifts[max(place, 0)])


def _without_short_rests(spans: list[Span], n: int, pause: int) -> list[Span]:
    """Return spans that reach the recording's ends where what lies beyond them is shorter than a pause."""
    if spans and spans[0][0] < pause:
        spans[0] = 0, spans[0][1]
    if spans and n - spans[-1][1] < pause:
        spans[-1] = spans[-1][0], n
    return spans


def _runs(active: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Yield the first frame of each run of active ones, and the one behind its last; clicks are left out."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], active, [False])).astype(np.int8)))
    for first, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        if end - first >= LEAST_FRAMES:
            yield first, end


def _mean_around(values: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """Return running means of ``width`` values, repeated at the ends."""
    if not len(values):
        return values
    padded = np.pad(values, width // 2, mode="edge")
    means: NDArray[np.float32] = np.lib.stride_tricks.sliding_window_view(padded, width).mean(axis=1, dtype=np.float32)
    return means


def _least_around(values: NDArray[np.float32], reach: int) -> NDArray[np.float32]:
    """Return the least value within ``reach`` before and after each: a minimum over blocks, forwards and backwards."""
    if not len(values):
        return values
    width = 2 * reach + 1
    n = len(values) + 2 * reach
    padded = np.full(-(-n // width) * width, np.inf, np.float32)
    padded[reach : reach + len(values)] = values
    blocks = padded.reshape(-1, width)
    before = np.minimum.accumulate(blocks, axis=1).reshape(-1)
    after = np.minimum.accumulate(blocks[:, ::-1], axis=1)[:, ::-1].reshape(-1)
    least: NDArray[np.float32] = np.minimum(after[: len(values)], before[width - 1 : width - 1 + len(values)])
    return least


@cache
def _window() -> NDArray[np.float32]:
    window: NDArray[np.float32] = np.hanning(FRAME).astype(np.float32)
    return window


@cache
def _band() -> slice:
    return slice(-(-LOW_HZ * _FFT // SAMPLE_RATE), HIGH_HZ * _FFT // SAMPLE_RATE + 1)
