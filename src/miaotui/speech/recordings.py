"""The way of a whole recording through a model: voice activity, windows, times of the recording, script.

Owns the order of these steps, for the command line, Python and the server alike. Knows neither files nor HTTP; the
model is a `Recogniser`. Invariants: a recording without long silence reaches the model as it is; one without speech
has no windows, and no words; times are those of the recording.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from miaotui.speech.activity import VoicedSamples, speech_spans
from miaotui.speech.scripts import CHINESE, segment_in_script
from miaotui.speech.transcript import (
    SAMPLE_RATE,
    Recogniser,
    Samples,
    Segment,
    SegmentStream,
    Transcript,
    TranscriptionOptions,
)
from miaotui.text.language_names import language_subtag


class Recording:
    """The samples ``(n,)`` of a recording, and what of them reaches a model: without long silence, or all of them."""

    def __init__(self, samples: Samples, *, keep_silence: bool = False) -> None:
        spans = [(0, len(samples))] if keep_silence else speech_spans(samples)
        self.duration_s = len(samples) / SAMPLE_RATE
        self.voiced = VoicedSamples(samples, spans)

    @property
    def voiced_s(self) -> float:
        """Return the seconds that reach the model."""
        return len(self.voiced.samples) / SAMPLE_RATE

    def predicted_s(self, recogniser: Recogniser, options: TranscriptionOptions) -> float:
        """Return the seconds that the transcription would take now."""
        return recogniser.predicted_s(self.voiced_s, options) if self.voiced_s else 0.0

    def segments(self, recogniser: Recogniser, options: TranscriptionOptions) -> RecordingSegments:
        """Return the segments, each window's when it is done. Raises as the model does."""
        if not self.voiced_s:  # options are checked all the same, and no work is left that could be late
            options = replace(options, deadline_s=None)
        return RecordingSegments(recogniser.segments(self.voiced.samples, options), self.voiced, options)

    def transcribe(self, recogniser: Recogniser, options: TranscriptionOptions) -> Transcript:
        """Return the transcript. Raises as the model does."""
        stream = self.segments(recogniser, options)
        try:
            kept = tuple(stream)
            return self.transcript(recogniser, kept, stream.language)
        finally:
            stream.close()

    def transcript(self, recogniser: Recogniser, segments: Sequence[Segment], language: str) -> Transcript:
        """Return the transcript that segments of this recording make."""
        text = "".join(each.text for each in segments).strip()
        return Transcript(text, language, self.duration_s, tuple(segments), recogniser.name)


class RecordingSegments:
    """The segments of a recording, with its times, Chinese in the wanted script: a `SegmentStream` over a model's."""

    def __init__(self, stream: SegmentStream, voiced: VoicedSamples, options: TranscriptionOptions) -> None:
        self._stream, self._voiced, self._options = stream, voiced, options

    @property
    def language(self) -> str:
        """Return the code of the language; of a recording without speech the one that was given."""
        return self._stream.language or language_subtag(self._options.language)

    def __iter__(self) -> RecordingSegments:
        """Return itself."""
        return self

    def __next__(self) -> Segment:
        """Return the next segment. Raises as the model does."""
        segment = next(self._stream)
        if not self._voiced.is_whole:
            segment = _moved(segment, self._voiced)
        return segment_in_script(segment, self._options.script) if self.language == CHINESE else segment

    def close(self) -> None:
        """Cancel what is not done yet."""
        self._stream.close()


def _moved(segment: Segment, voiced: VoicedSamples) -> Segment:
    words = tuple(
        replace(word, start_s=voiced.time_of(word.start_s), end_s=voiced.time_of(word.end_s, is_end=True))
        for word in segment.words
    )
    start_s, end_s = voiced.time_of(segment.start_s), voiced.time_of(segment.end_s, is_end=True)
    seek = round(100 * voiced.time_of(segment.seek / 100))
    return replace(segment, seek=seek, start_s=start_s, end_s=end_s, words=words)
