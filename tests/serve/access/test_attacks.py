"""Attacks on the door of a whole server on a real port: keys, paths, names, templates, what errors tell."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from child_server import Child, child_server

from miaotui.serve.console.routes import open_paths
from tiny_models import make_tiny_folder

pytestmark = pytest.mark.slow
OPEN = {"/health", "/ready"}
CHAT = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4, "temperature": 0}


@dataclass
class House:
    """A server that asks for keys, one key, and the folder that it lives in."""

    child: Child
    rights: Mapping[str, str]
    folder: Path

    def ask(
        self, path: str, body: Any = None, headers: Mapping[str, str] | None = None, method: str = ""
    ) -> tuple[int, str, http.client.HTTPMessage]:
        """Status, body and headers; the path goes out as it is."""
        connection = self.child.connect()
        try:
            content = None if body is None else json.dumps(body)
            verb = method or ("GET" if body is None else "POST")
            connection.request(verb, path, content, dict(headers or {}))
            answer = connection.getresponse()
            return answer.status, answer.read().decode("utf-8", "replace"), answer.headers
        finally:
            connection.close()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("house")
    model = make_tiny_folder(folder, "llama")
    keys = folder / "keys.txt"
    command = [sys.executable, "-m", "miaotui", "key", "alice", "--api-key-file", str(keys)]
    made = subprocess.run(command, capture_output=True, text=True, check=True)
    with child_server(f"tiny={model}", "--api-key-file", str(keys)) as child:
        yield House(child, {"Authorization": f"Bearer {made.stdout.strip()}"}, folder)


FILES = open_paths()  # of the console: they hold nothing of the server's


def test_no_operation_of_the_page_is_open_without_a_key(house: House) -> None:
    status, text, _ = house.ask("/openapi.json", headers=house.rights)
    assert status == 200
    wrong = [{}, {"Authorization": "Bearer sk-wrong"}, {"Authorization": "Basic YTpi"}, {"x-api-key": ""}]
    for path, methods in json.loads(text)["paths"].items():
        for method in methods:
            for headers in wrong:
                found = house.ask(path, {}, headers, method.upper())[0]
                is_open = path in OPEN or (path in FILES and method == "get")
                assert found == (200 if is_open else 401), (method, path, headers)


@pytest.mark.parametrize(
    "path",
    [
        "//v1/models",
        "/v1/models/",
        "/V1/models",
        "/v1/./models",
        "/health/../v1/models",
        "/health;/v1/models",
        "/health%2f..%2fv1%2fmodels",
        "/health?/v1/models",
        "/v1/models?api_key=x",
        "/v1%2fmodels",
        "/ready/../metrics",
        "/metrics#/health",
        "/health//",
        "/%68ealth/../metrics",
    ],
)
def test_no_spelling_of_a_path_goes_around_the_keys(path: str, house: House) -> None:
    status, text, _ = house.ask(path)
    assert "max_model_len" not in text
    assert "vllm:" not in text
    assert status in (401, 404) or text == '{"status":"ok"}'


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": ""},
        {"Host": "[::1"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
    ],
    ids=str,
)
def test_pages_of_others_are_turned_away_even_with_a_key(headers: dict[str, str], house: House) -> None:
    status, text, heard = house.ask("/v1/models", headers={**house.rights, **headers})
    assert status in (400, 403, 421), text
    assert "max_model_len" not in text
    assert heard.get("access-control-allow-origin") is None


def test_templates_come_from_the_model_alone(house: House) -> None:
    plain = json.loads(house.ask("/v1/chat/completions", CHAT, house.rights)[1])
    hostile = {**CHAT, "chat_template": "{{ ''.__class__.__mro__ }}", "template": "{{ 7 * 7 }}"}
    status, text, headers = house.ask("/v1/chat/completions", hostile, house.rights)
    assert status == 200
    assert {"chat_template", "template"} <= set(headers["X-Ignored-Fields"].replace(" ", "").split(","))
    assert json.loads(text)["usage"]["prompt_tokens"] == plain["usage"]["prompt_tokens"]
    assert json.loads(text)["choices"] == plain["choices"]
    text_of_user = {**CHAT, "messages": [{"role": "user", "content": "{{ 7 * 7 }}{% raw %}"}]}
    assert house.ask("/v1/chat/completions", text_of_user, house.rights)[0] == 200


@pytest.mark.parametrize(
    "name",
    [
        "..%2f..%2fevil",
        "%2e%2e",
        ".",
        "@alice",
        "%40alice",
        "a" * 300,
        "con%00",
        "a%2fb",
        "%ff",
        "evil.json",
        "~",
        "-rf",
    ],
)
def test_names_from_requests_do_not_become_paths(name: str, house: House) -> None:
    before = sorted(house.folder.parent.rglob("*evil*"))
    body = {"documents": [{"id": "../../evil", "text": "a text of some words"}]}
    status, text, _ = house.ask(f"/v1/indexes/{name}/documents", body, house.rights)
    assert status < 500, text
    assert sorted(house.folder.parent.rglob("*evil*")) == before
    assert house.ask(f"/v1/models/{name}", headers=house.rights)[0] in (400, 404)


def test_words_of_clients_do_not_become_labels(house: House) -> None:
    house.ask("/nowhere", headers=house.rights)
    house.ask("/v1/chat/completions", {**CHAT, "model": "none"}, house.rights)
    house.ask("/v1/models", headers=house.rights, method="VERB")
    _labels(house)  # a look at the metrics counts too
    before = _labels(house)
    for number in range(30):
        house.ask(f"/made-up-{number}", headers={**house.rights, "User-Agent": f"agent-{number}"})
        body = {**CHAT, "model": f"model-{number}", "user": f"user-{number}"}
        house.ask("/v1/chat/completions", body, house.rights)
        house.ask("/v1/models", headers=house.rights, method=f"VERB{number}")
    after = _labels(house)
    assert len(after) <= len(before) + 2, sorted(after - before)
    assert not any(word in line for line in after for word in ("made-up", "model-1", "user-1", "VERB"))


def _labels(house: House) -> set[str]:
    text = house.ask("/metrics", headers=house.rights)[1]
    return {line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")}


def test_errors_tell_nothing_of_the_inside(house: House) -> None:
    bodies: list[Any] = [
        {},
        [],
        7,
        {"messages": 1},
        {**CHAT, "model": 1},
        {**CHAT, "n": -1},
        {**CHAT, "tools": [{}]},
        {**CHAT, "response_format": {"type": "x"}},
        {**CHAT, "logit_bias": {"x": 1}},
        {**CHAT, "deadline_ms": "soon"},
    ]
    inside = ("Traceback", "site-packages", ".py", str(house.folder), "pydantic", "object at 0x")
    for body in bodies:
        status, text, _ = house.ask("/v1/chat/completions", body, house.rights)
        assert 400 <= status < 500, text
        assert not any(word in text for word in inside), text
