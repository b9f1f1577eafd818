"""A whole server over the reference backend: HTTP on a real port, nothing compiled beneath."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from serving import Serving, serving

from miaotui.backends.options import EngineOptions
from miaotui.engine.engine import Engine
from miaotui.runtime import load_model
from miaotui.types import SamplingParams
from tiny_engine import settings_in
from tiny_models import make_tiny_folder

OPTIONS = EngineOptions(backend="reference", max_sequences=4, chunk_size=32)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_folder(tmp_path_factory.mktemp("models"), "llama")


@pytest.fixture(scope="module")
def server(path: Path) -> Iterator[Serving]:
    with serving({"tiny": path}, settings_in(path), options=OPTIONS) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: Serving) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")


def test_answers_are_those_of_the_engine(client: openai.OpenAI, path: Path) -> None:
    loaded = load_model(path, OPTIONS, settings_in(path))
    engine = Engine(loaded.parts, loaded.tokenizer)
    params = SamplingParams(max_tokens=12, temperature=0.9, top_p=0.8, seed=7, ignore_eos=True)
    request = engine.submit([5, 6, 7], params)
    while engine.step():
        pass
    extra = {"ignore_eos": True}
    asked = {"model": "tiny", "prompt": [5, 6, 7], "max_tokens": 12, "temperature": 0.9, "top_p": 0.8, "seed": 7}
    answer = client.completions.create(**asked, extra_body=extra)
    assert answer.choices[0].text == request.completion().text
    pieces = client.completions.create(**asked, stream=True, extra_body=extra)
    assert "".join(piece.choices[0].text for piece in pieces if piece.choices) == request.completion().text


def test_deadlines_and_grammars_work_over_it(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model="tiny",
        prompt=[5, 6, 7],
        max_tokens=8,
        seed=1,
        extra_body={"structured_outputs": {"regex": "[ab]{3}"}, "deadline_ms": 60_000},
    )
    assert len(answer.choices[0].text) == 3
    assert set(answer.choices[0].text) <= set("ab")
