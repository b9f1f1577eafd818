"""A server on a socket that writes the bytes it is told to: what servers do that break or bend the protocol."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

Script = Callable[[asyncio.StreamWriter, dict[str, Any]], Any]  # the request's JSON; may be awaited

STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


@asynccontextmanager
async def scripted_server(script: Script) -> AsyncIterator[str]:
    """The address of a server that answers every request by ``script``, until the block ends."""
    tasks: set[asyncio.Task[Any]] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            lengths = [line.split(":")[1] for line in head.lower().splitlines() if line.startswith("content-length")]
            body = await reader.readexactly(int(lengths[0])) if lengths else b"{}"
            done = script(writer, json.loads(body))
            if done is not None:
                await done
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def event(value: Any) -> bytes:
    """One event of a stream."""
    return b"data: " + (value if isinstance(value, bytes) else json.dumps(value).encode()) + b"\n\n"


def delta(text: str, finish: str | None = None) -> bytes:
    """A piece of a chat's answer."""
    return event({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]})


def usage(tokens: Any, prompt: Any = 7) -> bytes:
    """The report of usage."""
    return event({"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": tokens}})


def status(code: int, body: Any = None) -> bytes:
    """A whole answer that is no stream."""
    text = json.dumps(body if body is not None else {"error": {"code": f"code_{code}"}}).encode()
    return (
        f"HTTP/1.1 {code} Said\r\nContent-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n".encode() + text
    )
