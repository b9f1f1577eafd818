"""``miaotui graph``: knowledge graphs: triples added, questions asked and learned from, links predicted.

Owns what is printed. Knows graphs by their public calls. Invariants: answers go to standard output, everything else to
standard error; a graph is written whole or not at all.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from miaotui.cli.output import messages
from miaotui.cli.output.terminal import printable
from miaotui.cli.tasks.lists import listed
from miaotui.errors import RequestError
from miaotui.retrieval.graph.store import KnowledgeGraph, place_of
from miaotui.retrieval.graph.triples import TripleError, read_triples

if TYPE_CHECKING:
    from miaotui.retrieval.graph import GraphAnswer
    from miaotui.retrieval.meaning.protocols import TextEmbedder
    from miaotui.tasks.graph_wording import WordedAnswer

ACTIONS = ("add", "ask", "learn", "links", "stats")
_SHOWN_ERRORS = 10


def graph(parsed: argparse.Namespace) -> int:
    """Run one action on a graph and return the exit status."""
    action, *words = parsed.words
    actions: dict[str, tuple[Callable[[argparse.Namespace, Sequence[str]], None], range]] = {
        "add": (_add, range(2, 10_000)),
        "ask": (_ask, range(2, 3)),
        "learn": (_learn, range(2, 3)),
        "links": (_links, range(3, 4)),
        "stats": (_stats, range(1, 2)),
    }
    if action not in actions:
        raise RequestError(f"no action {action!r}. Actions: {', '.join(ACTIONS)}")
    run, counts = actions[action]
    if len(words) not in counts:
        raise RequestError(f"see miaotui graph --help for what {action} takes; got {len(words)} words")
    run(parsed, words)
    return 0


def _add(_parsed: argparse.Namespace, words: Sequence[str]) -> None:
    name, *files = words
    path = place_of(name)
    found = KnowledgeGraph.load(path) if path.exists() else KnowledgeGraph()
    new, left_out = 0, 0
    for each in files:
        triples, errors = read_triples(each)
        new += found.add(triples)
        left_out += len(errors)
        _warn(each, errors)
    found.save(path)
    print(messages.TRIPLES(new=new, total=len(found), errors=left_out), file=sys.stderr)


def _warn(name: str, errors: Sequence[TripleError]) -> None:
    for each in errors[:_SHOWN_ERRORS]:
        print(messages.WARNING(text=f"{name}, row {each.row}: {each.reason}"), file=sys.stderr)
    if len(errors) > _SHOWN_ERRORS:
        print(messages.AND_MORE(count=len(errors) - _SHOWN_ERRORS), file=sys.stderr)


def _ask(parsed: argparse.Namespace, words: Sequence[str]) -> None:
    from miaotui.retrieval.graph import GraphReader

    found = KnowledgeGraph.load(place_of(words[0]))
    with embedder(parsed.model) as reading:
        answer = GraphReader(found, reading, listed(parsed.backward)).ask(
            words[1], threshold=parsed.threshold, hops=parsed.hops
        )
    worded = _worded(answer, parsed.words_from)
    if parsed.json:
        content = {**answer.to_json(), "text": worded.text, "is_written": worded.is_written}
        print(json.dumps(content, ensure_ascii=False))
        return
    print(printable(worded.text))
    for path in answer.paths:
        print(printable("   " + "; ".join(f"{each.subject} → {each.relation} → {each.object}" for each in path)))


def _worded(answer: GraphAnswer, name: str | None) -> WordedAnswer:
    """Return an answer's text, worded by a chat model if one is named."""
    from miaotui.tasks.graph_wording import WordedAnswer, wording_steps

    if name is None or not answer.found:
        return WordedAnswer(answer.text)
    from functools import partial

    from miaotui.llm import load
    from miaotui.tasks.writing.writer import Writer

    with load(name) as llm:
        (found,) = Writer(llm).run([partial(wording_steps, answer)])
    return found


def _learn(_parsed: argparse.Namespace, words: Sequence[str]) -> None:
    """Learn from rows of question, entity and relations, which have a bar between them."""
    from miaotui.retrieval.graph import GraphReader
    from miaotui.retrieval.ingest.records import RecordReader, TextFile

    name, path = words
    found = KnowledgeGraph.load(place_of(name))
    try:
        with Path(path).open("rb", buffering=1 << 18) as file:
            records = RecordReader(TextFile(file, path), "\t" if path.endswith(".tsv") else ",")
            rows = [record.fields for record in records if len(record.fields) == 3]
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}") from error
    examples = [(question, entity, tuple(relations.split("|"))) for question, entity, relations in rows]
    used = GraphReader(found).learn(examples)
    found.save(place_of(name))
    print(messages.QUESTIONS_LEARNED(used=used, rows=len(rows)), file=sys.stderr)


def _links(parsed: argparse.Namespace, words: Sequence[str]) -> None:
    from miaotui.retrieval.graph.links import LinkPredictor

    name, entity, relation = words
    for each, probability in LinkPredictor.fit(KnowledgeGraph.load(place_of(name))).predict(entity, relation, parsed.n):
        print(printable(f"{probability:.3f}  {each}"))


def _stats(parsed: argparse.Namespace, words: Sequence[str]) -> None:
    found = KnowledgeGraph.load(place_of(words[0]))
    counts = {"triples": len(found), "entities": len(found.entities), "relations": len(found.relations)}
    if parsed.json:
        print(json.dumps(counts))
        return
    print("\n".join(f"{name}: {count:,}" for name, count in counts.items()))


@contextmanager
def embedder(name: str | None) -> Iterator[TextEmbedder | None]:
    """Open the encoder of that name, or the one for search by meaning if it is here; None without."""
    from miaotui.apps.meaning.encoders import EncoderEmbedder, LazyEncoder, find_encoders

    if name is None:
        found = find_encoders()
        if found is None:
            yield None
            return
        with found:
            yield found.embedder
        return
    from miaotui.encoder import load_encoder
    from miaotui.hub.resolve import resolve

    with LazyEncoder(resolve(name), load_encoder) as lazy:
        yield EncoderEmbedder(lazy)
