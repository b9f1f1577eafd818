"""Hooks of the site (`mkdocs.yml`): pages that are generated, and links that lead out of ``docs/``.

Owns which files beside ``docs/`` become pages, the reference of Python and the pages of commands. Knows no theme.
Invariant: the Markdown in the repository stays as it is read there; only the site's copy has other links.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

import miaotui
from miaotui.cli.options.parser import COMMANDS

ROOT = Path(__file__).parents[1]
# Files beside docs/ that are pages of the site.
COPIED = {
    "README.md": "index.md",
    "README.zh-CN.md": "zh/index.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "CHANGELOG.md": "project/changes.md",
    "benchmarks/README.md": "project/benchmarks.md",
}
LOCALES = {"": "C", "zh/": "zh_CN.UTF-8"}
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def on_config(config: Any) -> Any:
    """Add the generated pages to the navigation; Chinese pages are one section of the same order."""
    chinese = [_chinese(each) for each in config["nav"]]
    commands = [{each.name: f"commands/{each.name}.md"} for each in COMMANDS]
    config["nav"] += [
        {"Commands": ["cli.md", *commands]},
        {"Python reference": [{name: f"reference/{name}.md"} for name in _reference()]},
        {"Project": [{name: uri} for name, uri in _project().items()]},
        {"中文": [*chinese, {"命令": ["zh/cli.md", *(_chinese(each) for each in commands)]}]},
    ]
    return config


def _project() -> dict[str, str]:
    return {
        "Contributing": COPIED["CONTRIBUTING.md"],
        "Changes": COPIED["CHANGELOG.md"],
        "Rivals": "project/benchmarks.md",
    }


def _chinese(entry: Any) -> Any:
    """Return an entry of the navigation for the Chinese pages."""
    names = {"Overview": "概览", "Start": "开始", "Use": "使用", "How it works": "原理", "Speed": "速度"}
    if isinstance(entry, str):
        return f"zh/{entry}"
    ((name, value),) = entry.items()
    return {names.get(name, name): [_chinese(each) for each in value] if isinstance(value, list) else f"zh/{value}"}


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are not files of ``docs/``."""
    for uri, text in _pages():
        files.append(File.generated(config, uri, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Lead the links of a page of ``docs/`` to pages of the site."""
    if page.file.generated_by is not None:
        return markdown
    return _linked(markdown, f"docs/{page.file.src_uri}", page.file.src_uri)


def _pages() -> Iterator[tuple[str, str]]:
    for source, uri in COPIED.items():
        yield uri, _linked((ROOT / source).read_text(encoding="utf-8"), source, uri)
    for name, text in _reference().items():
        yield f"reference/{name}.md", text
    before = os.environ.get("LC_ALL")
    for folder, locale in LOCALES.items():
        os.environ["LC_ALL"] = locale
        for command in COMMANDS:
            shown = command.parser().format_help().strip()
            yield f"{folder}commands/{command.name}.md", f"# miaotui {command.name}\n\n```text\n{shown}\n```\n"
    os.environ.pop("LC_ALL")
    if before is not None:
        os.environ["LC_ALL"] = before


def _reference() -> dict[str, str]:
    """Return a page for each module that has public names, and one for all errors."""
    places: dict[str, list[str]] = {}
    for name in miaotui.__all__:
        places.setdefault(miaotui._LAZY.get(name, "miaotui.errors"), []).append(name)
    pages = {}
    for module, names in places.items():
        members = "".join(f"        - {name}\n" for name in names)
        chosen = "" if module == "miaotui.errors" else f"    options:\n      members:\n{members}"
        title = module.removeprefix("miaotui.")
        pages[title] = f"# {title}\n\n::: {module}\n{chosen}"
    return pages


def _linked(markdown: str, source: str, uri: str) -> str:
    """Return Markdown of the file ``source`` with the links that it needs at ``uri``; code blocks stay as they are."""
    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(
        part if part.startswith("```") else LINK.sub(lambda m: _link(m, source, uri), part) for part in parts
    )


def _link(match: re.Match[str], source: str, uri: str) -> str:
    mark, text, target = match.groups()
    path, hash_, anchor = target.partition("#")
    if "://" in path or not path:
        return match[0]
    named = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
    place = COPIED.get(named)
    if place is None and named.startswith("docs/"):
        place = named.removeprefix("docs/")
    if place is None:
        return text  # a file of the repository that is no page
    relative = posixpath.relpath(place, posixpath.dirname(uri) or ".")
    return f"{mark}[{text}]({relative}{hash_}{anchor})"
