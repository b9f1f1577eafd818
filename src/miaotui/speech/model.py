"""The Python entry of speech recognition: `load_speech`, then `SpeechModel.transcribe`.

Owns the calls and the deadline of a recording: it counts the windows that are left. `speech.windows` says what is heard
next, a `HearingLoop` computes it. Invariant: when a call returns or raises, or a stream is closed, its work has ended.
"""

from __future__ import annotations

import os
import time
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np

from miaotui.backends.build_seq2seq import Seq2SeqOptions
from miaotui.closing import Closing, LoopHolder
from miaotui.engine.jobs.job import PromisedJob
from miaotui.engine.speech.loaded import HearingLoop, SpeechText
from miaotui.engine.speech.window import HeardWindow
from miaotui.errors import DeadlineUnattainableError, RequestError
from miaotui.runtime import open_speech_model
from miaotui.speech.audio import read_audio
from miaotui.speech.log_mel import FRAMES_A_SECOND
from miaotui.speech.recordings import Recording
from miaotui.speech.transcript import SAMPLE_RATE, Samples, Segment, Transcript, TranscriptionOptions, fitting_s
from miaotui.speech.windows import RecordingWindows
from miaotui.types import Deadline, Progress

LEAST_SHARE_S = 0.001  # of a deadline, for a window that is late already


def load_speech(
    model: str | os.PathLike[str],
    *,
    format: str | None = None,
    threads: int | None = None,
    backend: str = "cpu",
    progress: Progress | None = None,
) -> SpeechModel:
    """Load a speech model by catalog name, folder or repository id.

    ``format`` (``q8``, ``q4``, ``f32``) packs weights that are stored as floats; ``backend`` is ``cpu`` or
    ``reference``. Raises a `MiaotuiError`.
    """
    options = Seq2SeqOptions(backend=backend, format=format or "q8", threads=threads)
    return SpeechModel(open_speech_model(model, options, progress=progress), owns_loop=True)


class SpeechFacade(LoopHolder[HearingLoop]):
    """A `Recogniser` over one loop: base of `SpeechModel` and `AsyncSpeechModel`."""

    @property
    def model(self) -> SpeechText:
        """Return the model's parts. Raises `EngineError` when the model is closed."""
        return self.loop.model

    @property
    def name(self) -> str:
        """Return the model's name."""
        return self.model.name

    @property
    def languages(self) -> tuple[str, ...]:
        """Return the codes of the languages that it knows."""
        return self.model.tokenizer.tokens.language_codes

    def segments(self, samples: Samples, options: TranscriptionOptions) -> WindowSegments:
        """Return the segments of samples ``(n,)``, each window's when it is done.

        Raises `FieldError` for a language or task that the model lacks, and `DeadlineUnattainableError`.
        """
        windows = RecordingWindows(self.model, samples, options)
        self.require_time(len(samples) / SAMPLE_RATE, options)
        return WindowSegments(self.loop, windows, options)

    def predicted_s(self, duration_s: float, options: TranscriptionOptions) -> float:
        """Return the seconds that a recording of ``duration_s`` seconds would take now, behind what waits."""
        return self.loop.ahead_s() + self.work_s(duration_s, options)

    def work_s(self, duration_s: float, options: TranscriptionOptions) -> float:
        """Return the seconds that it would take if nothing else were computed."""
        return self.loop.sound.sound_s(duration_s, options.beam_size)

    def require_time(self, duration_s: float, options: TranscriptionOptions) -> None:
        """Raise `DeadlineUnattainableError`, which says what would fit, for a recording that would take too long."""
        limit_s = options.deadline_s
        if limit_s is None:
            return
        needed_s = self.predicted_s(duration_s, options)
        if needed_s <= limit_s:
            return
        fits_s = fitting_s(lambda s: self.predicted_s(s, options), limit_s, duration_s)
        hint = f"about {fits_s:.0f} s of sound would fit" if fits_s else "no sound would fit"
        raise DeadlineUnattainableError(
            f"a recording of {duration_s:.0f} s would take {needed_s:.1f} s, and deadline_s allows {limit_s:g}: "
            f"{hint}; allow more, or send less",
            retry_after_s=max(self.loop.ahead_s(), 0.05),
            predicted_ms=needed_s * 1e3,
        )


