"""Allowances: the names that a caller may use, and files of tenants with faults."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from miaotui.errors import RequestError
from miaotui.serve.http.errors import ApiError
from miaotui.serve.middleware.keys import Keyring
from miaotui.serve.models import ServedModels
from miaotui.serve.ops.operations import Operations
from miaotui.serve.settings import ServeSettings
from miaotui.serve.tenants.allowance import Allowance
from miaotui.serve.tenants.tenant_file import Tenant, TenantLimits, new_key, read_callers, read_tenants, write_tenants
from miaotui.serve.tenants.view import AllowedModels

LIFE = "0123456789abcdef"
HASH = "sha256-" + "0" * 64


def served(*adapters: str) -> ServedModels:
    loaded = {name: SimpleNamespace(name=name, digest=f"digest of {name}", loaded_s=0) for name in adapters}
    model: Any = SimpleNamespace(name="base", fingerprint="fp", loop=SimpleNamespace(adapters=loaded), identity="base")
    other: Any = SimpleNamespace(name="other", fingerprint="fp", loop=SimpleNamespace(adapters={}), identity="other")
    return ServedModels([model, other])


def test_two_tenants_call_their_own_adapters_by_one_name() -> None:
    whole = served("acme-support", "beta-support")
    found = {
        name: AllowedModels(whole, Allowance(frozenset(), (("support", f"{name}-support"),)))
        for name in ("acme", "beta")
    }
    for name, models in found.items():
        model = models.find("support")
        assert (model.name, model.adapter.name if model.adapter else "") == ("support", f"{name}-support")
        assert [each.name for each in models.all()] == ["support"]
        for hidden in ("acme-support", "beta-support", "base", None):
            with pytest.raises(ApiError) as refused:
                models.find(hidden)
            assert refused.value.status == 404
            assert "beta" not in str(refused.value).replace(str(hidden), "")
    assert found["acme"].find("support").identity != found["beta"].find("support").identity


def test_an_adapter_that_is_loaded_later_is_there_and_cannot_hide_a_model() -> None:
    whole = served()
    models = AllowedModels(whole, Allowance(frozenset({"base"}), (("base", "late"), ("mine", "late"))))
    assert [each.name for each in models.all()] == ["base"]
    late: Any = SimpleNamespace(name="late", digest="d", loaded_s=0)
    whole["base"].loop.adapters["late"] = late  # type: ignore[index]
    assert [each.name for each in models.all()] == ["base", "mine"]
    assert models.find("base") is whole["base"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tenantz: {}", "did you mean 'tenants'"),
        (f"tenants: {{a: {{life: '{LIFE}', limitz: {{}}}}}}", "did you mean 'limits'"),
        (f"tenants: {{a: {{life: '{LIFE}', limits: {{concurrant: 3}}}}}}", "did you mean 'concurrent'"),
        (f"tenants: {{a: {{life: '{LIFE}', limits: {{concurrent: 0}}}}}}", "above 0"),
        (f"tenants: {{a: {{life: '{LIFE}', limits: {{concurrent: true}}}}}}", "above 0"),
        ("tenants: {a: {}}", "life"),
        (f"tenants: {{../a: {{life: '{LIFE}'}}}}", "name"),
        (f"tenants: {{7: {{life: '{LIFE}'}}}}", "quotes"),
        (f"tenants: {{a: {{life: '{LIFE}'}}, a: {{life: '{LIFE}'}}}}", "twice"),
        (f"tenants: {{a: {{life: '{LIFE}'}}, A: {{life: '{LIFE[::-1]}'}}}}", "capitals"),
        (f"tenants: {{a: {{life: '{LIFE}'}}, b: {{life: '{LIFE}'}}}}", "another tenant"),
        (f"tenants: {{a: {{life: '{LIFE}', keys: [{{name: k, hash: x}}]}}}}", "sha256"),
        (f"tenants: {{a: {{life: '{LIFE}', keys: [{{name: k, hash: {HASH}, admin: 1}}]}}}}", "true or false"),
        (f"tenants: {{a: {{life: '{LIFE}', keys: [{{name: k, hash: {HASH}}}, {{name: l, hash: {HASH}}}]}}}}", "twice"),
        (f"tenants: {{a: {{life: '{LIFE}', models: base}}}}", "list"),
        ("tenants: [", "YAML"),
    ],
)
def test_a_wrong_file_is_refused_by_place(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "tenants.yaml"
    path.write_text(text)
    with pytest.raises(RequestError, match=said) as refused:
        read_tenants(path)
    assert str(path) in str(refused.value)


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "tenants.yaml"
    _, key = new_key("web", is_admin=True)
    given = [
        Tenant("acme", keys=(key,), limits=TenantLimits(5, None, 2, 10, 1), models=(), adapters={"a": "b"}),
        Tenant("beta", indexes=("handbook",), graphs=("g",), recommenders=("r",)),
    ]
    write_tenants(path, given)
    assert read_tenants(path) == given
    assert path.stat().st_mode & 0o077 == 0
    with pytest.raises(RequestError):
        write_tenants(path, [given[0], given[0]])
    assert read_tenants(path) == given


def test_keys_and_tenants_exclude_each_other() -> None:
    with pytest.raises(RequestError, match="--tenants"):
        ServeSettings(("x",), api_key_file="keys", tenants="tenants").checked()
    ServeSettings(("x",), host="0.0.0.0", tenants="tenants").checked()


def test_a_tenant_that_is_gone_is_forgotten_in_the_event_loop(tmp_path: Path) -> None:
    path = tmp_path / "tenants.yaml"
    tenants = [Tenant(name, keys=(new_key("main")[1],)) for name in ("acme", "beta")]
    write_tenants(path, tenants)

    async def main() -> list[tuple[str, int]]:
        operations, gone, seen = Operations(ServedModels()), asyncio.Event(), list[tuple[str, int]]()

        def forget(caller: Any) -> None:
            seen.append((caller.name, threading.get_ident()))
            gone.set()

        operations.gone_listeners.append(forget)
        operations.keyring = Keyring(path, read=read_callers, on_gone=operations.caller_gone)
        watching = asyncio.create_task(operations.look_after())
        await asyncio.sleep(0)
        write_tenants(path, tenants[1:])
        operations.reload()
        await asyncio.wait_for(gone.wait(), 30)
        watching.cancel()
        return seen

    assert asyncio.run(main()) == [("acme", threading.get_ident())]
