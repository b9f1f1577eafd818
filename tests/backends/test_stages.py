"""Layers shared out over processes: the same bytes as one process, less memory in each, a clear end when one dies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from miaotui.backends.options import EngineOptions
from miaotui.engine.engine import Engine
from miaotui.engine.grammar.constraint import Grammars
from miaotui.engine.grammar.source import from_pattern
from miaotui.errors import RequestError, StageLostError, UnsupportedModelError
from miaotui.types import SamplingParams
from tiny_engine import answers, open_engine
from tiny_models import make_tiny_folder

PROMPTS = [[int(i) for i in np.random.default_rng(n).integers(0, 300, n)] for n in (3, 20, 20, 37)]
PARAMS = [
    SamplingParams(max_tokens=10, ignore_eos=True),
    SamplingParams(max_tokens=10, ignore_eos=True, temperature=1.0, seed=3),
    SamplingParams(max_tokens=10, ignore_eos=True, temperature=0.8, top_p=0.9, seed=4, logprobs=3),
    SamplingParams(max_tokens=10, temperature=1.0, repetition_penalty=1.2, seed=5),
]


def staged(path: Path, folder: Path, stages: int) -> Engine:
    return open_engine(path, folder, stages=stages, max_sequences=4, kv_tokens=1024)


@pytest.mark.parametrize(("variant", "stages"), [("llama", 2), ("llama", 3), ("gemma2", 2)])
def test_stages_answer_as_one_process(variant: str, stages: int, tmp_path: Path) -> None:
    path = make_tiny_folder(tmp_path, variant)
    whole, parts = staged(path, tmp_path, 1), staged(path, tmp_path, stages)
    try:
        for engine in (whole, parts):
            engine.submit(PROMPTS[1], PARAMS[0])  # others find its prefix
        expected = answers(whole, PROMPTS, *PARAMS)
        assert answers(parts, PROMPTS, *PARAMS) == expected
        assert parts.backend.identity == whole.backend.identity
    finally:
        parts.backend.close()
