"""Quality and speed of recommendations on MovieLens' small set, beside single models and `implicit`.

    python -m benchmarks.tasks.recommend DATA [--cache FOLDER] [--users N] [--splits random,last]
        [--rerank N --limit-s S]

DATA holds `movielens-small/`. Protocol: every rating is an event whose weight is the rating; a fifth of the events is
held out, at random (seed 0), or the last ones of each user with five or more; all items are ranked, those of the
history removed; nDCG@10, recall@10 and the share of items that any list has (coverage); intervals by 1,000 bootstrap
samples of users. `implicit` (ALS) is measured where it is installed. With --rerank a chat model puts the fusion's first
20 in order once more for N users, with several weights; its readings are kept in the cache. Prints one JSON line last.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import miaotui
from benchmarks.machine import describe
from miaotui.tasks.recommend import Recommender
from miaotui.tasks.recommend.file import load_recommender
from miaotui.tasks.recommend.fusion import gain_of, histories_of, top_of
from miaotui.tasks.recommend.log import EventLog, read_events
from miaotui.tasks.recommend.parts import PARTS, ItemVectors, standard
from miaotui.tasks.recommend.ranking import ItemRanking
from miaotui.tasks.recommend.recommender import fit_parts, read_texts
from miaotui.tasks.recommend.reranking import DEPTH, ChatScorer, reranked

WEIGHTS = (0.1, 0.25, 1.0)  # of the chat model's scores
ENCODER = "all-minilm-l6-v2"
Scores = Callable[[int], Any]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def read_log(folder: Path) -> tuple[EventLog, list[str]]:
    log = read_events([(r["userId"], r["movieId"], r["timestamp"], r["rating"]) for r in rows(folder / "ratings.csv")])
    films = {r["movieId"]: f"{r['title']}. {r['genres'].replace('|', ', ')}" for r in rows(folder / "movies.csv")}
    return log, [films.get(item, "") for item in log.items]


def vectors_of(texts: list[str], cache: Path | None) -> ItemVectors:
    path = None if cache is None else cache / "movielens-vectors.npz"
    if cache is not None:
        cache.mkdir(parents=True, exist_ok=True)  # before the texts are read, which takes minutes
    if path is not None and path.exists():
        known = np.load(path)
        return ItemVectors(known["values"].astype(np.float32), known["mean"])
    with miaotui.load_encoder(ENCODER) as encoder:
        found = read_texts(encoder, texts)
    if path is not None:
        np.savez(path, values=found.values.astype(np.float16), mean=found.mean)
    return found


def held_out(log: EventLog, split: str) -> Any:
    if split == "random":
        held = np.zeros(len(log), bool)
        held[np.random.default_rng(0).permutation(len(log))[: len(log) // 5]] = True
        return held
    held = np.zeros(len(log), bool)
    for user in range(len(log.users)):
        places = np.flatnonzero(log.user == user)
        if len(places) >= 5:
            held[places[len(places) - len(places) // 5 :]] = True
    return held


def implicit_als(train: EventLog) -> Iterator[tuple[str, Scores]]:
    try:
        from implicit.als import AlternatingLeastSquares
    except ImportError:
        return
    from miaotui.tasks.recommend.collaborative import matrix_of

    matrix = matrix_of(train.user, train.item, np.ones(len(train)), len(train.users), len(train.items))
    for factors, penalty, alpha in ((32, 10.0, 5.0), (64, 30.0, 5.0)):
        model = AlternatingLeastSquares(
            factors=factors, regularization=penalty, alpha=alpha, iterations=10, random_state=0, num_threads=1
        )
        model.fit(matrix, show_progress=False)
        users, items = np.asarray(model.user_factors), np.asarray(model.item_factors)
        yield f"implicit ALS {factors}", partial(_products, users, items)


def _part(raw: Mapping[int, Any], place: int, user: int) -> Any:
    return raw[user][place]


def _products(users: Any, items: Any, user: int) -> Any:
    return items @ users[user]


def measured(scores: Scores, histories: list[Any], wanted: dict[int, Any]) -> dict[str, Any]:
    gains, recalls, shown = [], [], set()
    for user, items in wanted.items():
        found = np.array(scores(user), np.float32)
        found[histories[user].places] = -np.inf
        top = top_of(found)
        hits = np.isin(top, items)
        gains.append(gain_of(hits, len(items)))
        recalls.append(hits.sum() / len(items))
        shown.update(top.tolist())
    return {"gains": np.array(gains), "recall": float(np.mean(recalls)), "items": len(shown)}


def judged(log: EventLog, tops: dict[int, Any], histories: list[Any], texts: list[str], given: Any, name: str) -> Any:
    """Return the chat model's log-probabilities of each user's candidates; those in the cache are not read again."""
    path = given.cache / f"movielens-judged-{name}-{given.model}.json"
    known: dict[str, list[float]] = json.loads(path.read_text()) if path.exists() else {}
    left = [user for user in tops if log.users[user] not in known]
    if left:
        until_s = time.perf_counter() + given.limit_s
        with miaotui.load(given.model, threads=given.threads) as llm:
            scorer = ChatScorer(llm)
            for user in left:
                if time.perf_counter() > until_s:
                    break
                read = [texts[place] for place in histories[user].places]
                known[log.users[user]] = scorer.score(read, [texts[place] for place in tops[user]]).tolist()
                path.write_text(json.dumps(known))
    return {user: np.array(known[log.users[user]], np.float32) for user in tops if log.users[user] in known}


def rerank_figures(
    log: EventLog, fusion: Scores, histories: list[Any], wanted: dict[int, Any], texts: list[str], given: Any, name: str
) -> dict[str, Any]:
    """Measure the chat model's order against the fusion's, paired by user."""
    tops, scores = {}, {}
    for user in list(wanted)[: given.rerank]:
        found = np.array(fusion(user), np.float32)
        found[histories[user].places] = -np.inf
        tops[user] = top_of(found, DEPTH)
        scores[user] = found[tops[user]]
    readings, figures = judged(log, tops, histories, texts, given, name), {}
    for weight in WEIGHTS:
        more = []
        for user, reading in readings.items():
            before = ItemRanking(tops[user], scores[user], np.zeros((DEPTH, 0), np.float32))
            after = reranked(before, reading, weight).places
            gains = [gain_of(np.isin(places[:10], wanted[user]), len(wanted[user])) for places in (after, tops[user])]
            more.append(gains[0] - gains[1])
        mean, (low, high) = float(np.mean(more)), interval(np.array(more))
        figures[str(weight)] = [round(each, 4) for each in (mean, low, high)]
        print(
            f"re-ranked by {given.model}, weight {weight}: {mean:+.4f} ({low:+.4f} to {high:+.4f}), {len(more)} users"
        )
    return figures


def interval(values: Any) -> tuple[float, float]:
    draws = np.random.default_rng(0).integers(0, len(values), (1000, len(values)))
    low, high = np.quantile(values[draws].mean(axis=1), (0.025, 0.975))
    return float(low), float(high)


def run_split(log: EventLog, texts: list[str], vectors: ItemVectors, split: str, given: Any) -> dict[str, Any]:
    held = held_out(log, split)
    train, test = log.part(~held), log.part(held)
    began_s = time.perf_counter()
    fitted = fit_parts(train, texts, vectors)
    fit_s = time.perf_counter() - began_s
    histories = histories_of(train, len(log.users))
    wanted = {u: h.places for u, h in enumerate(histories_of(test, len(log.users))) if len(h) and len(histories[u])}
    wanted = dict(list(wanted.items())[: given.users or None])
    print(f"\n{split}: {len(train):,} events to learn from, {len(wanted)} users; fitted in {fit_s:.1f} s")
    print("weights " + ", ".join(f"{n} {w:.2f}" for n, w in zip(PARTS, fitted.weights, strict=True)))
    print(f"penalty {fitted.penalty:g}\n{'':18}nDCG@10  (95%)            recall@10  coverage")
    parts, weights = fitted.parts, np.array(fitted.weights, np.float32)
    raw = {user: parts.raw(histories[user]) for user in wanted}
    ranked: list[tuple[str, Scores]] = [(name, partial(_part, raw, place)) for place, name in enumerate(PARTS)]
    ranked += implicit_als(train)
    ranked.append(("fusion", lambda user: weights @ standard(raw[user], histories[user].places)))
    found: dict[str, Any] = {}
    for name, scores in ranked:
        each = found[name] = measured(scores, histories, wanted)
        low, high = interval(each["gains"])
        mean, share = float(each["gains"].mean()), each["items"] / len(log.items)
        print(f"{name:18}{mean:.4f}  ({low:.4f}-{high:.4f})  {each['recall']:.4f}     {share:.3f}", flush=True)
    best = max((name for name in found if name != "fusion"), key=lambda name: found[name]["gains"].mean())
    more = found["fusion"]["gains"] - found[best]["gains"]
    low, high = interval(more)
    print(f"fusion less {best}: {more.mean():+.4f} ({low:+.4f} to {high:+.4f}, paired by user)")
    took = answer_times(Recommender(fitted), [log.users[user] for user in wanted])
    print(f"an answer: median {np.median(took):.2f} ms, 99% within {np.quantile(took, 0.99):.2f} ms")
    again = {}
    if given.rerank:
        again["re-ranked less fusion, by weight"] = rerank_figures(
            log, ranked[-1][1], histories, wanted, texts, given, split
        )
    figures: dict[str, Any] = {
        n: {"ndcg10": round(float(e["gains"].mean()), 4), "recall10": round(e["recall"], 4), "items": e["items"]}
        for n, e in found.items()
    }
    return {
        "split": split,
        "users": len(wanted),
        "fit_s": round(fit_s, 2),
        "best_single": best,
        **figures,
        **again,
        "gain": [round(float(more.mean()), 4), round(low, 4), round(high, 4)],
        "answer_ms": [round(float(np.median(took)), 2), round(float(np.quantile(took, 0.99)), 2)],
    }


def answer_times(recommender: Recommender, users: list[str]) -> Any:
    for user in users[:5]:
        recommender.recommend(user)
    return np.array([recommender.recommend(user).took_ms for user in users])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--cache", type=Path, help="folder for vectors of the films' texts")
    parser.add_argument("--users", type=int, default=0, help="0: all")
    parser.add_argument("--splits", default="random,last")
    parser.add_argument("--rerank", type=int, default=0, metavar="N", help="users whose candidates a chat model reads")
    parser.add_argument("--model", default="qwen2.5-coder-0.5b", help="that chat model")
    parser.add_argument("--limit-s", type=float, default=1e9, help="seconds of reading; run again to go on")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--times", type=Path, metavar="FILE", help="only time answers, of a recommender that was saved")
    given = parser.parse_args()
    if given.times is not None:
        saved = load_recommender(given.times)
        took = answer_times(saved, list(saved.fitted.log.users)[:600])
        row = {"median_ms": round(float(np.median(took)), 2), "p99_ms": round(float(np.quantile(took, 0.99)), 2)}
        print(json.dumps({"benchmark": "recommend", "answers": len(took), **row, "machine": describe().as_dict()}))
        return 0
    if given.rerank and given.cache is None:
        parser.error("--rerank needs --cache")
    print(__doc__.split("Protocol: ")[1].split("Prints")[0])
    log, texts = read_log(given.data / "movielens-small")
    vectors = vectors_of(texts, given.cache)
    found = [run_split(log, texts, vectors, split, given) for split in given.splits.split(",")]
    print(json.dumps({"benchmark": "recommend", "results": found}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
