"""Headings of a text that is written as Markdown, or nearly so.

Owns the decision which lines that begin with ``#`` are headings. Code (fenced or indented), YAML front matter,
hashtags, shell prompts and runs of comments are not. Knows nothing of files and passages. Invariant: every line of the
text is returned once, in order. Source: CommonMark 0.31, sections 4.2 (headings), 4.4 and 4.5 (code).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

CODE_INDENT = "    "  # a line that begins so is code, never a heading
_HEADING = re.compile(r"^ {0,3}(#{1,6})[ \t]+(\S.*?)(?:[ \t]+#+)?[ \t]*$")
_FENCE = re.compile(r"^ {0,3}(`{3,}(?=[^`]*$)|~{3,})")
_FRONT = "---"
_FRONT_END = re.compile(r"^(?:---|\.\.\.)\s*$")
_FRONT_LINE = re.compile(r"^(?:\s|#|-\s|[\w.\"'-]+\s*:(?:\s|$))|^$")
_MOST_FRONT_LINES = 200
_HASHTAG = re.compile(r"(?:^|\s)#[^\W\d_]\w*")
_COMMAND = re.compile(r"(?:sudo |exec )?(?:[a-z][a-z0-9_+-]*(?:\.[a-z0-9]+)?|\.{0,2}/[\w./-]+)(?= |$)")
_ARGUMENT = re.compile(r"(?:^| )--?[a-zA-Z][\w-]*|(?:^| )(?:~|\.{1,2})?/[\w.-]|\s(?:>>?|&&|2>)\s|[\w-]=\S|\$\w|\\$")
_COMMANDS = re.compile(
    "apt-get|systemctl|journalctl|chmod|chown|mkdir|sudo|rm|cp|mv|ls|cd|wget|curl|tar|unzip|ssh|scp|kubectl|useradd|umount"
)
_SUBCOMMANDS = re.compile(
    "install|update|upgrade|remove|uninstall|add|run|build|pull|push|clone|checkout|commit|init|start|stop|restart|status"
    "|enable|disable|reload"
)


@dataclass(frozen=True)
class TextLine:
    """Line of a text; ``level`` 1 to 6 and ``heading`` for a heading, 0 and empty for other lines."""

    text: str
    level: int = 0
    heading: str = ""


def lines_of(text: str) -> Iterator[TextLine]:
    """Return the lines of ``text``, in order, headings marked."""
    lines = text.splitlines()
    start = _front_matter_end(lines)
    yield from map(TextLine, lines[:start])
    fence = ""
    for place, line in enumerate(lines[start:], start):
        mark = _FENCE.match(line)
        if fence:
            closes = mark is not None and mark[1].startswith(fence) and not line[mark.end() :].strip()
            fence = "" if closes else fence
        elif mark is not None:
            fence = mark[1]
        elif (match := _HEADING.match(line)) is not None and not _is_something_else(lines, place, match[1], match[2]):
            yield TextLine(line, len(match[1]), match[2])
            continue
        yield TextLine(line)


def as_text(line: str) -> str:
    """Return a line without meaning in a form that `lines_of` gives none: as indented code where it needs that."""
    means = _HEADING.match(line) or _FENCE.match(line) or line.rstrip() == _FRONT
    return CODE_INDENT + line if means else line


def _front_matter_end(lines: list[str]) -> int:
    """Return the number of lines of YAML front matter; 0 when there is none."""
    if not lines or lines[0].rstrip() != _FRONT:
        return 0
    for place, line in enumerate(lines[1:_MOST_FRONT_LINES], 1):
        if _FRONT_END.match(line):
            return place + 1
        if not _FRONT_LINE.match(line):
            return 0
    return 0


def _is_something_else(lines: list[str], place: int, marks: str, text: str) -> bool:
    """Return whether a line in the form of a heading is hashtags, a shell prompt or one of several comments."""
    if len(marks) > 1:
        return False
    neighbours = [lines[at] for at in (place - 1, place + 1) if 0 <= at < len(lines)]
    if any(re.match(r"#\s+\S|#$", other) for other in neighbours):
        return True
    return len(_HASHTAG.findall(text)) > 0 or _is_command(text)


def _is_command(text: str) -> bool:
    """Return whether the text after a root prompt's ``#`` looks like a command with its arguments."""
    match = _COMMAND.match(text)
    if match is None:
        return False
    name, arguments = match[0].rpartition(" ")[2], text[match.end() :]
    if arguments and _COMMANDS.fullmatch(name):
        return True
    if name.isalnum() and _SUBCOMMANDS.fullmatch(arguments.partition(" ")[2].partition(" ")[0]):
        return True
    return "/" in name or _ARGUMENT.search(arguments) is not None
