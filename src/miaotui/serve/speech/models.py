"""Speech models of one server, by name: in memory from its start to its end.

Owns which of them a request means, and the threads that recordings wait in. Knows no wire form. Invariants: recordings
that run never take threads from other routes; how many may wait is bounded.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

from miaotui.errors import OverloadedError
from miaotui.serve.http.errors import ApiError, model_not_found
from miaotui.speech.transcript import Recogniser

SPEECH_AT_ONCE = 8  # recordings of one model whose windows share passes
MAX_WAITING_RECORDINGS = 64
MAX_WAITING_SOUND_S = 8 * 3600.0  # of all recordings that are here; at 16 kHz 1.8 GB


class RunningRecogniser(Recogniser, Protocol):
    """A recogniser with memory and threads to give back."""

    def close(self) -> None:
        """Cancel what runs and give the memory back."""


@dataclass(eq=False)
class ServedSpeech:
    """A speech model that runs, under the name that requests call it by."""

    name: str
    recogniser: RunningRecogniser
    created_s: int = field(default_factory=lambda: int(time.time()))
    waiting: int = 0  # recordings that are decoded or transcribed now, or wait for that
    sound_s: float = 0.0  # of those that are decoded
    pending_s: float = 0.0  # predicted, of those that wait for a thread

    def __post_init__(self) -> None:
        self.decoding = ThreadPoolExecutor(1, f"miaotui-decode-{self.name}")  # one at a time bounds memory
        self.running = ThreadPoolExecutor(SPEECH_AT_ONCE, f"miaotui-speech-{self.name}")

    def require_room(self) -> None:
        """Raise `OverloadedError` where no more recordings may wait."""
        if self.waiting >= MAX_WAITING_RECORDINGS or self.sound_s >= MAX_WAITING_SOUND_S:
            text = f"{self.waiting} recordings with {self.sound_s / 60:.0f} minutes of sound are in line"
            raise OverloadedError(f"{text}: try again in a moment", 5.0)

    def close(self) -> None:
        """Cancel everything and give the memory back."""
        self.recogniser.close()
        for pool in (self.decoding, self.running):
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
