"""``miaotui transcribe``: recordings written down, as text, subtitles or JSON.

Owns where transcripts go and how far the work is. Knows recordings by `Recording`, models by `Recogniser`. Invariants:
what is wrong with the command line is said before a model is loaded; a recording that cannot be read, or a transcript
that cannot be written, is named, and the others are written down.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from miaotui.cli.options.speech import FILE_FORMS
from miaotui.cli.output import messages
from miaotui.cli.output.progress import ProgressBars
from miaotui.cli.run import write
from miaotui.errors import AudioError, RequestError

if TYPE_CHECKING:
    from miaotui.speech.forms import Granularity
    from miaotui.speech.recordings import Recording
    from miaotui.speech.transcript import Recogniser, Segment, Transcript, TranscriptionOptions

FAILED = 1


def transcribe(parsed: argparse.Namespace) -> int:
    """Write the recordings down; return the exit status."""
    import miaotui
    from miaotui.speech.transcript import TranscriptionOptions

    if parsed.word_times and parsed.form != "verbose_json":
        raise RequestError(messages.WORDS_NEED_FORM())
    places = _places(parsed.words, parsed.output, parsed.form)
    if not _any_is_there(places):
        return FAILED
    options = TranscriptionOptions(
        language=parsed.language,
        task="translate" if parsed.translate else "transcribe",
        prompt=parsed.prompt,
        beam_size=parsed.beam_size,
        word_times=parsed.word_times,
        script=parsed.script,
    )
    with (
        ProgressBars() as progress,
        miaotui.load_speech(
            parsed.model, format=parsed.format, threads=parsed.threads, backend=parsed.backend, progress=progress
        ) as model,
    ):
        progress.close()
        return transcribe_files(model, places, options, parsed)


def transcribe_files(
    model: Recogniser, places: Mapping[Path, Path | None], options: TranscriptionOptions, parsed: argparse.Namespace
) -> int:
    """Write recordings down, each to its place (None: standard output); return 1 if one could not be read."""
    from miaotui.speech.audio import AudioLimits, read_audio
    from miaotui.speech.forms import rendered
    from miaotui.speech.recordings import Recording

    failed = False
    limits = AudioLimits(max_s=3600 * parsed.max_hours)
    for source, place in places.items():
        start_s = time.perf_counter()
        try:
            recording = Recording(read_audio(source, limits), keep_silence=parsed.keep_silence)
        except AudioError as error:
            print(messages.ERROR(reason=error), file=sys.stderr)
            failed = True
            continue
        if place is None and len(places) > 1:
            write(f"==> {source} <==\n")
        as_it_comes = place is None and parsed.form == "text"
        found = _heard(model, recording, options, source.name, as_it_comes=as_it_comes)
        times: tuple[Granularity, ...] = ("segment", "word") if parsed.word_times else ("segment",)
        text = rendered(found, parsed.form, times, options.task)
        if place is not None:
            try:
                place.write_text(text, encoding="utf-8")
            except OSError as error:
                print(messages.ERROR(reason=f"{place} cannot be written: {error.strerror or error}"), file=sys.stderr)
                failed = True
                continue
        elif not as_it_comes:
            write(text)
        print(_statistics(found, time.perf_counter() - start_s, source.name), file=sys.stderr)
    return int(failed)


def _any_is_there(sources: Collection[Path]) -> bool:
    """Return whether any recording is a file; if none is, each is named, and no model need be loaded."""
    from miaotui.speech.audio import opened_recording

    errors: list[AudioError] = []
    for source in sources:
        try:
            opened_recording(source).close()
        except AudioError as error:
            errors.append(error)
    if len(errors) < len(sources):
        return True
    for each in errors:
        print(messages.ERROR(reason=each), file=sys.stderr)
    return False


def _heard(
    model: Recogniser, recording: Recording, options: TranscriptionOptions, name: str, *, as_it_comes: bool
) -> Transcript:
    """Return the transcript; its text is written as windows are done, or a bar shows how far they are."""
    segments: list[Segment] = []
    stream = recording.segments(model, options)
    with ProgressBars() as progress:
        try:
            for segment in stream:
                segments.append(segment)
                if as_it_comes:
                    write(segment.text.lstrip() if len(segments) == 1 else segment.text)
                else:
                    progress(f"transcribing {name}", round(segment.end_s), round(recording.duration_s))
        finally:
            stream.close()
    if as_it_comes:
        write("\n")
    return recording.transcript(model, segments, stream.language)


def _places(words: Sequence[str], output: str | None, form: str) -> dict[Path, Path | None]:
    """Return where each recording's transcript goes. Raises `RequestError`."""
    sources = [Path(word) for word in words]
    if len(set(sources)) != len(sources):
        raise RequestError(messages.RECORDING_TWICE())
    if output is None:
        return dict.fromkeys(sources)
    folder = Path(output)
    places: dict[Path, Path | None] = {source: folder / f"{source.stem}.{FILE_FORMS[form]}" for source in sources}
    if len(set(places.values())) != len(places):
        raise RequestError(messages.SAME_OUTPUT(folder=folder))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"--output {folder}: {error.strerror or error}; name a folder") from error
    return places


def _statistics(found: Transcript, took_s: float, name: str) -> str:
    factor = found.duration_s / max(took_s, 1e-9)
    return messages.TRANSCRIBED(
        name=name,
        minutes=f"{int(found.duration_s) // 60}:{int(found.duration_s) % 60:02}",
        language=found.language or "–",
        took=f"{took_s:.1f} s",
        factor=f"{factor:.1f}" if factor < 10 else f"{factor:.0f}",
    )
