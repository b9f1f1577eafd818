"""The OpenAPI document describes every route, and its page needs nothing from elsewhere."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from asgi_calls import Answer, ask
from serving import services
from starlette.routing import Route

from miaotui.serve.app import create_app
from miaotui.serve.settings import ServeSettings

APP = create_app(services())


def get(path: str, app: Any = APP) -> Answer:
    return asyncio.run(ask(app, path))


@pytest.fixture(scope="module")
def document() -> Any:
    return get("/openapi.json").json()


def refs(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        part = list(part.values())
    if isinstance(part, list):
        for inner in part:
            yield from refs(inner)


def test_every_route_is_described(document: Any) -> None:
    assert document["openapi"].startswith("3.1")
    served = {
        (re.sub(r":\w+}", "}", route.path), method.lower())
        for route in APP.routes
        if isinstance(route, Route)
        for method in route.methods or ()
        if method != "HEAD"
    }
    described = {(path, method) for path, ms in document["paths"].items() for method in ms}
    assert served == described
    names = [op["operationId"] for ms in document["paths"].values() for op in ms.values()]
    assert len(names) == len(set(names))
    for path, methods in document["paths"].items():
        for operation in methods.values():
            named = {p["name"] for p in operation.get("parameters", ()) if p["in"] == "path"}
            assert named == set(re.findall(r"{(\w+)}", path))


def test_schemas_are_sound_and_complete(document: Any) -> None:
    schemas = document["components"]["schemas"]
    for schema in schemas.values():
        jsonschema.Draft202012Validator.check_schema(schema)
    for ref in refs(document):
        assert ref.removeprefix("#/components/schemas/") in schemas


def test_bounds_are_in_the_document(document: Any) -> None:
    fields = document["components"]["schemas"]["ChatRequest"]["properties"]
    assert {"type": "integer", "minimum": 1, "maximum": 16} in fields["n"]["anyOf"]
    assert fields["messages"]["maxItems"] > 0
    chat = document["paths"]["/v1/chat/completions"]["post"]
    assert "x-deadline-ms" in {parameter["name"] for parameter in chat["parameters"]}


def test_the_page_works_offline() -> None:
    answer = get("/docs")
    assert answer.headers["content-type"].startswith("text/html")
    page = answer.body.decode()
    assert not re.search(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}", page)
    assert "src=" not in page
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    script = page.split("<script>")[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"'sha256-{digest}'" in policy


def test_both_can_be_left_out() -> None:
    app = create_app(services(settings=ServeSettings(docs=False)))
    assert get("/docs", app).status == 404
    assert get("/openapi.json", app).status == 404
