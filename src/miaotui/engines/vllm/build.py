"""Opening a model with vLLM: from a folder of safetensors to a running loop over a child process.

Owns which Python has vLLM, and the options that vLLM gets. vLLM pins its own torch, so it may live in an environment of
its own: ``MIAOTUI_VLLM_PYTHON`` names that Python. Invariant: an option that vLLM does not get is refused, not ignored.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from miaotui.backends.options import EngineOptions
from miaotui.engine.remote.loop import RemoteLoop
from miaotui.engines.estimates import EstimatedPromises, measure
from miaotui.engines.refusals import tokens_alone
from miaotui.engines.stepped import SteppedDispatcher, SteppedEngine
from miaotui.engines.vllm.engine import VllmEngine, child_command
from miaotui.errors import RequestError, UnsupportedModelError
from miaotui.hub.digest import model_digest
from miaotui.libraries import missing
from miaotui.runtime import open_remote_model

NAME = "vLLM"
PYTHON = "MIAOTUI_VLLM_PYTHON"
ENVIRONMENT = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}  # nothing leaves the machine
ABILITIES = {"promises": "estimated", "logprobs": True, "logit_bias": True}


def open_vllm(path: Path, options: EngineOptions) -> RemoteLoop:
    """Open the folder at ``path``.

    Raises `MissingLibraryError`, `RequestError` for options that vLLM does not get here, `UnsupportedModelError` for a
    file, and `EngineError` where vLLM does not start.
    """
    for name, unset in (("format", None), ("kv", "f16"), ("threads", None), ("kv_tokens", None)):
        if getattr(options, name) != unset:
            raise RequestError(f"vLLM has no {name} {getattr(options, name)!r} here: leave {name} out")
    if not path.is_dir():
        raise UnsupportedModelError(f"vLLM reads folders of safetensors here, not {path.name}: choose one")
    python = vllm_python()
    remote, preparation = open_remote_model(path, model_digest(path), options.context)
    command = child_command(python, engine_arguments(path, options, remote.context))
    vocab_size, width = remote.config.vocab_size, options.max_sequences

    def make() -> SteppedEngine:
        return VllmEngine(command, ENVIRONMENT)

    def estimate(engine: SteppedEngine) -> EstimatedPromises:
        return EstimatedPromises(NAME, measure(engine, vocab_size, width), width)

    dispatcher = SteppedDispatcher(NAME, make, width, tokens_alone(NAME, **ABILITIES), estimate)
    loop = RemoteLoop(remote, preparation, dispatcher)
    dispatcher.loop = loop
    return loop


def vllm_python() -> str:
    """Return the Python that has vLLM. Raises `MissingLibraryError`, or `RequestError` for one that is not there."""
    named = os.environ.get(PYTHON)
    if named:
        found = shutil.which(named)
        if found is None:
            raise RequestError(f"{PYTHON}={named}: there is no such program")
        return found
    if importlib.util.find_spec("vllm") is None:
        raise missing("vllm")
    return sys.executable


def engine_arguments(path: Path, options: EngineOptions, context: int) -> dict[str, Any]:
    """Return vLLM's `AsyncEngineArgs`: tokens go in and come out, so it needs no tokenizer; no code of a model runs."""
    return {
        "model": str(path.absolute()),
        "skip_tokenizer_init": True,
        "trust_remote_code": False,
        "max_model_len": context,
        "max_num_seqs": options.max_sequences,
        "enable_prefix_caching": options.reuse_prefix,
        "disable_log_stats": True,
    }
