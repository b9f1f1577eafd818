"""One recording of a request on its way through a speech model, between its bytes and its segments.

Owns the steps: decode in a thread, predict, promise or refuse, run in a thread, and leave when the client does. Knows
no wire form. Invariants: a recording whose deadline cannot be met is refused before its first window, with the sound
that would fit; one whose request is over stops within a window.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import Future
from contextlib import aclosing, contextmanager
from dataclasses import replace
from typing import Any

from starlette.requests import Request as HttpRequest

from miaotui.engine.jobs.job import PromisedJob, asked_of
from miaotui.errors import AudioError, DeadlineUnattainableError, OverloadedError, RefusedError
from miaotui.serve.http.errors import ApiError
from miaotui.serve.middleware.access import current, received, services_of
from miaotui.serve.speech.models import ServedSpeech
from miaotui.speech.audio import AudioLimits
from miaotui.speech.recordings import Recording, RecordingSegments
from miaotui.speech.transcript import Segment, Transcript, TranscriptionOptions, fitting_s
from miaotui.types import Deadline

TOKENS_A_SECOND = 50  # of sound, that count as a prompt's: rows of Whisper's encoder


class RecordingJob(PromisedJob):
    """The transcription of one recording: a job for metrics, accounts and the end of the server."""

    def __init__(self, recording: Recording, deadline: Deadline | None, arrived_s: float) -> None:
        super().__init__(math.ceil(TOKENS_A_SECOND * recording.duration_s), 1, deadline, arrived_s)
        self.duration_s, self.heard_s, self.work_s = recording.duration_s, 0.0, 0.0

    @property
    def left_s(self) -> float:
        """Return the predicted seconds of what is left of it."""
        return self.work_s * max(0.0, 1 - self.heard_s / max(self.duration_s, 1e-9))


class RecordingRun:
    """A recording of one request: decoded with `open`, transcribed by `segments` or `transcript`."""

    def __init__(
        self, http: HttpRequest, served: ServedSpeech, options: TranscriptionOptions, deadline: Deadline | None
    ) -> None:
        self._http, self.served, self._options, self._deadline = http, served, options, deadline
        self._arrived_s = received(http).arrived_s
        self._recording: Recording | None = None
        self._job: RecordingJob | None = None
        self._found: list[Segment] = []
        self._language = ""

    @contextmanager
    def in_line(self) -> Iterator[None]:
        """Count the recording among those of the model for the time of the block. Raises `OverloadedError`."""
        try:
            self.served.require_room()
        except OverloadedError as error:
            services_of(self._http).operations.jobs.refused(self.served.name, error)
            raise
        self.served.waiting += 1
        try:
            yield
        finally:
            self.served.waiting -= 1
            if self._recording is not None:
                self.served.drop(self._recording)

    async def open(self, content: bytes, *, keep_silence: bool = False) -> None:
        """Decode the recording, once its options are checked.

        Raises `FieldError`, `ApiError` (400) for one that cannot be read, and `OverloadedError`.
        """
        services = services_of(self._http)
        self.served.check(self._options)
        limits = AudioLimits(max_s=3600 * services.settings.max_audio_hours)
        decoding = self.served.decode(content, limits, keep_silence=keep_silence)
        try:
            self._recording = await asyncio.wrap_future(decoding)
        except AudioError as error:
            raise ApiError(400, f"file: {error}", param="file", code="invalid_audio") from None
        except OverloadedError as error:
            services.operations.jobs.refused(self.served.name, error)
            raise
        except asyncio.CancelledError:
            decoding.add_done_callback(self._drop_late)
            raise

    async def segments(self) -> AsyncGenerator[Segment | None, None]:
        """Yield the segments as windows are done; None after a silence of ``ping_s``. Raises `RefusedError`.

        Use it in ``contextlib.aclosing``: closing it ends the job.
        """
        recording, operations = self._required, services_of(self._http).operations
        job = self._job = RecordingJob(recording, self._deadline, self._arrived_s)
        try:
            options = self._promised(recording, job)
        except RefusedError as error:
            operations.jobs.refused(self.served.name, error)
            raise
        with operations.jobs.tracking(self.served.name, job), self.served.promising(job):
            running = _RunningRecording(self.served, recording, options, job)
            async with aclosing(running.segments(services_of(self._http).settings.ping_s)) as segments:
                async for segment in segments:
                    if segment is not None:
                        self._found.append(segment)
                    yield segment
            self._language = running.language
        account = current()
        if account is not None:
            account.use(answer=job.written_tokens)

    async def transcript(self) -> Transcript:
        """Return the whole transcript. Raises `RefusedError`."""
        async with aclosing(self.segments()) as segments:
            async for _ in segments:
                pass
        return self.whole

    @property
    def whole(self) -> Transcript:
        """Return the transcript, once all segments were read."""
        return self._required.transcript(self.served.recogniser, self._found, self._language)

    @property
    def report(self) -> dict[str, Any]:
        """Return how the request stood to its deadline, milliseconds from its last byte."""
        took_ms = (time.perf_counter() - self._arrived_s) * 1e3
        asked_ms = None if self._deadline is None else asked_of(self._deadline)
        return {
            "asked_ms": asked_ms,
            "predicted_ms": None if self._job is None else round(self._job.predicted_ms, 1),
            "took_ms": round(took_ms, 1),
            "met": None if asked_ms is None else took_ms <= asked_ms,
            "shortened": False,
        }

    def _drop_late(self, decoding: Future[Recording]) -> None:
        """Drop a recording that was being decoded when its request ended."""
        if not decoding.cancelled() and decoding.exception() is None:
            self.served.drop(decoding.result())

    @property
    def _required(self) -> Recording:
        assert self._recording is not None, "open comes first"
        return self._recording

    def _promised(self, recording: Recording, job: RecordingJob) -> TranscriptionOptions:
        """Predict the job and return its options. Raises `DeadlineUnattainableError`."""
        recogniser, options = self.served.recogniser, self._options
        now_s = time.perf_counter()
        before_s = now_s - self._arrived_s
        predicted_s = recording.predicted_s(recogniser, options)
        job.predicted_ms = 1e3 * (before_s + predicted_s)
        asked_ms = None if self._deadline is None else asked_of(self._deadline)
        if asked_ms is None or (self._deadline is not None and self._deadline.on_late == "best_effort"):
            return options
        job.due_s = self._arrived_s + asked_ms / 1e3
        job.work_s = recogniser.work_s(recording.voiced_s, options) if recording.voiced_s else 0.0
        late_s = self.served.late_s(job.due_s, job.work_s, now_s)
        if late_s > 0:
            job.predicted_ms = max(job.predicted_ms, asked_ms + 1e3 * late_s)
        if job.predicted_ms > asked_ms:
            allowed_s = min(asked_ms / 1e3 - before_s, predicted_s - max(late_s, 0.0))
            fits_s = fitting_s(lambda s: recogniser.predicted_s(s, options), allowed_s, recording.voiced_s)
            hint = f"about {fits_s:.0f} s of it would fit" if fits_s else "none of it would fit"
            raise DeadlineUnattainableError(
                f"this recording of {recording.duration_s:.0f} s would take {job.predicted_ms:.0f} ms beside what is "
                f"promised already, and the request allows {asked_ms:.0f} ms: {hint}; send less, allow more, or try "
                "again later",
                retry_after_s=max(0.1, late_s),
                predicted_ms=job.predicted_ms,
            )
        left_s = job.due_s - time.perf_counter()
        return replace(options, deadline_s=left_s) if left_s > 0 else options


class _RunningRecording:
    """The thread of one recording, and the way of its segments into the event loop."""

    def __init__(
        self, served: ServedSpeech, recording: Recording, options: TranscriptionOptions, job: RecordingJob
    ) -> None:
        self._served, self._recording, self._options, self._job = served, recording, options, job
        self._queue: asyncio.Queue[Segment | BaseException | None] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._stream: RecordingSegments | None = None
        self.language = ""

    async def segments(self, ping_s: float) -> AsyncGenerator[Segment | None, None]:
        """Yield segments as they come, None after a silence. Raises what the model raises."""
        self._loop.run_in_executor(self._served.running, self._work)
        self._job.future.add_done_callback(lambda _: self._call(self._queue.put_nowait, None))  # the server ends it
        try:
            while True:
                try:
                    item = await asyncio.wait_for(self._queue.get(), ping_s)
                except asyncio.TimeoutError:
                    self._raise_end()
                    yield None
                    continue
                if isinstance(item, BaseException):
                    raise item
                if item is None:
                    self._raise_end()
                    self._job.end(time.perf_counter())
                    return
                yield item
        finally:
            self._job.cancel()
            if self._stream is not None:
                self._stream.close()

    def _raise_end(self) -> None:
        """Raise the error with which the server ended the job."""
        if self._job.is_over and not self._job.future.cancelled():
            error = self._job.future.exception()
            if error is not None:
                raise error

    def _work(self) -> None:
        """Run the recording, in a thread."""
        error: BaseException | None = None
        try:
            if not self._job.is_over:
                self._job.began_s = time.perf_counter()
                self._stream = self._recording.segments(self._served.recogniser, self._options)
                self._pass_on(self._stream)
        except BaseException as raised:
            error = raised
        finally:
            if self._stream is not None:
                self._stream.close()
            self._call(self._queue.put_nowait, error)

    def _pass_on(self, stream: RecordingSegments) -> None:
        for segment in stream:
            self._job.written_tokens += len(segment.tokens)
            self._job.heard_s = segment.end_s
            self._call(self._queue.put_nowait, segment)
            if self._job.is_over:
                return
        self.language = stream.language

    def _call(self, function: Any, *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:  # the event loop has ended
            self._job.cancel()
