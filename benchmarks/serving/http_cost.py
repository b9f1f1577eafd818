"""Cost of HTTP and Python beside the arithmetic: a real server, real streams, one step at a time.

Owns the server in this process, a client in another, and the counting: processor time of the event
loop's thread, and time of the engine's thread outside the compiled pass, both per step. Prints a
table and one JSON line. Invariant: only steps in which every stream takes part are counted.

    python -m benchmarks.serving.http_cost [MODEL] [--streams 8] [--tokens 160] [--runs 3]
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import selectors
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any, cast

from benchmarks.machine import describe
from benchmarks.places import ROOT
from miaotui.engine.engine import Engine
from miaotui.engine.reading.readers import Readers
from miaotui.engine.request import Request
from miaotui.runtime import ModelOptions, open_model
from miaotui.serve.app import create_app
from miaotui.serve.http.server import server_for
from miaotui.serve.models import ObservedModel, ServedModels
from miaotui.serve.ops.operations import Operations
from miaotui.serve.services import Services
from miaotui.serve.settings import ServeSettings
from miaotui.types import SamplingParams

SERVERS = (("h11", "asyncio"), ("httptools", "asyncio"), ("httptools", "uvloop"))
CLIENT = "--client"
PLAIN = ModelOptions(speculate=False)
NAP_S = 0.1
JOLT = 2.0


@dataclass(frozen=True)
class Cost:
    """One measurement, per step (a token for each stream) and in milliseconds; means without jolts.

    ``engine_python_ms`` is all but the compiled pass: filling its tables, the choice of tokens, the
    bookkeeping; meanwhile nothing else computes. The event loop works beside the pass. ``share`` is
    what both take of the machine.
    """

    http: str
    loop: str
    steps: int
    step_ms: float
    pass_ms: float
    engine_python_ms: float
    event_loop_ms: float
    share: float
    ttft_ms: float


class Meter:
    """Adds up, while all streams run, the time of steps and of passes."""

    def __init__(self, hosted: ObservedModel, streams: int) -> None:
        self._streams = streams
        self.runs: list[tuple[float, float, int]] = []  # begin, end and passes of all streams' runs
        self._backend = cast("Any", hosted.loop.engine.backend)
        self._run = self._backend.run
        setattr(self._backend, "run", self._timed)  # noqa: B010  (counted here while it runs)

    def close(self) -> None:
        """Count no more."""
        self._backend.run = self._run

    @property
    def passes(self) -> int:
        """How many there were."""
        return sum(done for _, _, done in self.runs)

    def means(self) -> tuple[int, float, float]:
        """Steps, and the seconds of a step and of its pass; without jolts, steps of twice the usual time."""
        steps = [
            (after - begin, end - begin, done) for (begin, end, done), (after, _, _) in itertools.pairwise(self.runs)
        ]
        usual = statistics.median(gap / done for gap, _, done in steps)
        calm = [step for step in steps if step[0] < JOLT * usual * step[2]]
        count = sum(done for _, _, done in calm)
        return count, sum(gap for gap, _, _ in calm) / count, sum(s for _, s, _ in calm) / count

    def _timed(self, plan: Any, *how: Any) -> Any:
        result, chunks = self._run(plan, *how), plan.chunks
        if len(chunks) == self._streams and all(len(chunk.tokens) == 1 for chunk in chunks):
            end = time.perf_counter()
            self.runs.append((end - result.seconds, end, result.passes))
        return result


def client(port: int, streams: int, tokens: int) -> None:
    """Open the streams, read them to their ends, and print the median time to the first token."""
    body = {
        "messages": [{"role": "user", "content": "Tell a long story."}],
        "max_tokens": tokens,
        "ignore_eos": True,
        "stream": True,
        "temperature": 0,  # so that drawing a token, which is arithmetic, hardly counts
    }
    connections, began = [], time.perf_counter()
    first: dict[Any, float] = {}
    for seed in range(streams):
        text = json.dumps(body | {"seed": seed}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(text)}"
        connection = socket.create_connection(("127.0.0.1", port))
        connection.sendall(f"{head}\r\n\r\n".encode() + text)
        connections.append(connection)

    with selectors.DefaultSelector() as selector:
        for connection in connections:
            selector.register(connection, selectors.EVENT_READ, connection)
        while connections:
            for key, _ in selector.select():
                connection = key.data
                piece = connection.recv(1 << 20)
                assert piece, "the server closed the connection"
                first.setdefault(connection, time.perf_counter() - began)
                if b"[DONE]" in piece:
                    selector.unregister(connection)
                    connections.remove(connection)
            if len(first) == streams:
                time.sleep(NAP_S)  # a client elsewhere would cost this machine nothing
    print(statistics.median(first.values()) * 1e3)


async def measure(http: str, loop: str, options: argparse.Namespace) -> Cost:
    """One run on a fresh server."""
    hosted = ObservedModel("model", open_model(options.model, PLAIN))
    models = ServedModels([hosted])
    app = create_app(Services(models, ServeSettings(), Operations(models)))
    server = server_for(app, host="127.0.0.1", port=0, http=http)
    serving = asyncio.ensure_future(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    words = [str(port), str(options.streams), str(options.tokens)]
    meter, ttft, spent = Meter(hosted, options.streams), 0.0, 0.0
    for _ in range(2):  # the first is for warming up
        meter.runs.clear()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "benchmarks.serving.http_cost", CLIENT, *words, stdout=subprocess.PIPE, cwd=ROOT
        )
        while meter.passes < 2 and process.returncode is None:
            await asyncio.sleep(0.005)
        cpu, seen = time.thread_time(), meter.passes
        while meter.passes < options.tokens * 3 // 4 and process.returncode is None:
            await asyncio.sleep(0.05)
        spent = (time.thread_time() - cpu) / max(meter.passes - seen, 1)
        out, _ = await process.communicate()
        ttft = float(out)
    server.should_exit = True
    await serving
    hosted.close()
    meter.close()
    steps, step_s, pass_s = meter.means()
    step_ms, pass_ms = step_s * 1e3, pass_s * 1e3
    cores = min(2, os.cpu_count() or 1)  # the event loop takes one of the cores that compute
    share = (step_ms - pass_ms + spent * 1e3 / cores) / step_ms
    return Cost(http, loop, steps, step_ms, pass_ms, step_ms - pass_ms, spent * 1e3, share, ttft)


class Begins(Readers):
    """The moments at which steps ended, one for each of their passes."""

    def __init__(self) -> None:
        super().__init__()
        self.moments: list[float] = []
        self.engine: Engine | None = None

    def is_due(self) -> bool:
        return True

    def tell(self, requests: Sequence[Request]) -> None:
        assert self.engine is not None
        self.moments.extend([time.perf_counter()] * self.engine.passes)
        for request in requests:
            request.read()


def alone(options: argparse.Namespace) -> float:
    """Milliseconds of a step of as many requests without any server."""
    loop = open_model(options.model, PLAIN)
    loop.calibrate()  # steps are watched as they are in a server
    loop.readers = reading = Begins()
    reading.engine, begins = loop.engine, reading.moments
    prompt = loop.model.tokenizer.encode("Tell a long story.")
    params = SamplingParams(max_tokens=options.tokens, ignore_eos=True)
    requests = [loop.submit(prompt, params) for _ in range(options.streams)]
    while not all(request.is_over for request in requests):
        time.sleep(0.05)
    loop.close()
    return (begins[-1] - begins[len(begins) // 4]) / (len(begins) * 3 // 4) * 1e3


def run(http: str, loop: str, options: argparse.Namespace) -> Cost:
    """One run in an event loop of the given kind."""
    if loop == "asyncio":
        return asyncio.run(measure(http, loop, options))
    import uvloop

    return uvloop.run(measure(http, loop, options))


def main() -> None:
    """Measure every server that is installed."""
    if CLIENT in sys.argv:
        client(*map(int, sys.argv[2:]))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="smollm2-135m")
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=160)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", help="one of h11+asyncio, httptools+asyncio, httptools+uvloop")
    options = parser.parse_args()
    chosen = [pair for pair in SERVERS if options.only in (None, "+".join(pair))]
    chosen = [pair for pair in chosen if all(map(find_spec, set(pair)))]
    costs, without = [], []
    for _ in range(options.runs):
        without.append(alone(options))
        costs += [run(*pair, options) for pair in chosen]
    print(f"without a server a step takes {statistics.median(without):.3f} ms")
    print(f"{'server':20} {'step':>8} {'pass':>8} {'engine':>8} {'http':>8} {'share':>7} {'TTFT':>8}")
    for cost in costs:
        name = f"{cost.http}+{cost.loop}"
        times = (cost.step_ms, cost.pass_ms, cost.engine_python_ms, cost.event_loop_ms)
        print(f"{name:20}", *(f"{ms:8.3f}" for ms in times), f"{cost.share:7.1%} {cost.ttft_ms:8.1f}")
    found = {"alone_step_ms": without, "http": [asdict(cost) for cost in costs]}
    print(json.dumps({"machine": describe().as_dict()} | found))


if __name__ == "__main__":
    main()
