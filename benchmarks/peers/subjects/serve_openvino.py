"""OpenVINO GenAI's continuous batching behind OpenAI's completions, as little of them as a load needs.

One thread steps the pipeline for as long as it has requests; an event loop takes requests (``POST /v1/completions``
with ``prompt`` and ``max_tokens``) and streams each answer as one event as soon as its last token is there, so that
HTTP costs the peer next to nothing. Whoever hangs up is cancelled. Standard library besides OpenVINO.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import threading
import time
from typing import Any, NamedTuple

import openvino_genai as genai


class Answer(NamedTuple):
    """A whole answer."""

    text: str
    prompt_tokens: int
    tokens: int

    def events(self) -> bytes:
        """Server-sent events: the text, the usage, the end."""
        choice = {"index": 0, "text": self.text, "finish_reason": "length"}
        usage = {"prompt_tokens": self.prompt_tokens, "completion_tokens": self.tokens}
        found = [json.dumps({"choices": [choice]}), json.dumps({"choices": [], "usage": usage}), "[DONE]"]
        return "".join(f"data: {each}\n\n" for each in found).encode()


class Serving:
    """The pipeline and the thread that steps it."""

    def __init__(self, folder: str, threads: int, batch_tokens: int) -> None:
        scheduler = genai.SchedulerConfig()
        scheduler.max_num_batched_tokens = batch_tokens
        scheduler.enable_prefix_caching = False
        properties = {"INFERENCE_NUM_THREADS": str(threads)}
        self._pipeline = genai.ContinuousBatchingPipeline(folder, scheduler, "CPU", properties)
        self._tokenizer = self._pipeline.get_tokenizer()
        self._coming: list[tuple[str, int, asyncio.Future[Answer]]] = []
        self._open: list[tuple[Any, asyncio.Future[Answer], int, int, list[int]]] = []
        self._lock, self._wake, self._number = threading.Lock(), threading.Event(), 0
        self.loop: asyncio.AbstractEventLoop | None = None
        threading.Thread(target=self._run, daemon=True).start()

    async def answer(self, prompt: str, max_tokens: int) -> Answer:
        """A whole answer of ``max_tokens`` tokens."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        with self._lock:
            self._coming.append((prompt, max_tokens, future))
        self._wake.set()
        return await future

    def _run(self) -> None:
        while True:
            self._enter()
            if self._pipeline.has_non_finished_requests():
                self._pipeline.step()
                self._leave()
            else:
                self._wake.wait(0.05)
                self._wake.clear()

    def _enter(self) -> None:
        with self._lock:
            coming, self._coming = self._coming, []
        for prompt, max_tokens, future in coming:
            config = genai.GenerationConfig()
            config.max_new_tokens, config.ignore_eos, config.do_sample = max_tokens, True, False
            self._number += 1
            tokens = self._tokenizer.encode(prompt).input_ids
            handle = self._pipeline.add_request(self._number, tokens, config)
            self._open.append((handle, future, tokens.shape[1], max_tokens, []))

    def _leave(self) -> None:
        assert self.loop is not None
        left = []
        for handle, future, prompt_tokens, most, ids in self._open:
            if future.cancelled():
                handle.cancel()
                continue
            if handle.can_read():
                ids += [token for out in handle.read().values() for token in out.generated_ids]
            if len(ids) >= most:
                answer = Answer(self._tokenizer.decode(ids), prompt_tokens, len(ids))
                self.loop.call_soon_threadsafe(_settle, future, answer)
            else:
                left.append((handle, future, prompt_tokens, most, ids))
        self._open = left


def _settle(future: asyncio.Future[Answer], answer: Answer) -> None:
    if not future.done():
        future.set_result(answer)


async def talk(serving: Serving, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection, one request."""
    head = await reader.readuntil(b"\r\n\r\n")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    body = await reader.readexactly(int(lengths[0].split(b":")[1])) if lengths else b"{}"
    kind, text = b"application/json", json.dumps({"data": [{"id": "bench"}]}).encode()  # of GET /v1/models
    if head.startswith(b"POST"):
        asked = json.loads(body)
        working = asyncio.ensure_future(serving.answer(asked["prompt"], asked["max_tokens"]))
        gone = asyncio.ensure_future(reader.read(1))
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            working.cancel()
            writer.close()
            return
        kind, text = b"text/event-stream", working.result().events()
        gone.cancel()
    size = str(len(text)).encode()
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: " + kind + b"\r\nContent-Length: " + size
    writer.write(head + b"\r\n\r\n")
    writer.write(text)
    writer.close()


async def serve(args: argparse.Namespace) -> None:
    """Listen until killed."""
    serving = Serving(args.model, args.threads, args.batch_tokens)
    serving.loop = asyncio.get_running_loop()
    server = await asyncio.start_server(lambda r, w: talk(serving, r, w), "127.0.0.1", args.port)
    print(f"ready at {time.time():.1f}", flush=True)
    async with server:
        await server.serve_forever()


def main() -> None:
    """Serve one model."""
    parser = argparse.ArgumentParser(description="OpenVINO GenAI behind HTTP")
    parser.add_argument("model")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-tokens", type=int, default=256)
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
