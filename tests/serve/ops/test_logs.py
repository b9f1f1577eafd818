"""Logs, the audit log's file and the look after a server, without a server."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from pathlib import Path

import pytest

from miaotui.errors import RequestError
from miaotui.serve.middleware.access import Account, log_request
from miaotui.serve.middleware.keys import Caller
from miaotui.serve.models import ServedModels
from miaotui.serve.ops.audit import AuditLog
from miaotui.serve.ops.logs import A_MINUTE, Calm, set_up_logs
from miaotui.serve.ops.machine import memory_warning, resident_bytes
from miaotui.serve.ops.operations import Operations


def test_the_audit_log_survives_rotation_and_says_when_it_cannot_write(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path)
    account = Account("GET", caller=Caller("alice", 1))
    log.note(account, {})
    for _ in range(500):
        if path.stat().st_size:
            break
        time.sleep(0.01)
    path.rename(tmp_path / "old.jsonl")
    log.note(account, {})
    log.close()
    both = [(tmp_path / name).read_text().splitlines() for name in ("old.jsonl", "audit.jsonl")]
    assert [json.loads(lines[0])["key"] for lines in both] == ["alice", "alice"]
    with pytest.raises(RequestError, match="audit log"):
        AuditLog(tmp_path / "missing" / "audit.jsonl")


def test_logs_are_one_line_each_whatever_is_in_them(capfd: pytest.CaptureFixture[str]) -> None:
    try:
        set_up_logs("json", "info")
        log_request(Account("POST", status=200, route="/v1/completions"), {})
        logging.getLogger("miaotui.serve").error('a\n{"level": "forged"}')
        lines = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
        assert [line["level"] for line in lines] == ["info", "error"]
        assert lines[0]["route"] == "/v1/completions"
        for _ in range(2 * A_MINUTE):  # none is kept back
            log_request(Account("GET", status=200), {})
        assert len(capfd.readouterr().err.splitlines()) == 2 * A_MINUTE
        set_up_logs("text", "warning")
        log_request(Account("POST", status=200), {})
        logging.getLogger("miaotui.serve").error("a\n12:00:00 ERROR forged")
        assert len(capfd.readouterr().err.splitlines()) == 1
    finally:
        for name in ("miaotui", "miaotui.requests", "uvicorn", "opentelemetry"):
            logging.getLogger(name).handlers.clear()
            logging.getLogger(name).propagate = True
            logging.getLogger(name).setLevel(logging.NOTSET)


def test_repeated_records_do_not_flood_the_log() -> None:
    now = [0.0]
    calm = Calm(lambda: now[0])

    def record(line: int) -> logging.LogRecord:
        return logging.LogRecord("miaotui.serve", logging.INFO, "x.py", line, "%d of them", (1,), None)

    assert sum(calm.filter(record(1)) for _ in range(100)) == A_MINUTE
    assert calm.filter(record(2))
    now[0] = 61
    late = record(1)
    assert calm.filter(late)
    assert "80 more" in late.getMessage()


def test_memory_near_its_limit_is_told(tmp_path: Path) -> None:
    assert memory_warning(89, 100) is None
    assert "90%" in str(memory_warning(90, 100))
    assert memory_warning(None, 100) is None
    assert memory_warning(90, None) is None
    status = tmp_path / "status"
    status.write_text("Name:\tx\nRssAnon:\t    100 kB\nRssFile:\t 900 kB\nRssShmem:\t  1 kB\n")
    assert resident_bytes(status) == 101 * 1024
    assert resident_bytes(tmp_path / "missing") is None


def test_operations_look_after_things_until_cancelled() -> None:
    async def main() -> None:
        operations = Operations(ServedModels())
        task = asyncio.create_task(operations.look_after())
        await asyncio.sleep(0.05)
        assert not task.done()
        task.cancel()

    asyncio.run(main())
