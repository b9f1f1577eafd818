"""The loop of a speech model that runs in other processes: windows go out as frames, texts come back.

Owns the plain form of a window and of its text, for both ends, and the jobs of this process. Knows no network.
Invariant: a window's text is the same bytes as in the process that has the model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from miaotui.backends.seq2seq_backend import Frames
from miaotui.engine.jobs.admission import QueueLimits
from miaotui.engine.jobs.job import PromisedJob
from miaotui.engine.remote.jobs import Content, JobDispatcher, RemoteJobLoop
from miaotui.engine.search.search import FoundTarget
from miaotui.engine.speech.loaded import SoundForecast, SpeechText
from miaotui.engine.speech.window import HeardWindow, SpokenAlignment, WindowSettings
from miaotui.errors import RequestError
from miaotui.types import Deadline

_SETTINGS = ("frames", "max_length", "language", "task", "beam_size", "seed")
_MEASURES = ("temperature", "avg_logprob", "compression_ratio", "no_speech_prob")

StepTime = Callable[[int, int], float]
Values = tuple[Mapping[str, Any], Sequence[Frames]]  # a text in plain form, and its arrays


class RemoteSpeechLoop(RemoteJobLoop[PromisedJob]):
    """One speech model that runs elsewhere (see `HearingLoop`). ``pack`` makes arrays JSON values."""

    noun = "speech model"

    def __init__(
        self,
        model: SpeechText,
        dispatcher: JobDispatcher,
        step_s: StepTime,
        pack: Callable[[Sequence[Frames]], Content],
        limits: QueueLimits | None = None,
    ) -> None:
        super().__init__(dispatcher, limits)
        self.model = model
        self._step_s, self._pack = step_s, pack

    @cached_property
    def sound(self) -> SoundForecast:
        """Return the forecast of recordings."""
        return SoundForecast(self.model, self._step_s)

    def submit(
        self,
        wanted: Sequence[tuple[Frames, WindowSettings]],
        deadline: Deadline | None = None,
        arrived_s: float | None = None,
    ) -> PromisedJob:
        """Take windows on, see `HearingLoop.submit`."""
        rows = len(wanted) * self.model.config.encoder.max_tokens
        job = PromisedJob(rows, len(wanted), deadline, time.perf_counter() if arrived_s is None else arrived_s)
        content: Content = {
            "settings": [plain_settings(settings) for _, settings in wanted],
            **self._pack([frames for frames, _ in wanted]),
        }

        def take(index: int, value: Values) -> None:
            found = found_of(*value)
            job.written_tokens += len(found.tokens) - 1
            job.keep(index, found)

        return self._send(job, content, take)


def plain_settings(settings: WindowSettings) -> dict[str, Any]:
    """Return the settings of a window as JSON values, without what belongs to the model."""
    return {
        **{name: getattr(settings, name) for name in _SETTINGS},
        "prompt": list(settings.prompt),
        "temperatures": list(settings.temperatures),
        "aligned": [list(head) for head in settings.aligned],
    }


def settings_of(values: Mapping[str, Any], model: SpeechText) -> WindowSettings:
    """Return the settings of JSON values, for this model. Raises `RequestError`."""
    try:
        given = {name: values[name] for name in _SETTINGS}
        prompt = tuple(int(token) for token in values["prompt"])
        temperatures = tuple(float(each) for each in values["temperatures"])
        aligned = tuple((int(layer), int(head)) for layer, head in values["aligned"])
    except (KeyError, TypeError, ValueError) as error:
        raise RequestError(f"the message of a window is damaged: {type(error).__name__}: {error}") from error
    if not set(aligned) <= set(model.alignment_heads) or not temperatures:
        raise RequestError("the message of a window is damaged: it names heads that this model does not have")
    return WindowSettings(
        tokens=model.tokenizer.tokens,
        text=model.tokenizer.decode,
        prompt=prompt,
        temperatures=temperatures,
        aligned=aligned,
        **given,
    )


def plain_found(found: FoundTarget) -> Values:
    """Return the text of a window as JSON values, and the arrays that go with it."""
    heard = found.details
    assert isinstance(heard, HeardWindow), "a window was searched for"
    values = {
        "tokens": list(found.tokens),
        "language": heard.language,
        **{name: float(getattr(heard, name)) for name in _MEASURES},
    }
    return values, () if heard.alignment is None else tuple(heard.alignment)


def found_of(values: Mapping[str, Any], arrays: Sequence[Frames]) -> FoundTarget:
    """Return the text of a window from its plain form. Raises `RequestError`."""
    try:
        tokens = tuple(int(token) for token in values["tokens"])
        language = None if values["language"] is None else int(values["language"])
        measures = {name: float(values[name]) for name in _MEASURES}
        alignment = SpokenAlignment(*arrays) if arrays else None
    except (KeyError, TypeError, ValueError) as error:
        raise RequestError(f"the text of a window is damaged: {type(error).__name__}: {error}") from error
    heard = HeardWindow(tokens[1:], language, alignment=alignment, **measures)
    return FoundTarget(tokens, heard.avg_logprob, heard)


def frames_of(arrays: Sequence[Frames], settings: Sequence[WindowSettings], model: SpeechText) -> list[Frames]:
    """Return the frames of windows. Raises `RequestError` where they have not the model's shape."""
    shape = (model.window_frames, model.config.mel_bins)
    if len(arrays) != len(settings) or any(each.shape != shape for each in arrays):
        raise RequestError(f"the message of a window is damaged: expected {len(settings)} windows of frames {shape}")
    return [np.ascontiguousarray(each) for each in arrays]
