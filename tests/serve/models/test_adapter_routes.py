"""Low-rank adapters over HTTP: chosen by ``model`` on every route, listed, loaded and unloaded while answers run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import plain_http
import pytest
from serving import Serving, serving
from starlette.middleware import Middleware

from adapter_files import random_pairs, write_peft
from miaotui.errors import RequestError
from miaotui.retrieval.answers.cache import AnswerCache, CacheOptions
from miaotui.serve.adapters import load_adapters
from miaotui.serve.middleware.access import CALLER
from miaotui.serve.middleware.keys import Caller
from miaotui.serve.settings import ServeSettings
from tiny_engine import settings_in
from tiny_models import make_tiny_folder

SHAPES = {"self_attn.v_proj": (64, 64), "mlp.gate_proj": (96, 64), "mlp.down_proj": (64, 96)}
CHAT = {"messages": [{"role": "user", "content": "the same words for all"}], "max_tokens": 12, "temperature": 0}
NAMES = ("tiny", "law", "code")


def write_adapter(folder: Path, seed: int) -> Path:
    shapes = {f"model.layers.{layer}.{name}": shape for layer in range(2) for name, shape in SHAPES.items()}
    return write_peft(folder / f"adapter-{seed}", random_pairs(shapes, 8, seed), alpha=16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapted")
    for seed in range(3):
        write_adapter(folder, seed)
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Serving]:
    models = {"tiny": make_tiny_folder(folder, "llama"), "other": make_tiny_folder(folder, "qwen3")}
    cache = AnswerCache(CacheOptions(folder / "answers.db"))
    settings = ServeSettings(allow_adapters=True)
    with serving(models, settings_in(folder), serve=settings, parts=lambda _: {"response_cache": cache}) as running:
        words = [f"law={folder / 'adapter-0'}", f"code={folder / 'adapter-1'}"]
        load_adapters(running.hosts["tiny"], words, running.hosts)
        yield running


def post(server: Serving, path: str, body: dict[str, Any], status: int = 200) -> Any:
    answer = plain_http.post(server.url + path, json=body)
    assert answer.status_code == status, answer.text
    return answer.json() if answer.text.startswith("{") else answer.text


def text_of(server: Serving, name: str | None) -> str:
    body = post(server, "/v1/chat/completions", {**CHAT, **({"model": name} if name else {})})
    return str(body["choices"][0]["message"]["content"])


def test_the_model_field_chooses_it_on_every_route(server: Serving) -> None:
    prompt = {"prompt": "once upon", "max_tokens": 8, "temperature": 0}
    anthropic = {"messages": CHAT["messages"], "max_tokens": 12, "temperature": 0}
    ollama = {"prompt": "once", "stream": False, "options": SHORT}
    found: dict[str, list[Any]] = {}
    for name in NAMES:
        responses = post(
            server, "/v1/responses", {"model": name, "input": "hello", "max_output_tokens": 8, "temperature": 0}
        )
        assert responses["model"] == name
        found[name] = [
            text_of(server, name),
            post(server, "/v1/completions", {**prompt, "model": name})["choices"][0]["text"],
            responses["output"][0]["content"][0]["text"],
            post(server, "/v1/messages", {**anthropic, "model": name})["content"][0]["text"],
            post(server, "/api/generate", {"model": name, **ollama})["response"],
            post(server, "/api/chat", {"model": f"{name}:latest", **OLLAMA_CHAT})["message"]["content"],
        ]
    for route in zip(*found.values(), strict=True):
        assert len(set(route)) == len(NAMES), route
    assert text_of(server, None) == found["tiny"][0], "without a name the first model answers"


SHORT = {"num_predict": 8, "temperature": 0}
OLLAMA_CHAT = {"messages": CHAT["messages"], "stream": False, "options": SHORT}


def test_kept_answers_are_an_adapters_own(server: Serving) -> None:
    ask = {**CHAT, "messages": [{"role": "user", "content": "kept for each"}]}
    first = {name: post(server, "/v1/chat/completions", {**ask, "model": name}) for name in NAMES}
    again = {name: post(server, "/v1/chat/completions", {**ask, "model": name}) for name in NAMES}
    assert [each["cache"] for each in first.values()] == ["miss"] * 3
    assert [each["cache"] for each in again.values()] == ["hit"] * 3
    texts = {name: each["choices"][0]["message"]["content"] for name, each in first.items()}
    assert texts == {name: each["choices"][0]["message"]["content"] for name, each in again.items()}
    assert len(set(texts.values())) == 3
    assert len({each["system_fingerprint"] for each in first.values()}) == 3


def test_they_are_listed_with_their_parent(server: Serving) -> None:
    models = {each["id"]: each for each in plain_http.get(f"{server.url}/v1/models").json()["data"]}
    assert {name: models[name]["parent"] for name in ("tiny", "other", "law", "code")} == {
        "tiny": None,
        "other": None,
        "law": "tiny",
        "code": "tiny",
    }
    assert plain_http.get(f"{server.url}/v1/models/law").json() == models["law"]
    tags = {each["name"]: each for each in plain_http.get(f"{server.url}/api/tags").json()["models"]}
    assert tags["law"]["details"]["parent_model"] == "tiny"
    assert tags["law"]["digest"] != tags["tiny"]["digest"]


def test_loading_and_unloading_at_run_time(server: Serving, folder: Path) -> None:
    body = {"lora_name": "poems", "lora_path": str(folder / "adapter-2")}
    post(server, "/v1/chat/completions", {**CHAT, "model": "poems"}, status=404)
    assert post(server, "/v1/load_lora_adapter", body) == "Success: LoRA adapter 'poems' added successfully."
    assert "poems' is served here already" in post(server, "/v1/load_lora_adapter", body, 400)["error"]["message"]
    assert text_of(server, "poems") not in {text_of(server, name) for name in NAMES}
    gone = post(server, "/v1/unload_lora_adapter", {"lora_name": "poems"})
    assert gone == "Success: LoRA adapter 'poems' removed successfully."
    post(server, "/v1/chat/completions", {**CHAT, "model": "poems"}, status=404)
    post(server, "/v1/unload_lora_adapter", {"lora_name": "poems"}, status=404)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"lora_name": "tiny", "lora_path": "adapter-2"}, 400, "served here already"),
        ({"lora_name": "new", "lora_path": "nowhere"}, 400, "there is no adapter"),
        ({"lora_name": "new", "lora_path": "adapter-2", "base_model_name": "nobody"}, 404, "does not exist"),
        ({"lora_name": "new", "lora_path": "adapter-2", "base_model_name": "law"}, 404, "does not exist"),
        ({"lora_name": "new", "lora_path": "wide"}, 400, "adapter of another model"),
        ({"lora_name": "new"}, 400, "lora_path"),
    ],
)
def test_what_is_wrong_changes_nothing(
    server: Serving, folder: Path, body: dict[str, str], status: int, words: str
) -> None:
    write_peft(folder / "wide", random_pairs({"model.layers.0.mlp.up_proj": (96, 128)}, 4))
    if "lora_path" in body:
        body = {**body, "lora_path": str(folder / body["lora_path"])}
    error = post(server, "/v1/load_lora_adapter", body, status)["error"]
    assert words in error["message"]
    assert {each.name for each in server.hosts.all()} == {"tiny", "other", "law", "code"}


class Administrator:
    """A layer that lets everybody in as an administrator."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._app({**scope, CALLER: Caller("root", is_admin=True)}, receive, send)


def test_administrators_may_load_and_unload(folder: Path) -> None:
    model = make_tiny_folder(folder, "llama", seed=6)
    with serving({"one": model}, settings_in(folder), layers=[Middleware(Administrator)]) as open_:
        post(open_, "/v1/load_lora_adapter", {"lora_name": "law", "lora_path": str(folder / "adapter-0")})
        assert text_of(open_, "law") != text_of(open_, "one")
        post(open_, "/v1/unload_lora_adapter", {"lora_name": "law"})


def test_clients_may_not_load_unless_the_operator_allows_it(folder: Path) -> None:
    with serving({"one": make_tiny_folder(folder, "llama", seed=5)}, settings_in(folder)) as closed:
        for path, body in (
            ("/v1/load_lora_adapter", {"lora_name": "a", "lora_path": str(folder / "adapter-0")}),
            ("/v1/unload_lora_adapter", {"lora_name": "a"}),
        ):
            assert "--allow-adapters" in post(closed, path, body, 403)["error"]["message"]
        for word, reason in (("law", "expected NAME=PATH"), (f"one={folder}", "served here already")):
            with pytest.raises(RequestError, match=reason):
                load_adapters(closed.hosts["one"], [word], closed.hosts)
