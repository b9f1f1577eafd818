"""Documents over HTTP: added, found, deleted; apart by key; and an index as another's partition."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from asgi_calls import Answer, ask
from serving import services

from miaotui.errors import RequestError
from miaotui.retrieval import Document, Index, IndexSettings
from miaotui.retrieval.ingest.pdf_text import pdf_text_apart
from miaotui.serve.app import create_app
from miaotui.serve.middleware.access import CALLER
from miaotui.serve.middleware.keys import Caller
from pdf_files import pdf_of

HEADERS = (("host", "localhost"), ("content-type", "application/json"))
CATS = {"id": "1", "body": "Cats sleep sixteen hours a day.", "title": "Cats"}
DOGS = {"id": "a/2", "body": "Dogs bark at <script>cats</script>.", "tags": ["pets"]}


class App:
    """The application, called as a named key would call it."""

    def __init__(self) -> None:
        self._app = create_app(services())
        self.caller = Caller()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        await self._app({**scope, CALLER: self.caller}, receive, send)

    def call(self, path: str, body: Any = None, method: str = "POST", key: str = "") -> Answer:
        self.caller = Caller(key, 7 if key else 0)
        data = b"" if body is None else json.dumps(body).encode()
        return asyncio.run(ask(self, path, HEADERS, method, data))


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> App:
    monkeypatch.setenv("MIAOTUI_HOME", str(tmp_path))
    return App()


def add(app: App, name: str = "pets", key: str = "", *documents: dict[str, Any]) -> Answer:
    body = {"documents": list(documents) or [CATS, DOGS]}
    return app.call(f"/v1/indexes/{name}/documents", body, key=key)


def ids(app: App, query: str, name: str = "pets", key: str = "") -> list[str]:
    answer = app.call(f"/v1/indexes/{name}/search", {"query": query}, key=key)
    assert answer.status == 200, answer.body
    return [hit["id"] for hit in answer.json()["data"]]


def test_documents_are_added_found_and_deleted(app: App) -> None:
    added = add(app)
    assert (added.status, added.json()["added"]) == (200, 2)
    assert ids(app, "sleeping cats")[0] == "1"
    found = app.call("/v1/indexes/pets/search", {"query": "barking", "limit": 1}).json()
    assert found["data"][0]["snippet"].count("<") == 2  # ours alone: <b> and </b>
    gone = app.call("/v1/indexes/pets/documents/a/2", method="DELETE")
    assert gone.json()["passages"] == 1
    assert gone.json()["version"] != added.json()["version"]
    assert ids(app, "barking") == []
    assert app.call("/v1/indexes/pets/documents/a/2", method="DELETE").status == 404


def test_hits_are_explained(app: App) -> None:
    add(app)
    found = app.call("/v1/indexes/pets/search", {"query": "sleeping cats", "explain": True}).json()["data"]
    shares = found[0]["shares"]
    assert {each["term"] for each in shares["terms"]} == {"sleep", "cat"}
    assert sum(each["share"] for each in shares["terms"]) == pytest.approx(found[0]["score"])
    assert "shares" not in app.call("/v1/indexes/pets/search", {"query": "cats"}).json()["data"][0]
    assert app.call("/v1/indexes/pets/search", {"query": "zebra", "explain": True}).json()["data"] == []


def test_a_pdf_is_read_by_the_server(app: App) -> None:
    whole = base64.b64encode(pdf_of("Hello from a page")).decode()
    added = app.call("/v1/indexes/files/documents", {"documents": [{"id": "a.pdf", "pdf": whole}]})
    assert (added.status, added.json()["passages"]) == (200, 1)
    assert ids(app, "hello", "files") == ["a.pdf"]


@pytest.mark.parametrize(
    ("documents", "said"),
    [
        ([{"id": "a", "pdf": "%%%"}], "base64"),
        ([{"id": "a", "pdf": base64.b64encode(b"%PDF-1.4 broken").decode()}], "the PDF is broken"),
        ([{"id": "a", "pdf": base64.b64encode(pdf_of("")).decode()}], "holds no text"),
        ([{"id": "a", "pdf": "", "body": "text"}], "not both"),
        ([{"id": "a", "pdf": ""}, {"id": "b", "pdf": ""}], "several PDF files"),
    ],
)
def test_a_pdf_that_cannot_be_taken_is_named(app: App, documents: list[Any], said: str) -> None:
    answer = app.call("/v1/indexes/files/documents", {"documents": documents})
    assert answer.status == 400
    assert said in answer.json()["error"]["message"]


def test_a_pdf_that_takes_too_long_is_left() -> None:
    with pytest.raises(RequestError, match="takes more than"):
        pdf_text_apart(pdf_of("Hello"), timeout_s=0.001)


def test_adding_again_replaces(app: App) -> None:
    add(app)
    add(app, "pets", "", {"id": "1", "body": "Nothing about them."})
    assert ids(app, "sixteen") == []
    assert ids(app, "nothing") == ["1"]


def test_keys_have_indexes_of_their_own(app: App) -> None:
    add(app, key="anna")
    add(app, "shared")
    assert ids(app, "cats", key="anna")
    assert app.call("/v1/indexes/pets/search", {"query": "cats"}, key="bert").status == 404
    assert app.call("/v1/indexes/@anna/search", {"query": "cats"}, key="bert").status == 400
    assert ids(app, "cats", "shared", key="bert")
    assert app.call("/v1/indexes/shared/documents/1", method="DELETE", key="bert").status == 404
    listed = app.call("/v1/indexes", method="GET", key="anna").json()["data"]
    assert [one["id"] for one in listed] == ["pets", "shared"]


@pytest.mark.parametrize("name", ["..", ".hidden", "a b", "@x", "a" * 65, "x\n"])
def test_names_are_never_paths(app: App, name: str) -> None:
    assert app.call(f"/v1/indexes/{name}/search", {"query": "x"}).status == 400
    assert add(app, name).status == 400


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "query"),
        ({"query": 1}, "query"),
        ({"query": "x", "limit": 0}, "limit"),
        ({"query": "x", "limit": 10**9}, "limit"),
        ({"query": "x" * 9_000}, "query"),
    ],
)
def test_wrong_searches_are_refused(app: App, body: dict[str, Any], param: str) -> None:
    add(app)
    answer = app.call("/v1/indexes/pets/search", body)
    assert (answer.status, answer.json()["error"]["param"]) == (400, param)


def test_a_query_that_cannot_be_read_says_where(app: App) -> None:
    add(app)
    answer = app.call("/v1/indexes/pets/search", {"query": "(cats"})
    assert answer.status == 400
    assert "character 6" in answer.json()["error"]["message"]


def test_another_writer_is_a_conflict(app: App, tmp_path: Path) -> None:
    add(app)
    with Index.create(tmp_path / "indexes" / "held") as held:
        held.add([Document("1", "x")])
        assert add(app, "held").status == 409
    assert add(app, "held").status == 200


# ---- an index as a partition ---------------------------------------------------------------------


@pytest.fixture
def url(app: App) -> Iterator[str]:
    """The application behind a real port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            answer = asyncio.run(ask(app, self.path, HEADERS, "POST", body))
            self.send_response(answer.status)
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, *_: object) -> None:
            """Be quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1/indexes/pets"
        server.shutdown()
        thread.join()


def test_a_remote_partition_ranks_as_if_it_were_here(app: App, url: str, tmp_path: Path) -> None:
    texts = [f"cat {'dog ' * (n % 5)} bird{n % 3} {'fish ' * (n % 4)}" for n in range(60)]
    documents = [Document(str(n), text) for n, text in enumerate(texts)]
    add(app, "pets", "", *({"id": one.id, "body": one.body} for one in documents[:25]))
    together = Index.create(tmp_path / "together")
    together.add(documents)
    apart = Index.create(tmp_path / "apart", IndexSettings(remotes=(url,)))
    apart.add(documents[25:])
    for query in ("fish", "dog bird1", '"cat dog"', "cat -dog"):
        found = apart.search(query, 30)
        expected = together.search(query, 30)
        assert found.warnings == ()
        assert [hit.id for hit in found] == [hit.id for hit in expected]
        assert [hit.score for hit in found] == pytest.approx([h.score for h in expected], rel=1e-5)


def test_a_dead_partition_costs_its_passages_and_a_warning(tmp_path: Path) -> None:
    plan = IndexSettings(remotes=("http://127.0.0.1:9/v1/indexes/x",))
    index = Index.create(tmp_path / "index", plan)
    index.add([Document("1", "cats")])
    results = index.search("cats")
    assert [hit.id for hit in results] == ["1"]
    assert "127.0.0.1:9" in results.warnings[0]


def test_a_slow_partition_costs_no_more_than_its_timeout(tmp_path: Path) -> None:
    class Slow(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            time.sleep(1)

        def log_message(self, *_: object) -> None:
            """Be quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server:
        server.daemon_threads = True
        server.block_on_close = False
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/v1/indexes/x"
        index = Index.create(tmp_path / "index", IndexSettings(remotes=(url,), timeout_s=0.1))
        index.add([Document("1", "cats")])
        start = time.perf_counter()
        results = index.search("cats")
        assert time.perf_counter() - start < 0.6
        assert len(results) == 1
        assert len(results.warnings) == 1
        server.shutdown()


def test_a_document_is_shown_by_its_id_and_by_that_of_a_passage(app: App) -> None:
    long = {"id": "long", "body": "\n\n".join(f"Fact {n}. " + "It is said that cats sleep. " * 40 for n in range(4))}
    add(app, "pets", "", long, CATS)
    whole = app.call("/v1/indexes/pets/documents/long", method="GET").json()
    assert whole["id"] == "long"
    assert len(whole["passages"]) > 1
    assert "Fact 0." in whole["passages"][0]["body"]
    assert "Fact 3." in whole["passages"][-1]["body"]
    part = whole["passages"][1]["id"]
    assert app.call(f"/v1/indexes/pets/documents/{part}", method="GET").json() == whole
    missing = app.call("/v1/indexes/pets/documents/none", method="GET")
    assert (missing.status, missing.json()["error"]["code"]) == (404, "document_not_found")
    assert app.call("/v1/indexes/pets/documents/long", method="GET", key="other").status == 200


def test_a_document_of_another_caller_is_not_shown(app: App) -> None:
    add(app, "own", "alice")
    assert app.call("/v1/indexes/own/documents/1", method="GET", key="alice").status == 200
    assert app.call("/v1/indexes/own/documents/1", method="GET", key="bob").status == 404
