"""``miaotui generate``: texts for the prompts of a file, or its texts rewritten or continued.

Owns the columns and the reading of requirements. Knows generation by its public calls, and rows by `row_files`.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from miaotui.cli.output.progress import ProgressBars
from miaotui.cli.tasks.lists import listed
from miaotui.cli.tasks.row_files import Answer, Columns, RowTask, run_over_rows
from miaotui.errors import RequestError

if TYPE_CHECKING:
    from miaotui.tasks.generation.generator import GeneratedText, GenerationOptions
    from miaotui.tasks.generation.requirements import Bound


def generate(parsed: argparse.Namespace) -> int:
    """Write the texts and return the exit status."""
    options = read_generation(parsed)
    return run_over_rows(parsed, RowTask(("written", "unmet"), lambda: _answering(parsed, options), 32, 8))


def read_generation(parsed: argparse.Namespace) -> GenerationOptions:
    """Return the requirements of a command line. Raises `RequestError`."""
    from pathlib import Path

    from miaotui.cli.tasks.extract import read_schema_file
    from miaotui.tasks.generation.generator import GenerationOptions
    from miaotui.tasks.generation.requirements import Bound, TextRequirements

    wanted = TextRequirements(
        words=_bound(parsed.word_count, "words"),
        sentences=_bound(parsed.sentences, "sentences"),
        paragraphs=parsed.paragraphs,
        bullets=parsed.bullets,
        include={word: Bound(1) for word in _words(parsed.include)},
        avoid=tuple(_words(parsed.avoid)),
        case=parsed.case,
        without_commas=parsed.no_commas,
        schema=None if parsed.schema is None else read_schema_file(Path(parsed.schema)),
        end=parsed.end or "",
    )
    return GenerationOptions(wanted, parsed.style or "", parsed.instruction or "", parsed.max_tokens)


@contextmanager
def _answering(parsed: argparse.Namespace, options: GenerationOptions) -> Iterator[Answer]:
    from miaotui.llm import load
    from miaotui.tasks.generation.calls import ASKS, GENERATION_MODEL, generated
    from miaotui.tasks.writing.writer import Writer

    ask = ASKS["rewrite" if parsed.rewrite else "continue" if parsed.go_on else "generate"]
    with ProgressBars() as progress, load(parsed.model or GENERATION_MODEL, progress=progress) as llm:
        progress.close()
        writer = Writer(llm)
        yield lambda texts, first: _columns(generated(writer, texts, options, ask, first=first))


def _bound(text: str | None, name: str) -> Bound | None:
    """Return the bounds of ``100``, ``50-100``, ``100-`` or ``-50``: one number is the most."""
    from miaotui.tasks.generation.requirements import Bound

    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,6})?(-)?(\d{1,6})?", text)
    if match is None or not (match[1] or match[3]):
        raise RequestError(f"--{name} must be a number or a range such as 50-100, not {text!r}")
    if match[2] is None:
        return Bound(0, int(match[1] or match[3]))
    return Bound(int(match[1] or 0), int(match[3] or 10**6))


def _words(text: str | None) -> list[str]:
    return [word for word in listed(text) if word]


def _columns(found: Sequence[GeneratedText]) -> list[Columns]:
    return [{"written": each.text, "unmet": "; ".join(each.unmet), "error": each.error} for each in found]
