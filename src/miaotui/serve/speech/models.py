"""Speech models of one server, by name: in memory from its start to its end.

Owns which of them a request means, and the threads that recordings and live sound wait in. Knows no wire form.
Invariants: what waits here never takes threads from other routes, and no recording waits for another's thread: its
windows wait in the model's queue, which knows promises. How many may wait, and how much sound, is bounded.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from miaotui.errors import OverloadedError
from miaotui.serve.http.errors import ApiError, model_not_found
from miaotui.speech.audio import AudioLimits, read_audio
from miaotui.speech.recordings import Recording
from miaotui.speech.transcript import Recogniser, TranscriptionOptions

MAX_WAITING_RECORDINGS = 64
MAX_LISTENING = 64  # connections with live sound
MAX_WAITING_SOUND_S = 8 * 3600.0  # of all recordings that are here, but for the last one; at 16 kHz 1.8 GB


class RunningRecogniser(Recogniser, Protocol):
    """A recogniser with memory and threads to give back."""

    def close(self) -> None:
        """Cancel what runs and give the memory back."""


class PromisedWork(Protocol):
    """A recording that has a promise."""

    due_s: float  # `time.perf_counter`

    @property
    def left_s(self) -> float:
        """Return the predicted seconds of what is left of it."""


@dataclass(eq=False)
class ServedSpeech:
    """A speech model that runs, under the name that requests call it by."""

    name: str
    recogniser: RunningRecogniser
    created_s: int = field(default_factory=lambda: int(time.time()))
    waiting: int = 0  # recordings that are decoded or transcribed now, or wait for that
    listening: int = 0  # connections with live sound
    sound_s: float = 0.0  # of recordings that are decoded
    promised: list[PromisedWork] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.decoding = ThreadPoolExecutor(1, f"miaotui-decode-{self.name}")  # one at a time bounds memory
        self.running = ThreadPoolExecutor(MAX_WAITING_RECORDINGS, f"miaotui-speech-{self.name}")
        self.hearing = ThreadPoolExecutor(MAX_LISTENING, f"miaotui-live-{self.name}")
        self._lock = threading.Lock()  # of `sound_s`

    def require_room(self) -> None:
        """Raise `OverloadedError` where no more recordings may wait."""
        if self.waiting >= MAX_WAITING_RECORDINGS:
            raise self._overloaded()
        self.require_memory()

    def require_memory(self) -> None:
        """Raise `OverloadedError` where no more sound may be decoded."""
        if self.sound_s >= MAX_WAITING_SOUND_S:
            raise self._overloaded()

    def require_listener(self) -> None:
        """Raise `OverloadedError` where no more connections may bring live sound."""
        if self.listening >= MAX_LISTENING:
            raise OverloadedError(f"{self.listening} connections bring live sound: try again in a moment", 5.0)

    def late_s(self, due_s: float, work_s: float, now_s: float) -> float:
        """Return by how many seconds more work would break a promise, its own or another; below 0: by none.

        Work is done in the order of due times. A promise that is broken already refuses nothing.
        """
        others = [(each.due_s, False, each.left_s) for each in self.promised]
        done_s = alone_s = now_s
        worst_s = -math.inf
        for due, is_new, left_s in sorted([(due_s, True, work_s), *others]):
            done_s, alone_s = done_s + left_s, alone_s + (0.0 if is_new else left_s)
            if is_new or alone_s <= due:
                worst_s = max(worst_s, done_s - due)
        return worst_s

    @contextmanager
    def promising(self, work: PromisedWork) -> Iterator[None]:
        """Count a recording among those promised for the time of the block, if it has a due time."""
        if math.isinf(work.due_s):
            yield
            return
        self.promised.append(work)
        try:
            yield
        finally:
            self.promised.remove(work)

    def check(self, options: TranscriptionOptions) -> None:
        """Raise `FieldError` for options that the model cannot follow."""
        plain = replace(options, prompt="", deadline_s=None)  # no prompt is too long, but one takes time to encode
        self.recogniser.segments(np.zeros(0, np.float32), plain).close()

    def decode(self, content: bytes, limits: AudioLimits, *, keep_silence: bool) -> Future[Recording]:
        """Decode a recording, behind those that came before; `drop` it when it is done.

        The future raises `AudioError`, and `OverloadedError` where too much sound is here when its turn comes.
        """
        return self.decoding.submit(self._decoded, content, limits, keep_silence=keep_silence)

    def drop(self, recording: Recording) -> None:
        """Count a decoded recording no more."""
        with self._lock:
            self.sound_s -= recording.duration_s

    def _decoded(self, content: bytes, limits: AudioLimits, *, keep_silence: bool) -> Recording:
        self.require_memory()
        recording = Recording(read_audio(content, limits), keep_silence=keep_silence)
        with self._lock:
            self.sound_s += recording.duration_s
        return recording

    def _overloaded(self) -> OverloadedError:
        text = f"{self.waiting} recordings with {self.sound_s / 60:.0f} minutes of sound are in line"
        return OverloadedError(f"{text}: try again in a moment", 5.0)

    def close(self) -> None:
        """Cancel everything and give the memory back."""
        self.recogniser.close()
        for pool in (self.decoding, self.running, self.hearing):
            pool.shutdown(wait=True, cancel_futures=True)


class SpeechModels(Mapping[str, ServedSpeech]):
    """A read-only mapping of names to speech models, in the order in which they were given."""

    def __init__(self, recognisers: Mapping[str, RunningRecogniser] | None = None) -> None:
        self._by_name = {name: ServedSpeech(name, each) for name, each in (recognisers or {}).items()}

    def __getitem__(self, name: str) -> ServedSpeech:
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    def only(self, allows: Callable[[str], bool]) -> SpeechModels:
        """Return those whose names are allowed; they are the same models."""
        found = SpeechModels()
        found._by_name = {name: each for name, each in self._by_name.items() if allows(name)}
        return found

    def find(self, name: str | None) -> ServedSpeech:
        """Return the model of that name; the first one for None. Raises `ApiError` (404)."""
        if not self._by_name:
            text = "this server has no speech model: start it with one, such as `miaotui serve speech=whisper-base`"
            raise ApiError(404, text, param="model", code="model_not_found")
        if name is None:
            return next(iter(self._by_name.values()))
        if name not in self._by_name:
            raise model_not_found(name, self._by_name)
        return self._by_name[name]

    def close(self) -> None:
        """Cancel everything and give the memory back."""
        for each in self._by_name.values():
            each.close()
