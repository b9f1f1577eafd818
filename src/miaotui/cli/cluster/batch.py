"""``miaotui batch``: the requests of a file answered into another one, on this machine or on several.

Owns the order of a run and what is printed. Knows no wire form and no Ray. Invariants: what is wrong with the command
line is said before a model is loaded; a run that is ended, by whatever, goes on where it was when it is started again.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miaotui.cli.output import messages
from miaotui.cli.output.progress import ProgressBars
from miaotui.errors import RequestError
from miaotui.hub.catalog import DEFAULT_MODEL

if TYPE_CHECKING:
    from miaotui.serve.batch.lines import BatchFault, BatchLine, BatchOutput

HERE = "here"  # in place of the address of a Ray


def batch(parsed: argparse.Namespace) -> int:
    """Answer the lines of a file; return 1 if one of them has no answer of status 200."""
    from miaotui.serve.batch.lines import BatchOutput, read_lines

    source, *words = parsed.words
    path = Path(source)
    output = Path(parsed.output) if parsed.output else path.with_suffix(".answers.jsonl")
    if not path.is_file():
        raise RequestError(f"{path} is no file: expected requests in lines of JSON")
    if output.resolve() == path.resolve():
        raise RequestError(f"--output: {output} is the file of requests: name another one")
    models = _models(words)
    counts: Counter[str] = Counter()
    answers = BatchOutput(output)
    try:
        lines = (line for line in read_lines(path) if not answers.has(line))
        if parsed.cluster is None:
            asyncio.run(_here(lines, models, answers, counts, parsed))
        else:
            _on_ray(lines, models, answers, counts, parsed)
    finally:
        answers.close()
    text = messages.BATCH_DONE(
        answered=counts["answered"], failed=counts["failed"], kept=answers.kept, place=output.as_posix()
    )
    print(text, file=sys.stderr)
    return 1 if counts["failed"] else 0


def _models(words: list[str]) -> dict[str, str]:
    """Return the models by the names that requests call them by. Raises `RequestError`."""
    from miaotui.serve.settings import ServeSettings

    return dict(ServeSettings(models=tuple(words) or (DEFAULT_MODEL,)).checked().named_models)


async def _here(
    lines: Iterator[BatchLine | BatchFault],
    models: Mapping[str, str],
    output: BatchOutput,
    counts: Counter[str],
    parsed: argparse.Namespace,
) -> None:
    """Answer lines with models in this process."""
    from miaotui.serve.batch.answer import answer_lines
    from miaotui.serve.batch.open import open_batch

    with ProgressBars() as progress:
        server = open_batch(models, parsed.threads, progress)
    try:
        async with aclosing(answer_lines(server.app, lines, parsed.at_once)) as answers:
            async for answer in answers:
                _keep(answer, output, counts)
    finally:
        server.close()


def _on_ray(
    lines: Iterator[BatchLine | BatchFault],
    models: Mapping[str, str],
    output: BatchOutput,
    counts: Counter[str],
    parsed: argparse.Namespace,
) -> None:
    """Answer lines with models in actors of Ray."""
    from miaotui.cluster.on_ray.batch import answers_of, require_counts, without_faults
    from miaotui.serve.batch.lines import failed

    require_counts(parsed.replicas, parsed.cpus)
    address = None if parsed.cluster == HERE else parsed.cluster

    def fault(line: BatchFault) -> None:
        _keep(failed(line, "invalid_line", line.reason), output, counts)

    for answer in answers_of(without_faults(lines, fault), models, parsed.replicas, parsed.cpus, address):
        _keep(answer, output, counts)


def _keep(answer: Mapping[str, Any], output: BatchOutput, counts: Counter[str]) -> None:
    output.write(answer)
    response = answer["response"]
    counts["answered" if response is not None and response["status_code"] == 200 else "failed"] += 1
