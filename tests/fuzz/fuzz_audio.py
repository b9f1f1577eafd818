"""Coverage-guided fuzzing of the reader of recordings, with atheris (libFuzzer).

Run ``python tests/fuzz/fuzz_audio.py -max_total_time=60``; other options are libFuzzer's. An input that leads to
anything but samples within their bounds or an `AudioError` is written to ``crash-*`` and ends the run. FFmpeg's own
code is not instrumented: its faults are found, but not searched for.
"""

from __future__ import annotations

import atheris
import numpy as np
from fuzzing import fuzz

with atheris.instrument_imports(include=["miaotui"]):
    from miaotui.errors import AudioError
    from miaotui.speech.audio import AudioLimits, read_audio
    from miaotui.speech.transcript import SAMPLE_RATE

from sound_files import FORMS, HOSTILE, encoded, endless_wav, tone

LIMITS = AudioLimits(max_s=600)


def test_one_input(content: bytes) -> None:
    """libFuzzer's entry: only an `AudioError` may come out of the reader."""
    try:
        samples = read_audio(content, LIMITS)
    except AudioError:
        return
    assert samples.dtype == np.float32
    assert 0 < len(samples) <= LIMITS.max_s * SAMPLE_RATE
    assert np.abs(samples).max() <= 1


def seeds() -> list[bytes]:
    """A short tone in every form, and files that lie."""
    short = [encoded(form, tone(0.1)) for form in FORMS]
    return [*short, endless_wav(tone(0.05, 16_000), 16_000), *(make() for make in HOSTILE.values())]


if __name__ == "__main__":
    fuzz(test_one_input, seeds(), memory_mib=1024)
