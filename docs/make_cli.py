"""Writes ``cli.md``, the reference of the command line, from the parsers themselves.

Run ``python docs/make_cli.py`` after a change to a command; the tests compare the result.
"""

from __future__ import annotations

import inspect
import os
import re
from pathlib import Path

from miaotui.cli.options.parser import COMMANDS, overview
from miaotui.config import Settings

PAGE = Path(__file__).parent / "cli.md"

INTRODUCTION = """\
# The command line

Written by `python docs/make_cli.py` from the program's own help; do not edit.

Answers go to standard output, everything else to standard error. The exit status is 0 when all went
well, 1 after an error (one line on standard error says what to do), 2 for a mistake in the command
line, 130 after Ctrl-C. Messages are in Chinese when the locale (`LC_ALL`, `LC_MESSAGES` or `LANG`)
is.
"""

OTHER_VARIABLES = """\
| ``MIAOTUI_ISA`` | instruction set: ``avx512vnni``, ``avxvnni``, ``avx2``, ``neon``, ``plain`` | \
the best there is |
| ``MIAOTUI_TRACEBACK`` | 1: show where an error arose | 0 |
"""


def page() -> str:
    """Return the page's text."""
    os.environ |= {"LC_ALL": "C", "NO_COLOR": "1"}
    parts = [INTRODUCTION, _help("miaotui", overview())]
    parts += [_help(f"miaotui {c.name}", c.parser().format_help()) for c in COMMANDS]
    parts.append("## Environment variables\n\n" + _variables().replace("``", "`"))
    return "\n".join(parts)


def _help(title: str, text: str) -> str:
    return f"## {title}\n\n```text\n{text.strip()}\n```\n"


def _variables() -> str:
    """The table in the docstring of `Settings`, and the variables read elsewhere."""
    lines = inspect.cleandoc(Settings.__doc__ or "").splitlines()
    rows = [line for line in lines if re.match(r"\|.*\|$", line)]
    return "\n".join(rows) + "\n" + OTHER_VARIABLES


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
