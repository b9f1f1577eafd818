"""``miaotui recommend``: recommenders made from logs, asked and added to.

Owns what is printed and how columns of a log are found. Knows recommenders by their public calls. Invariants: results
go to standard output, everything else to standard error; a recommender is written whole or not at all.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miaotui.cli.output import messages
from miaotui.cli.output.progress import ProgressBars
from miaotui.cli.output.terminal import printable
from miaotui.cli.tasks.lists import listed
from miaotui.errors import RequestError
from miaotui.tasks.rows import RowReader, format_of

if TYPE_CHECKING:
    from miaotui.encoder import Encoder
    from miaotui.tasks.recommend import Recommendations, Recommender
    from miaotui.tasks.recommend.reranking import CandidateScorer

ACTIONS = ("fit", "ask", "similar", "add", "refit")
NAMES = {
    "user": ("user", "user_id", "userId", "用户", "用户编号", "会员", "客户"),
    "item": ("item", "item_id", "itemId", "movieId", "商品", "商品编号", "物品", "产品"),
    "time": ("time", "timestamp", "time_s", "时间", "日期", "下单时间"),
    "weight": ("weight", "rating", "count", "评分", "权重", "数量"),
    "text": ("text", "title", "name", "description", "名称", "商品名称", "标题", "描述"),
}
_SHOWN_ERRORS = 10
_MOST_WORDS = {"fit": 3, "ask": 3, "similar": 3, "add": 3, "refit": 2}


def recommend(parsed: argparse.Namespace) -> int:
    """Run one action on a recommender and return the exit status."""
    action, *words = parsed.words
    actions: dict[str, Callable[[argparse.Namespace, Sequence[str]], None]] = {
        "fit": _fit,
        "ask": _ask,
        "similar": _similar,
        "add": _add,
        "refit": _refit,
    }
    if action not in actions:
        raise RequestError(f"no action {action!r}. Actions: {', '.join(ACTIONS)}")
    if not words or len(parsed.words) > _MOST_WORDS[action]:
        raise RequestError(f"say which recommender: miaotui recommend {action} NAME ...")
    actions[action](parsed, words)
    return 0


def _fit(parsed: argparse.Namespace, words: Sequence[str]) -> None:
    from miaotui.tasks.calls import ENGLISH_ENCODER
    from miaotui.tasks.recommend import Recommender
    from miaotui.tasks.recommend.file import place_of, save_recommender

    name, log = _two(words, "LOG")
    texts = None if parsed.texts is None else dict(_texts(parsed.texts))
    with _encoder(None if texts is None else parsed.model or ENGLISH_ENCODER) as encoder:
        made = Recommender.fit(_events(log), texts, encoder=encoder)
    save_recommender(made, place_of(name))
    _tell(made, log)


def _ask(parsed: argparse.Namespace, words: Sequence[str]) -> None:
    from miaotui.tasks.recommend.file import load_recommender, place_of

    found = load_recommender(place_of(words[0]))
    history = None if parsed.history is None else listed(parsed.history)
    with (
        _encoder(None if parsed.intent is None else parsed.model or found.fitted.encoder or None) as encoder,
        _scorer(parsed.rerank_with) as scorer,
    ):
        found.encoder = encoder
        answer = found.recommend(
            words[1] if len(words) > 1 else None,
            history=history,
            intent=parsed.intent,
            scorer=scorer,
            n=parsed.n,
            popularity=parsed.popularity,
            diversity=parsed.diversity,
            seen=parsed.seen,
        )
    _show(answer, as_json=parsed.json)


def _similar(parsed: argparse.Namespace, words: Sequence[str]) -> None:
    from miaotui.tasks.recommend.file import load_recommender, place_of

    name, item = _two(words, "ITEM")
    _show(load_recommender(place_of(name)).similar(item, parsed.n), as_json=parsed.json)


def _add(parsed: argparse.Namespace, words: Sequence[str]) -> None:
    from miaotui.tasks.recommend.file import load_recommender, place_of, save_recommender

    name, log = _two(words, "LOG")
    found = load_recommender(place_of(name))
    texts = None if parsed.texts is None else dict(_texts(parsed.texts))
    with _encoder(None if texts is None else found.fitted.encoder or None) as encoder:
        found.encoder = encoder
        found.add_events(_events(log), texts)
    save_recommender(found, place_of(name))
    _tell(found, log)


def _refit(_parsed: argparse.Namespace, words: Sequence[str]) -> None:
    from miaotui.tasks.recommend.file import load_recommender, place_of, save_recommender

    made = load_recommender(place_of(words[0])).refitted()
    save_recommender(made, place_of(words[0]))
    _tell(made, words[0])


def _two(words: Sequence[str], second: str) -> tuple[str, str]:
    if len(words) != 2:
        raise RequestError(f"expected NAME {second}, got {len(words)} words")
    return words[0], words[1]


@contextmanager
def _encoder(name: str | None) -> Iterator[Encoder | None]:
    if name is None:
        yield None
        return
    from miaotui.tasks.calls import opened_encoder

    with ProgressBars() as progress, ExitStack() as stack:
        encoder = stack.enter_context(opened_encoder(name, progress))
        progress.close()
        yield encoder


@contextmanager
def _scorer(name: str | None) -> Iterator[CandidateScorer | None]:
    if name is None:
        yield None
        return
    from miaotui.llm import load
    from miaotui.tasks.recommend.reranking import ChatScorer

    with ProgressBars() as progress, load(name, progress=progress) as llm:
        progress.close()
        yield ChatScorer(llm)


def _events(path: str) -> Iterator[tuple[Any, ...]]:
    """Yield user, item, time and weight of each row; a row that cannot be read has an empty item."""
    for fields in _fields(path, "item"):
        yield tuple(_field(fields, name) for name in ("user", "item", "time", "weight"))


def _texts(path: str) -> Iterator[tuple[str, str]]:
    for fields in _fields(path, "text"):
        item, text = _field(fields, "item"), _field(fields, "text")
        if item and text:
            yield str(item), str(text)


def _field(fields: dict[str, Any], name: str) -> Any:
    return next((fields[each] for each in NAMES[name] if each in fields), None)


def _fields(path: str, wanted: str) -> Iterator[dict[str, Any]]:
    form = format_of(Path(path))
    if form == "lines":
        raise RequestError(f"{path} must be .csv, .tsv or .jsonl with columns for users, items and so on")
    try:
        with Path(path).open("rb", buffering=1 << 18) as file:
            for row in RowReader(file, form, NAMES[wanted], path):
                yield dict(row.fields)
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}") from error


def _tell(made: Recommender, source: str) -> None:
    log = made.fitted.log
    for each in made.errors[:_SHOWN_ERRORS]:
        print(messages.WARNING(text=f"{source}, row {each.index + 1}: {each.reason}"), file=sys.stderr)
    if len(made.errors) > _SHOWN_ERRORS:
        print(messages.AND_MORE(count=len(made.errors) - _SHOWN_ERRORS), file=sys.stderr)
    counts = {"events": f"{len(log):,}", "users": f"{len(log.users):,}", "items": f"{len(log.items):,}"}
    print(messages.EVENTS(errors=len(made.errors), **counts), file=sys.stderr)


def _show(found: Recommendations, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(found.to_json(), ensure_ascii=False))
        return
    for wrong in found.errors[:_SHOWN_ERRORS]:
        print(messages.WARNING(text=f"{wrong.index + 1}: {wrong.reason}"), file=sys.stderr)
    for number, each in enumerate(found.items, 1):
        why = ", ".join(f"{item} {share:.0%}" for item, share in each.because_of)
        line = f"{number}. {each.item}  {each.text}  ({each.score:.2f})" + (f"  ← {why}" if why else "")
        print(printable(" ".join(line.split())))
    if not found.items:
        print(messages.NOTHING_FOUND(), file=sys.stderr)
