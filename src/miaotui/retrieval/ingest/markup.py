"""Markdown and HTML to plain text that keeps its structure.

Owns the rules for boilerplate, and the form of headings for the splitter: lines that begin with ``#``. Knows nothing
of files. Invariant: no markup is left, no script or style is kept, and hostile nesting costs no more than its length.
"""

from __future__ import annotations

import re
from typing import Any

from miaotui.errors import RequestError
from miaotui.libraries import need
from miaotui.retrieval.ingest.headings import as_text

_AWAY = "script, style, noscript, template, nav, header, footer, aside, form, iframe, svg, button"
_BLOCKS = frozenset(
    {"p", "div", "section", "article", "main", "li", "dt", "dd", "tr", "table", "pre", "ul", "ol"}
    | {"blockquote", "figcaption", "br", "hr", "td", "th"}
)
_BLANKS = re.compile(r"\n[ \t]*(?:\n[ \t]*)+")
_SPACES = re.compile(r"[ \t\u00a0]+")
_LINKS_ONLY = 0.7  # a block that is mostly links is a menu
_FEWEST_CHARS = 12
_DEEPEST = 4_000
_TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9-]*)")
_UNCLOSED = frozenset(
    {"p", "li", "dt", "dd", "tr", "td", "th", "thead", "tbody", "tfoot", "option", "colgroup"}
    | {"br", "hr", "img", "input", "meta", "link", "area", "base", "col", "embed", "source"}
    | {"track", "wbr", "param", "html", "body", "head"}
)
_HEADING = "\x01"  # before a line that is a heading; texts have no control characters
_FEWEST_LINKS, _ABOVE_LINKS, _MOST_MENUS = 3, 3, 500


def from_html(markup: str) -> tuple[str, str]:
    """Return (title, text) of a page without its menus, banners and scripts.

    Raises `RequestError` for one nested so deep that the parser would take minutes.
    """
    _check_depth(markup)
    tree = need("selectolax.lexbor").LexborHTMLParser(markup.replace(_HEADING, ""))
    title = tree.css_first("title")
    heading = title.text(strip=True) if title is not None else ""
    for node in tree.css(_AWAY):
        node.decompose()
    for node in _menus(tree):
        node.decompose()
    root = tree.css_first("main") or tree.css_first("article") or tree.body
    return " ".join(heading.split()), _tidy("".join(_pieces(root)) if root is not None else "")


def _check_depth(markup: str) -> None:
    """Refuse deep nesting: the standard's parser takes time quadratic in depth, and no real page is deep."""
    depth = 0
    for match in _TAG.finditer(markup):
        if match[2].lower() not in _UNCLOSED:
            depth += -1 if match[1] and depth else 1 if not match[1] else 0
            if depth > _DEEPEST:
                raise RequestError(f"the page is nested deeper than {_DEEPEST:,} levels")


def _menus(tree: Any) -> list[Any]:
    """Find lists and blocks that are mostly links. Looks only a few levels above each link."""
    linked: dict[int, tuple[Any, int, int]] = {}
    for link in tree.css("a"):
        length = len(link.text(strip=True))
        node = link.parent
        for _ in range(_ABOVE_LINKS):
            if node is None or node.tag in {"body", "main", "article", "html", "p"}:
                break
            _, count, chars = linked.get(node.mem_id, (node, 0, 0))
            linked[node.mem_id] = (node, count + 1, chars + length)
            node = node.parent
    several = [entry for entry in linked.values() if entry[1] >= _FEWEST_LINKS][:_MOST_MENUS]
    return [node for node, _, chars in several if _FEWEST_CHARS <= len(node.text(strip=True)) * _LINKS_ONLY < chars]


def _pieces(root: Any) -> list[str]:
    """Return the text of a tree in order, with line ends around blocks; no recursion."""
    pieces: list[str] = []
    for node in root.traverse(include_text=True):
        tag = node.tag or ""
        if tag == "-text":
            pieces.append(_SPACES.sub(" ", (node.text_content or "").replace("\n", " ")))
        elif re.fullmatch(r"h[1-6]", tag):
            pieces.append(f"\n\n{_HEADING}{'#' * int(tag[1])} {' '.join(node.text().split())}\n\n")
            for inner in list(node.iter(include_text=True)):
                inner.decompose()
        elif tag in _BLOCKS:
            pieces.append("\n\n" if tag in {"p", "div", "section", "article", "table"} else "\n")
    return pieces


def from_markdown(markup: str) -> tuple[str, str]:
    """Return (title, text) of Markdown; the title is its first heading of the first level, or a ``title:`` in its
    front matter.
    """
    title, markup = "", markup.replace(_HEADING, "")
    front = re.match(r"---\n(.*?)\n---\n", markup, re.DOTALL)
    if front:
        markup = markup[front.end() :]
        named = re.search(r"(?m)^title:\s*[\"']?(.+?)[\"']?\s*$", front[1])
        title = named[1] if named else ""
    pieces: list[str] = []
    level = ""
    for token in need("markdown_it").MarkdownIt("commonmark").enable("table").parse(markup):
        if token.type == "heading_open":
            level = token.markup if token.markup.startswith("#") else "#" * int(token.tag[1])
        elif token.type == "inline":
            text = _inline(token)
            pieces.append(f"\n\n{_HEADING}{level} {text}\n\n" if level else f"{text}\n\n")
            if level == "#" and not title:
                title = text
            level = ""
        elif token.type in {"fence", "code_block"}:
            pieces.append(f"{token.content}\n")
        elif token.type == "html_block":
            pieces.append(re.sub(r"<[^>]{0,1000}>", " ", token.content))
    return title, _tidy("".join(pieces))


def _inline(token: Any) -> str:
    kept = {"text", "code_inline"}
    parts = [
        child.content if child.type in kept else " " if child.type in {"softbreak", "hardbreak"} else ""
        for child in token.children or ()
    ]
    return "".join(parts).strip()


def _tidy(text: str) -> str:
    """Return ``text`` without needless space; lines that only look like headings become indented code."""
    spaced = "\n".join(_SPACES.sub(" ", line).strip() for line in text.split("\n"))
    lines = _BLANKS.sub("\n\n", spaced).strip().split("\n")
    return "\n".join(line[1:] if line.startswith(_HEADING) else as_text(line) for line in lines)
