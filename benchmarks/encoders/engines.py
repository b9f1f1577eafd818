"""The engines that the encoder benchmark measures: ours three ways, and peers in processes of their own.

Each takes one batch as `Texts`, the same texts as words and as token ids, and says how long it took. Ours is the
compiled backend alone, the library (texts to embeddings), and the server (HTTP). Knows no shapes and no tables.
Invariant: `close` leaves no process behind.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from benchmarks.places import SUBJECTS
from miaotui.backends.encoder_backend import EncoderBackend, TextRows
from miaotui.encoder import Encoder

PEERS = ("onnxruntime", "openvino", "fastembed", "llama.cpp")
OURS = ("miaotui", "miaotui_f32", "library", "server")
START_S = 120.0
Seconds = tuple[float, float]  # by the clock; of processor time, all threads


@dataclass(frozen=True)
class Texts:
    """A batch: each text as words, and as the token ids that the model's tokenizer makes of them."""

    words: list[str]
    ids: list[list[int]]


class EncoderEngine(Protocol):
    """An engine that encodes batches."""

    def run(self, texts: Texts) -> Seconds:
        """Measure one batch."""

    def close(self) -> None:
        """Free what it holds."""


class Peer:
    """An engine in a process of its own, on an ONNX export or a GGUF file. fastembed gets words, others token ids."""

    def __init__(self, python: str, engine: str, model: Path, threads: int) -> None:
        worker = SUBJECTS / ("run_llama_encoder.py" if engine == "llama.cpp" else "run_onnx_encoder.py")
        command = [python, str(worker), engine, str(model), "--threads", str(threads)]
        pipe = subprocess.PIPE
        self._words = engine == "fastembed"
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
        if not self._read():
            raise OSError(f"{engine} did not start: is it installed for {python}?")

    def run(self, texts: Texts) -> Seconds:
        """Measure one batch."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(texts.words if self._words else texts.ids) + "\n")
        self._process.stdin.flush()
        clock, processor = self._read()
        return clock, processor

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _read(self) -> Any:
        pipe: IO[str] | None = self._process.stdout
        assert pipe is not None
        line = pipe.readline()
        return json.loads(line) if line else None


class Backend:
    """The compiled backend of this process: from token ids to states."""

    def __init__(self, backend: EncoderBackend) -> None:
        self._backend = backend

    def run(self, texts: Texts) -> Seconds:
        """Measure one batch."""
        rows = [TextRows(text) for text in texts.ids]
        begun_s, begun_cpu_s = time.perf_counter(), time.process_time()
        self._backend.encode(rows)
        return time.perf_counter() - begun_s, time.process_time() - begun_cpu_s

    def close(self) -> None:
        """Leave the backend to the end of the process."""


class Library:
    """`Encoder.embed` in this process: from words to embeddings."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder

    def run(self, texts: Texts) -> Seconds:
        """Measure one batch."""
        begun_s, begun_cpu_s = time.perf_counter(), time.process_time()
        self._encoder.embed(texts.words, prompt="passage")
        return time.perf_counter() - begun_s, time.process_time() - begun_cpu_s

    def close(self) -> None:
        """Free the encoder."""
        self._encoder.close()


class Server:
    """``miaotui serve`` in a process of its own: ``/v1/embeddings`` in base64, connected before the clock starts."""

    def __init__(self, model: Path, threads: int) -> None:
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  (closed with the server)
        command = [sys.executable, "-m", "miaotui", "serve", f"embed={model}", "--threads", str(threads), "--port", "0"]
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log, text=True)
        self._connection = http.client.HTTPConnection("127.0.0.1", self._port(), timeout=START_S)

    def run(self, texts: Texts) -> Seconds:
        """Measure one batch; the processor time of another process is not known: 0."""
        body = json.dumps({"model": "embed", "input": texts.words, "encoding_format": "base64"})
        self._connection.close()  # the server has closed what was idle for too long
        self._connection.connect()
        begun_s = time.perf_counter()
        self._connection.request("POST", "/v1/embeddings", body, {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise OSError(f"the server answered {answer.status}: {text[:300]!r}")
        return time.perf_counter() - begun_s, 0.0

    def close(self) -> None:
        """End the server."""
        self._connection.close()
        self._process.terminate()
        self._process.wait()
        self._log.close()

    def _port(self) -> int:
        """Wait for the line that names its address."""
        end_s = time.perf_counter() + START_S
        while time.perf_counter() < end_s and self._process.poll() is None:
            self._log.seek(0)
            found = self._log.read().partition("http://127.0.0.1:")[2]
            if "\n" in found:
                return int(leading_digits(found))
            time.sleep(0.05)
        self._process.terminate()
        raise OSError("the server did not start")


def leading_digits(text: str) -> str:
    """Return the digits that ``text`` begins with."""
    return text[: len(text) - len(text.lstrip("0123456789"))]
