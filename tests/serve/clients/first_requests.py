"""A fresh process that serves and asks: prints what the first request of each route imported, loaded or compiled.

Everything that only the asking side needs is imported before the server starts.
"""

from __future__ import annotations

import gc
import http.client
import json
import sys
import threading
from pathlib import Path
from typing import Any

from serving import Serving, serving

from miaotui.kernels.runtime import compiled
from tiny_engine import settings_in

MESSAGES = [{"role": "user", "content": "hello, how are you today?"}]
CITY = {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": CITY}}]
CHAT = {"model": "tiny", "messages": MESSAGES, "max_tokens": 8, "deadline_ms": 60_000}
ASKED: dict[str, tuple[str, dict[str, Any], int]] = {
    "refusal": ("/v1/chat/completions", {**CHAT, "max_tokens": 400, "deadline_ms": 0.5}, 429),
    "chat": ("/v1/chat/completions", CHAT, 200),
    "chat, streaming": ("/v1/chat/completions", {**CHAT, "stream": True}, 200),
    "chat, sampled": ("/v1/chat/completions", {**CHAT, "temperature": 0.7, "top_p": 0.9, "top_k": 20, "seed": 1}, 200),
    "chat, penalties": ("/v1/chat/completions", {**CHAT, "presence_penalty": 0.5, "stop": ["zzz"]}, 200),
    "chat, log-probabilities": ("/v1/chat/completions", {**CHAT, "logprobs": True, "top_logprobs": 3}, 200),
    "schema": (
        "/v1/chat/completions",
        {**CHAT, "response_format": {"type": "json_schema", "json_schema": {"name": "c", "schema": CITY}}},
        200,
    ),
    "tools": ("/v1/chat/completions", {**CHAT, "tools": TOOLS, "tool_choice": "required"}, 200),
    "completions": ("/v1/completions", {"model": "tiny", "prompt": "hello", "max_tokens": 8}, 200),
    "completions, streaming": (
        "/v1/completions",
        {"model": "tiny", "prompt": "hello", "max_tokens": 8, "stream": True},
        200,
    ),
    "messages": ("/v1/messages", {"model": "tiny", "messages": MESSAGES, "max_tokens": 8}, 200),
    "messages, streaming": (
        "/v1/messages",
        {"model": "tiny", "messages": MESSAGES, "max_tokens": 8, "stream": True},
        200,
    ),
    "responses": ("/v1/responses", {"model": "tiny", "input": "hello", "max_output_tokens": 8}, 200),
    "responses, streaming": (
        "/v1/responses",
        {"model": "tiny", "input": "hello", "max_output_tokens": 8, "stream": True},
        200,
    ),
}


def ask(server: Serving, path: str, body: dict[str, Any]) -> int:
    connection = http.client.HTTPConnection(server.url.partition("://")[2], timeout=60)
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    response.read()
    connection.close()
    return response.status


def loaded() -> set[str]:
    return {*sys.modules, *(f"kernel {name}" for name in compiled._addresses)}


def main() -> None:
    model = Path(sys.argv[1])
    threading.Thread(target=int).start()
    http.client.HTTPConnection("127.0.0.1", 9)
    json.dumps({}), gc.collect(), "".encode("idna"), "".encode("latin-1")
    found: dict[str, Any] = {}
    with serving({"tiny": model}, settings_in(model.parent)) as server:
        for name, (path, body, status) in ASKED.items():
            before = loaded()
            got = ask(server, path, body)
            found[name] = {"status": got, "expected": status, "new": sorted(loaded() - before)}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
