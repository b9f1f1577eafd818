"""``/v1/audio/live``: a microphone's sound over a WebSocket, its text while it is said.

Owns the messages of the connection and when partial texts are made. Where utterances begin and end is `speech.live`'s.
Knows no browser. Invariants: each utterance has one final text, in order, which depends on its samples alone; a partial
text is never sent behind the final one; a client that sends faster than the model writes is read slower; one that has
gone is noticed at once, unless `READ_AHEAD_BYTES` of its messages are unread.

Messages in: a JSON text ``{"type": "start", ...}`` first, if other options than the defaults are wanted; binary ones of
16-bit little-endian samples, one channel; ``{"type": "end"}``. Out: ``ready``, ``partial``, ``final``, ``done`` and
``error``, as docs/speech.md has them.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Literal

import numpy as np
from pydantic import Field, ValidationError
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from miaotui.errors import MiaotuiError, OverloadedError, RefusedError
from miaotui.libraries import need
from miaotui.serve.http.bodies import json_text
from miaotui.serve.http.errors import ApiError, bad_value, from_error, from_validation
from miaotui.serve.http.routing import Endpoint
from miaotui.serve.middleware.access import KEY_PROTOCOL, current, services_of
from miaotui.serve.services import Services
from miaotui.serve.speech.jobs import RecordingJob
from miaotui.serve.speech.models import ServedSpeech
from miaotui.serve.wire.fields import Name, Wire
from miaotui.speech.live import LiveSpeech, Utterance
from miaotui.speech.recordings import Recording, RecordingSegments
from miaotui.speech.transcript import (
    MAX_BEAM_SIZE,
    MAX_PROMPT,
    SAMPLE_RATE,
    Samples,
    Script,
    SpeechTask,
    TranscriptionOptions,
)

LIVE_PATH = "/v1/audio/live"
PARTIAL_S = 1.0  # of new sound between two partial texts
LIVE_IDLE_S = 60.0  # without a message
READ_AHEAD_BYTES = 1 << 20  # of messages
MESSAGE_BYTES = 512  # that a message takes beside its content
_RATES_HZ = range(8_000, 48_001)
_WRONG, _FAILED = 1008, 1011  # codes of closing


class LiveStart(Wire):
    """The first message: options of all utterances."""

    type: Literal["start"] = "start"
    model: Name | None = None
    language: str = Field("", max_length=32)
    task: SpeechTask = "transcribe"
    prompt: str = Field("", max_length=MAX_PROMPT)
    sample_rate: int = Field(SAMPLE_RATE, ge=_RATES_HZ[0], le=_RATES_HZ[-1])
    beam_size: int = Field(1, ge=1, le=MAX_BEAM_SIZE)
    script: Script = "simplified"
    partial: bool = True

    def options(self) -> TranscriptionOptions:
        """Return the options of a transcription. Raises `FieldError`."""
        return TranscriptionOptions(self.language, self.task, self.prompt, beam_size=self.beam_size, script=self.script)


def routes(services: Services) -> list[Endpoint]:
    """Return the route that tells clients of plain HTTP how to connect; none where the server has no speech model."""
    found = Endpoint(LIVE_PATH, "GET", require_upgrade, "Say that a microphone needs a WebSocket")
    return [found] if services.speech else []


async def require_upgrade(_: HttpRequest) -> Response:
    """Answer a request without a handshake (RFC 9110, section 15.5.22)."""
    message = f"{LIVE_PATH} is a WebSocket: connect to it with ws:// or wss://"
    raise ApiError(426, message, headers={"Upgrade": "websocket", "Connection": "Upgrade"})


def websocket_routes(services: Services) -> Sequence[WebSocketRoute]:
    """Return the route of this module; none where the server has no speech model."""
    return [WebSocketRoute(LIVE_PATH, listen)] if services.speech else []


async def listen(socket: WebSocket) -> None:
    """Answer one connection, from its start to its end."""
    services = services_of(socket)
    offered = [each for each in socket.scope.get("subprotocols", ()) if not each.startswith(KEY_PROTOCOL.decode())]
    await socket.accept(subprotocol=offered[0] if offered else None)
    messages = _Messages(socket)
    session = _Session(socket, services, messages)
    try:
        await messages.unless_gone(session.run())
    except WebSocketDisconnect:
        return
    except Exception as error:
        account = current()
        found = from_error(error, "" if account is None else account.request_id)
        with suppress(RuntimeError, WebSocketDisconnect):  # it has gone meanwhile
            await socket.send_text(json_text({"type": "error", "error": found.body}))
            await socket.close(_WRONG if found.status < 500 else _FAILED)
    finally:
        await session.close()
        await messages.close()


class _Messages:
    """Messages of a connection, read a little ahead: its end is seen while an utterance is transcribed."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket
        self._queue: asyncio.Queue[Mapping[str, Any]] = asyncio.Queue()
        self._unread_bytes, self._room = 0, asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    async def next(self) -> dict[str, Any] | bytes:
        """Return the next message. Raises `ApiError` for one that cannot be read, or after a long silence."""
        try:
            message = await asyncio.wait_for(self._queue.get(), LIVE_IDLE_S)
        except asyncio.TimeoutError:
            raise ApiError(408, f"No message came within {LIVE_IDLE_S:g} s", code="request_timeout") from None
        self._unread_bytes -= _held_bytes(message)
        self._room.set()
        sound: bytes | None = message.get("bytes")
        if sound is not None:
            return sound
        try:
            value = json.loads(message.get("text") or "")
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise ApiError(400, "A text message must be one JSON object", code="invalid_json")
        return value

    async def unless_gone(self, work: Coroutine[Any, Any, None]) -> None:
        """Await ``work``. Raises `WebSocketDisconnect` at once, and cancels it, when the client has gone."""
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait((task, self._reading), return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            await self._reading
        finally:
            await _ended(task)

    async def close(self) -> None:
        """Read no more."""
        await _ended(self._reading)

    async def _read(self) -> None:
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message.get("code") or 1005)
            self._unread_bytes += _held_bytes(message)
            self._queue.put_nowait(message)
            while self._unread_bytes >= READ_AHEAD_BYTES:
                self._room.clear()
                await self._room.wait()


