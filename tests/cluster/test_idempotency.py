"""Idempotency keys: one computation for each, whatever a client sends again."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from miaotui.cluster import idempotency
from miaotui.cluster.idempotency import IdempotencyKeys
from miaotui.serve.middleware.access import CALLER
from miaotui.serve.middleware.keys import Caller


class Counting:
    """An application that counts its requests and answers with the body and the count, in two pieces."""

    def __init__(self) -> None:
        self.count, self.status, self.gate = 0, 200, asyncio.Event()
        self.gate.set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.count += 1
        number, body = self.count, b""
        while True:
            message = await receive()
            body += message["body"]
            if not message.get("more_body"):
                break
        await send({"type": "http.response.start", "status": self.status, "headers": [(b"x-count", b"%d" % number)]})
        await send({"type": "http.response.body", "body": body, "more_body": True})
        await self.gate.wait()
        await send({"type": "http.response.body", "body": b"|%d" % number})


async def ask(
    app: Any, key: str | None, body: bytes = b"hi", path: str = "/v1/x", caller: str = ""
) -> tuple[int, bytes]:
    scope = {"type": "http", "method": "POST", "path": path, "headers": [], CALLER: Caller(caller)}
    if key is not None:
        scope["headers"] = [(b"Idempotency-Key", key.encode())]
    parts = [{"type": "http.request", "body": body[:1], "more_body": True}, {"type": "http.request", "body": body[1:]}]
    sent: list[Any] = []

    async def receive() -> Any:
        return parts.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


def test_a_key_stands_for_one_answer() -> None:
    async def main() -> None:
        inner = Counting()
        app = IdempotencyKeys(inner)
        first = await ask(app, "k")
        assert first == (200, b"hi|1")
        assert await ask(app, "k") == first
        assert inner.count == 1
        assert (await ask(app, "k", b"other"))[0] == 422
        assert await ask(app, "k", path="/v1/y") == (200, b"hi|2")
        assert await ask(app, "k", caller="somebody else") == (200, b"hi|3")
        assert await ask(app, None) == (200, b"hi|4")
        assert await ask(app, None) == (200, b"hi|5")
        assert (await ask(app, ""))[0] == 400
        assert (await ask(app, "k" * 300))[0] == 400

    asyncio.run(main())


def test_of_two_at_once_one_is_told_to_wait() -> None:
    async def main() -> None:
        inner = Counting()
        inner.gate.clear()
        app = IdempotencyKeys(inner)
        first = asyncio.create_task(ask(app, "k"))
        await asyncio.sleep(0)
        assert (await ask(app, "k"))[0] == 409
        inner.gate.set()
        assert await first == await ask(app, "k") == (200, b"hi|1")

    asyncio.run(main())


@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_failed_or_broke_off_is_computed_again(status: int) -> None:
    async def main() -> None:
        inner = Counting()
        app = IdempotencyKeys(inner)
        inner.status = status
        assert (await ask(app, "k"))[0] == status
        inner.status = 200
        inner.gate.clear()
        broken = asyncio.create_task(ask(app, "k"))
        await asyncio.sleep(0.01)
        broken.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await broken
        inner.gate.set()
        assert await ask(app, "k") == (200, b"hi|3")

    asyncio.run(main())


def test_memory_and_age_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        now_s = 0.0
        inner = Counting()
        app = IdempotencyKeys(inner, lambda: now_s)
        monkeypatch.setattr(idempotency, "MOST_BYTES", 100)
        monkeypatch.setattr(idempotency, "MOST_ANSWER_BYTES", 60)
        for number in range(20):
            await ask(app, f"k{number}", b"b" * 40)
            assert app._size <= 100 + 43
        assert (await ask(app, "k0", b"b" * 40))[1].endswith(b"|21")  # it had to go
        await ask(app, "large", b"b" * 100)
        assert (await ask(app, "large", b"b" * 100))[1].endswith(b"|23")  # too large to keep
        await ask(app, "old")
        now_s = idempotency.MOST_AGE_S + 1
        assert (await ask(app, "old"))[1].endswith(b"|25")

    asyncio.run(main())
