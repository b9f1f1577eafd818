"""``POST /v1/audio/transcriptions`` and ``/v1/audio/translations``: recordings become text.

Owns OpenAI's routes and the stream's events. Knows recordings by `serve.speech`. Invariants: a body is bounded before
it is read, a recording before it is decoded; a stream's deltas together are the text of its last event.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from miaotui.serve.http.bodies import DONE, INLINE_BYTES, EventStream, event, ignored_fields, json_response, unless_gone
from miaotui.serve.http.routing import Endpoint
from miaotui.serve.middleware.access import received, services_of
from miaotui.serve.openai.audio_wire import (
    TranscriptAnswer,
    TranscriptEvent,
    TranscriptionForm,
    TranslationForm,
    read_audio_form,
)
from miaotui.serve.speech.jobs import RecordingRun
from miaotui.serve.wire.params import deadline_for
from miaotui.speech.forms import as_json, as_verbose_json, rendered

FORM = "multipart/form-data"
_MEDIA_TYPES = {
    "text": "text/plain; charset=utf-8",
    "srt": "application/x-subrip; charset=utf-8",
    "vtt": "text/vtt; charset=utf-8",
}


def routes() -> list[Endpoint]:
    """Return the routes of this module."""
    return [
        Endpoint(
            "/v1/audio/transcriptions",
            "POST",
            transcribe,
            "Write a recording down",
            body=TranscriptionForm,
            answer=TranscriptAnswer,
            chunk=TranscriptEvent,
            body_media_type=FORM,
        ),
        Endpoint(
            "/v1/audio/translations",
            "POST",
            translate,
            "Write a recording down in English",
            body=TranslationForm,
            answer=TranscriptAnswer,
            body_media_type=FORM,
        ),
    ]


async def transcribe(http: HttpRequest) -> Response:
    """Answer with the transcript of a recording."""
    return await _answer(http, TranscriptionForm)


async def translate(http: HttpRequest) -> Response:
    """Answer with the English text of a recording."""
    return await _answer(http, TranslationForm)


async def _answer(http: HttpRequest, kind: type[TranslationForm]) -> Response:
    services = services_of(http)
    services.speech.find(None)  # without a speech model there is nothing to read a form for
    body, media_type = received(http).body, http.headers.get("content-type", "")
    if len(body) <= INLINE_BYTES:
        form = read_audio_form(body, media_type, kind)
    else:
        form = await asyncio.to_thread(read_audio_form, body, media_type, kind)
    del body
    received(http).drop_body()
    served = services.speech.find(form.model)
    deadline = deadline_for(form.deadline_ms, form.on_late, http.headers, services.settings.deadline_ms)
    recording = RecordingRun(http, served, form.options(), deadline)
    if form.streams:
        return EventStream(_events(recording, form), services.settings.ping_s, ignored_fields(form))
    return await unless_gone(http.receive, _whole(recording, form))


async def _whole(recording: RecordingRun, form: TranslationForm) -> Response:
    with recording.in_line():
        await _open(recording, form)
        found = await recording.transcript()
    headers = ignored_fields(form)
    if form.response_format in _MEDIA_TYPES:
        text = rendered(found, form.response_format)
        return Response(text.encode(), headers=headers, media_type=_MEDIA_TYPES[form.response_format])
    value = as_json(found)
    if form.response_format == "verbose_json":
        value = as_verbose_json(found, form.granularities, form.task)
    return json_response({**value, "deadline": recording.report}, headers=headers)


async def _events(recording: RecordingRun, form: TranslationForm) -> AsyncGenerator[str, None]:
    """Yield an event for each segment's text, then the one with the whole text."""
    with recording.in_line():
        await _open(recording, form)
        is_first = True
        async with aclosing(recording.segments()) as segments:
            async for segment in segments:
                text = "" if segment is None else segment.text.lstrip() if is_first else segment.text
                is_first = is_first and not text
                yield event({"type": "transcript.text.delta", "delta": text}) if text else ""
        found = as_json(recording.whole)
        done: dict[str, Any] = {"type": "transcript.text.done", **found, "language": recording.whole.language}
        yield event({**done, "deadline": recording.report}) + DONE


async def _open(recording: RecordingRun, form: TranslationForm) -> None:
    """Decode the form's recording, whose bytes are dropped then."""
    content, form.file = form.file, b""
    await recording.open(content, keep_silence=form.keep_silence)
