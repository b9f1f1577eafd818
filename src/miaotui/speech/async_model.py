"""The Python entry of speech recognition for event loops: `load_speech_async`, then await what `SpeechModel` waits for.

Owns nothing but the calls: each runs in a thread, which waits for the passes that all recordings share. Invariant: a
call that is cancelled cancels its window, and returns when its thread has ended.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

from miaotui.backends.build_seq2seq import Seq2SeqOptions
from miaotui.closing import AsyncClosing
from miaotui.runtime import open_speech_model
from miaotui.speech.model import SpeechFacade, SpeechModel, options_of, samples_of
from miaotui.speech.recordings import Recording, RecordingSegments
from miaotui.speech.transcript import Samples, Segment, Transcript, TranscriptionOptions
from miaotui.types import Progress


async def load_speech_async(
    model: str | os.PathLike[str],
    *,
    format: str | None = None,
    threads: int | None = None,
    backend: str = "cpu",
    progress: Progress | None = None,
) -> AsyncSpeechModel:
    """Load a speech model as `miaotui.load_speech` does, in a thread; ``progress`` is called in that thread."""
    options = Seq2SeqOptions(backend=backend, format=format or "q8", threads=threads)
    loop = await asyncio.to_thread(open_speech_model, model, options, progress=progress)
    return AsyncSpeechModel(loop, owns_loop=True)


class AsyncSpeechModel(SpeechFacade, AsyncClosing):
    """A loaded speech model, for any number of tasks at once; see `SpeechModel`.

    Close it, or use it in an ``async with`` block, to give its memory back.
    """

    async def transcribe(
        self, sound: str | Path | bytes | Samples, options: TranscriptionOptions | None = None, **fields: Any
    ) -> Transcript:
        """Return the transcript of a recording, see `SpeechModel.transcribe`."""
        wanted = options_of(options, fields)
        recording = await asyncio.to_thread(lambda: Recording(samples_of(sound)))
        stream = await asyncio.to_thread(recording.segments, SpeechModel(self.loop), wanted)
        segments = [segment async for segment in _awaited(stream)]
        return recording.transcript(SpeechModel(self.loop), segments, stream.language)

    async def stream(
        self, sound: str | Path | bytes | Samples, options: TranscriptionOptions | None = None, **fields: Any
    ) -> AsyncIterator[Segment]:
        """Yield the segments of a recording, each window's when it is done. Raises as `transcribe`."""
        wanted = options_of(options, fields)
        recording = await asyncio.to_thread(lambda: Recording(samples_of(sound)))
        async for segment in _awaited(await asyncio.to_thread(recording.segments, SpeechModel(self.loop), wanted)):
            yield segment


async def _awaited(stream: RecordingSegments) -> AsyncIterator[Segment]:
    """Yield the segments of a stream; it is closed whichever way this ends."""
    try:
        while (segment := await _next(stream)) is not None:
            yield segment
    finally:
        stream.close()


async def _next(stream: RecordingSegments) -> Segment | None:
    waiting = asyncio.ensure_future(asyncio.to_thread(_next_or_none, stream))
    try:
        return await asyncio.shield(waiting)
    except asyncio.CancelledError:
        stream.close()
        await asyncio.wait([waiting])
        raise


def _next_or_none(stream: RecordingSegments) -> Segment | None:
    try:
        return next(stream, None)
    except CancelledError:  # closed from the event loop
        return None
