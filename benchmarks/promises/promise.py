"""Whether promises are given where they can be kept: of requests alone, and how soon refusals come.

    python -m benchmarks.promises.promise                          # about four minutes
    python -m benchmarks.promises.promise --python OLD/bin/python  # the server of another installation
    python -m benchmarks.promises.promise --only idle refusals

Each part starts ``miaotui serve`` on a free port. *idle*: the same requests, one after another, on two fresh
servers: first with a deadline that is no limit, which gives the time of each alone and the time promised, then with
deadlines of that time divided by a ratio. *refusals*: how soon a request that cannot be done in time is refused, on
an idle server and beside half a request a second. Prints tables and one JSON line. Answers within a second at several
loads are a matter of `miaotui bench serve URL --rate 0.5,1,2,4,8 --deadline-ms 1000`.
"""

from __future__ import annotations

import argparse
import base64
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import Strangers, describe
from benchmarks.places import ROOT, SUBJECTS
from benchmarks.promises.goodput_report import quantile
from benchmarks.promises.goodput_servers import OURS, Kind, Server
from miaotui.bench.report import aligned

RATIOS = (0.5, 0.6, 0.7, 0.8, 0.87, 0.95)
WORDS, ANSWER = (60, 200), (24, 96)
NO_LIMIT_MS = 30_000.0
PAUSE_S = 0.3  # between an answer and the next request of one person
FIRST = 10  # requests after a start that are told apart
PARTS = ("idle", "refusals")


@dataclass(frozen=True)
class Question:
    """A chat of one message."""

    text: str
    answer_tokens: int
    seed: int

    def raw(self, deadline_ms: float | None) -> str:
        """The whole HTTP request, in base64."""
        body: dict[str, Any] = {
            "model": "bench",
            "messages": [{"role": "user", "content": self.text}],
            "max_tokens": self.answer_tokens,
            "ignore_eos": True,
            "temperature": 1.0,
            "seed": self.seed,
        }
        if deadline_ms is not None:
            body["deadline_ms"] = deadline_ms
        data = json.dumps(body).encode()
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Connection: close\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        return base64.b64encode(head.encode() + data).decode()


@dataclass(frozen=True)
class Idle:
    """A request alone: its time, the time that was promised, and its fate with a deadline."""

    question: Question
    alone_ms: float
    promised_ms: float
    ratio: float
    admitted: bool
    met: bool
    predicted_ms: float
    took_ms: float


def main() -> None:
    """Measure the parts that the arguments ask for."""
    args = _arguments()
    machine = describe()
    print(f"{machine.processor}, {machine.cores} cores; load average {machine.load_average[0]:.2f}")
    found: dict[str, Any] = {"machine": machine.as_dict(), "label": args.label}
    with tempfile.TemporaryDirectory(prefix="promise-") as folder:
        log = Path(folder) / "server.log"
        for part in args.only:
            measure = {"idle": _idle, "refusals": _refusals}[part]
            found[part] = measure(args, log)
    print(json.dumps(found))


def questions(count: int, seed: int) -> list[Question]:
    """Messages of 60 to 200 words; no two share their beginning."""
    source = random.Random(seed)
    words = (ROOT / "LICENSE").read_text(encoding="utf-8").split()
    asked = []
    for index in range(count):
        length, start = source.randint(*WORDS), source.randrange(len(words))
        text = " ".join((words * 2)[start : start + length - 12])
        wish = source.choice(
            ("Summarise this", "Explain this to a child", "Reply to this letter", "Write a poem on it")
        )
        asked.append(Question(f"{index}{source.random()}. {wish}: {text}", source.randint(*ANSWER), index))
    return asked


def _server(args: argparse.Namespace, log: Path) -> Server:
    model = args.model or "smollm2-135m"
    options = [f"bench={model}", "--threads", str(args.threads), *args.serve]
    command = [args.python, "-m", "miaotui", "serve", *options]
    return Server(Kind(OURS, lambda port: [*command, "--port", str(port)], "/", "/ready", lambda *_: {}), log)


def _idle(args: argparse.Namespace, log: Path) -> list[dict[str, Any]]:
    """Requests of a person alone: how many are admitted and met, by their time's share of the deadline."""
    asked = questions(args.requests, args.seed)
    with _server(args, log) as server:
        strangers = Strangers([server.pid])
        alone = _in_turn(server, [question.raw(NO_LIMIT_MS) for question in asked])
        busy = strangers.cores()
    times = [1e3 * (each["done_s"] - each["sent_s"]) for each in alone]
    promised = [_report(each)["predicted_ms"] for each in alone]
    results: list[Idle] = []
    for turn in range(args.turns):
        ratios = [RATIOS[(index + turn) % len(RATIOS)] for index in range(len(asked))]
        with _server(args, log) as server:
            raw = [q.raw(ms / ratio) for q, ms, ratio in zip(asked, times, ratios, strict=True)]
            fates = _in_turn(server, raw)
        rows = zip(asked, times, promised, ratios, fates, strict=True)
        results += [_idle_of(*row) for row in rows]
    print(f"\nidle: {len(asked)} requests on {1 + args.turns} fresh servers; strangers used {busy:.2f} cores")
    print(_idle_table(results, times, promised))
    return [_idle_dict(each) for each in results]


