"""``miaotui ask``: a question to an index, its answer as it comes, and the passages behind it.

Owns what is printed. Knows question answering by its public calls. Invariants: the model is loaded only when it is
needed, since an answer that was given before comes without it; the answer goes to standard output, everything else to
standard error.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from miaotui.apps.answering import Answer, Mode
from miaotui.apps.qa_pipeline import QaPipeline, Question, from_graph
from miaotui.cli.meaning import by_meaning
from miaotui.cli.output import messages
from miaotui.cli.output.progress import ProgressBars
from miaotui.cli.run import read_prompt, write
from miaotui.config import Settings
from miaotui.hub.resolve import resolve
from miaotui.hub.store import content_key
from miaotui.retrieval.answers.cache import AnswerCache, CacheOptions
from miaotui.retrieval.index.index import Index

if TYPE_CHECKING:
    from miaotui.llm import LLM


def ask(parsed: argparse.Namespace) -> int:
    """Answer one question; return the exit status."""
    name, text = parsed.words[0], read_prompt(parsed.words[1])
    settings = Settings.from_env()
    mode: Mode = "extractive" if parsed.extract else "generated"
    question = Question(text, name, mode, parsed.deadline and 1e3 * parsed.deadline)
    with Index.open(name) as index:
        known = None if parsed.graph is None else graph_answer(parsed.graph, question.text)
        if known is not None:
            show([known.text, known], as_json=parsed.json)
            return 0
        path = None if parsed.extract else model_path(parsed, settings)
        cache = None if parsed.no_cache else _cache(settings)
        with by_meaning(index, rerank=True, threads=parsed.threads) as searched:
            desk = QaPipeline(searched.index, None, cache, model_key(path), searched.reranker)
            kept = desk.find(question)
            if kept is not None:
                show([kept.text, kept], as_json=parsed.json)
                return 0
            searched.load()
            if path is None:
                show(desk.ask(question), as_json=parsed.json)
            else:
                with opened(path, parsed) as desk.llm:
                    show(desk.ask(question), as_json=parsed.json)
    return 0


def graph_answer(name: str, text: str) -> Answer | None:
    """Return the answer of a graph; None where it has none or is not sure."""
    import time

    from miaotui.cli.tasks.graph import embedder
    from miaotui.retrieval.graph import GraphReader, KnowledgeGraph
    from miaotui.retrieval.graph.store import place_of

    with embedder(None) as reading:
        graph = GraphReader(KnowledgeGraph.load(place_of(name)), reading)
        began_s = time.perf_counter()
        found = from_graph(graph, text)
    return found and replace(found, took_ms=(time.perf_counter() - began_s) * 1e3)


def show(parts: Iterable[str | Answer], *, as_json: bool) -> None:
    """Print the answer as it comes, then its passages."""
    for part in parts:
        if isinstance(part, Answer):
            _show_end(part, as_json=as_json)
        elif not as_json:
            write(part)


def _show_end(answer: Answer, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(answer.to_json(), ensure_ascii=False))
        return
    write("\n")
    for citation in answer.citations:
        where = citation.source or citation.title or citation.id
        quote = " ".join(citation.quote.split())
        write(f"[{citation.number}] {' '.join(where.split())}: {quote}\n")
    note = messages.ANSWERED(took=f"{answer.took_ms:.0f} ms", cache=answer.cache, how=answer.how)
    print(note, file=sys.stderr)
    if answer.left_out:
        left_out = ", ".join(messages.LEFT_OUT[each]() for each in answer.left_out)
        print(messages.NO_TIME_FOR(left_out=left_out), file=sys.stderr)
    if answer.found and not answer.supported:
        print(messages.UNSUPPORTED(), file=sys.stderr)


def model_path(parsed: argparse.Namespace, settings: Settings) -> Path:
    """Return where the model that the command line names lies."""
    with ProgressBars() as progress:
        return resolve(parsed.model, progress=progress, settings=settings)


def model_key(path: Path | None) -> str:
    """Return what tells answers of one model from those of another."""
    return "" if path is None else content_key(path, {"for": "answers"})


def opened(path: Path, parsed: argparse.Namespace) -> LLM:
    """Load the model, with progress on stderr."""
    import miaotui

    with ProgressBars() as progress:
        return miaotui.load(path, threads=parsed.threads, progress=progress)


def _cache(settings: Settings) -> AnswerCache:
    return AnswerCache(CacheOptions(settings.folder("answers") / "ask.db"))
