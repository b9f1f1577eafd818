"""Log-mel spectrograms: from samples to the frames that Whisper's encoder reads.

Knows neither files nor models. A frame is 10 ms; the spectrogram of a recording is made once and cut into windows of 30
seconds. Invariant: a frame's logarithms are bounded by the loudest of the recording, so windows are not scaled by
themselves. Source: Radford et al. 2022, section 2.2; the mel scale and its areas are those of Slaney's toolbox (1998).
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from miaotui.speech.transcript import SAMPLE_RATE, Samples

FFT_SAMPLES = 400  # 25 ms
HOP_SAMPLES = 160  # from one frame to the next one
FRAMES_A_SECOND = SAMPLE_RATE // HOP_SAMPLES
WINDOW_FRAMES = 3_000  # of an encoder's source
DYNAMIC_RANGE = 8.0  # powers of ten below the loudest
_AT_ONCE = 3_000  # frames transformed together
_KNEE_HZ, _KNEE_MEL = 1_000.0, 15.0  # below linear, above logarithmic
_STEP = np.log(6.4) / 27.0

Frames = NDArray[np.float32]


def log_mel(samples: Samples, bins: int, padding: int = HOP_SAMPLES) -> Frames:
    """Return the frames ``[(n + padding) // 160, bins]`` of samples ``(n,)``, with ``padding`` samples of silence.

    Values lie about in [-1, 1.5].
    """
    count = (len(samples) + padding) // HOP_SAMPLES
    padded = _reflected(np.asarray(samples, np.float32), padding)
    filters, taper = mel_filters(bins).T, np.hanning(FFT_SAMPLES + 1)[:-1]
    found = np.empty((count, bins), np.float32)
    for first in range(0, count, _AT_ONCE):
        last = min(first + _AT_ONCE, count)
        part = padded[first * HOP_SAMPLES : (last - 1) * HOP_SAMPLES + FFT_SAMPLES]
        cut = np.lib.stride_tricks.sliding_window_view(part, FFT_SAMPLES)[::HOP_SAMPLES]
        spectrum = np.fft.rfft(cut * taper)
        power = spectrum.real**2 + spectrum.imag**2
        found[first:last] = np.log10(np.maximum(power @ filters, 1e-10))
    loudest = found.max(initial=-10.0)
    frames: Frames = (np.maximum(found, np.float32(loudest - DYNAMIC_RANGE)) + np.float32(4)) / np.float32(4)
    return frames


def _reflected(samples: Samples, padding: int) -> Samples:
    """Return samples with silence behind them, and half a transform more at both ends, reflected; one copy."""
    half = FFT_SAMPLES // 2
    length = max(len(samples) + padding, half + 1)  # a reflection needs as many
    padded = np.zeros(length + 2 * half, np.float32)
    padded[half : half + len(samples)] = samples
    padded[:half] = padded[2 * half : half : -1]
    padded[half + length :] = padded[half + length - 2 : length - 2 : -1]
    return padded


def window(frames: Frames, seek: int, length: int = WINDOW_FRAMES) -> Frames:
    """Return ``length`` frames from ``seek`` on, with 0 behind the last one."""
    part = frames[seek : seek + length]
    return np.pad(part, ((0, length - len(part)), (0, 0)))


@functools.cache
def mel_filters(bins: int) -> NDArray[np.float64]:
    """Return triangular filters of equal area, ``[bins, 201]``, over the frequencies of a transform."""
    top = SAMPLE_RATE / 2
    edges = _hertz(np.linspace(0.0, float(_mel(np.array(top))), bins + 2))
    frequencies = np.linspace(0.0, top, FFT_SAMPLES // 2 + 1)
    widths, slopes = np.diff(edges), edges[:, None] - frequencies
    rising, falling = -slopes[:-2] / widths[:-1, None], slopes[2:] / widths[1:, None]
    filters: NDArray[np.float64] = np.maximum(0.0, np.minimum(rising, falling))
    return filters * (2.0 / (edges[2:] - edges[:-2]))[:, None]


def _mel(hertz: NDArray[np.float64]) -> NDArray[np.float64]:
    above = _KNEE_MEL + np.log(np.maximum(hertz, _KNEE_HZ) / _KNEE_HZ) / _STEP
    return np.where(hertz < _KNEE_HZ, hertz * _KNEE_MEL / _KNEE_HZ, above)


def _hertz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    above = _KNEE_HZ * np.exp(_STEP * (mel - _KNEE_MEL))
    return np.where(mel < _KNEE_MEL, mel * _KNEE_HZ / _KNEE_MEL, above)
