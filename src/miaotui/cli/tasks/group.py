"""``miaotui group``: groups of the texts of a file, or its duplicates, written beside them.

Owns the columns, and the table of groups on standard error. Knows groups by their public calls, and rows by
`row_files`. Invariant: all texts of a file are grouped together.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from miaotui.cli.output.progress import ProgressBars
from miaotui.cli.output.terminal import printable
from miaotui.cli.tasks.row_files import Answer, Columns, RowTask, run_over_rows

if TYPE_CHECKING:
    from miaotui.tasks.groups.results import Grouping

ALL_ROWS = 1 << 20  # of a file: they are read at once
SHOWN_GROUPS = 20


def group(parsed: argparse.Namespace) -> int:
    """Group the texts and return the exit status."""
    columns = ("group", "group_name", "similarity")
    return run_over_rows(parsed, RowTask(columns, lambda: _answering(parsed), ALL_ROWS, ALL_ROWS))


@contextmanager
def _answering(parsed: argparse.Namespace) -> Iterator[Answer]:
    from miaotui.tasks.calls import encoder_for, opened_encoder
    from miaotui.tasks.groups.calls import duplicates
    from miaotui.tasks.groups.calls import group as grouped

    def answer(texts: Sequence[str], first: int) -> list[Columns]:
        name = parsed.model or encoder_for(texts)
        with ProgressBars() as progress, opened_encoder(name, progress, parsed.backend) as encoder:
            progress.close()
            if parsed.duplicates:
                found = duplicates(texts, least=parsed.least, model=encoder)
            else:
                found = grouped(texts, parsed.groups, model=encoder)
        _show(found)
        return [
            {
                "group": each.group,
                "group_name": each.name,
                "similarity": None if each.group is None else round(each.similarity, 4),
                "error": each.error,
            }
            for each in found.texts
        ]

    yield answer


def _show(found: Grouping) -> None:
    for each in found.groups[:SHOWN_GROUPS]:
        print(printable(f"{each.number:4} {len(each.members):6} {each.name}"), file=sys.stderr)
