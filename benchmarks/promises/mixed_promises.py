"""Whether promises hold between a chat model and an encoder on the same cores: one server, three kinds of clients.

    python -m benchmarks.promises.mixed_promises                  # about two minutes
    python -m benchmarks.promises.mixed_promises --seconds 20 --chat smollm2-135m --encoder all-minilm-l6-v2

Parts: *alone*: short queries to the encoder, one after another. *beside*: chats with a deadline, short queries with a
deadline, and a client that embeds many texts without one, all at once. For each kind: how many were met, refused
and missed, and the median and 99th percentile of the time. Prints a table and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import httpx

from benchmarks.machine import describe
from miaotui.bench.report import aligned

QUERY = "how much is an e-bike with a second battery?"
PASSAGE = "The electric bike costs 900 euros and is delivered within two days, with a second battery for 200 more. "
START_S = 300.0


@dataclass
class Tally:
    """Outcomes of one kind of request."""

    took_ms: list[float] = field(default_factory=list)
    met: int = 0
    missed: int = 0
    refused: int = 0
    texts: int = 0

    def note(self, answer: httpx.Response, texts: int = 1) -> None:
        """Count one answer."""
        if answer.status_code in (429, 503):
            self.refused += 1
            return
        answer.raise_for_status()
        deadline = answer.json()["deadline"]
        self.took_ms.append(deadline["took_ms"])
        self.texts += texts
        if deadline["met"] is not None:
            self.met += deadline["met"]
            self.missed += not deadline["met"]

    def row(self, name: str, seconds: float) -> list[str]:
        """Return a row of the table."""
        took = sorted(self.took_ms) or [float("nan")]
        return [
            name,
            str(self.met),
            str(self.missed),
            str(self.refused),
            f"{statistics.median(took):.1f}",
            f"{took[int(0.99 * (len(took) - 1))]:.1f}",
            f"{self.texts / seconds:.1f}",
        ]


def serve(chat: str, encoder: str) -> tuple[subprocess.Popen[str], str]:
    """Start a server of both models and return it with its address."""
    words = [sys.executable, "-m", "miaotui", "serve", chat, f"embed={encoder}", "--port", "0"]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    end_s = time.monotonic() + START_S
    for line in process.stderr:
        found = re.search(r"http://[\d.]+:\d+", line)
        if found:
            threading.Thread(target=process.stderr.read, daemon=True).start()
            return process, found[0]
        if time.monotonic() > end_s:
            break
    process.kill()
    raise SystemExit("the server did not start")


def embed(client: httpx.Client, texts: str | list[str], deadline_ms: float | None = None) -> httpx.Response:
    """Ask for embeddings."""
    body: dict[str, Any] = {"input": texts, "encoding_format": "base64"}
    if deadline_ms is not None:
        body["deadline_ms"] = deadline_ms
    return client.post("/v1/embeddings", json=body)


def converse(client: httpx.Client, deadline_ms: float) -> httpx.Response:
    """Ask for an answer of 32 tokens."""
    body = {
        "messages": [{"role": "user", "content": "Tell me something about bicycles."}],
        "max_tokens": 32,
        "deadline_ms": deadline_ms,
    }
    return client.post("/v1/chat/completions", json=body)


def repeat(url: str, seconds: float, pause_s: float, ask: Callable[[httpx.Client, Tally], None]) -> Tally:
    """Call ``ask`` for so long, with pauses."""
    tally, end_s = Tally(), time.monotonic() + seconds
    with httpx.Client(base_url=url, timeout=120) as client:
        while time.monotonic() < end_s:
            ask(client, tally)
            time.sleep(pause_s)
    return tally


def together(
    url: str, seconds: float, asks: dict[str, tuple[float, Callable[[httpx.Client, Tally], None]]]
) -> dict[str, Tally]:
    """Run several kinds of clients at once, each with its pause."""
    tallies: dict[str, Tally] = {}

    def work(name: str, pause_s: float, ask: Callable[[httpx.Client, Tally], None]) -> None:
        tallies[name] = repeat(url, seconds, pause_s, ask)

    threads = [threading.Thread(target=work, args=(name, *each)) for name, each in asks.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return tallies


def main() -> None:
    """Run both parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chat", default="smollm2-135m")
    parser.add_argument("--encoder", default="all-minilm-l6-v2")
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--chat-ms", type=float, default=2000.0)
    parser.add_argument("--query-ms", type=float, default=300.0)
    chosen = parser.parse_args()
    process, url = serve(chosen.chat, chosen.encoder)
    try:
        with httpx.Client(base_url=url, timeout=120) as client:
            embed(client, QUERY).raise_for_status()  # loads it
        quick = chosen.seconds / 4
        alone = repeat(url, quick, 0.01, lambda client, tally: tally.note(embed(client, QUERY)))
        many = [PASSAGE * (1 + number % 8) for number in range(256)]
        beside = together(
            url,
            chosen.seconds,
            {
                "chats": (0.2, lambda client, tally: tally.note(converse(client, chosen.chat_ms))),
                "queries": (0.1, lambda client, tally: tally.note(embed(client, QUERY, chosen.query_ms))),
                "many texts": (0.0, lambda client, tally: tally.note(embed(client, many), len(many))),
            },
        )
    finally:
        process.terminate()
        process.wait(60)
    header = ["", "met", "missed", "refused", "median ms", "p99 ms", "per second"]
    rows = [alone.row("queries alone", quick), *(tally.row(name, chosen.seconds) for name, tally in beside.items())]
    print(aligned([header, *rows]))
    figures = {name: dict(zip(header[1:], row, strict=True)) for name, *row in rows}
    print(json.dumps({"machine": asdict(describe()), **figures}))


if __name__ == "__main__":
    main()
