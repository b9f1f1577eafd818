"""Files of sound in every container, encoded here: a tone, its samples, and headers that lie."""

from __future__ import annotations

import io
import struct
import wave
from collections.abc import Callable
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

RATE = 48_000
_ENCODERS = {
    "wav": ("wav", "pcm_s16le", "s16"),
    "flac": ("flac", "flac", "s16"),
    "mp3": ("mp3", "libmp3lame", "s16p"),
    "opus": ("ogg", "libopus", "s16"),
    "webm": ("webm", "libopus", "s16"),
    "m4a": ("ipod", "aac", "fltp"),
    "aac": ("adts", "aac", "fltp"),
    "aiff": ("aiff", "pcm_s16be", "s16"),
}
FORMS = tuple(_ENCODERS)


def tone(seconds: float, rate: int = RATE, hz: float = 440.0) -> NDArray[np.float32]:
    """A sine at 0.4 of full scale."""
    return (0.4 * np.sin(2 * np.pi * hz * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


def encoded(form: str, samples: NDArray[np.float32], rate: int = RATE) -> bytes:
    """One channel of samples as a file of that form."""
    container_name, codec, kind = _ENCODERS[form]
    file = io.BytesIO()
    values = samples if kind == "fltp" else np.rint(32767 * samples).astype(np.int16)
    with av.open(file, "w", format=container_name) as container:
        stream: Any = container.add_stream(codec, rate=rate)
        stream.layout, stream.codec_context.format = "mono", kind
        stream.codec_context.open()
        step = stream.codec_context.frame_size or 1024
        for start in range(0, len(values), step):
            frame: Any = av.AudioFrame.from_ndarray(values[None, start : start + step], format=kind, layout="mono")
            frame.sample_rate, frame.pts = rate, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


def wav(samples: NDArray[np.float32], rate: int, channels: int = 1) -> bytes:
    """A plain WAV file with so many equal channels."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(channels)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(np.repeat(np.rint(32767 * samples).astype("<i2"), channels).tobytes())
    return file.getvalue()


def endless_wav(samples: NDArray[np.float32], rate: int) -> bytes:
    """An RF64 file whose header claims 2^63 - 1 samples."""
    data = np.rint(32767 * samples).astype("<i2").tobytes()
    most = (1 << 63) - 1
    sizes = b"ds64" + struct.pack("<IQQQI", 28, most, most, most, 0)
    form = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 1, rate, 2 * rate, 2, 16)
    return b"RF64\xff\xff\xff\xffWAVE" + sizes + form + b"data\xff\xff\xff\xff" + data


def table_bomb(claimed: int = 50_000_000) -> bytes:
    """An M4A file of a few kilobytes whose table claims so many samples of one byte each."""
    content = bytearray(encoded("m4a", tone(0.2)))
    sizes, chunks = content.index(b"stsz"), content.index(b"stsc")
    content[sizes + 8 : sizes + 16] = struct.pack(">2I", 1, claimed)
    content[chunks + 16 : chunks + 20] = struct.pack(">I", 0x7FFFFFFF)
    return bytes(content)


HOSTILE: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "text named .wav": lambda: b"these are words, and no sound at all\n" * 20,
    "a header alone": lambda: wav(tone(0), 16_000),
    "half a header": lambda: wav(tone(0), 16_000)[:20],
    "one hertz": lambda: wav(tone(1), 1),
    "twelve channels": lambda: wav(tone(0.1), 16_000, 12),
    "a table bomb": table_bomb,
    "no track of sound": lambda: b"\x00\x00\x00\x18ftypM4A \x00\x00\x00\x00M4A mp42",
    "a playlist": lambda: b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
}
