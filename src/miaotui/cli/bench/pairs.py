"""``miaotui bench compare A B``: two models or servers in pairs.

Owns how the words name a side: a server's address, or a model with options after commas. Knows no measurement.
Invariant: both sides get the same prompts, in the same process, in changing order.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

from miaotui.bench.compare import METRICS, Comparison, compare
from miaotui.bench.html.page import compare_sections
from miaotui.bench.load.target import Target
from miaotui.bench.quality import NOT_MEASURED, ModelQuality
from miaotui.cli.bench.bench import INTERRUPTED, INTERRUPTED_LINE, finish, machine, note, until_interrupted
from miaotui.cli.bench.loads import FAILED, QUALITY_OF_SERVER, ask_options, prompt_plan
from miaotui.errors import RequestError

OPTIONS = {"drafts": ("on", "off"), "threads": None, "format": ("q4", "q5", "q6", "q8"), "kv": ("f16", "int8")}


def bench_compare(words: tuple[str, str], chosen: argparse.Namespace) -> int:
    """Compare both sides; return the exit status."""
    if words[0] == words[1] and is_address(words[0]):
        raise RequestError("one server on both sides answers from its caches: start it twice, on two ports")
    sides = [parse_side(word) for word in words]
    streams = (chosen.streams or (1,))[0]

    found, qualities = Comparison(words, {name: [] for name in METRICS}), list[ModelQuality | str]()

    async def main() -> None:
        async with AsyncExitStack() as stack:
            opened = [await _opened(*side, chosen, stack) for side in sides]
            (a, quality_a), (b, quality_b) = opened
            qualities.extend((quality_a, quality_b))
            await compare(found, (a, b), prompt_plan(chosen), chosen.pairs, streams, note)

    is_whole = until_interrupted(main)
    if not is_whole and not found.count:
        raise KeyboardInterrupt
    told = [each if isinstance(each, str) else each.text() for each in qualities]
    lines = [f"{side}: {word}; {quality}" for side, word, quality in zip("AB", words, told, strict=True)]
    lines.append(f"{found.count} pairs of {streams} together, {found.failed} failed, seed {chosen.seed}")
    if not is_whole:
        lines.append(INTERRUPTED_LINE)
    values: dict[str, Any] = {"bench": "compare", "machine": machine(), "seed": chosen.seed, **found.as_dict()}
    values["interrupted"] = not is_whole
    values["qualities"] = [None if isinstance(each, str) else vars(each) for each in qualities]
    finish(
        f"miaotui bench: {words[0]} and {words[1]}",
        lines,
        found.table(),
        values,
        chosen.html,
        partial(compare_sections, found),
    )
    if not is_whole:
        return INTERRUPTED
    return 0 if found.failed < found.count else FAILED


def is_address(word: str) -> bool:
    """Return whether a side is a server."""
    return word.startswith(("http://", "https://"))


def parse_side(word: str) -> tuple[str, dict[str, Any]]:
    """Return the model or address, and the options of how it is opened. Raises `RequestError`."""
    name, *parts = word.split(",")
    if is_address(word):
        name, parts = word, []
    found: dict[str, Any] = {}
    for part in parts:
        option, _, value = part.partition("=")
        if option not in OPTIONS:
            raise RequestError(f"{word}: no option {option!r}; expected {', '.join(OPTIONS)} after the model's name")
        allowed = OPTIONS[option]
        if (allowed is not None and value not in allowed) or (allowed is None and not value.isdecimal()):
            raise RequestError(f"{word}: {option} must be {' or '.join(allowed or ('a whole number',))}, not {value!r}")
        if option == "drafts":
            found["speculate"] = value == "on"
        else:
            found[option] = int(value) if allowed is None else value
    return name, found


async def _opened(
    name: str, options: dict[str, Any], chosen: argparse.Namespace, stack: AsyncExitStack
) -> tuple[Target, ModelQuality | str]:
    """Open one side until the stack ends; return it with its quality, or why that was not measured."""
    if is_address(name):
        from miaotui.bench.load.http_target import HttpTarget, first_model

        key = os.environ.get("OPENAI_API_KEY") or None
        server = HttpTarget(name, await first_model(name, key), ask_options(chosen), route=chosen.route, key=key)
        stack.push_async_callback(server.close)
        return server, QUALITY_OF_SERVER
    from miaotui.async_llm import load_async
    from miaotui.bench.load.engine_target import EngineTarget
    from miaotui.cli.bench.model import measured_quality
    from miaotui.cli.output.progress import ProgressBars

    with ProgressBars() as progress:
        llm = await stack.enter_async_context(await load_async(name, progress=progress, **options))
    quality = await asyncio.to_thread(measured_quality, name, llm)
    return EngineTarget(llm, name, ask_options(chosen)), NOT_MEASURED if quality is None else quality
