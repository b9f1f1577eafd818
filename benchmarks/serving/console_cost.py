"""The processor time that a console costs its server: answers with and without `explain`, in pairs, by turns.

Starts a server of MODEL, asks it for streamed answers as the console does, and reads the server's own processor time
before and after each. Nothing is drafted, since the second answer of a pair would be drafted from the first. Prints
one JSON line: seconds per answer of both kinds, and the median of the pairs' ratios with its 95% interval, as
`miaotui bench compare` takes it.

    python -m benchmarks.serving.console_cost [MODEL] [--pairs 40] [--tokens 200]
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
import urllib.request
from typing import Any

from miaotui.bench.compare import paired_ratio

CPU = re.compile(r"^process_cpu_seconds_total (\S+)$", re.MULTILINE)
QUESTION = "Write a long letter to a friend about the town where you grew up."


def start(model: str) -> tuple[subprocess.Popen[str], str]:
    """Return a server on a free port, and its address, once it answers."""
    command = [sys.executable, "-m", "miaotui", "serve", model, "--port", "0", "--no-speculate", "--log-level", "error"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    for line in server.stderr:
        found = re.search(r"http://127\.0\.0\.1:\d+", line)
        if found:
            return server, found[0]
    raise SystemExit("the server did not start")


def cpu_s(url: str) -> float:
    """Return the processor time of the server."""
    with urllib.request.urlopen(f"{url}/metrics") as response:
        found = CPU.search(response.read().decode())
    assert found is not None
    return float(found[1])


def answer_s(url: str, tokens: int, seed: int, explain: bool) -> float:
    """Return the processor time of one streamed answer."""
    body: dict[str, Any] = {"messages": [{"role": "user", "content": QUESTION}], "stream": True, "ignore_eos": True}
    body |= {"max_tokens": tokens, "seed": seed, "explain": explain, "stream_options": {"include_usage": True}}
    before_s = cpu_s(url)
    request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode())
    with urllib.request.urlopen(request) as response:
        response.read()
    time.sleep(0.05)  # what follows an answer belongs to it
    return cpu_s(url) - before_s


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="smollm2-135m")
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--tokens", type=int, default=200)
    options = parser.parse_args()
    server, url = start(options.model)
    try:
        answer_s(url, options.tokens, 0, explain=True)
        pairs = []
        for seed in range(1, options.pairs + 1):
            kinds = (False, True) if seed % 2 else (True, False)
            took = {kind: answer_s(url, options.tokens, seed, kind) for kind in kinds}
            pairs.append((took[False], took[True]))
    finally:
        server.terminate()
        server.wait()
    found = paired_ratio("processor seconds of an answer", pairs)
    totals = [sum(each) for each in zip(*pairs, strict=True)]
    print(json.dumps({**vars(found), "of_sums": totals[1] / totals[0]}))


if __name__ == "__main__":
    main()
