"""A server under requests of all shapes whose clients vanish: does anything leak, change or hang?

    python -m benchmarks.serving.chaos                       # 2,000 requests, for at least ten minutes
    python -m benchmarks.serving.chaos --minutes 1 MODEL

Starts ``miaotui serve`` in a process of its own, fires random requests at it from many clients of
which 30% leave at a random moment, and then looks what is left. Prints a table of checks and one
JSON line; ends with status 1 if any check failed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import statistics
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.machine import describe
from benchmarks.serving.chaos_requests import CHAT, COMPLETIONS, MESSAGES, RESPONSES, Heard, Shot, fire, random_shot
from miaotui.bench.report import aligned

CLIENTS, GONE, LONGEST = 24, 0.3, 60
COMPARED = 200  # answers that are asked for again, alone
SAMPLE_S = 1.0
WARM_UP = 0.25  # of the time, in which memory may still grow
FLAT = 0.02


@dataclass
class Outcome:
    """What was seen."""

    heard: list[Heard] = field(default_factory=list)
    resident_mb: list[tuple[float, float]] = field(default_factory=list)  # (seconds, MB)
    compared: int = 0
    different: int = 0
    left: dict[str, float] = field(default_factory=dict)


def main() -> int:
    """Run, report, and say whether all is well."""
    args = _arguments()
    with _Server(args.model) as server:
        outcome = asyncio.run(_run(server, args))
        healthy = server.is_healthy()
    checks = _checks(outcome, args, healthy)
    verdicts = [[name, value, "yes" if holds else "NO"] for name, value, holds in checks]
    print(aligned([["check", "value", "holds"], *verdicts]))
    statuses = Counter(one.status for one in outcome.heard)
    print(
        json.dumps(
            {
                "machine": str(describe().processor),
                "requests": len(outcome.heard),
                "vanished": sum(1 for one in outcome.heard if one.shot.leaves),
                "statuses": {str(status): count for status, count in sorted(statuses.items())},
                "compared": outcome.compared,
                "different": outcome.different,
                "resident_mb": _quarters(outcome.resident_mb),
                "left": outcome.left,
                "checks": {name: bool(holds) for name, _, holds in checks},
            }
        )
    )
    return 0 if all(holds for _, _, holds in checks) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", nargs="?", default="smollm2-135m")
    parser.add_argument("--requests", type=int, default=2000, help="at least so many")
    parser.add_argument("--minutes", type=float, default=10.0, help="for at least so long")
    parser.add_argument("--clients", type=int, default=CLIENTS)
    parser.add_argument("--longest", type=int, default=LONGEST, help="words of prompts and answers")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


class _Server:
    """``miaotui serve`` as anyone starts it, on a free port."""

    def __init__(self, model: str) -> None:
        command = [sys.executable, "-m", "miaotui", "serve", f"chaos={model}", "--port", "0"]
        self._process = subprocess.Popen([*command, "--log-level", "error"], stderr=subprocess.PIPE, text=True)
        assert self._process.stderr is not None
        said = ""
        for line in self._process.stderr:
            said += line
            found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
            if found:
                self.port = int(found[1])
                return
        raise SystemExit(f"the server did not start:\n{said}")

    def __enter__(self) -> _Server:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def get(self, path: str) -> str:
        url = f"http://127.0.0.1:{self.port}{path}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            text: str = answer.read().decode()
        return text

    def is_healthy(self) -> bool:
        try:
            return "ok" in self.get("/health")
        except OSError:
            return False

    def gauge(self, name: str) -> float:
        """The sum of a metric over all its labels."""
        lines = [li for li in self.get("/metrics").splitlines() if li.startswith(name)]
        return sum(float(line.split()[-1]) for line in lines)

    def resident_mb(self) -> float:
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1000


async def _run(server: _Server, args: argparse.Namespace) -> Outcome:
    outcome = Outcome()
    await _fill(server)
    known = json.loads(server.get("/openapi.json"))["paths"]
    paths = [path for path in (CHAT, CHAT, COMPLETIONS, MESSAGES, RESPONSES) if path in known]
    watching = asyncio.create_task(_watch(server, outcome))
    await _fire_all(server, _shots(args, paths), args.clients, outcome.heard)
    watching.cancel()
    await _settle(server, outcome)
    await _compare(server, outcome)
    return outcome


async def _fill(server: _Server) -> None:
    """Use every page of keys and values once: their memory is taken when they are first touched."""
    rng = random.Random(11)
    length = json.loads(server.get("/v1/models"))["data"][0]["max_model_len"] // 2
    stored = -1.0
    while server.gauge("miaotui_kv_pages_stored") > stored:
        stored = server.gauge("miaotui_kv_pages_stored")
        for _ in range(4):
            prompt = [rng.randrange(5, 300) for _ in range(min(length, 2000))]
            body = {"model": "chaos", "prompt": prompt, "max_tokens": 1}
            await fire("127.0.0.1", server.port, Shot(COMPLETIONS, body))


def _shots(args: argparse.Namespace, paths: Sequence[str]) -> Iterator[Shot]:
    rng, end_s, count = random.Random(args.seed), time.monotonic() + 60 * args.minutes, 0
    while count < args.requests or time.monotonic() < end_s:
        count += 1
        if count % 500 == 0:
            print(f"{count} requests", file=sys.stderr)
        yield random_shot(rng, "chaos", paths, gone=GONE, longest=args.longest)


async def _fire_all(server: _Server, shots: Iterator[Shot], clients: int, heard: list[Heard]) -> None:
    async def client() -> None:
        for shot in shots:
            try:
                heard.append(await fire("127.0.0.1", server.port, shot))
            except (OSError, asyncio.TimeoutError) as error:
                heard.append(Heard(shot, 0, reason=type(error).__name__))

    await asyncio.gather(*(client() for _ in range(clients)))


async def _watch(server: _Server, outcome: Outcome) -> None:
    start_s = time.monotonic()
    while True:
        outcome.resident_mb.append((time.monotonic() - start_s, server.resident_mb()))
        await asyncio.sleep(SAMPLE_S)


async def _settle(server: _Server, outcome: Outcome) -> None:
    """Wait until nothing runs, for a while at most; then note what is left."""
    names = {
        "running": "vllm:num_requests_running",
        "waiting": "vllm:num_requests_waiting",
        "pages": "vllm:kv_cache_usage_perc",
    }
    for _ in range(100):
        outcome.left = {key: server.gauge(name) for key, name in names.items()}
        if not any(outcome.left.values()):
            return
        await asyncio.sleep(0.1)


async def _compare(server: _Server, outcome: Outcome) -> None:
    """Ask again, one after the other, for answers that were given under load."""
    whole = [one for one in outcome.heard if one.shot.is_repeatable and one.ended]
    chosen = random.Random(7).sample(whole, min(COMPARED, len(whole)))
    for one in chosen:
        alone = await fire("127.0.0.1", server.port, one.shot)
        outcome.compared += 1
        outcome.different += dict(alone.texts) != dict(one.texts)


def _quarters(samples: Sequence[tuple[float, float]]) -> list[float]:
    """Mean resident memory in each quarter of the time."""
    size = max(len(samples) // 4, 1)
    parts = [samples[start : start + size] for start in range(0, size * 4, size)]
    return [round(statistics.fmean(mb for _, mb in part), 1) for part in parts if part]


def _checks(outcome: Outcome, args: argparse.Namespace, healthy: bool) -> list[tuple[str, str, bool]]:
    stayed = [one for one in outcome.heard if not one.shot.leaves]
    endless = [one for one in stayed if one.status == 0 or (one.status == 200 and not one.ended)]
    faults = [one for one in stayed if one.status >= 500]
    late = [mb for _, mb in outcome.resident_mb[int(len(outcome.resident_mb) * WARM_UP) :]]
    swing = max(abs(mb / statistics.fmean(late) - 1) for mb in late) if late else 0.0
    return [
        ("requests", f"{len(outcome.heard)}", len(outcome.heard) >= args.requests),
        ("without an end", f"{len(endless)}", not endless),
        ("answered with 5xx", f"{len(faults)}", not faults),
        ("left when all was over", f"{outcome.left}", not any(outcome.left.values())),
        ("memory after a quarter of the time", f"± {swing:.1%}", swing <= FLAT),
        (
            "answers unlike those alone",
            f"{outcome.different} of {outcome.compared}",
            outcome.compared > 0 and not outcome.different,
        ),
        ("healthy", str(healthy), healthy),
    ]


if __name__ == "__main__":
    sys.exit(main())
