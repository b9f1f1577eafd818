"""``miaotui cluster up`` while it stays: until a signal, or until Ray's head is gone."""

from __future__ import annotations

import itertools
import socket
import threading

import pytest

from miaotui.cli.cluster import cluster
from miaotui.cluster.on_ray import run
from miaotui.errors import EngineError, RequestError


def test_a_head_that_is_gone_ends_it_with_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "HEAD_LOOK_S", 1e-4)
    looks = iter([True, False, False, True, *[False] * cluster.HEAD_MISSES])
    with pytest.raises(EngineError, match=r"Ray's head has ended.*same file"):
        cluster._stay(threading.Event(), lambda: next(looks), 0.0)
    assert next(looks, None) is None, "a single look in vain is none"


def test_a_signal_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "HEAD_LOOK_S", 1e-4)
    stop, looks = threading.Event(), itertools.count()

    def answers() -> bool:
        if next(looks) == 20:
            stop.set()
        return True

    cluster._stay(stop, answers, 60.0)
    assert next(looks) == 21


def test_a_head_answers_where_it_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        assert run.head_answers(f"127.0.0.1:{port}")
    assert not run.head_answers(f"127.0.0.1:{port}")


def test_a_head_that_is_not_there_is_named_at_once() -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'miaotui[cluster]'")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    for address, reason in ((f"127.0.0.1:{port}", "accepts no connection"), ("nowhere", "no Ray answers at nowhere")):
        with pytest.raises(RequestError, match=reason):
            run.connect(address)


def test_a_cluster_that_another_process_has_ended_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    exceptions = pytest.importorskip("ray.exceptions", reason="Ray is not installed: pip install 'miaotui[cluster]'")

    def drained(*_: object) -> int:
        raise exceptions.ActorDiedError

    monkeypatch.setattr(run, "drain", drained)
    assert run.down(None, 1.0) == 0
