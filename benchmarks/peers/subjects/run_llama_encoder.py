"""llama.cpp's encoder on a GGUF file, answering the encoder benchmark over a pipe.

Runs in the peers' environment (``pip install cyllama``, wheels of llama.cpp for AVX2). Texts of a batch share calls of
up to 512 tokens, as many as fit, or one longer text; the time is from token ids to states. One line of JSON for each
request: ``[[token ids], …]`` in, seconds by the clock and of processor time out.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from typing import Any

from cyllama.llama import llama_cpp as llama

CALL_TOKENS = 512
MOST_TEXTS = 64  # of a call


def opened(path: str, threads: int) -> tuple[Any, Any]:
    """The model, and a context for several texts at once."""
    llama.disable_logging()
    model = llama.LlamaModel(path, llama.LlamaModelParams())
    params = llama.LlamaContextParams()
    params.n_ctx = params.n_batch = params.n_ubatch = CALL_TOKENS
    params.n_seq_max = MOST_TEXTS
    params.n_threads = params.n_threads_batch = threads
    params.pooling_type = 0
    params.kv_unified = True
    context = llama.LlamaContext(model, params)
    context.set_embeddings_mode(True)
    return model, context


def calls(texts: list[list[int]]) -> Iterator[list[list[int]]]:
    """The texts of each call."""
    some: list[list[int]] = []
    for text in texts:
        if some and (sum(map(len, some)) + len(text) > CALL_TOKENS or len(some) == MOST_TEXTS):
            yield some
            some = []
        some.append(text)
    yield some


def batch_of(texts: list[list[int]]) -> Any:
    """The rows of one call."""
    batch = llama.LlamaBatch(n_tokens=sum(map(len, texts)), embd=0, n_seq_max=1)
    for number, text in enumerate(texts):
        for position, token in enumerate(text):
            batch.add(token, position, [number], True)
    return batch


def main() -> None:
    """Load the model, then answer requests until the end of input."""
    parser = argparse.ArgumentParser()
    parser.add_argument("engine", choices=["llama.cpp"])
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    _model, context = opened(options.model, options.threads)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        batches = [batch_of(some) for some in calls(json.loads(line))]
        begun_s, begun_cpu_s = time.perf_counter(), time.process_time()
        for batch in batches:
            context.encode(batch)
        print(json.dumps([time.perf_counter() - begun_s, time.process_time() - begun_cpu_s]), flush=True)


if __name__ == "__main__":
    main()
