"""Speech in sound that comes bit by bit, such as a microphone's: where something is said begins and ends.

Owns the cut into utterances and what of the sound is kept meanwhile. Knows neither models nor connections. Invariants:
utterances follow from the samples alone, however they are handed over; no more than `MOST_S` seconds are kept. The gate
is that of `activity`, with the noise of the past alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from miaotui.speech.activity import FRAME, FRAME_S, LEAST_DB, LEAST_FRAMES, NOISE_S, RISE_DB, SMOOTHED, band_energy_db
from miaotui.speech.transcript import SAMPLE_RATE, Samples

BEFORE_S = 0.4  # kept before an utterance
AFTER_S = 0.2  # and behind it
END_S = 0.6  # of silence end an utterance
MOST_S = 28.0  # of one utterance: a window of Whisper's has 30
_CUT_S = 5.0  # a longer one is cut at the softest frame of its last seconds


@dataclass(frozen=True)
class Utterance:
    """A stretch of speech: samples ``(n,)``, and the stream's sample at which it begins."""

    first: int
    samples: Samples

    @property
    def start_s(self) -> float:
        """Return its start, in seconds of the stream."""
        return self.first / SAMPLE_RATE

    @property
    def end_s(self) -> float:
        """Return its end, in seconds of the stream."""
        return (self.first + len(self.samples)) / SAMPLE_RATE


class LiveSpeech:
    """The utterances of one stream of samples at 16 kHz."""

    def __init__(self) -> None:
        self._kept: Samples = np.empty(0, np.float32)
        self._rest: Samples = np.empty(0, np.float32)  # behind what is kept, less than a frame
        self._first = 0  # the stream's sample at which what is kept begins
        self._frames = 0  # that were looked at
        self._recent: deque[float] = deque(maxlen=SMOOTHED)
        self._noise: deque[float] = deque(maxlen=round(NOISE_S / FRAME_S))
        self._energies: deque[float] = deque(maxlen=round(_CUT_S / FRAME_S))
        self._run = 0  # active frames in a row, up to now
        self._start: int | None = None  # the stream's sample at which the open utterance begins
        self._last_active = 0  # frame
        self._free = 0  # sample from which the next utterance may begin

    @property
    def seconds(self) -> float:
        """Return the seconds of sound that have come."""
        return (self._first + len(self._kept) + len(self._rest)) / SAMPLE_RATE

    @property
    def open(self) -> Utterance | None:
        """Return what is being said, up to now; None in silence."""
        if self._start is None:
            return None
        return self._cut(self._start, self._first + len(self._kept) + len(self._rest))

    def push(self, samples: Samples) -> list[Utterance]:
        """Take samples ``(n,)``, and return the utterances that end in them."""
        samples = np.concatenate([self._rest, samples])
        if len(samples) < FRAME:  # small messages do not copy what is kept
            self._rest = samples
            return []
        self._rest = samples[:0]
        ended: list[Utterance] = []
        step = round(SAMPLE_RATE * 1.0)
        for first in range(0, len(samples), step):  # bounds what is kept, however much comes at once
            self._kept = np.concatenate([self._kept, samples[first : first + step]])
            ended += self._look()
        return ended

    def flush(self) -> list[Utterance]:
        """Return what is still open, when the stream has ended."""
        spoken = self.open
        self._start = None
        return [] if spoken is None else [spoken]

    def _look(self) -> Iterator[Utterance]:
        """Look at frames that are complete; yield the utterances that end in them."""
        start = self._frames * FRAME - self._first
        whole = (len(self._kept) - start) // FRAME * FRAME
        for energy in band_energy_db(self._kept[start : start + whole]).tolist() if whole else ():
            spoken = self._step(energy)
            if spoken is not None:
                yield spoken
        self._forget()

    def _step(self, energy_db: float) -> Utterance | None:
        frame = self._frames
        self._frames += 1
        self._recent.append(energy_db)
        self._energies.append(energy_db)
        self._noise.append(sum(self._recent) / len(self._recent))
        is_active = energy_db > max(min(self._noise) + RISE_DB, LEAST_DB)
        self._run = self._run + 1 if is_active else 0
        if self._run >= LEAST_FRAMES:
            self._last_active = frame
            if self._start is None:
                begin = (frame + 1 - self._run) * FRAME - round(BEFORE_S * SAMPLE_RATE)
                self._start = max(begin, self._free, 0)
        if self._start is None:
            return None
        if (frame - self._last_active) * FRAME_S >= END_S:
            return self._end((self._last_active + 1) * FRAME + round(AFTER_S * SAMPLE_RATE), goes_on=False)
        if self._frames * FRAME - self._start >= MOST_S * SAMPLE_RATE:
            softest = len(self._energies) - 1 - int(np.argmin(self._energies))
            return self._end((self._frames - softest) * FRAME, goes_on=True)
        return None

    def _end(self, stop: int, *, goes_on: bool) -> Utterance:
        """Return the open utterance up to a sample; the next one begins there, at once if it ``goes_on``."""
        assert self._start is not None
        spoken = self._cut(self._start, stop)
        self._start, self._free = (stop if goes_on else None), stop
        return spoken

    def _cut(self, start: int, stop: int) -> Utterance:
        first, stop = start - self._first, stop - self._first
        rest = self._rest[: max(stop - len(self._kept), 0)]
        return Utterance(start, np.concatenate([self._kept[first:stop], rest]))

    def _forget(self) -> None:
        """Drop what no utterance can need any more."""
        reach = round((BEFORE_S + END_S) * SAMPLE_RATE) + LEAST_FRAMES * FRAME
        needed = self._frames * FRAME - reach if self._start is None else self._start
        if needed > self._first:
            self._kept = self._kept[needed - self._first :]
            self._first = needed
