"""Recordings as samples: any common file of sound, mixed to one channel and resampled to 16 kHz.

Owns which formats are read, their recognition by first bytes, and the bounds of a recording. FFmpeg's libraries (PyAV,
extra ``speech``) demux, decode and resample; the conversion to 16 bits and the mix are those that Whisper's own reader
asks of FFmpeg. Knows no models. Invariants: a file gives samples or one `AudioError`; nothing but the given bytes is
opened, whatever a file refers to; memory is bounded before it is taken: samples by `AudioLimits.max_s`, one block of
FFmpeg's by `MAX_BLOCK_BYTES`.
"""

from __future__ import annotations

import ctypes
import functools
import io
import os
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np

from miaotui.errors import AudioError
from miaotui.libraries import need
from miaotui.speech.transcript import SAMPLE_RATE, Samples

MAX_HOURS = 4
MAX_FILE_BYTES = 8 << 30
MAX_BLOCK_BYTES = 128 << 20  # of one allocation within FFmpeg: a small header may ask for a table of gigabytes
MAX_STREAMS = 16
MAX_CHANNELS = 8
RATES_HZ = range(1_000, 768_001)
EXTENSIONS = ("wav", "flac", "mp3", "ogg", "opus", "m4a", "mp4", "mov", "webm", "mka", "mkv", "aac", "aiff", "amr")
_DECODERS = (
    "pcm_s16le,pcm_s16be,pcm_u8,pcm_s8,pcm_s24le,pcm_s24be,pcm_s32le,pcm_s32be,pcm_f32le,pcm_f32be,pcm_f64le,pcm_f64be,"
    "pcm_mulaw,pcm_alaw,adpcm_ms,adpcm_ima_wav,flac,mp3float,mp3,mp2float,mp2,vorbis,opus,aac,alac,amrnb,amrwb"
)
# "none" is no protocol: a file that refers to others (a playlist, an external track) opens none of them.
_OPTIONS = {
    "protocol_whitelist": "none",
    "codec_whitelist": _DECODERS,
    "max_streams": str(MAX_STREAMS),
    "advanced_editlist": "0",  # a list of edits could repeat a track any number of times
}
_LOOKED_AT = 16  # first bytes
_MAGIC: tuple[tuple[int, tuple[bytes, ...], str], ...] = (  # where, one of which words, and the container
    (8, (b"WAVE",), "wav"),  # after RIFF, RF64 or BW64 and a size
    (8, (b"AIFF", b"AIFC"), "aiff"),
    (0, (b"fLaC",), "flac"),
    (0, (b"OggS",), "ogg"),
    (0, (b"\x1aE\xdf\xa3",), "matroska"),
    (0, (b"#!AMR",), "amr"),
    (4, (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"), "mov"),
    (0, (b"ID3",), "mp3"),
)


@dataclass(frozen=True)
class AudioLimits:
    """Bounds of one recording: seconds of sound, bytes of its file."""

    max_s: float = 3600.0 * MAX_HOURS
    max_bytes: int = MAX_FILE_BYTES


def read_audio(source: str | os.PathLike[str] | bytes, limits: AudioLimits | None = None) -> Samples:
    """Return the sound of a file, or of its bytes, as samples ``(n,)`` at 16 kHz in [-1, 1], one channel.

    A recording that ends early, or has damaged parts, gives the sound that is there. Raises `AudioError` for files
    that hold none, are of no known format or exceed the limits, and `MissingLibraryError` without PyAV.
    """
    limits = limits or AudioLimits()
    with ExitStack() as stack:
        file = io.BytesIO(source) if isinstance(source, bytes) else stack.enter_context(opened_recording(Path(source)))
        name = "the recording" if isinstance(source, bytes) else str(source)
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        if size > limits.max_bytes:
            raise AudioError(f"{name} has {size:,} bytes; at most {limits.max_bytes:,} are read: send parts of it")
        form = format_of(file.read(_LOOKED_AT))
        file.seek(0)
        if not size or form is None:
            reason = "is empty" if not size else "is no recording of a known format"
            raise AudioError(f"{name} {reason}; expected one of {', '.join(EXTENSIONS)}")
        return _Decoding(_library(), name, limits.max_s).samples(file, form)


def format_of(start: bytes) -> str | None:
    """Return FFmpeg's name of the container that a file's first 16 bytes begin; None: of none that is read."""
    for place, words, form in _MAGIC:
        if any(start.startswith(word, place) for word in words):
            return form
    if len(start) > 1 and start[0] == 0xFF and start[1] & 0xE0 == 0xE0:  # a frame of MPEG audio, or of AAC's ADTS
        return "aac" if start[1] & 0xF6 == 0xF0 else "mp3"
    return None


class _Decoding:
    """The decoding of one recording."""

    def __init__(self, av: ModuleType, name: str, max_s: float) -> None:
        self._av, self._name, self._max_s = av, name, max_s
        self._resampler: Any = None
        self._form: tuple[object, ...] | None = None  # of the frames that the resampler takes
        self._found = bytearray()  # 16-bit samples

    def samples(self, file: BinaryIO, form: str) -> Samples:
        """Return all samples of the first track of sound. Raises `AudioError`."""
        try:
            with self._av.open(file, format=form, metadata_errors="ignore", container_options=_OPTIONS) as container:
                if not container.streams.audio:
                    raise AudioError(f"{self._name} holds no sound that can be decoded")
                for frame in self._frames(container, container.streams.audio[0]):
                    self._take(frame)
        except (self._av.error.FFmpegError, MemoryError, ValueError, OverflowError, IndexError, KeyError) as error:
            if not self._found:
                reason = " ".join(str(getattr(error, "strerror", None) or error).split())[:120]
                raise AudioError(f"{self._name} cannot be decoded: {reason or type(error).__name__}") from error
        self._flush()
        if not self._found:
            raise AudioError(f"{self._name} holds no sound")
        samples = np.frombuffer(self._found, np.int16).astype(np.float32)
        samples /= 32768.0
        return samples

    def _frames(self, container: Any, stream: Any) -> Iterator[Any]:
        """Yield decoded frames; packets that are damaged give none."""
        for packet in container.demux(stream):
            with suppress(self._av.error.InvalidDataError):
                yield from packet.decode()

    def _take(self, frame: Any) -> None:
        """Mix and resample a frame. Raises `AudioError` for a form that is not taken, and beyond the limit."""
        form = (frame.format.name, frame.layout.name, frame.layout.nb_channels, frame.sample_rate)
        if form != self._form:
            self._flush()
            self._require(frame.layout.nb_channels, frame.sample_rate)
            self._resampler = self._av.AudioResampler("s16", "mono", SAMPLE_RATE)
            self._form = form
        frame.pts = None
        self._keep(self._resampler.resample(frame))

    def _require(self, channels: int, rate_hz: int) -> None:
        if not 1 <= channels <= MAX_CHANNELS:
            raise AudioError(f"{self._name} has {channels} channels; expected 1 to {MAX_CHANNELS}: mix it down first")
        if rate_hz not in RATES_HZ:
            low, high = RATES_HZ[0], RATES_HZ[-1]
            raise AudioError(f"{self._name} has {rate_hz:,} samples a second; expected {low:,} to {high:,}")

    def _keep(self, frames: list[Any]) -> None:
        for frame in frames:
            self._found += memoryview(frame.planes[0])[: 2 * frame.samples]
        if len(self._found) > 2 * self._max_s * SAMPLE_RATE:
            raise AudioError(
                f"{self._name} is longer than {self._max_s / 3600:g} hours, the most that is read: send parts of it"
            )

    def _flush(self) -> None:
        """Take what the resampler holds back."""
        resampler, self._resampler = self._resampler, None
        if resampler is not None:
            with suppress(self._av.error.FFmpegError, ValueError):
                self._keep(resampler.resample(None))


def opened_recording(path: Path) -> BinaryIO:
    """Open a regular file. Raises `AudioError`."""
    try:
        if path.is_dir():
            raise AudioError(f"{path} is a folder; name the recordings in it, such as {path}/*.wav")
        if not S_ISREG(path.stat().st_mode):
            raise AudioError(f"{path} is no file; expected a recording")
        return path.open("rb")
    except (OSError, ValueError) as error:
        raise AudioError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error


@functools.cache
def _library() -> ModuleType:
    """Import PyAV, and bound the blocks that its FFmpeg may allocate. Raises `MissingLibraryError`."""
    av = need("av")
    need("av.error")
    folder = Path(str(av.__file__)).parent
    for place in (folder.parent / "av.libs", folder / ".dylibs"):  # of wheels for Linux and Windows, and for macOS
        for path in place.glob("*avutil*"):
            with suppress(OSError, AttributeError):
                ctypes.CDLL(str(path)).av_max_alloc(ctypes.c_size_t(MAX_BLOCK_BYTES))
    return av