class SpeechModel(Closing, SpeechFacade):
    """A loaded speech model, for any number of threads at once.

    Close it, or use it in a ``with`` block, to give its memory back.
    """

    def transcribe(
        self, sound: str | Path | bytes | Samples, options: TranscriptionOptions | None = None, **fields: Any
    ) -> Transcript:
        """Return the transcript of a file, its bytes, or samples ``(n,)`` at 16 kHz.

        Long silence does not reach the model. ``fields`` are those of `TranscriptionOptions`. Raises `RequestError` for
        sound that cannot be read and wrong options, and `DeadlineUnattainableError`.
        """
        wanted = options_of(options, fields)
        return Recording(samples_of(sound)).transcribe(self, wanted)

    def close(self) -> None:
        """Give the memory back. Closing twice does nothing."""
        self._close()


class WindowSegments:
    """The segments of a recording, window by window: a `SegmentStream`."""

    def __init__(self, loop: HearingLoop, windows: RecordingWindows, options: TranscriptionOptions) -> None:
        self._loop, self._windows, self._limit_s = loop, windows, options.deadline_s
        self._beams = options.beam_size
        self._start_s = time.perf_counter()
        self._alone: tuple[float, float] | None = None  # when a window began by itself, and its seconds of sound
        self._ready: deque[Segment] = deque()
        self._job: PromisedJob | None = None
        self._is_closed = False

    @property
    def language(self) -> str:
        """Return the code of the recording's language; empty until a window was heard."""
        return self._windows.language

    def __iter__(self) -> WindowSegments:
        """Return itself."""
        return self

    def __next__(self) -> Segment:
        """Return the next segment, when its window is done. Raises what the window failed with."""
        while not self._ready:
            job = self.submit()
            if job is None:
                raise StopIteration
            try:
                self.take(job)
            finally:
                job.cancel()
        return self._ready.popleft()

    def submit(self) -> PromisedJob | None:
        """Submit the next window; None at the end. Raises `OverloadedError`."""
        start_s, is_alone = time.perf_counter(), not self._loop.in_flight
        request = None if self._is_closed else self._windows.next_window()
        if request is None:
            return None
        self._alone = (start_s, self._windows.size / FRAMES_A_SECOND) if is_alone else None
        self._job = self._loop.submit([(request.frames, request.settings)], self._deadline())
        return self._job

    def take(self, job: PromisedJob) -> None:
        """Wait for a window and keep its segments. Raises what it failed with."""
        (found,) = job.future.result()
        heard = found.details
        assert isinstance(heard, HeardWindow)
        self._loop.sound.learn_sound(heard)
        if self._alone is not None:
            start_s, sound_s = self._alone
            self._loop.sound.learn_time(sound_s, self._beams, time.perf_counter() - start_s)
        self._ready += self._windows.hear(heard)

    def close(self) -> None:
        """Cancel what is not done yet."""
        self._is_closed = True
        if self._job is not None:
            self._job.cancel()

    def _deadline(self) -> Deadline | None:
        """Return the deadline of the next window: what is left, by its share of what is left to be heard."""
        if self._limit_s is None:
            return None
        left_s = self._limit_s - (time.perf_counter() - self._start_s)
        frames = self._windows.count - self._windows.seek
        share_s = left_s * min(1.0, self._loop.model.window_frames / max(frames, 1))
        return Deadline(1e3 * max(share_s, LEAST_SHARE_S), on_late="best_effort")


def options_of(options: TranscriptionOptions | None, fields: dict[str, Any]) -> TranscriptionOptions:
    """Return the options of a call. Raises `RequestError`."""
    if options is not None and fields:
        raise RequestError("give options, or its fields by name, not both")
    try:
        return options or TranscriptionOptions(**fields)
    except TypeError as error:
        raise RequestError(f"transcribe: {str(error).rpartition(') ')[2]}: see TranscriptionOptions") from error


def samples_of(sound: str | Path | bytes | Samples) -> Samples:
    """Return the samples of a file, its bytes, or samples as they are. Raises `RequestError`."""
    if not isinstance(sound, np.ndarray):
        return read_audio(sound)
    if sound.ndim != 1 or not np.issubdtype(sound.dtype, np.floating):
        raise RequestError(
            f"samples are floats (n,) in [-1, 1] at {SAMPLE_RATE:,} a second, not {sound.dtype} {sound.shape}"
        )
    return np.nan_to_num(sound.astype(np.float32, copy=False))
