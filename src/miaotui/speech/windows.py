"""The windows of a recording, one after another: each begins where the last segment before it ends.

Owns how far a window moves on, and the text that stands before the next one. Knows no threads: `next_window` says which
frames are to be heard, `hear` takes the result in. Invariant: every window moves on, so a recording ends. Source:
openai/whisper, ``transcribe.py``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from miaotui.engine.speech.loaded import SpeechText
from miaotui.engine.speech.segments import WindowCut, cut_window
from miaotui.engine.speech.window import LADDER, HeardWindow, WindowSettings
from miaotui.speech.log_mel import FRAMES_A_SECOND, HOP_SAMPLES, Frames, log_mel, window
from miaotui.speech.transcript import Samples, Segment, SpokenWord, TranscriptionOptions
from miaotui.speech.words import spoken_words, timed_words

RESET_TEMPERATURE = 0.5  # above it a text is not trusted enough to stand before the next window


class WindowRequest(NamedTuple):
    """Frames of a window ``[frames, mel bins]``, and how its text is searched for."""

    frames: Frames
    settings: WindowSettings


class RecordingWindows:
    """Windows of one recording. Raises `FieldError` for a language or task that the model lacks."""

    def __init__(self, model: SpeechText, samples: Samples, options: TranscriptionOptions) -> None:
        self._model, self._options = model, options
        tokens = model.tokenizer.tokens
        self.language = tokens.language_code(options.language) if options.language else ""
        self._language = tokens.languages.get(self.language)
        tokens.task(options.task)
        self.count = len(samples) // HOP_SAMPLES  # frames of the recording
        self._frames = log_mel(samples, model.config.mel_bins)
        prompt = options.prompt.strip()
        self._written = model.tokenizer.encode(f" {prompt}") if prompt else []
        self._seek = self._given_ids = 0
        self._spoken_until_s = 0.0

    @property
    def seek(self) -> int:
        """Return the frame at which the next window begins."""
        return self._seek

    @property
    def size(self) -> int:
        """Return the frames of the window that are of the recording."""
        return min(self._model.window_frames, self.count - self._seek)

    def next_window(self) -> WindowRequest | None:
        """Return the next window; None when the recording is over."""
        if self._seek >= self.count:
            return None
        model, options, most = self._model, self._options, self._model.config.decoder.max_tokens
        settings = WindowSettings(
            tokens=model.tokenizer.tokens,
            text=model.tokenizer.decode,
            frames=self.size,
            max_length=most,
            prompt=tuple(self._written[-(most // 2 - 1) :]),
            language=self._language,
            task=options.task,
            temperatures=(options.temperature,) if options.temperature else LADDER,
            beam_size=options.beam_size,
            seed=options.seed,
            aligned=model.alignment_heads if options.word_times else (),
        )
        frames = window(self._frames[: self._seek + self.size], self._seek, model.window_frames)
        return WindowRequest(frames, settings)

    def hear(self, heard: HeardWindow) -> list[Segment]:
        """Take the text of the window in, and move on. Returns its segments."""
        tokens, seek, size = self._model.tokenizer.tokens, self._seek, self.size
        if self._language is None:
            self._language, self.language = heard.language, self.language or tokens.code_of(heard.language)
        if heard.is_silent:
            self._seek += size
            return []
        cut = cut_window(heard.tokens, size, tokens)
        self._seek += cut.advance
        found = [each for each in self._segments(heard, cut, seek, size) if each.text.strip()]
        ends = [each.words[-1].end_s for each in found if each.words]
        if ends:
            self._spoken_until_s = ends[-1]
            spoken = round(ends[-1] * FRAMES_A_SECOND)
            if not cut.ends_in_silence and seek < spoken < seek + size:
                self._seek = spoken
        self._written += [token for each in found for token in each.tokens]
        if heard.temperature > RESET_TEMPERATURE:
            self._written = []
        self._given_ids += len(found)
        return found

    def _segments(self, heard: HeardWindow, cut: WindowCut, seek: int, size: int) -> list[Segment]:
        """Return the segments of a window; parts without length are none."""
        decode, end = self._model.tokenizer.decode, self._model.tokenizer.tokens.end
        window_s = seek / FRAMES_A_SECOND
        spoken = [[token for token in part.tokens if token < end] for part in cut.parts]
        words: list[tuple[SpokenWord, ...]] = [()] * len(spoken)
        if heard.alignment is not None:
            text = [token for part in spoken for token in part]
            timed = timed_words(heard.alignment, text, size // 2, self._model.tokenizer, self.language)
            words = spoken_words(timed, [len(part) for part in spoken], window_s, self._spoken_until_s)
        whole = Segment(
            id=self._given_ids,
            seek=seek,
            start_s=0.0,
            end_s=0.0,
            text="",
            tokens=(),
            temperature=heard.temperature,
            avg_logprob=heard.avg_logprob,
            compression_ratio=heard.compression_ratio,
            no_speech_prob=heard.no_speech_prob,
        )
        found: list[Segment] = []
        for part, own in zip(cut.parts, words, strict=True):
            start_s, end_s = window_s + part.start_s, window_s + part.end_s
            if start_s == end_s or not decode(part.tokens).strip():
                continue
            start_s, end_s = (own[0].start_s, own[-1].end_s) if own else (start_s, end_s)
            found.append(
                replace(
                    whole,
                    id=self._given_ids + len(found),
                    start_s=round(start_s, 3),
                    end_s=round(end_s, 3),
                    text=decode(part.tokens),
                    tokens=part.tokens,
                    words=own,
                )
            )
        return found
