"""Logits of tiny random models beside llama.cpp's, for families whose GGUF files only llama.cpp defines.

    python -m benchmarks.decode.beside_llama_cpp --bindings SOURCE/llama_cpp --library BUILD/bin

``SOURCE`` is llama-cpp-python's, whose ctypes declarations are used, ``BUILD`` a native build of the llama.cpp inside
it (`benchmarks.peers.install` makes both). Each model is written as a GGUF file of float32 and computed by
`model.oracle`, to which the compiled engine is held by the tests. llama.cpp fixes some sizes in its code (Gemma 3n has
inputs of 256 values, a learned residual of rank 64, ten sparse layers and twenty with keys; Baichuan has 32 layers or
40), so the tiny ones have these. It takes GELU from a table of float16, and deviations over n - 1 gates: the wide
feed-forward part makes the second vanish. One JSON line at the end: the largest error over the largest logit, and the
share of rows with the same best token.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import json
import os
import subprocess
import sys
import tempfile
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.places import TESTS
from miaotui.model.oracle import Oracle
from miaotui.model.reading.files import open_model

LOCAL, FULL = "sliding_attention", "full_attention"
_LAYERS = {"layer_types": [LOCAL, LOCAL, FULL, LOCAL, FULL]}
_FULL = {str(n): {"head_dim": 64, "num_key_value_heads": 1} for n in (2, 4)}
CASES: dict[str, dict[str, Any]] = {
    "baichuan": {"num_hidden_layers": 32},
    "baichuan-13b": {"num_hidden_layers": 40},
    "gemma4": {**_LAYERS, "per_layer_config": _FULL},
    "gemma4-moe": {**_LAYERS, "per_layer_config": _FULL},
    "gemma3n": {
        "num_hidden_layers": 22,
        "num_kv_shared_layers": 2,
        "layer_types": ([LOCAL] * 4 + [FULL]) * 4 + [LOCAL, LOCAL],
        "activation_sparsity_pattern": [0.95] * 10 + [0.0] * 12,
        "intermediate_size": 16_384,
        "hidden_size_per_layer_input": 256,
        "vocab_size_per_layer_input": 320,
        "laurel_rank": 64,
    },
}
N_TOKENS = 48
Logits = NDArray[np.float32]


def unused_keys(variant: str) -> Iterator[tuple[str, Logits]]:
    """The tensors that Gemma 3n's files hold for layers that never use them, and that llama.cpp asks for."""
    for layer in range(20, 22) if variant == "gemma3n" else ():
        for name in ("k", "v"):
            yield f"blk.{layer}.attn_{name}.weight", np.zeros((64, 64), np.float32)
        yield f"blk.{layer}.attn_k_norm.weight", np.ones(32, np.float32)


def llama_cpp_logits(path: Path, tokens: list[int], vocab: int, bindings: str) -> Logits:
    """Logits ``[n, vocab]`` of one sequence, with keys and values in float32."""
    package = types.ModuleType("llama_cpp")
    package.__path__ = [bindings]
    sys.modules["llama_cpp"] = package
    import llama_cpp.llama_cpp as api

    silent = api.llama_log_callback(lambda *_: None)
    api.llama_log_set(silent, ctypes.c_void_p(0))
    api.llama_backend_init()
    model = api.llama_model_load_from_file(str(path).encode(), api.llama_model_default_params())
    if not model:
        raise OSError(f"llama.cpp cannot load {path.name}")
    options = api.llama_context_default_params()
    options.n_ctx = options.n_batch = options.n_ubatch = 256
    options.n_threads = options.n_threads_batch = 1
    options.type_k = options.type_v = options.flash_attn_type = 0
    context, batch = api.llama_init_from_model(model, options), api.llama_batch_init(256, 0, 1)
    batch.n_tokens = len(tokens)
    for at, token in enumerate(tokens):
        batch.token[at], batch.pos[at], batch.n_seq_id[at], batch.seq_id[at][0], batch.logits[at] = token, at, 1, 0, 1
    if api.llama_decode(context, batch):
        raise RuntimeError(f"llama.cpp cannot compute {path.name}")
    rows = (api.llama_get_logits_ith(context, at) for at in range(len(tokens)))
    return np.stack([np.ctypeslib.as_array(row, (vocab,)).copy() for row in rows])


def compare(variant: str, bindings: str) -> dict[str, float]:
    """Write a tiny model and compare its logits."""
    tokens = [int(token) for token in np.random.default_rng(3).integers(0, 300, N_TOKENS)]
    tiny_models: Any = importlib.import_module("tiny_models")  # of the tests, whose folder `main` names
    written = tiny_models._gguf_tensors
    tiny_models._gguf_tensors = lambda *args: [*written(*args), *unused_keys(variant)]
    with tempfile.TemporaryDirectory() as folder:
        path = tiny_models.make_tiny_gguf(Path(folder), variant, **CASES[variant])
        with open_model(path) as files:
            ours = Oracle(files.config, files.tensors).logits(tokens)
        theirs = llama_cpp_logits(path, tokens, ours.shape[1], bindings)
    same = float((ours.argmax(axis=1) == theirs.argmax(axis=1)).mean())
    return {"error": float(np.abs(ours - theirs).max() / np.abs(theirs).max()), "same_best": same}


def main() -> None:
    """Compare each family in a process of its own, since llama.cpp ends the process at a failed assertion."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--bindings", required=True, help="llama-cpp-python's folder llama_cpp")
    parser.add_argument("--library", required=True, help="folder of libllama.so")
    parser.add_argument("--only", choices=CASES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    environment = {**os.environ, "LLAMA_CPP_LIB_PATH": args.library, "PYTHONPATH": str(TESTS)}
    if args.only:
        print(json.dumps(compare(args.only, args.bindings)))
        return
    found = {}
    for variant in CASES:
        command = [sys.executable, "-m", "benchmarks.decode.beside_llama_cpp", *sys.argv[1:], "--only", variant]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode:
            raise SystemExit(f"{variant}: {done.stderr.strip().splitlines()[-1:]}")
        found[variant] = json.loads(done.stdout.splitlines()[-1])
        print(f"{variant:13} largest error {found[variant]['error']:.1e}, same best {found[variant]['same_best']:.0%}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
