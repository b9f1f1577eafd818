"""Requests in random shapes, and clients that leave at random moments.

Owns what is asked, how it is sent as bytes, and how an answer's text is read out of any of the wire
formats. Knows no server. Invariant: a request without a deadline is answered with the same text
whenever it is asked, so that answers under load can be compared with answers given alone.
"""

from __future__ import annotations

import asyncio
import json
import random
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
MESSAGES, RESPONSES = "/v1/messages", "/v1/responses"
MOMENTS = ("connecting", "head", "body", "waiting", "reading")
WORDS = ["the", "a", "river", "stone", "秒", "light", "of", "over", "who", "why", "café", "never", "2"]
PATIENCE_S = 600.0
_SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
_TOOL = {"type": "function", "function": {"name": "look_up", "parameters": _SCHEMA, "description": "Looks it up."}}


@dataclass(frozen=True)
class Shot:
    """One request; ``leaves`` names the moment at which its client vanishes, ``after_s`` later."""

    path: str
    body: Mapping[str, Any]
    leaves: str = ""
    after_s: float = 0.0
    wrong: bool = False  # asks for what cannot be
    timed: bool = False  # names a deadline, so its answer depends on the load

    @property
    def is_repeatable(self) -> bool:
        """Whether its answer depends on nothing but itself."""
        return not (self.leaves or self.wrong or self.timed)

    def data(self) -> bytes:
        """The whole request."""
        body = json.dumps(self.body).encode()
        head = (
            f"POST {self.path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Connection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


@dataclass(frozen=True)
class Heard:
    """What became of one request. ``status`` is 0 when its client left, or nothing came."""

    shot: Shot
    status: int
    texts: Mapping[int, str] = field(default_factory=dict)  # by choice
    ended: bool = False  # the answer was whole
    reason: str = ""  # what came instead of an answer


def random_shot(rng: random.Random, model: str, paths: Sequence[str], *, gone: float, longest: int) -> Shot:
    """A request of any shape that ``paths`` allow; prompts and answers of at most ``longest`` words."""
    path = rng.choice(paths)
    prompt = " ".join(rng.choices(WORDS, k=rng.randint(1, rng.choice((4, longest, longest)))))
    count = rng.choice((1, 4, rng.randint(1, longest)))
    body = {**_SHAPES[path](rng, prompt, count), "model": model, "stream": rng.random() < 0.5}
    wrong, timed = rng.random() < 0.04, rng.random() < 0.1
    if wrong:
        body["temperature"] = rng.choice(("hot", -3))
    if timed:
        body |= {"deadline_ms": rng.choice((5, 100, 400, 2000)), "on_late": rng.choice(_LATE)}
    leaves = rng.choice(MOMENTS) if rng.random() < gone else ""
    return Shot(path, body, leaves, rng.choice((0.0, rng.uniform(0, 0.3))), wrong, timed)


_LATE = ("refuse", "shorten", "best_effort")


def _drawn(rng: random.Random) -> dict[str, Any]:
    """Some way to choose tokens; with a seed, always the same way."""
    found: dict[str, Any] = {"temperature": rng.choice((0, 0, 0.7, 1.3)), "seed": rng.getrandbits(32)}
    if rng.random() < 0.3:
        found |= {"top_p": 0.9, "presence_penalty": 0.5, "frequency_penalty": 0.2, "user": "someone"}
    if rng.random() < 0.2:
        found["stop"] = rng.choice(("e", ["zz", "."]))
    if rng.random() < 0.5:
        found["ignore_eos"] = True
    if rng.random() < 0.2:
        found["n"] = rng.randint(2, 3)
    return found


def _chat(rng: random.Random, prompt: str, count: int) -> dict[str, Any]:
    messages = [{"role": "user", "content": prompt}]
    if rng.random() < 0.3:
        messages.insert(0, {"role": "system", "content": "Be brief."})
    body = {"messages": messages, "max_tokens": count, **_drawn(rng)}
    form = rng.random()
    if form < 0.14:
        body.pop("ignore_eos", None)  # such answers end when they are whole
    if form < 0.08:
        named = {"name": "person", "schema": _SCHEMA}
        body["response_format"] = {"type": "json_schema", "json_schema": named}
    elif form < 0.14:
        body |= {"tools": [_TOOL], "tool_choice": rng.choice(("auto", "required"))}
    elif form < 0.25:
        body |= {"logprobs": True, "top_logprobs": rng.randint(0, 3)}
    return body


def _completion(rng: random.Random, prompt: str, count: int) -> dict[str, Any]:
    several = rng.random() < 0.2
    return {
        "prompt": [prompt, prompt[::-1]] if several else prompt,
        "max_tokens": count,
        "echo": rng.random() < 0.1,
        **_drawn(rng),
    }


def _message(rng: random.Random, prompt: str, count: int) -> dict[str, Any]:
    return {
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": count,
        "temperature": 0,
        **({"system": "Be brief."} if rng.random() < 0.3 else {}),
    }


def _response(_rng: random.Random, prompt: str, count: int) -> dict[str, Any]:
    return {"input": prompt, "max_output_tokens": max(count, 16), "temperature": 0, "store": False}


_SHAPES = {CHAT: _chat, COMPLETIONS: _completion, MESSAGES: _message, RESPONSES: _response}


# the client ---------------------------------------------------------------------------------------


async def fire(host: str, port: int, shot: Shot) -> Heard:
    """Send one request, and read its answer or leave. Raises `asyncio.TimeoutError` for no end."""
    return await asyncio.wait_for(_fire(host, port, shot), PATIENCE_S)


async def _fire(host: str, port: int, shot: Shot) -> Heard:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        data = shot.data()
        head = data.index(b"\r\n\r\n")
        sent = {"connecting": 0, "head": head // 2, "body": head + 10}.get(shot.leaves, len(data))
        writer.write(data[:sent])
        await writer.drain()
        if not shot.leaves:
            return _heard(shot, await reader.read(-1))
        if shot.leaves == "reading":
            await reader.read(1)
        await asyncio.sleep(shot.after_s)
        if shot.after_s == 0:  # some are cut off, others say good-bye
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(1, 13, linger)  # SOL_SOCKET, SO_LINGER
        return Heard(shot, 0)
    finally:
        writer.close()


def _heard(shot: Shot, data: bytes) -> Heard:
    head, _, body = data.partition(b"\r\n\r\n")
    status = int(head[9:12]) if head[:5] == b"HTTP/" else 0
    if b"transfer-encoding: chunked" in head.lower():
        body = _joined(body)
    if status != 200:
        return Heard(shot, status, reason=body.decode("utf-8", "replace")[:500])
    if shot.body.get("stream"):
        return _streamed(shot, body.decode())
    try:
        answer = json.loads(body)
    except ValueError:
        return Heard(shot, status)
    return Heard(shot, status, _texts(answer), True)


def _joined(body: bytes) -> bytes:
    """The bytes of all chunks, as far as they came."""
    parts = []
    while body:
        size, _, body = body.partition(b"\r\n")
        length = int(size, 16)
        parts.append(body[:length])
        body = body[length + 2 :]
    return b"".join(parts)


def _texts(answer: Mapping[str, Any]) -> dict[int, str]:
    if "choices" in answer:
        return {
            choice["index"]: choice["text"] if "text" in choice else _said(choice["message"])
            for choice in answer["choices"]
        }
    if "content" in answer:  # Anthropic's
        return {0: "".join(part.get("text", "") for part in answer["content"])}
    parts = [part for item in answer["output"] for part in item.get("content", ())]
    return {0: "".join(part.get("text", "") for part in parts)}


def _said(message: Mapping[str, Any]) -> str:
    calls = message.get("tool_calls") or ()
    return (message.get("content") or "") + "".join(call["function"]["arguments"] for call in calls)


def _streamed(shot: Shot, body: str) -> Heard:
    texts: dict[int, str] = {}
    ended = False
    for line in body.split("\n"):  # other characters that end lines elsewhere are text here
        if not line.startswith("data: "):
            continue
        if line == "data: [DONE]":
            ended = True
            continue
        event = json.loads(line.removeprefix("data: "))
        ended |= event.get("type") in ("message_stop", "response.completed", "response.incomplete")
        for index, piece in _pieces(event):
            texts[index] = texts.get(index, "") + piece
    return Heard(shot, 200, texts, ended)


def _pieces(event: Mapping[str, Any]) -> list[tuple[int, str]]:
    if "choices" in event:
        return [
            (choice["index"], choice["text"] if "text" in choice else _piece(choice["delta"]))
            for choice in event["choices"]
        ]
    delta = event.get("delta")
    if event.get("type") == "response.output_text.delta":
        return [(0, str(delta))]
    if event.get("type") == "content_block_delta" and isinstance(delta, Mapping):
        return [(0, delta.get("text", ""))]
    return []


def _piece(delta: Mapping[str, Any]) -> str:
    calls = delta.get("tool_calls") or ()
    arguments = "".join(call.get("function", {}).get("arguments", "") for call in calls)
    return (delta.get("content") or "") + arguments
