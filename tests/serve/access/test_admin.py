"""``/v1/admin``: who may change what of a running server, and where that is written."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from asgi_calls import Answer, ask
from serving import services, serving

from miaotui.serve.app import create_app
from miaotui.serve.middleware.keys import add_key
from miaotui.serve.models import ServedModels
from miaotui.serve.ops.audit import AuditLog
from miaotui.serve.ops.operations import Operations
from miaotui.serve.settings import ServeSettings
from miaotui.serve.start import layers_for
from tiny_encoder_models import make_encoder_folder
from tiny_engine import settings_in


class Server:
    """An application with an administrator's key and an ordinary one."""

    def __init__(self, folder: Path) -> None:
        keys = folder / "keys"
        self.keys = {"root": add_key(keys, "root", is_admin=True), "alice": add_key(keys, "alice")}
        self.audit_path = folder / "audit.jsonl"
        audit = AuditLog(self.audit_path)
        self.operations = Operations(ServedModels(), audit=audit)
        settings = ServeSettings(api_key_file=str(keys))
        self._app = create_app(services(operations=self.operations), layers_for(settings, self.operations))

    def ask(self, name: str, path: str = "/v1/admin", method: str = "GET", **body: Any) -> Answer:
        headers = (("host", "localhost"), ("x-api-key", self.keys[name]))
        return asyncio.run(ask(self._app, path, headers, method, json.dumps(body).encode()))

    def change(self, name: str = "root", **body: Any) -> Answer:
        return self.ask(name, method="POST", **body)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    level = logging.getLogger("miaotui").level
    made = Server(tmp_path)
    yield made
    made.operations.close()
    logging.getLogger("miaotui").setLevel(level)


def test_only_an_administrator_may_look_and_change(server: Server) -> None:
    assert server.ask("root").json()["draining"] is False
    for answer in (server.ask("alice"), server.change("alice", draining=True)):
        assert answer.status == 403
        assert answer.json()["error"]["code"] == "admin_required"
    assert not server.operations.is_draining


def test_a_server_without_keys_has_no_administrators() -> None:
    app = create_app(services())
    assert asyncio.run(ask(app, "/v1/admin")).status == 403


def test_draining_can_be_begun_and_ended(server: Server) -> None:
    assert server.change(draining=True).json()["draining"] is True
    assert server.ask("alice", "/v1/models").status == 503
    assert server.ask("root", "/v1/models").status == 503
    assert server.ask("alice").status == 503
    assert server.change(draining=False).json()["draining"] is False
    assert server.ask("alice", "/v1/models").status == 200


def test_the_log_level_is_changed(server: Server) -> None:
    assert server.change(log_level="debug").json()["log_level"] == "debug"
    assert logging.getLogger("miaotui").level == logging.DEBUG
    wrong = server.change(log_level="loud")
    assert wrong.status == 400
    assert wrong.json()["error"]["param"] == "log_level"


@pytest.mark.parametrize("wrong", [{"max_tokens": 0}, {"max_requests": "many"}, {"draining": 1}])
def test_what_is_out_of_bounds_changes_nothing(server: Server, wrong: dict[str, Any]) -> None:
    assert server.change(**wrong).status == 400
    assert server.ask("root").json()["draining"] is False


def test_changes_are_in_the_audit_log(server: Server) -> None:
    server.change(draining=True, log_level="error")
    server.change("alice", draining=False)
    server.operations.close()
    lines = [json.loads(line) for line in server.audit_path.read_text(encoding="utf-8").splitlines()]
    assert lines[0]["key"] == "root"
    assert lines[0]["change"] == "draining=True, log_level=error"
    assert "change" not in lines[1]


def test_encoders_are_loaded_and_put_away(tmp_path: Path) -> None:
    keys = {name: add_key(tmp_path / "keys", name, is_admin=name == "root") for name in ("root", "alice")}
    audit = tmp_path / "audit.jsonl"
    operations = Operations(ServedModels(), audit=AuditLog(audit))
    layers = layers_for(ServeSettings(api_key_file=str(tmp_path / "keys")), operations)
    encoders = {"embed": make_encoder_folder(tmp_path, "embed")}
    with serving({}, settings_in(tmp_path), encoders=encoders, layers=layers) as server:

        def change(**loaded: bool) -> httpx.Response:
            headers = {"x-api-key": keys["root"]}
            return httpx.post(f"{server.url}/v1/admin", json={"loaded": loaded}, headers=headers, timeout=60)

        assert change().json()["loaded"] == {"embed": False}
        assert change(embed=True).json()["loaded"] == {"embed": True}
        entry = server.services.encoders["embed"]
        assert entry.running is not None
        entry.users += 1  # a request is answered
        assert change(embed=False).status_code == 409
        entry.users -= 1
        assert change(embed=False).json()["loaded"] == {"embed": False}
        assert entry.running is None
        assert change(none=True).status_code == 404
        body, other = {"input": "a text", "model": "embed"}, {"x-api-key": keys["alice"]}
        assert httpx.post(f"{server.url}/v1/embeddings", json=body, headers=other, timeout=60).status_code == 200
        assert change().json()["loaded"] == {"embed": True}
    operations.close()
    changes = [json.loads(line).get("change") for line in audit.read_text().splitlines()]
    assert [each for each in changes if each] == ["embed=loaded", "embed=put away"]