class _Session:
    """One connection: its options, its stream of sound, and what is transcribed of it now."""

    def __init__(self, socket: WebSocket, services: Services, messages: _Messages) -> None:
        self._socket, self._services, self._messages = socket, services, messages
        self._start = LiveStart.model_validate({})
        self._served: ServedSpeech | None = None
        self._speech = LiveSpeech()
        self._resample: Callable[[Samples], Samples] = lambda samples: samples
        self._partial: asyncio.Task[None] | None = None
        self._partial_s = 0.0  # of the stream, at the last partial text

    async def run(self) -> None:
        """Read messages until the end. Raises `ApiError`, a `MiaotuiError` and `WebSocketDisconnect`."""
        message = await self._messages.next()
        if isinstance(message, dict) and message.get("type") == "start":
            self._start = _checked(message)
            message = b""
        await self._begin()
        while isinstance(message, bytes):
            await self._take(message)
            message = await self._messages.next()
        if message.get("type") != "end":
            raise bad_value("type", "must be end, or sound in binary messages; start comes first, and once")
        await self._finish(self._speech.flush())
        await self._send("done", duration=round(self._speech.seconds, 2))
        await self._socket.close()

    async def close(self) -> None:
        """Stop what is transcribed, and leave the line."""
        await self._stop_partial()
        if self._served is not None:
            self._served.listening -= 1

    async def _begin(self) -> None:
        start = self._start
        served = self._services.speech.find(start.model)
        try:
            served.require_listener()
        except OverloadedError as error:
            self._services.operations.jobs.refused(served.name, error)
            raise
        self._served, served.listening = served, served.listening + 1
        served.check(start.options())
        if start.sample_rate != SAMPLE_RATE:
            self._resample = _resampler(start.sample_rate)
        await self._send("ready", model=served.name, sample_rate=start.sample_rate)

    async def _take(self, sound: bytes) -> None:
        """Take sound, send the final texts of utterances that end in it, or begin a partial one."""
        if len(sound) % 2:
            raise bad_value("sound", "must be 16-bit samples: a message has a part of one")
        samples: Samples = np.frombuffer(sound, "<i2").astype(np.float32)
        samples /= 32768.0
        await self._finish(self._speech.push(self._resample(samples)))
        seconds, is_idle = self._speech.seconds, self._partial is None or self._partial.done()
        if not self._start.partial or not is_idle or seconds - self._partial_s < PARTIAL_S:
            return
        said = self._speech.open
        if said is not None:
            self._partial_s = seconds
            self._partial = asyncio.create_task(self._send_partial(said))

    async def _finish(self, ended: Sequence[Utterance]) -> None:
        for said in ended:
            await self._stop_partial()
            served = self._required
            job = RecordingJob(Recording(said.samples, keep_silence=True), None, time.perf_counter())
            with self._services.operations.jobs.tracking(served.name, job):
                async with self._transcribing(said) as work:
                    text, language = await work.result()
                job.written_tokens = work.tokens
                job.began_s = job.arrived_s
                job.end(time.perf_counter())
            account = current()
            if account is not None:
                account.use(answer=work.tokens)
            await self._send("final", text=text, language=language, **_times(said))

    async def _send_partial(self, said: Utterance) -> None:
        with suppress(RefusedError):
            async with self._transcribing(said) as work:
                text, _ = await work.result()
            await self._send("partial", text=text, **_times(said))

    async def _stop_partial(self) -> None:
        """End the partial text that is being made; nothing of it is sent afterwards."""
        task, self._partial = self._partial, None
        if task is None:
            return
        task.cancel()
        with suppress(asyncio.CancelledError, MiaotuiError, WebSocketDisconnect, RuntimeError):
            await task

    @asynccontextmanager
    async def _transcribing(self, said: Utterance) -> AsyncGenerator[_Transcribing, None]:
        work = _Transcribing(self._required, said.samples, self._start.options())
        try:
            yield work
        finally:
            work.stop()

    @property
    def _required(self) -> ServedSpeech:
        assert self._served is not None, "begin comes first"
        return self._served

    async def _send(self, kind: str, **fields: Any) -> None:
        await self._socket.send_text(json_text({"type": kind, **fields}))


