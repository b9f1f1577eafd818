"""A speech model as a replica: windows as frames come in, their texts go out.

Owns the model and the windows that came in. Knows no router and no Ray. Invariant: a window that is not read any more
is cancelled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from miaotui.backends.build_seq2seq import Seq2SeqOptions
from miaotui.cluster.jobs.arrays import arrays_piece, read_arrays
from miaotui.cluster.jobs.replica import JobReplica
from miaotui.cluster.messages import Message
from miaotui.engine.jobs.job import PromisedJob
from miaotui.engine.remote.hearing import Values, frames_of, plain_found, settings_of
from miaotui.engine.speech.loaded import SpeechLoop
from miaotui.errors import RequestError
from miaotui.hub.digest import model_digest
from miaotui.hub.resolve import resolve
from miaotui.runtime import open_speech_model
from miaotui.types import Deadline

BEAMS = (1, 2, 3, 5, 8)  # rows of target steps whose cost is published
USUAL_STEPS = 60  # of a window, in the cost of one of its rows
MOST_WINDOWS = 64  # of one message


class SpeechReplica(JobReplica):
    """A speech model as a replica."""

    def __init__(self, loop: SpeechLoop, digest: str) -> None:
        super().__init__(digest, loop)
        self._hearing = loop

    @staticmethod
    def open(name: str, model: str, options: Mapping[str, Any]) -> SpeechReplica:
        """Open the speech model that a cluster file names. Raises a `MiaotuiError`."""
        path = Path(resolve(model))
        loop = open_speech_model(path, Seq2SeqOptions(**options))
        try:
            return SpeechReplica(loop, model_digest(path))
        except BaseException:
            loop.close()
            raise

    def report(self) -> Message:
        """Return what it could promise now, with the costs of the steps of a window."""
        rows = self._max_tokens
        steps = [[beams, self._hearing.step_s(0, beams)] for beams in BEAMS]
        return {**super().report(), "window": {"encode_s": self._hearing.step_s(rows, 0), "steps": steps}}

    @property
    def _computes(self) -> list[object]:
        found = self._hearing.model.backend.identity
        return [found.name, sorted(found.formats), "", found.arithmetic]

    @property
    def _max_tokens(self) -> int:
        return self._hearing.model.config.encoder.max_tokens

    @property
    def _token_s(self) -> float:
        whole_s = self._hearing.step_s(self._max_tokens, 0) + USUAL_STEPS * self._hearing.step_s(0, 1)
        return whole_s / self._max_tokens

    @property
    def _waiting_tokens(self) -> int:
        return self._hearing.waiting_tokens

    def _job(self, message: Mapping[str, Any], deadline: Deadline | None, arrived_s: float) -> PromisedJob:
        model, given = self._hearing.model, message.get("settings")
        if not isinstance(given, list) or not 1 <= len(given) <= MOST_WINDOWS:
            raise RequestError(f"the message of a window is damaged: expected 1 to {MOST_WINDOWS} windows")
        settings = [settings_of(each, model) for each in given]
        frames = frames_of(read_arrays(message), settings, model)
        return self._hearing.submit(list(zip(frames, settings, strict=True)), deadline, arrived_s)

    def _piece(self, results: Sequence[Any]) -> Message:
        found = [plain_found(each) for each in results]
        arrays = [array for _, each in found for array in each]
        return {"found": [[values, len(each)] for values, each in found], **arrays_piece(arrays)}

    def _bytes(self, result: Any) -> int:
        return 1024 + sum(each.nbytes for each in plain_found(result)[1])


def read_found(piece: Message) -> list[Values]:
    """Return the texts of windows in a piece, in plain form; none where it carries none."""
    if "found" not in piece:
        return []
    arrays, found, place = read_arrays(piece), list[Values](), 0
    for values, count in piece["found"]:
        found.append((values, arrays[place : place + count]))
        place += count
    return found


def published_step_s(window: Any, source_rows: int, target_rows: int) -> float:
    """Return the seconds of a step as a replica published them in its report; 0 before any did."""
    if window is None:
        return 0.0
    encode_s = float(window["encode_s"]) if source_rows else 0.0
    steps = window["steps"]
    known = next((each for each in steps if each[0] >= target_rows), steps[-1])
    return encode_s + (float(known[1]) if target_rows else 0.0)
