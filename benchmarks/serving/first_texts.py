"""Times to the first text with one stream, as `miaotui bench serve` and as ``vllm bench serve`` takes them.

Asks a running server by turns through our client and through a plain socket that notes the first chunk with choices, as
the source of ``vllm bench serve`` does (``benchmarks/lib/endpoint_request_func.py``). Prompts never repeat. Prints one
JSON line: the medians of both in milliseconds, their difference, and the median of the pairs' differences.

    miaotui serve smollm2-135m --threads 1 &
    python -m benchmarks.serving.first_texts http://127.0.0.1:8000 [--pairs 40]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from statistics import median
from urllib.parse import urlsplit

from miaotui.bench.load.http_target import HttpTarget, first_model
from miaotui.bench.load.outcome import RequestOutcome
from miaotui.bench.load.prompts import PlannedRequest, PromptPlan
from miaotui.bench.load.target import AskOptions, LoadClock

WORDS, TOKENS = 60, 8
UNCOUNTED = 2  # pairs that warm up


async def through_ours(target: HttpTarget, planned: PlannedRequest) -> float:
    """Milliseconds to the first text, as our client has them."""
    outcome, clock = RequestOutcome(planned.number, 0.0, planned.max_tokens), LoadClock()
    await target.ask(planned, outcome, clock)
    if outcome.ttft_s is None:
        raise SystemExit(f"no answer: {outcome.end} {outcome.status} {outcome.detail}")
    return 1e3 * outcome.ttft_s


async def through_socket(url: str, model: str, planned: PlannedRequest) -> float:
    """Milliseconds to the first chunk with choices, on a connection that is open already."""
    host = urlsplit(url)
    reader, writer = await asyncio.open_connection(host.hostname, host.port)
    body = json.dumps(
        {
            "model": model,
            "messages": [{"role": "user", "content": [{"type": "text", "text": planned.prompt}]}],
            "max_completion_tokens": planned.max_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
            "ignore_eos": True,
            "temperature": 0.0,
        }
    ).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host.netloc}\r\nContent-Type: application/json\r\n"
    began = time.perf_counter()
    writer.write(f"{head}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    first = None
    while line := await reader.readline():
        if first is None and line.startswith(b"data: {") and json.loads(line[6:]).get("choices"):
            first = 1e3 * (time.perf_counter() - began)
    writer.close()
    if first is None:
        raise SystemExit("no answer through the socket")
    return first


async def main() -> None:
    """Take all pairs and print the line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--pairs", type=int, default=40)
    args = parser.parse_args()
    model = await first_model(args.url)
    target = HttpTarget(args.url, model, AskOptions(ignore_eos=True))
    plan = PromptPlan((WORDS, WORDS), (TOKENS, TOKENS), random.SystemRandom().randrange(1 << 31))
    ours, theirs = [], []
    for pair in range(args.pairs + UNCOUNTED):
        planned = [plan.planned(2 * pair + side) for side in (0, 1)]
        if pair % 2:
            ours.append(await through_ours(target, planned[0]))
        theirs.append(await through_socket(args.url, model, planned[1]))
        if not pair % 2:
            ours.append(await through_ours(target, planned[0]))
    await target.close()
    ours, theirs = ours[UNCOUNTED:], theirs[UNCOUNTED:]
    found = {"ours_ms": median(ours), "theirs_ms": median(theirs), "pairs": len(ours)}
    found["difference_ms"] = found["ours_ms"] - found["theirs_ms"]
    found["paired_ms"] = median(a - b for a, b in zip(ours, theirs, strict=True))
    print(json.dumps(found))


if __name__ == "__main__":
    asyncio.run(main())
