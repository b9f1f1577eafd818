"""llama.cpp's encoder on a GGUF file, answering the encoder benchmark over a pipe.

Runs in the peers' environment (llama-cpp-python). Texts of a batch share calls of up to 512 tokens, as many as fit, or
one longer text; the time is from token ids to pooled embeddings. One line of JSON for each request: ``[[token ids],
…]`` in, seconds by the clock and of processor time out.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from typing import Any

import llama_cpp.llama_cpp as llama

CALL_TOKENS = 512
MOST_TEXTS = 64  # of a call


def opened(path: str, threads: int) -> Any:
    """A context that gives one embedding for each text."""
    llama.llama_backend_init()
    model = llama.llama_model_load_from_file(path.encode(), llama.llama_model_default_params())
    params = llama.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = CALL_TOKENS
    params.n_seq_max = MOST_TEXTS
    params.n_threads = params.n_threads_batch = threads
    params.embeddings = True
    params.kv_unified = True
    return llama.llama_init_from_model(model, params)


def calls(texts: list[list[int]]) -> Iterator[list[list[int]]]:
    """The texts of each call."""
    some: list[list[int]] = []
    for text in texts:
        if some and (sum(map(len, some)) + len(text) > CALL_TOKENS or len(some) == MOST_TEXTS):
            yield some
            some = []
        some.append(text)
    yield some


def encode(context: Any, batch: Any, texts: list[list[int]]) -> list[list[float]]:
    """Embeddings of one call."""
    row = 0
    for number, text in enumerate(texts):
        for position, token in enumerate(text):
            batch.token[row], batch.pos[row] = token, position
            batch.n_seq_id[row], batch.seq_id[row][0], batch.logits[row] = 1, number, 1
            row += 1
    batch.n_tokens = row
    if llama.llama_encode(context, batch) != 0:
        sys.exit("llama.cpp could not encode")
    size = llama.llama_model_n_embd(llama.llama_get_model(context))
    return [llama.llama_get_embeddings_seq(context, number)[:size] for number in range(len(texts))]


def main() -> None:
    """Load the model, then answer requests until the end of input."""
    parser = argparse.ArgumentParser()
    parser.add_argument("engine", choices=["llama.cpp"])
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    context = opened(options.model, options.threads)
    batch = llama.llama_batch_init(CALL_TOKENS, 0, 1)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        texts = json.loads(line)
        begun_s, begun_cpu_s = time.perf_counter(), time.process_time()
        for some in calls(texts):
            encode(context, batch, some)
        print(json.dumps([time.perf_counter() - begun_s, time.process_time() - begun_cpu_s]), flush=True)


if __name__ == "__main__":
    main()
