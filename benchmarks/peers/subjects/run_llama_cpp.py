"""llama.cpp under test: its C API, called the way its own benchmark tools call it.

Uses the ctypes declarations of llama-cpp-python's source over a native build of the llama.cpp
inside it. Knows nothing of other engines. As in `llama-batched-bench`, all prompts go in first and
then every step decodes one token of each sequence; the next token is the argmax of the logits (by
NumPy: faster than its sampler chain, so in its favour).
"""

from __future__ import annotations

import argparse
import ctypes
import os
import sys
import types
from collections.abc import Sequence
from typing import Any

import numpy as np
from protocol import Stopwatch, TokenTimes, claim_stdout, serve

CONTEXT = 4096  # tokens, shared by the sequences
BATCH = 2048
SEQUENCES = 8


class Batch:
    """A `llama_batch` filled through NumPy views (ctypes would cost the peer 0.3 ms a prompt)."""

    def __init__(self, api: Any) -> None:
        self.raw = api.llama_batch_init(BATCH, 0, 1)
        self._tokens = np.ctypeslib.as_array(self.raw.token, (BATCH,))
        self._positions = np.ctypeslib.as_array(self.raw.pos, (BATCH,))
        self._wanted = np.ctypeslib.as_array(self.raw.logits, (BATCH,))
        np.ctypeslib.as_array(self.raw.n_seq_id, (BATCH,))[:] = 1
        self._numbers = np.arange(SEQUENCES, dtype=np.int32)  # what the table below points to
        pointers = ctypes.cast(self.raw.seq_id, ctypes.POINTER(ctypes.c_uint64))
        self._sequences = np.ctypeslib.as_array(pointers, (BATCH,))

    def prompts(self, prompts: Sequence[Sequence[int]]) -> list[int]:
        """Hold all ``prompts``; return the rows whose logits are wanted."""
        lengths = [len(prompt) for prompt in prompts]
        self._fill(
            np.concatenate([np.asarray(prompt, np.int32) for prompt in prompts]),
            np.concatenate([np.arange(n) for n in lengths]),
            np.repeat(np.arange(len(prompts)), lengths),
        )
        ends = np.cumsum(lengths) - 1
        self._wanted[: self.raw.n_tokens] = 0
        self._wanted[ends] = 1
        return [int(row) for row in ends]

    def step(self, tokens: Sequence[int], positions: Sequence[int]) -> list[int]:
        """Hold one new token of each sequence; return all rows."""
        self._fill(np.asarray(tokens), np.asarray(positions), np.arange(len(tokens)))
        self._wanted[: len(tokens)] = 1
        return list(range(len(tokens)))

    def _fill(self, tokens: Any, positions: Any, sequences: Any) -> None:
        n = self.raw.n_tokens = len(tokens)
        self._tokens[:n], self._positions[:n] = tokens, positions
        self._sequences[:n] = self._numbers.ctypes.data + 4 * sequences


class Engine:
    """One model in one context of `CONTEXT` tokens."""

    def __init__(self, path: str, threads: int, flash: bool, repack: bool) -> None:
        self._api = api = _bindings()
        self._silence = api.llama_log_callback(lambda *_: None)
        api.llama_log_set(self._silence, ctypes.c_void_p(0))
        api.llama_backend_init()
        options = api.llama_model_default_params()
        options.use_extra_bufts = repack
        self._model = api.llama_model_load_from_file(path.encode(), options)
        if not self._model:
            raise OSError(f"llama.cpp cannot load {path}; expected a GGUF file it supports")
        self._context = api.llama_init_from_model(self._model, self._parameters(threads, flash))
        self._memory = api.llama_get_memory(self._context)
        self._batch = Batch(api)
        self._n_vocab = api.llama_vocab_n_tokens(api.llama_model_get_vocab(self._model))

    def _parameters(self, threads: int, flash: bool) -> Any:
        p = self._api.llama_context_default_params()
        p.n_ctx, p.n_batch, p.n_ubatch, p.n_seq_max = CONTEXT, BATCH, 512, SEQUENCES
        p.n_threads = p.n_threads_batch = threads
        p.flash_attn_type = int(flash)  # LLAMA_FLASH_ATTN_TYPE_ENABLED or _DISABLED
        p.kv_unified = False  # the faster choice for sequences without a common prefix
        p.no_perf = True
        return p

    def generate(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> TokenTimes:
        """Greedy continuation of all ``prompts`` together."""
        clock = Stopwatch()
        self._api.llama_memory_clear(self._memory, False)
        rows = self._batch.prompts(prompts)
        moments = []
        for step in range(new_tokens):
            tokens = self._decode(rows)
            moments.append(clock())
            rows = self._batch.step(tokens, [len(prompt) + step for prompt in prompts])
        return [moments for _ in prompts]

    def _decode(self, rows: Sequence[int]) -> list[int]:
        status = self._api.llama_decode(self._context, self._batch.raw)
        if status != 0:
            raise RuntimeError(f"llama_decode returned {status}; expected 0")
        logits = (self._api.llama_get_logits_ith(self._context, row) for row in rows)
        return [int(np.ctypeslib.as_array(row, (self._n_vocab,)).argmax()) for row in logits]


def _bindings() -> Any:
    """llama-cpp-python's declarations without the rest of that package, slow to import."""
    package = types.ModuleType("llama_cpp")
    package.__path__ = [os.environ["LLAMA_CPP_BINDINGS"]]
    sys.modules["llama_cpp"] = package
    import llama_cpp.llama_cpp as api

    return api


def main() -> None:
    """Serve one model until told to quit."""
    parser = argparse.ArgumentParser(description="llama.cpp behind the benchmark's protocol")
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--flash", type=int, default=1)
    parser.add_argument("--repack", type=int, default=1)
    args = parser.parse_args()
    pipe = claim_stdout()
    engine = Engine(args.model, args.threads, bool(args.flash), bool(args.repack))
    serve(pipe, engine.generate)


if __name__ == "__main__":
    main()
