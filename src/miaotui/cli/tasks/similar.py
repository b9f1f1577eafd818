"""``miaotui similar``: how like each text of a file is to a query, or to the text of the file that is most like it.

Owns the columns. Knows likeness by its public calls, and rows by `row_files`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from miaotui.cli.output.progress import ProgressBars
from miaotui.cli.tasks.group import ALL_ROWS
from miaotui.cli.tasks.row_files import Answer, Columns, RowTask, run_over_rows
from miaotui.errors import RequestError


def similar(parsed: argparse.Namespace) -> int:
    """Compare the texts and return the exit status."""
    columns = ("similarity",) if parsed.query is not None else ("similarity", "nearest_text")
    return run_over_rows(parsed, RowTask(columns, lambda: _answering(parsed), ALL_ROWS, ALL_ROWS))


@contextmanager
def _answering(parsed: argparse.Namespace) -> Iterator[Answer]:
    from miaotui.tasks.calls import encoder_for, opened_encoder
    from miaotui.tasks.groups.likeness import require_few
    from miaotui.tasks.groups.neighbours import nearest
    from miaotui.tasks.vectors import embed_texts

    def answer(texts: Sequence[str], first: int) -> list[Columns]:
        require_few(len(texts))
        name = parsed.model or encoder_for(texts)
        with ProgressBars() as progress, opened_encoder(name, progress, parsed.backend) as encoder:
            progress.close()
            read = embed_texts(encoder, texts)
            if parsed.query is not None:
                asked = embed_texts(encoder, [parsed.query]).named("--query")
                if asked.errors[0] is not None:
                    raise RequestError(asked.errors[0])
                cosines = read.values @ asked.values[0]
                return [
                    {"similarity": round(float(cosine), 4), "error": error}
                    for cosine, error in zip(cosines, read.errors, strict=True)
                ]
            near = nearest(read.values, read.values, 2)
        found: list[Columns] = []
        for place, error in enumerate(read.errors):
            others = [(p, c) for p, c in zip(near.places[place], near.cosines[place], strict=True) if p != place]
            if error is not None or not others:
                found.append({"error": error})
                continue
            other, cosine = int(others[0][0]), float(others[0][1])
            found.append({"similarity": round(cosine, 4), "nearest_text": texts[other]})
        return found

    yield answer
