"""Headings: the true ones of a text are found, whatever else begins with a number sign."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miaotui.retrieval import Document, IndexSettings
from miaotui.retrieval.ingest.files import FileSource, read
from miaotui.retrieval.ingest.headings import as_text, lines_of
from miaotui.retrieval.ingest.markup import from_html, from_markdown
from miaotui.retrieval.ingest.passages import split

NOTES = """---
# a comment in front matter
title: Manual
---
# Install
Run this.
```sh
# a comment in a fence
apt install kettle
```
~~~~
# another
~~~
# still inside
~~~~
After the code.

    # an indented comment
    kettle --on

## Linux, as root
# apt-get update
# systemctl restart kettle
# ./kettle.sh /etc/kettle

# Offers
#sale today
# everything must go #sale #summer

# 退货
七天内。
"""
TRUE = [(1, "Install"), (2, "Linux, as root"), (1, "Offers"), (1, "退货")]


def found(text: str) -> list[tuple[int, str]]:
    return [(line.level, line.heading) for line in lines_of(text) if line.level]


def test_only_true_headings_count() -> None:
    assert found(NOTES) == TRUE


@pytest.mark.parametrize("suffix", [".txt", ".md"])
def test_passages_lie_under_true_headings(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"manual{suffix}"
    path.write_text(NOTES, encoding="utf-8")
    (document,) = read(FileSource(path, path.name))
    assert isinstance(document, Document)
    titles = {passage.title.rpartition(" › ")[2] for passage in split(document, IndexSettings())}
    assert titles - {"manual", "Manual"} == {heading for _, heading in TRUE}
    (install,) = (one for one in split(document, IndexSettings()) if one.title.endswith("Install"))
    assert "After the code." in install.body
    assert "a comment in a fence" in install.body


@pytest.mark.parametrize(
    ("line", "is_heading"),
    [
        ("# Returns", True),
        ("### Do kettles need descaling? ###", True),
        ("   # Three blanks", True),
        ("# git basics", True),
        ("# and/or", True),
        ("# returns", True),
        ("#Returns", False),
        ("    # Four blanks", False),
        ("####### Seven", False),
        ("# sudo systemctl reboot", False),
        ("# cd /etc", False),
        ("# pip install kettle", False),
        ("# ls", True),  # one word says too little
        ("# export KETTLE=on", False),
        ("# big deals #sale", False),
    ],
)
def test_a_line_alone(line: str, is_heading: bool) -> None:
    assert bool(found(f"{line}\n\ntext")) == is_heading


def test_neighbouring_comments_are_no_headings() -> None:
    assert found("# first line of a comment\n# and its second\nvalue = 1") == []


def test_a_front_that_is_no_front_matter() -> None:
    assert found("---\nA line of text, said before.\n# Heading\n---\n") == [(1, "Heading")]
    assert found("---\n# Heading\n\ntext that goes on and on") == [(1, "Heading")]


def test_code_on_pages_makes_no_headings() -> None:
    _, text = from_html("<body><h1>Start</h1><pre># root</pre><p># no heading</p></body>")
    assert found(text) == [(1, "Start")]
    _, text = from_markdown("Start\n=====\n\n```\n# root\n```\n\n> # quoted\n")
    assert found(text) == [(1, "Start"), (1, "quoted")]


LINES = st.sampled_from([*NOTES.splitlines(), "```", "~~~", "---", "...", "#", "# ", "\t# x", "```a`b", "text"])


@settings(max_examples=100, deadline=None)
@given(st.lists(LINES | st.text(max_size=20), max_size=30).map("\n".join))
def test_no_line_is_lost(text: str) -> None:
    lines = list(lines_of(text))
    assert [line.text for line in lines] == text.splitlines()
    assert all(line.heading in line.text for line in lines)
    assert found(as_text(text.partition("\n")[0])) == []


@settings(max_examples=60, deadline=None)
@given(st.lists(LINES, max_size=20).map("\n".join))
def test_code_in_a_fence_never_heads(code: str) -> None:
    fenced = f"# Top\n\n~~~~~~~~\n{code}\n~~~~~~~~\n\n# Bottom\n\ntext"
    assert found(fenced) == [(1, "Top"), (1, "Bottom")]
