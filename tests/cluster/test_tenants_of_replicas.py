"""Tenants over replicas: the number that crosses is the tenant's own, and prefixes on a replica stay with it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from miaotui.cluster.cluster_file import ClusterFile
from miaotui.cluster.pool_loop import open_pool
from miaotui.cluster.transport.process_channel import ProcessMembers
from miaotui.engine.remote.loop import RemoteLoop
from miaotui.engine.request import Request, RequestOptions
from miaotui.errors import RequestError
from miaotui.serve.tenants.tenant_file import Tenant
from miaotui.types import SamplingParams
from tiny_models import make_tiny_folder

OPTIONS: dict[str, Any] = {"threads": 1, "context": 512, "max_sequences": 4}
PROMPT = [5, 6, 7, 8] * 20


def test_the_ingress_takes_tenants_and_an_audit_log() -> None:
    models = {"small": {"model": "smollm2-135m"}}
    names = {"tenants": "tenants.yaml", "audit_log": "audit.jsonl", "audit_log_mb": 8}
    settings = ClusterFile.of({"models": models, "host": "0.0.0.0", "ingress": names}).settings
    assert (settings.tenants, settings.audit_log, settings.audit_log_mb) == tuple(names.values())
    assert settings.has_keys
    with pytest.raises(RequestError, match="did you mean 'tenants'"):
        ClusterFile.of({"models": models, "ingress": {"tenant": "x"}})


@pytest.mark.slow
def test_prefixes_and_drafts_of_a_tenant_help_no_other_on_a_replica(tmp_path: Path) -> None:
    folder = make_tiny_folder(tmp_path, "llama", max_position_embeddings=512)
    pool, loop = open_pool("tiny", str(folder), ProcessMembers("tiny", str(folder), 1, OPTIONS), 512)
    acme, beta, later = (Tenant(name).caller().namespace for name in ("acme", "beta", "acme"))
    try:
        assert pool.wait(1, 120), pool.refused
        found = [answered(loop, number) for number in (acme, acme, beta, later, beta)]
        cached = [each.cached_tokens for each in found]
        assert cached[0] == cached[2] == cached[3] == 0
        assert cached[1] == cached[4] > 0
        assert len({tuple(each.token_ids) for each in found}) == 1, "the tokens do not depend on the tenant"
    finally:
        loop.close()


def answered(loop: RemoteLoop, namespace: int) -> Request:
    params = SamplingParams(max_tokens=8, temperature=0.0, ignore_eos=True)
    request = loop.submit(PROMPT, params, RequestOptions(namespace))
    end_s = time.monotonic() + 60
    while not request.is_over and time.monotonic() < end_s:
        time.sleep(0.01)
    loop.leave(request)
    return request
