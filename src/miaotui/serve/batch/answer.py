"""Answers of a batch's lines: each goes through the routes of a server in this process, without a socket.

Owns the calls of the application and their number at once. Knows no wire form. Invariants: a line that is refused for a
moment is asked again; what a route answers is the line's answer, errors too.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator
from typing import Any

from starlette.applications import Starlette

from miaotui.serve.batch.lines import BatchFault, BatchLine, answered, failed

AGAIN = (429, 503)  # statuses of what may be answered a moment later
MOST_TRIES, MOST_WAIT_S = 20, 30.0

Answer = dict[str, Any]


async def answer_lines(
    app: Starlette, lines: Iterator[BatchLine | BatchFault], at_once: int
) -> AsyncGenerator[Answer, None]:
    """Yield the answers of all lines as they come, ``at_once`` at a time. Closing it early cancels."""
    running: set[asyncio.Task[Answer]] = set()
    try:
        is_over = False
        while running or not is_over:
            while not is_over and len(running) < at_once:
                line = next(lines, None)
                if line is None:
                    is_over = True
                else:
                    running.add(asyncio.ensure_future(answer_line(app, line)))
            if not running:
                return
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                yield task.result()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def answer_line(app: Starlette, line: BatchLine | BatchFault) -> Answer:
    """Return the answer of one line."""
    if isinstance(line, BatchFault):
        return failed(line, "invalid_line", line.reason)
    for attempt in range(MOST_TRIES):
        status, headers, content = await _call(app, line.url, json.dumps(line.body).encode("utf-8", "surrogatepass"))
        if status not in AGAIN or "deadline_ms" in line.body or attempt == MOST_TRIES - 1:
            break
        await asyncio.sleep(min(_seconds(headers.get("retry-after")), MOST_WAIT_S))
    try:
        body = json.loads(content)
    except ValueError:
        return failed(line, "no_json", f"the route answered {status} with something that is not JSON")
    return answered(line, status, body, headers.get("x-request-id", ""))


async def _call(app: Starlette, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
    """Call an application as a client of this computer would; returns status, headers and body."""
    headers = [(b"host", b"localhost"), (b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": headers,
        "client": ("127.0.0.1", 0),
        "server": ("127.0.0.1", 0),
        "state": {},
    }
    coming = [{"type": "http.request", "body": body, "more_body": False}]
    over = asyncio.Event()
    found: dict[str, Any] = {"status": 500, "headers": {}, "body": bytearray()}

    async def receive() -> Any:
        if coming:
            return coming.pop()
        await over.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            found["status"] = message["status"]
            found["headers"] = {name.decode("latin-1"): value.decode("latin-1") for name, value in message["headers"]}
        elif message["type"] == "http.response.body":
            found["body"] += message.get("body", b"")

    try:
        await app(scope, receive, send)
    finally:
        over.set()
    return found["status"], found["headers"], bytes(found["body"])


def _seconds(retry_after: str | None) -> float:
    try:
        return max(float(retry_after or 1.0), 0.05)
    except ValueError:
        return 1.0