def _idle_of(question: Question, alone_ms: float, promised_ms: float, ratio: float, fate: dict[str, Any]) -> Idle:
    admitted = fate["status"] == 200
    took_ms = 1e3 * (fate["done_s"] - fate["sent_s"])
    predicted_ms = _report(fate).get("predicted_ms", 0.0)
    met = admitted and took_ms <= alone_ms / ratio
    return Idle(question, alone_ms, promised_ms, ratio, admitted, met, predicted_ms, took_ms)


def _idle_table(results: Sequence[Idle], times: Sequence[float], promised: Sequence[float]) -> str:
    rows = [["time / deadline", "asked", "admitted", "of them met", "promised / time would allow"]]
    for ratio in RATIOS:
        of_ratio = [each for each in results if each.ratio == ratio]
        admitted = [each for each in of_ratio if each.admitted]
        allowed = [p * ratio <= t for p, t in zip(promised, times, strict=True)]
        rows.append([f"{ratio:g}", *_shares(of_ratio, admitted), _percent(sum(allowed), len(allowed))])
    first = [each for turn in _turns(results, len(times)) for each in turn[:FIRST]]
    rows.append([f"first {FIRST}", *_shares(first, [each for each in first if each.admitted]), ""])
    ratios = sorted(p / t for p, t in zip(promised, times, strict=True))
    text = ", ".join(f"p{100 * share:.0f} {quantile(ratios, share):.2f}" for share in (0.05, 0.5, 0.95))
    alone = (
        f"time alone: {quantile(times, 0.0):.0f} to {quantile(times, 1.0):.0f} ms, median {quantile(times, 0.5):.0f}"
    )
    begin = " ".join(f"{p / t:.2f}" for p, t in list(zip(promised, times, strict=True))[:FIRST])
    return f"{aligned(rows)}\n{alone}; promised / time: {text}; the first {FIRST}: {begin}"


def _turns(results: Sequence[Idle], length: int) -> Iterator[Sequence[Idle]]:
    for start in range(0, len(results), length):
        yield results[start : start + length]


def _shares(asked: Sequence[Idle], admitted: Sequence[Idle]) -> list[str]:
    met = sum(each.met for each in admitted)
    return [str(len(asked)), _percent(len(admitted), len(asked)), _percent(met, len(admitted))]


def _percent(count: int, of: int) -> str:
    return f"{100 * count / of:.1f}%" if of else "-"


def _idle_dict(each: Idle) -> dict[str, Any]:
    values = {name: value for name, value in vars(each).items() if name != "question"}
    return {"words": len(each.question.text.split()), "answer_tokens": each.question.answer_tokens, **values}


def _refusals(args: argparse.Namespace, log: Path) -> dict[str, Any]:
    """How soon refusals come: a request of 200 words and 96 tokens within 30 ms cannot be done."""
    asked, beside = questions(2 * args.refusals, args.seed + 1), questions(30, args.seed + 2)
    found: dict[str, Any] = {}
    rows = [["refusals", "asked", "refused", "p50 [ms]", "p99 [ms]", "longest [ms]"]]
    with _server(args, log) as server:
        half = args.refusals
        for name, first, load in (("idle", 0, []), ("beside 0.5/s", half, beside)):
            source = random.Random(args.seed)
            spaced = [(index * 0.1 + source.random() / 20, q.raw(30.0)) for index, q in enumerate(asked[first:][:half])]
            load_s = half * 0.1
            others = [(at * 2.0, q.raw(None)) for at, q in enumerate(load) if at * 2.0 < load_s]
            fates = play_load(server, {"requests": sorted([*spaced, *others]), "patience_s": 30.0})
            times = sorted(1e3 * (each["done_s"] - each["sent_s"]) for each in fates if each["status"] == 429)
            found[name] = {"refused": len(times), "p50_ms": quantile(times, 0.5), "p99_ms": quantile(times, 0.99)}
            p50, p99, longest = (f"{quantile(times, share):.1f}" for share in (0.5, 0.99, 1.0))
            rows.append([name, str(len(spaced)), str(len(times)), p50, p99, longest])
    print("\n" + aligned(rows))
    return found


def _in_turn(server: Server, raw: Sequence[str]) -> list[dict[str, Any]]:
    """One person's requests: each is sent a moment after the answer to the one before.

    One process sends them all: the start of one takes a core for a tenth of a second.
    """
    requests = [(0.0, each) for each in raw]
    return play_load(server, {"requests": requests, "pause_s": PAUSE_S, "patience_s": 60.0})


def play_load(server: Server, order: dict[str, Any]) -> list[dict[str, Any]]:
    """Play a load in a process of its own; what came back."""
    text = json.dumps({"host": "127.0.0.1", "port": server.port, **order})
    command = [sys.executable, "-S", str(SUBJECTS / "load.py")]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    found: list[dict[str, Any]] = json.loads(done.stdout)["found"]
    return found


def _report(fate: dict[str, Any]) -> dict[str, Any]:
    """The answer's own account of its deadline; empty for a refusal."""
    if fate["status"] != 200:
        return {}
    report: dict[str, Any] = json.loads(fate["body"])["deadline"]
    return report


def _arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to measure")
    add("--python", default=sys.executable, help="interpreter that has the miaotui to serve with")
    add("--model", help="name or file (default: smollm2-135m)")
    add("--serve", nargs="*", default=[], help="more options of miaotui serve")
    add("--requests", type=int, default=60, help="of the idle part, on each server")
    add("--turns", type=int, default=2, help="servers of the idle part that are asked with deadlines")
    add("--refusals", type=int, default=150, help="of each kind")
    add("--threads", type=int, default=2)
    add("--seed", type=int, default=0)
    add("--label", default="", help="kept in the JSON line")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
