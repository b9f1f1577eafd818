"""Answers in time per second, under loads from a quarter of to three times the capacity.

    python -m benchmarks.peers.install setup          # once: the peers
    python -m benchmarks.promises.goodput              # about seven minutes
    python -m benchmarks.promises.goodput --only miaotui --seconds 10

Requests come at random moments (a Poisson process), with prompts of 40 to 400 tokens and answers of
16 to 128, and each is worth something only if it is whole within the deadline, as its client sees
it. They come from a process of their own over real HTTP. Prints a table and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import Strangers, describe, wait_until_quiet
from benchmarks.peers import models
from benchmarks.peers.install import LLAMA_CPP_PYTHON, OPENVINO_GENAI, Peers
from benchmarks.peers.report import check_table
from benchmarks.places import PEERS, SUBJECTS
from benchmarks.promises.goodput_report import Outcome, Row, Steps, checks, steps_of, table
from benchmarks.promises.goodput_servers import LLAMA_CPP, OPENVINO, OURS, Ask, Kind, Server, llama_cpp, openvino, ours

LOADS = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0)
N_VOCAB = 49_152
PROMPT, ANSWER = (40, 400), (16, 128)
STREAMS = 8
PATIENCE_S = 30.0


def main() -> None:
    """Measure what the arguments ask for."""
    args = _arguments()
    peers = Peers(args.peers)
    gguf = models.smollm2_q4_0(args.source or _default_source(), peers.models)
    makers: dict[str, Callable[[], Kind | None]] = {
        OURS: lambda: ours(gguf, args.threads),
        LLAMA_CPP: lambda: llama_cpp(peers, gguf, args.threads),
        OPENVINO: lambda: openvino(peers, gguf, args.threads),
    }
    machine = describe()
    print(f"load average {machine.load_average[0]:.2f}; {machine.processor}, {machine.cores} cores")
    outcome = Outcome(args.deadline_ms, rows=[])
    with tempfile.TemporaryDirectory(prefix="goodput-") as folder:
        for name in args.only or makers:
            kind = makers[name]()
            if kind is None:
                print(f"{name} is not installed and left out; run: python -m benchmarks.peers.install setup")
                continue
            _measure(kind, args, Path(folder), outcome)
    promises = list(checks(outcome))
    print("\n" + table(outcome) + "\n\n" + check_table(promises))
    print(
        json.dumps(
            {
                "machine": machine.as_dict(),
                "versions": {"llama-cpp-python": LLAMA_CPP_PYTHON, "openvino-genai": OPENVINO_GENAI},
                **outcome.as_dict(),
                "checks": [{**vars(check), "reached": check.verdict} for check in promises],
            }
        )
    )


def _measure(kind: Kind, args: argparse.Namespace, folder: Path, outcome: Outcome) -> None:
    """All loads on one server; a peer gets a fresh one for each, its line would never end."""
    log = folder / "server.log"
    is_ours = kind.name == OURS
    seconds = args.seconds if is_ours else args.peer_seconds
    wait_until_quiet(args.patience)
    server = Server(kind, log)
    try:
        _closed(server, args, people=STREAMS, seconds=2.0, salt="warm-up")
        if is_ours:
            _first_tokens(server, args, outcome)
            outcome.capacity = args.capacity or _capacity(server, args)
            print(f"capacity: {outcome.capacity:.2f} answers per second", flush=True)
        elif not outcome.capacity:
            outcome.capacity = args.capacity or 6.0
        loads = args.load if is_ours else args.peer_load or args.load
        for load in loads:
            if not is_ours and load != loads[0]:
                server.stop()
                server = Server(kind, log)
            outcome.rows.append(_open(server, args, load, load * outcome.capacity, seconds))
            print(outcome.rows[-1].text(), flush=True)
    finally:
        server.stop()


def _open(server: Server, args: argparse.Namespace, load: float, rate: float, seconds: float) -> Row:
    """One open load, the same for every server."""
    source = random.Random(f"{args.seed} {load}")
    at_s, requests = 0.0, []
    while (at_s := at_s + source.expovariate(rate)) < seconds:
        ask = _ask(source)
        requests.append((at_s, server.kind.request(ask, deadline_ms=args.deadline_ms)))
    strangers = Strangers([server.pid])
    before = steps_of(server)
    patience_s = args.leave_after or PATIENCE_S
    order = {"requests": requests, "patience_s": patience_s}
    if server.kind.name != OURS and not args.leave_after:
        order["patience_s"] = 5.0  # what takes longer is late in any case
    found, cpu_s = _load(server, order)
    steps = None if before is None else Steps.between(before, steps_of(server))
    own = cpu_s / max(seconds, 1e-9)
    return Row(server.kind.name, load, rate, seconds, args.deadline_ms, found, strangers.cores() - own, steps)


def _closed(
    server: Server,
    args: argparse.Namespace,
    *,
    people: int,
    seconds: float,
    salt: str,
    stream: bool = False,
    prompt: tuple[int, int] = PROMPT,
) -> list[dict[str, Any]]:
    """So many at a time, without deadlines."""
    source = random.Random(f"{args.seed} {salt}")
    count = int(20 * people * max(seconds, 1))
    asks = (_ask(source, prompt) for _ in range(min(count, 400)))
    requests = [(0.0, server.kind.request(ask, stream=stream)) for ask in asks]
    order = {"requests": requests, "people": people, "seconds": seconds, "patience_s": PATIENCE_S}
    return [each for each in _load(server, order)[0] if each.get("done_s")]


def _first_tokens(server: Server, args: argparse.Namespace, outcome: Outcome) -> None:
    """Times to the first token, as `STREAMS` people see them who always ask again."""
    for name, prompt in (("40", (40, 40)), ("40-400", PROMPT)):
        found = _closed(
            server, args, people=STREAMS, seconds=args.seconds / 2, salt=f"first {name}", stream=True, prompt=prompt
        )
        # The first of each stream come all at once: that is another question.
        times = [each["first_s"] - each["sent_s"] for each in found[STREAMS:] if each["first_s"]]
        outcome.first_tokens[name] = sorted(times)


def _capacity(server: Server, args: argparse.Namespace) -> float:
    """Answers per second when nobody is in a hurry and the line never ends."""
    seconds = args.seconds / 2
    found = _closed(server, args, people=2 * STREAMS, seconds=seconds, salt="capacity")
    begun = seconds / 4  # by then all that run began at different times
    return float(sum(begun <= each["done_s"] < seconds for each in found) / (seconds - begun))


def _ask(source: random.Random, prompt: tuple[int, int] = PROMPT) -> Ask:
    length = source.randint(*prompt)
    return [source.randrange(N_VOCAB) for _ in range(length)], source.randint(*ANSWER)


def _load(server: Server, order: dict[str, Any]) -> tuple[list[dict[str, Any]], float]:
    """Play a load in a process of its own; what came back, and the processor time it took."""
    import resource

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    text = json.dumps({"host": "127.0.0.1", "port": server.port, **order})
    command = [sys.executable, "-S", str(SUBJECTS / "load.py")]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return json.loads(done.stdout)["found"], cpu_s


def _default_source() -> Path:
    from miaotui.hub.resolve import resolve

    return resolve("smollm2-135m")


def _arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--only", nargs="+", choices=[OURS, LLAMA_CPP, OPENVINO], help="servers to measure")
    add("--load", nargs="+", type=float, default=list(LOADS), help="multiples of the capacity")
    add("--peer-load", nargs="+", type=float, help="of the peers (default: the same)")
    add("--capacity", type=float, help="answers per second (default: measured first)")
    add("--deadline-ms", type=float, default=1000.0)
    add("--seconds", type=float, default=20.0, help="of each load on our server")
    add("--peer-seconds", type=float, default=10.0, help="of each load on a peer")
    add("--leave-after", type=float, help="seconds after which clients hang up (default: they wait)")
    add("--patience", type=float, default=20.0, help="seconds to wait for a quiet machine")
    add("--threads", type=int, default=2)
    add("--seed", type=int, default=0)
    add("--source", type=Path, help="SmolLM2-135M-Instruct.Q4_1.gguf (default: fetched)")
    add("--peers", type=Path, default=PEERS)
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
