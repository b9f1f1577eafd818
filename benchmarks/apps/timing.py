"""Times of the applications on the default model, and the share of answers in time.

    pip install 'miaotui[apps]'
    python -m benchmarks.apps.timing [--model MODEL] [--turns N]
    python -m benchmarks.apps.timing --pairs 30     # the gain of drafts: each question with and without, in turn

Everything is made here: documents about invented places, questions about them, answered questions, and
conversations that mix all three kinds of reply. Written answers have 1 s, extracted ones 0.2 s, a turn
of a customer service 0.5 s at 4 conversations at once: once each speaks as soon as it has its reply, once
about a second later. Prints a table, and one JSON line last.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.machine import describe
from miaotui.apps.answering import Answer, Mode
from miaotui.apps.conversations import ConversationStore
from miaotui.apps.faq import Faq, FaqEntry
from miaotui.apps.qa_pipeline import QaPipeline, Question
from miaotui.apps.rules import parse_rules
from miaotui.apps.support import TURN_MS, Support
from miaotui.engine.request import Request
from miaotui.errors import RefusedError
from miaotui.hub.catalog import DEFAULT_MODEL
from miaotui.llm import load
from miaotui.retrieval import Document, Index
from miaotui.retrieval.answers.cache import AnswerCache, AnswerKey, CacheOptions
from miaotui.types import SamplingParams

TALKERS = 4
NO_HURRY_MS = 600_000.0  # both ways read the same passages: no deadline shortens a prompt
KINDS = ("lighthouse", "museum", "bridge", "station", "library", "theatre", "harbour", "tower")
PEOPLE = ("Clara Voss", "Peter Hallam", "Odo Hale", "Mira Stone", "Jon Ferris", "Ada Quill")
RULES = {
    "intents": {
        "status": ["where is my order", "when will my parcel arrive", "track my order"],
        "cancel": ["cancel my order", "i do not want it any more", "stop the delivery"],
    },
    "slots": {"order": {"kind": "code", "form": "AA-9999", "ask": "Which order?"}},
    "rules": [{"when": {"intent": "status"}, "need": ["order"], "say": "{order} is on its way."}],
}


def places(count: int, chance: random.Random) -> list[tuple[str, str, str]]:
    """(name of a place, text about it, a question about it)."""
    made = []
    for number in range(count):
        kind, who = chance.choice(KINDS), chance.choice(PEOPLE)
        name = "".join(chance.choice(s) for s in (("Ar", "Lo", "Ta", "Me", "Vi", "Su"),) * 2)
        name = f"{name.title()}{number}"
        year, height = chance.randrange(1600, 1990), chance.randrange(10, 90)
        text = (
            f"The {kind} of {name} was built in {year} by {who}. It is {height} metres high and is "
            f"visited by {chance.randrange(2, 90)},000 people each year. The old {kind} had burnt "
            f"down in a storm. Since {year + 20} it has belonged to the town of {name}."
        )
        asks = (f"Who built the {kind} of {name}?", f"When was the {kind} of {name} built?")
        made.append((name, text, chance.choice(asks)))
    return made


def percentile(times: Sequence[float], share: float) -> float:
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def row(label: str, times: Sequence[float], limit_ms: float) -> dict[str, object]:
    late = sum(each > limit_ms for each in times)
    found = {
        "what": label,
        "count": len(times),
        "p50_ms": round(percentile(times, 0.5), 2),
        "p99_ms": round(percentile(times, 0.99), 2),
        "limit_ms": limit_ms,
        "late": late,
    }
    print(f"{label:44} {len(times):5d} {found['p50_ms']:9} {found['p99_ms']:9} {limit_ms:7.0f} {late:5d}", flush=True)
    return found


class Submitted:
    """The requests of a loop, kept to count their passes."""

    def __init__(self) -> None:
        self.requests: list[Request] = []

    def submitted(self, request: Request) -> None:
        self.requests.append(request)

    def refused(self, error: RefusedError) -> None:
        pass

    def left(self, request: Request) -> None:
        pass

    def counts(self) -> dict[str, int]:
        """Tokens after the first of each whole answer, and the passes that brought them."""
        whole = [request.completion() for request in self.requests if request.finish_reason in ("stop", "length")]
        tokens = [len(each.token_ids) - 1 for each in whole]
        passes = [count / each.timing.tokens_per_pass for count, each in zip(tokens, whole, strict=True)]
        return {"answers": len(whole), "tokens": sum(tokens), "passes": round(sum(passes))}


def ask_all(desk: QaPipeline, questions: Sequence[str], mode: Mode, deadline_ms: float | None = None) -> list[Answer]:
    parts = [part for text in questions for part in desk.ask(Question(text, "x", mode, deadline_ms))]
    return [part for part in parts if isinstance(part, Answer)]


def paired(model: str, count: int, chance: random.Random) -> int:
    """Ask each question with and without drafts, in turn; print what drafts gain in time."""
    made = places(400, chance)
    times: dict[bool, list[float]] = {True: [], False: []}
    equal = 0
    with (
        tempfile.TemporaryDirectory() as place,
        load(model) as fast,
        load(model, speculate=False) as plain,
        Index.create(Path(place) / "x") as index,
    ):
        index.add(Document(name, text, name) for name, text, _ in made)
        desks = {True: QaPipeline(index, fast), False: QaPipeline(index, plain)}
        for desk in desks.values():
            ask_all(desk, [question for *_, question in made[:3]], "generated")  # warm
        for number, (*_, question) in enumerate(made[100 : 100 + count]):
            answers = {}
            for drafts in (True, False) if number % 2 else (False, True):
                answers[drafts] = ask_all(desks[drafts], [question], "generated", NO_HURRY_MS)[0]
            if all(answer.how == "generated" for answer in answers.values()):
                for drafts, answer in answers.items():
                    times[drafts].append(answer.took_ms)
            equal += answers[True].text == answers[False].text
    ratios = sorted(without / with_ for with_, without in zip(times[True], times[False], strict=True))
    found = {
        "questions": count,
        "written": len(ratios),
        "equal_answers": equal,
        "p50_ms": round(percentile(times[True], 0.5), 1),
        "p50_ms_without": round(percentile(times[False], 0.5), 1),
        "gain_median": round(percentile(ratios, 0.5), 2),
        "gain_of_total": round(sum(times[False]) / sum(times[True]), 2),
    }
    for name, value in found.items():
        print(f"{name:20} {value}")
    print(json.dumps({"machine": describe().as_dict(), "model": model, **found}))
    return 0


def talk(service: Support, messages: Sequence[str], pause_s: float, times: list[float], hows: list[str]) -> None:
    conversation, _ = service.begin()
    for message in messages:
        time.sleep(pause_s * random.random() * 2)
        started = time.perf_counter()
        reply = service.say(conversation.id, message)
        times.append((time.perf_counter() - started) * 1e3)
        cited = reply.how == "documents" and reply.text.endswith("]")
        hows.append("documents, written by the model" if cited else reply.how)


def conversations(service: Support, asked: Sequence[str], turns: int, pause_s: float) -> tuple[list[float], list[str]]:
    times: list[float] = []
    hows: list[str] = []
    threads = []
    for number in range(TALKERS):
        mine = asked[number * turns : (number + 1) * turns]
        others = ("when do you open", "where is my order AB-1234", "can i pay by card")
        messages = [m if n % 5 < 4 else others[n % 3] for n, m in enumerate(mine)]
        threads.append(threading.Thread(target=talk, args=(service, messages, pause_s, times, hows)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return times, hows


def cache_times(folder: Path) -> list[float]:
    """Milliseconds of exact hits among 10,000 kept answers on disk."""
    cache = AnswerCache(CacheOptions(folder / "answers.db"))
    each = [
        AnswerKey("m", "t", "", SamplingParams(), [{"role": "user", "content": f"question {n}"}]) for n in range(10_000)
    ]
    for one in each:
        cache.keep(one, b"an answer of some length " * 20)
    found = [cache.find(one) for one in each[::5]]
    cache.close()
    return [hit.took_s * 1e3 for hit in found if hit is not None]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--turns", type=int, default=25, help="of each conversation, at most 25")
    parser.add_argument("--no-speculate", action="store_true", help="draft no tokens")
    parser.add_argument("--pairs", type=int, default=0, help="questions asked with and without drafts, in turn")
    parsed = parser.parse_args()
    chance = random.Random(1)
    if parsed.pairs:
        return paired(parsed.model, parsed.pairs, chance)
    made = places(400, chance)
    questions = [question for *_, question in made]
    print(f"{'':44} {'count':>5} {'p50 ms':>9} {'p99 ms':>9} {'limit':>7} {'late':>5}")
    with tempfile.TemporaryDirectory() as place, load(parsed.model, speculate=not parsed.no_speculate) as llm:
        folder = Path(place)
        with Index.create(folder / "x") as index:
            index.add(Document(name, text, name) for name, text, _ in made)
            desk = QaPipeline(index, llm)
            ask_all(desk, questions[:3], "generated")  # warm
            cut = ask_all(desk, questions[:100], "extractive")
            llm.loop.observer = seen = Submitted()
            written = ask_all(desk, questions[100:140], "generated")
            llm.loop.observer, passes = None, seen.counts()
            rows = [
                row("answer kept before", cache_times(folder), 200),
                row("answer cut out of a passage", [a.took_ms for a in cut], 200),
                row("answer written by the model", [a.took_ms for a in written], 1_000),
            ]
            faq = Faq([FaqEntry(("When do you open?",), "At nine."), FaqEntry(("Can I pay by card?",), "Yes.")])
            store = ConversationStore(folder / "talk.db")
            service = Support(store, rules=parse_rules(RULES), faq=faq, desk=desk, index="x")
            label = f"turn, {TALKERS} conversations at once"
            times, hurried = conversations(service, questions[200:300], parsed.turns, 0.0)
            rows.append(row(f"{label}, no pause", times, TURN_MS))
            times, calm = conversations(service, questions[300:], 10, 1.0)
            rows.append(row(f"{label}, 1 s between", times, TURN_MS))
            store.close()
    modelled = sum(answer.how == "generated" for answer in written)
    supported = sum(answer.supported for answer in written)
    shares = {
        name: {how: hows.count(how) for how in sorted(set(hows))}
        for name, hows in (("no pause", hurried), ("1 s between", calm))
    }
    print(f"written by the model: {modelled} of {len(written)}; supported: {supported}")
    print(f"turns: {shares}")
    print(f"passes: {passes}")
    told = {"machine": describe().as_dict(), "model": parsed.model, "rows": rows, "turns": shares, "passes": passes}
    print(json.dumps(told | {"written": modelled, "supported": supported}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
