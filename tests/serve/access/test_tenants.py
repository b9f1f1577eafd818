"""Tenants: what one of them leaves behind reaches no other, whatever route it tries."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import Serving, serving
from starlette.routing import Route

from miaotui.apps.conversations import ConversationStore
from miaotui.apps.faq import Faq, FaqEntry
from miaotui.apps.support import Support
from miaotui.retrieval import Document, Index
from miaotui.retrieval.answers.cache import AnswerCache, CacheOptions
from miaotui.serve.app import ROUTES
from miaotui.serve.documents.index_registry import IndexRegistry
from miaotui.serve.middleware.keys import Caller, Keyring
from miaotui.serve.models import ServedModels
from miaotui.serve.ops.audit import AuditLog
from miaotui.serve.ops.operations import Operations
from miaotui.serve.settings import ServeSettings
from miaotui.serve.start import layers_for
from miaotui.serve.tenants.tenant_file import Tenant, TenantLimits, new_key, read_callers, write_tenants
from tiny_engine import settings_in
from tiny_models import make_tiny_folder

MARK = "quixotrummel"  # a word that only the first tenant has used
PROMPT = f"the {MARK} figures of the quarter, which only one of the two tenants may know of: " * 3


class Tenants:
    """A server with the tenants acme and beta, what acme has left on it, and their keys."""

    def __init__(self, server: Serving, keys: dict[str, str], folder: Path) -> None:
        self.server, self.keys, self.folder = server, keys, folder

    def ask(self, name: str, path: str, method: str = "POST", body: Any = None) -> httpx.Response:
        headers = {"x-api-key": self.keys[name], "content-type": "application/json"}
        content = None if body is None else json.dumps(body)
        return httpx.request(method, self.server.url + path, headers=headers, content=content, timeout=60)


def tenant(name: str, **more: Any) -> tuple[Tenant, str]:
    made, key = new_key("main", is_admin=name == "root")
    return Tenant(name, keys=(key,), **more), made


@pytest.fixture(scope="module")
def tenants(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tenants]:
    folder = tmp_path_factory.mktemp("tenants")
    models = {
        "tiny": make_tiny_folder(folder, "llama", max_position_embeddings=1024),
        "other": make_tiny_folder(folder, "qwen3"),
    }
    made = {
        "acme": tenant("acme"),
        "beta": tenant("beta", models=("tiny",), limits=TenantLimits(index_bytes=100_000, indexes=1)),
        "root": tenant("root", indexes=("handbook",)),
    }
    path = folder / "tenants.yaml"
    write_tenants(path, [each for each, _ in made.values()])
    settings = ServeSettings(("tiny",), tenants=str(path), share_prefix=False)
    audit = AuditLog(folder / "audit.jsonl", 4_000, 3)
    operations = Operations(ServedModels(), audit=audit)
    layers = layers_for(settings, operations)
    with Index.create(folder / "indexes" / "handbook") as shared:
        shared.add([Document("1", "The handbook says that cats sleep.")])
    faq = Faq([FaqEntry(("What are your opening hours?",), "Nine to six.")])

    def parts(served: ServedModels) -> dict[str, Any]:
        operations.models = served
        for model in served.values():
            model.observe(operations.running)  # type: ignore[attr-defined]
        return {
            "operations": operations,
            "indexes": IndexRegistry(folder / "indexes"),
            "response_cache": AnswerCache(CacheOptions(folder / "answers.db")),
            "support": Support(ConversationStore(folder / "support.db"), faq=faq),
        }

    with serving(models, settings_in(folder), serve=settings, layers=layers, parts=parts) as server:
        yield Tenants(server, {name: key for name, (_, key) in made.items()}, folder)


@pytest.fixture(scope="module")
def left(tenants: Tenants) -> dict[str, str]:
    """What acme has left, as parameters of paths."""
    asked = {"model": "tiny", "input": PROMPT, "temperature": 0, "max_output_tokens": 4}
    kept = tenants.ask("acme", "/v1/responses", body=asked)
    assert kept.status_code == 200, kept.text
    added = tenants.ask("acme", "/v1/indexes/pets/documents", body={"documents": [{"id": "d1", "body": PROMPT}]})
    assert added.status_code == 200, added.text
    begun = tenants.ask("acme", "/v1/support/conversations", body={}).json()["conversation"]
    said = tenants.ask("acme", f"/v1/support/conversations/{begun}/messages", body={"text": f"my name is {MARK}"})
    assert said.status_code == 200, said.text
    return {"response_id": kept.json()["id"], "name": "pets", "id": "d1", "conversation": begun, "model": "other"}


BODIES: dict[str, Any] = {
    "search": {"query": MARK},
    "documents": {"documents": [{"id": "x", "body": "dogs"}]},
    "statistics": {"query": MARK, "language": "english", "weights": {"body": 1.0}},
    "passages": {"query": MARK, "language": "english", "weights": {"body": 1.0}, "limit": 3},
    "messages": {"text": "what did I say?"},
    "rating": {"score": 5},
    "ask": {"question": f"Who is {MARK}?"},
}


MAKES_ITS_OWN = {"/v1/indexes/{name}/documents"}  # an index of the caller's; its name may be another's too


def routes_with_names() -> list[tuple[str, str]]:
    endpoints = [each.route() for routes in ROUTES for each in routes()]
    found = {
        (each.path, method)
        for each in endpoints
        if isinstance(each, Route) and "{" in each.path and each.path not in MAKES_ITS_OWN
        for method in (each.methods or set()) - {"HEAD"}
    }
    return sorted(found, key=lambda each: (each[1] == "DELETE", each))  # what deletes comes last


@pytest.mark.parametrize(("path", "method"), routes_with_names(), ids=str)
def test_no_route_leads_to_what_another_tenant_has(
    tenants: Tenants, left: dict[str, str], path: str, method: str
) -> None:
    values = {**left, "id": left["conversation"]} if path.startswith("/v1/support") else left
    filled = re.sub(r"\{(\w+)(:path)?\}", lambda part: values[part[1]], path)
    body = BODIES.get(path.rpartition("/")[2]) if method == "POST" else None
    answer = tenants.ask("beta", filled, method, body)
    assert 400 <= answer.status_code < 500, answer.text
    assert MARK not in answer.text


def test_all_of_it_is_still_there_for_its_owner(tenants: Tenants, left: dict[str, str]) -> None:
    shown = tenants.ask("acme", f"/v1/responses/{left['response_id']}", "GET")
    assert shown.json()["id"] == left["response_id"]
    assert MARK in tenants.ask("acme", "/v1/indexes/pets/documents/d1", "GET").text
    assert MARK in tenants.ask("acme", f"/v1/support/conversations/{left['conversation']}", "GET").text


def test_going_on_from_the_response_of_another_tenant_is_refused(tenants: Tenants, left: dict[str, str]) -> None:
    body = {"model": "tiny", "input": "go on", "previous_response_id": left["response_id"], "max_output_tokens": 2}
    answer = tenants.ask("beta", "/v1/responses", body=body)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "response_not_found"


def test_answers_and_prefixes_are_kept_apart(tenants: Tenants) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": PROMPT}], "temperature": 0, "max_tokens": 3}
    cache = tenants.server.services.response_cache
    assert cache is not None
    kept = cache.counts().kept
    first = tenants.ask("acme", "/v1/chat/completions", body=body)
    while cache.counts().kept == kept:  # a thread keeps it
        time.sleep(0.01)
    again, other = (tenants.ask(name, "/v1/chat/completions", body=body) for name in ("acme", "beta"))
    assert [each.json()["cache"] for each in (first, again, other)] == ["miss", "hit", "miss"]
    asked = {"model": "tiny", "prompt": PROMPT, "max_tokens": 1}
    found = [tenants.ask(name, "/v1/completions", body=asked).json() for name in ("acme", "acme", "beta")]
    cached = [each["usage"]["prompt_tokens_details"]["cached_tokens"] for each in found]
    assert cached[1] > 0
    assert cached[2] == 0


def test_a_response_that_is_deleted_is_kept_nowhere(tenants: Tenants) -> None:
    cache = tenants.server.services.response_cache
    assert cache is not None
    kept = cache.counts().kept
    body = {"model": "tiny", "input": f"{PROMPT} Once more.", "temperature": 0, "max_output_tokens": 3}
    first = tenants.ask("acme", "/v1/responses", body=body).json()
    while cache.counts().kept == kept:  # a thread keeps it
        time.sleep(0.01)
    assert tenants.ask("acme", "/v1/responses", body=body).json()["cache"] == "hit"
    entries = cache.counts().entries
    assert tenants.ask("acme", f"/v1/responses/{first['id']}", "DELETE").json()["deleted"] is True
    assert tenants.ask("acme", f"/v1/responses/{first['id']}", "GET").status_code == 404
    assert cache.counts().entries == entries - 1
    assert tenants.ask("acme", "/v1/responses", body=body).json()["cache"] == "miss"


def test_a_question_to_an_index_reaches_ones_own_alone(tenants: Tenants, left: dict[str, str]) -> None:
    asked = {"question": f"What are the {MARK} figures?", "index": "pets"}
    assert tenants.ask("beta", "/v1/answer", body=asked).status_code == 404
    assert tenants.ask("acme", "/v1/answer", body=asked).status_code == 200


def test_shared_indexes_are_for_those_who_have_them(tenants: Tenants) -> None:
    query = {"query": "cats"}
    assert tenants.ask("root", "/v1/indexes/handbook/search", body=query).json()["data"]
    for name in ("acme", "beta"):
        assert tenants.ask(name, "/v1/indexes/handbook/search", body=query).status_code == 404
        assert "handbook" not in tenants.ask(name, "/v1/indexes", "GET").text


def test_a_model_that_is_not_allowed_looks_like_none(tenants: Tenants) -> None:
    assert [each["id"] for each in tenants.ask("beta", "/v1/models", "GET").json()["data"]] == ["tiny"]
    texts = []
    for model in ("other", "nonsense"):
        body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
        answer = tenants.ask("beta", "/v1/chat/completions", body=body)
        assert answer.status_code == 404
        texts.append(answer.json()["error"]["message"].replace(model, "MODEL"))
    assert texts[0] == texts[1]
    assert tenants.ask("acme", "/v1/models/other", "GET").status_code == 200


def test_metrics_of_all_tenants_are_for_administrators(tenants: Tenants) -> None:
    assert tenants.ask("beta", "/metrics", "GET").status_code == 403
    text = tenants.ask("root", "/metrics", "GET").text
    assert 'miaotui_tenant_requests_total{outcome="ok",tenant="acme"}' in text
    assert 'miaotui_tenant_tokens_total{kind="prompt",tenant="acme"}' in text


def test_indexes_have_limits_in_bytes_and_number(tenants: Tenants) -> None:
    def add(name: str, size: int) -> httpx.Response:
        body = {"documents": [{"id": "1", "body": "dogs bark " * (size // 10)}]}
        return tenants.ask("beta", f"/v1/indexes/{name}/documents", body=body)

    assert add("first", 1_000).status_code == 200
    for answer in (add("second", 1_000), add("first", 200_000)):
        assert answer.status_code == 403
        assert answer.json()["error"]["code"] == "quota_exceeded"
    assert tenants.ask("beta", "/v1/indexes/first", "DELETE").json()["deleted"] is True
    assert add("second", 1_000).status_code == 200


def test_the_audit_names_tenant_key_and_end_without_text_and_rotates(tenants: Tenants) -> None:
    for _ in range(30):
        tenants.ask("beta", "/v1/models/none", "GET")
    files = sorted(tenants.folder.glob("audit.jsonl*"))
    assert 1 < len(files) <= 4
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    assert {"tenant": "beta", "key": "main", "outcome": "invalid", "route": "/v1/models/{model:path}"}.items() <= (
        next(each for each in lines if each["tenant"] == "beta" and each["status"] == 404)
    ).items()
    assert MARK not in "".join(file.read_text() for file in files)


def test_a_tenant_that_is_gone_is_let_in_no_more_and_leaves_nothing_in_memory(tmp_path: Path) -> None:
    path, gone, clock = tmp_path / "tenants.yaml", list[Caller](), [0.0]
    (acme, acme_key), (beta, beta_key) = tenant("acme"), tenant("beta")
    write_tenants(path, [acme, beta])
    ring = Keyring(path, read=read_callers, on_gone=gone.append, clock=lambda: clock[0])
    first, second = ring.find(acme_key.encode()), ring.find(beta_key.encode())
    assert first is not None
    assert second is not None
    assert first.namespace != second.namespace
    write_tenants(path, [beta])
    clock[0] = 2.0
    assert ring.find(acme_key.encode()) is None
    assert gone == [first]
    again, key = tenant("acme")
    write_tenants(path, [beta, again])
    ring.refresh(always=True)
    later = ring.find(key.encode())
    assert later is not None
    assert (later.owner, later.namespace) != (first.owner, first.namespace), "another tenant of the same name"
