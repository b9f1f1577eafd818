"""/v1/chat/completions with OpenAI's own client, on a real port."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from serving import Serving, serving

from tiny_engine import settings_in
from tiny_models import make_tiny_folder

HELLO = [{"role": "user", "content": "hello there"}]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("chat")
    path: Path = make_tiny_folder(folder, "llama")
    with serving({"tiny": path}, settings_in(folder)) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Serving) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def ask(client: openai.OpenAI, **more):
    return client.chat.completions.create(
        model="tiny", messages=HELLO, max_tokens=12, seed=7, extra_body={"ignore_eos": True}, **more
    )


def test_streamed_is_whole(client: openai.OpenAI) -> None:
    whole = ask(client)
    assert whole.usage.completion_tokens == 12
    text = ""
    for chunk in ask(client, stream=True):
        text += chunk.choices[0].delta.content or ""
    assert text == whole.choices[0].message.content
    print(whole)
