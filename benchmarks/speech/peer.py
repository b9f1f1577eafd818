"""faster-whisper as a process: one request a line in, one answer a line out. `recognition.py` runs it.

    PYTHON benchmarks/speech/peer.py MODEL THREADS

A request is JSON: path of samples (``.npy``), compute type, beam size, language. An answer has seconds and tokens.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np
from faster_whisper import WhisperModel


def main() -> None:
    """Answer requests until the input ends."""
    path, threads = sys.argv[1], int(sys.argv[2])
    models: dict[str, Any] = {}
    for line in sys.stdin:
        request = json.loads(line)
        kind = request["compute"]
        if kind not in models:
            models[kind] = WhisperModel(path, device="cpu", compute_type=kind, cpu_threads=threads, num_workers=1)
        samples = np.load(request["samples"])
        start_s = time.perf_counter()
        segments, _ = models[kind].transcribe(samples, language=request["language"], beam_size=request["beam"])
        found = list(segments)
        seconds = time.perf_counter() - start_s
        tokens = [token for segment in found for token in segment.tokens]
        text = "".join(segment.text for segment in found)
        print(json.dumps({"seconds": seconds, "tokens": tokens, "text": text}), flush=True)


main()
