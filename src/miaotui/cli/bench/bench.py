"""``miaotui bench``: the actions, what they share, and their output.

Owns the choice of the action, the checks of its options, the seed, and the last line: one JSON object. The
measurements are in `bench`. Invariant: no speed is printed without a line about quality.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import sys
from collections.abc import Callable, Coroutine, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from miaotui.bench.html.page import Section, page, table_section, write_page
from miaotui.bench.html.words import Say, words
from miaotui.cli.options.bench import ACTIONS, DEFAULTS, SPEED, USED_BY
from miaotui.cli.output.messages import language
from miaotui.config import Settings
from miaotui.errors import RequestError
from miaotui.hub.catalog import DEFAULT_MODEL
from miaotui.kernels.platform.cpu import probe

INTERRUPTED = 130  # exit status
INTERRUPTED_LINE = "interrupted: the numbers are of what was measured until then"
FORMS = {
    "serve": "miaotui bench serve URL, such as http://127.0.0.1:8000",
    "compare": "miaotui bench compare A B, two models or servers",
    "load": "miaotui bench load [MODEL]",
    "base": "miaotui bench base [MODEL]",
    SPEED: "miaotui bench [MODEL], or one of serve, load, compare and base before it",
}


def bench(parsed: argparse.Namespace) -> int:
    """Run the action of the command line; return the exit status."""
    words = list(parsed.words)
    action = words.pop(0) if words and words[0] in ACTIONS else SPEED
    chosen = chosen_options(parsed, action)
    counts = {"serve": range(1, 2), "compare": range(2, 3)}.get(action, range(2))
    if len(words) not in counts:
        raise RequestError(f"expected {FORMS[action]}, got {len(words)} words behind it: see miaotui bench --help")
    if getattr(chosen, "html", None) is not None:
        require_place(Path(chosen.html))
    if action in ("serve", "load"):
        from miaotui.cli.bench.loads import bench_engine, bench_server

        return bench_server(words[0], chosen) if action == "serve" else bench_engine(_model(words), chosen)
    if action == "compare":
        from miaotui.cli.bench.pairs import bench_compare

        return bench_compare((words[0], words[1]), chosen)
    from miaotui.cli.bench.model import bench_base, bench_model

    return bench_base(_model(words)) if action == "base" else bench_model(_model(words), chosen)


def require_place(path: Path) -> None:
    """Raise `RequestError` where a report could not be written, before anything is measured."""
    folder = path.parent
    if path.is_dir():
        raise RequestError(f"--html {path} is a folder: name a file in it")
    if not folder.is_dir():
        raise RequestError(f"--html {path}: there is no folder {folder}; make it first")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise RequestError(f"--html {path} cannot be written: name a file elsewhere, or make it writable")


def _model(words: Sequence[str]) -> str:
    return words[0] if words else DEFAULT_MODEL


def chosen_options(parsed: argparse.Namespace, action: str) -> argparse.Namespace:
    """Return the options that the action uses, with defaults. Raises `RequestError` for others."""
    given = {name: value for name, value in vars(parsed).items() if name in USED_BY}
    for name in given:
        if action not in USED_BY[name]:
            option = "no-speculate" if name == "speculate" else name.replace("_", "-")
            of = "" if action == SPEED else f" {action}"
            raise RequestError(f"--{option} means nothing to miaotui bench{of}: leave it away")
    used = {name: DEFAULTS.get(name) for name, actions in USED_BY.items() if action in actions}
    chosen = argparse.Namespace(**(used | given))
    if getattr(chosen, "seed", 0) is None:
        chosen.seed = secrets.randbelow(1 << 31)
    return chosen


def machine() -> dict[str, Any]:
    """Return this machine and this program, for the JSON line."""
    cpu = probe()
    return {
        "processor": cpu.model_name,
        "isa": cpu.isa.value,
        "cores": cpu.allowed_cpus,
        "memory_bytes": cpu.memory_bytes,
        "miaotui": version("miaotui"),
    }


def until_interrupted(main: Callable[[], Coroutine[Any, Any, None]]) -> bool:
    """Run ``main``; return whether it ended by itself. After Ctrl-C the caller shows what was measured until then."""
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        return False
    return True


def note(text: str) -> None:
    """Write progress to stderr."""
    print(f"  {text}", file=sys.stderr, flush=True)


def finish(
    title: str,
    lines: Sequence[str],
    table: str,
    values: dict[str, Any],
    html: str | None,
    sections: Callable[[Say], Sequence[Section]],
) -> None:
    """Print lines, table and JSON, and write the report; lines and report are in the person's language."""
    say = words(language())
    told = json.dumps(values, ensure_ascii=False, default=str)
    for line in lines:
        print(say(line))
    print(f"\n{table}\n")
    print(told)
    if html is not None:
        shown = [table_section(table, say), *sections(say)]
        write_page(Path(html), page(title, lines, shown, told, language()))


def settings() -> Settings:
    """Return this process's settings."""
    return Settings.from_env()
