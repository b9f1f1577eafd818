"""The load: HTTP requests sent at given moments, by so many at a time or in turn, and when bytes came back.

Runs in a process of its own, on the standard library alone, and does as little as it can: requests
arrive as ready bytes, answers are kept as bytes. Reads one JSON object from standard input and
writes one to standard output. Knows no server. Invariant: in an open load nobody waits for another;
a request is sent at its moment, however many are unanswered.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import sys
import time
from typing import Any

KEPT_BYTES = 1 << 16


async def one(place: tuple[str, int], raw: bytes, patience_s: float) -> dict[str, Any]:
    """Send a request; the moments of sending, of the first and of the last byte of the body."""
    sent = time.perf_counter()
    found: dict[str, Any] = {"sent_s": sent, "status": 0}
    try:
        await asyncio.wait_for(_ask(place, raw, found), patience_s)
    except (OSError, asyncio.TimeoutError, asyncio.IncompleteReadError, ValueError) as error:
        found["error"] = type(error).__name__
    return found


async def _ask(place: tuple[str, int], raw: bytes, found: dict[str, Any]) -> None:
    reader, writer = await asyncio.open_connection(*place)
    try:
        writer.write(raw)
        found["sent_s"] = time.perf_counter()
        head = await reader.readuntil(b"\r\n\r\n")
        found["status"] = int(head.split(b" ", 2)[1])
        body, first = bytearray(), None
        while piece := await reader.read(65536):
            if first is None and b"data:" in piece:
                first = time.perf_counter()
            if len(body) < KEPT_BYTES:
                body += piece
        found["first_s"], found["done_s"] = first, time.perf_counter()
        found["body"] = body.decode("utf-8", "replace")
    finally:
        writer.transport.abort()


async def open_load(order: dict[str, Any]) -> list[dict[str, Any]]:
    """Every request at its own moment."""
    place, start = (order["host"], order["port"]), time.perf_counter() + 0.2
    tasks = []
    for at_s, raw in order["requests"]:
        wait_s = start + at_s - time.perf_counter()
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        tasks.append(asyncio.create_task(one(place, raw, order["patience_s"])))
    return list(await asyncio.gather(*tasks))


async def closed_load(order: dict[str, Any]) -> list[dict[str, Any]]:
    """So many at a time, for so long; each begins its next request when one is answered."""
    place = (order["host"], order["port"])
    end, coming = time.perf_counter() + order["seconds"], iter(order["requests"])
    found: list[dict[str, Any]] = []

    async def person() -> None:
        while time.perf_counter() < end:
            following = next(coming, None)
            if following is None:
                return
            found.append(await one(place, following[1], order["patience_s"]))

    await asyncio.gather(*(person() for _ in range(order["people"])))
    return found


async def in_turn(order: dict[str, Any]) -> list[dict[str, Any]]:
    """One person: each request is sent ``pause_s`` after the answer to the one before."""
    place, found = (order["host"], order["port"]), []
    for _, raw in order["requests"]:
        await asyncio.sleep(order["pause_s"])
        found.append(await one(place, raw, order["patience_s"]))
    return found


def main() -> None:
    """Play the load that standard input describes."""
    order = json.loads(sys.stdin.read())
    order["requests"] = [(at_s, base64.b64decode(raw)) for at_s, raw in order["requests"]]
    gc.disable()  # for a minute or two
    start = time.perf_counter()
    play = in_turn if "pause_s" in order else closed_load if order.get("people") else open_load
    found = asyncio.run(play(order))
    for each in found:
        for name in ("sent_s", "first_s", "done_s"):
            if each.get(name) is not None:
                each[name] -= start
    json.dump({"found": found}, sys.stdout)


if __name__ == "__main__":
    main()
