"""A package ``vllm`` as far as our child process calls it, with answers by rule: for tests where vLLM is not installed.

The names and the shapes of values are those of vLLM 0.32 (``vllm/v1/engine/async_llm.py``, ``vllm/sampling_params.py``,
``vllm/outputs.py``). `write` puts it into a folder for ``PYTHONPATH``.
"""

from __future__ import annotations

from pathlib import Path

_PACKAGE = """
import asyncio
import os
from dataclasses import dataclass

__version__ = "0.32.0 (scripted)"
DIES, REFUSED, SLOW = 98, 97, 96  # first tokens of prompts


@dataclass
class SamplingParams:
    max_tokens: int
    temperature: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    logprobs: int | None = None
    logit_bias: dict | None = None
    ignore_eos: bool = False
    detokenize: bool = True
    output_kind: object = None


@dataclass
class Logprob:
    logprob: float
    rank: int | None


@dataclass
class Part:
    token_ids: list
    logprobs: list | None
    finish_reason: str | None


@dataclass
class Output:
    outputs: list
    finished: bool
    num_cached_tokens: int | None = None


class Engine:
    errored = False

    def __init__(self, args):
        self.args = args
        self.model_config = self
        self.max_model_len = args.max_model_len

    def get_vocab_size(self):
        return 320

    def shutdown(self):
        pass

    async def generate(self, prompt, params, request_id):
        assert params.ignore_eos and not params.detokenize and params.output_kind == "delta"
        ids = prompt["prompt_token_ids"]
        if ids[0] == REFUSED:
            raise ValueError("not this one")
        token = ids[-1]
        if params.logit_bias:
            token = max(params.logit_bias, key=params.logit_bias.get) - 1
        for index in range(params.max_tokens):
            await asyncio.sleep(0.05 if ids[0] == SLOW else 0.001)
            if ids[0] == DIES and index == 2:
                os._exit(9)
            token = (token + 1) % 300
            found = None
            if params.logprobs is not None:
                found = [{token: Logprob(-2.5, 9), **{n: Logprob(-0.1 * n, n) for n in range(1, params.logprobs + 1)}}]
            over = index == params.max_tokens - 1
            yield Output([Part([token], found, "length" if over else None)], over)
"""
_FILES = {
    "__init__.py": _PACKAGE,
    "sampling_params.py": "class RequestOutputKind:\n    DELTA = 'delta'\n",
    "engine/__init__.py": "",
    "engine/arg_utils.py": "from types import SimpleNamespace\n\ndef AsyncEngineArgs(**values):\n"
    "    return SimpleNamespace(**values)\n",
    "v1/__init__.py": "",
    "v1/engine/__init__.py": "",
    "v1/engine/async_llm.py": "from vllm import Engine\n\nclass AsyncLLM:\n"
    "    from_engine_args = staticmethod(Engine)\n",
}
DIES, REFUSED, SLOW = 98, 97, 96


def write(folder: Path) -> Path:
    """Write the package below ``folder``, and return that."""
    for name, text in _FILES.items():
        path = folder / "vllm" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder
