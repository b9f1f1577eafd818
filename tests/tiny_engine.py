"""Engines over tiny random models, and everyday ways to run them to the end."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from miaotui.config import Settings
from miaotui.engine.build import EngineOptions, build
from miaotui.engine.engine import Engine
from miaotui.engine.request import Request
from miaotui.kernels.formats import Format
from miaotui.model.files import open_model
from miaotui.text.load import load_tokenizer
from miaotui.types import SamplingParams

GREEDY = SamplingParams(max_tokens=8, ignore_eos=True)
SHORT: Mapping[str, Any] = {"format": Format.Q8, "chunk_size": 64, "threads": 1}


def settings_in(folder: Path) -> Settings:
    """Compiled kernels where this user keeps them, everything else in ``folder``."""
    return dataclasses.replace(Settings.from_env(), cache_dir=folder)


def open_engine(path: Path, folder: Path, **options: Any) -> Engine:
    """An engine for the model at ``path``, its packed weights in ``folder``."""
    with open_model(path) as files:
        tokenizer = load_tokenizer(files.metadata, files.folder)
        config = files.config
    chosen = EngineOptions(**{**SHORT, **options})
    return Engine(build(path, config, chosen, settings_in(folder), None), tokenizer)


def submit_all(engine: Engine, prompts: Sequence[Sequence[int]], *params: Any) -> list[Request]:
    """Submit prompts, each with its own parameters or all with the same."""
    each = params if len(params) == len(prompts) else params * len(prompts)
    return [engine.submit(list(p), q) for p, q in zip(prompts, each, strict=True)]


def run(engine: Engine) -> None:
    """Step until nothing is left, with the scheduler's integrity checked on the way."""
    while engine.step():
        engine.scheduler.check()


def answers(
    engine: Engine, prompts: Sequence[Sequence[int]], *params: Any
) -> list[tuple[int, ...]]:
    """The token ids of every answer, all requests running together."""
    requests = submit_all(engine, prompts, *params)
    run(engine)
    return [request.completion().token_ids for request in requests]