class _Transcribing:
    """One utterance in a thread of the model's."""

    def __init__(self, served: ServedSpeech, samples: Samples, options: TranscriptionOptions) -> None:
        self._served, self._options = served, options
        self._recording = Recording(samples, keep_silence=True)
        self._stream: RecordingSegments | None = None
        self._is_stopped = False
        self.tokens = 0

    async def result(self) -> tuple[str, str]:
        """Return the text and its language. Raises what the model raises."""
        return await asyncio.get_running_loop().run_in_executor(self._served.hearing, self._work)

    def stop(self) -> None:
        """Cancel what is not done yet."""
        self._is_stopped = True
        if self._stream is not None:
            self._stream.close()

    def _work(self) -> tuple[str, str]:
        if self._is_stopped:
            return "", ""
        self._stream = stream = self._recording.segments(self._served.recogniser, self._options)
        try:
            segments = list(stream)
        finally:
            stream.close()
        self.tokens = sum(len(each.tokens) for each in segments)
        return "".join(each.text for each in segments).strip(), stream.language


async def _ended(task: asyncio.Future[None]) -> None:
    """Cancel a task and wait for its end, whichever it is."""
    task.cancel()
    await asyncio.wait((task,))
    if not task.cancelled():
        task.exception()  # is looked at, so that it is not logged as lost


def _held_bytes(message: Mapping[str, Any]) -> int:
    return MESSAGE_BYTES + len(message.get("bytes") or message.get("text") or "")


def _checked(message: dict[str, Any]) -> LiveStart:
    try:
        start = LiveStart.model_validate(message)
    except ValidationError as error:
        raise from_validation(error) from None
    if start.model_extra:
        raise bad_value(next(iter(start.model_extra))[:64], "is not known here: leave it out")
    return start


def _times(said: Utterance) -> dict[str, float]:
    return {"start": round(said.start_s, 2), "end": round(said.end_s, 2)}


def _resampler(rate_hz: int) -> Callable[[Samples], Samples]:
    """Return what brings samples of a stream to 16 kHz. Raises `MissingLibraryError` without PyAV."""
    av = need("av")
    resampler = av.AudioResampler("flt", "mono", SAMPLE_RATE)

    def resample(samples: Samples) -> Samples:
        if not len(samples):
            return samples
        frame = av.AudioFrame.from_ndarray(samples[None], format="flt", layout="mono")
        frame.sample_rate = rate_hz
        parts = [each.to_ndarray()[0] for each in resampler.resample(frame)]
        return np.concatenate([samples[:0], *parts])

    return resample
