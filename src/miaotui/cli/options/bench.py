"""The options of ``miaotui bench``.

Owns their names, meanings and forms, and which action each is for. Knows no model. Invariant: an option that the action
does not use is refused, never ignored.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import Any

from miaotui.cli.options.serve import whole

ACTIONS = ("serve", "load", "compare", "base")
SPEED = "model"  # the action of `miaotui bench [MODEL]`
_LOADS = {"serve", "load"}
_LOCAL = {SPEED, "load", "compare", "base"}
# Option -> actions that use it.
USED_BY: dict[str, set[str]] = {
    "streams": {SPEED, "serve", "load", "compare"},
    "repetitions": {SPEED},
    "prompt_tokens": {SPEED},
    "answer_tokens": {SPEED},
    "rate": _LOADS,
    "arrivals": _LOADS,
    "cv": _LOADS,
    "trace": _LOADS,
    "duration": _LOADS,
    "requests": _LOADS,
    "scenario": _LOADS,
    "e2e_ms": _LOADS,
    "ttft_ms": _LOADS,
    "tpot_ms": _LOADS,
    "deadline_ms": _LOADS,
    "input_tokens": {*_LOADS, "compare"},
    "output_tokens": {*_LOADS, "compare"},
    "prompts": {*_LOADS, "compare"},
    "repeat_prompts": _LOADS,
    "ignore_eos": {*_LOADS, "compare"},
    "temperature": {*_LOADS, "compare"},
    "timeout": {*_LOADS, "compare"},
    "stall": {*_LOADS, "compare"},
    "model": {"serve"},
    "route": {"serve", "compare"},
    "pairs": {"compare"},
    "format": _LOCAL - {"base", "compare"},
    "kv": _LOCAL - {"base", "compare"},
    "threads": _LOCAL - {"base", "compare"},
    "speculate": {"load"},
    "seed": {SPEED, "serve", "load", "compare"},
    "html": {SPEED, "serve", "load", "compare"},
}
DEFAULTS: dict[str, Any] = {
    "repetitions": 3,
    "prompt_tokens": 512,
    "answer_tokens": 128,
    "arrivals": "poisson",
    "cv": 2.0,
    "duration": 10.0,
    "input_tokens": (40, 400),
    "output_tokens": (16, 128),
    "temperature": 0.0,
    "timeout": 60.0,
    "stall": 30.0,
    "route": "chat",
    "pairs": 12,
    "kv": "f16",
    "speculate": True,
}


def bench_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``miaotui bench``."""
    parser.argument_default = argparse.SUPPRESS
    parser.epilog = (
        "bench [MODEL]: its speed here. bench serve URL: load on a server with OpenAI's routes. bench load [MODEL]: "
        "load on the engine, without HTTP. bench compare A B: two models or servers in pairs; NAME,drafts=off,"
        "threads=1,format=q8,kv=int8 chooses how a model runs. bench base MODEL: the float32 base of its quality. "
        "Prints a table and one JSON line."
    )
    _load_options(parser.add_argument_group("the load"))
    _answer_options(parser.add_argument_group("prompts and answers"))
    _run_options(parser.add_argument_group("the run"))


def _load_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--rate", type=_rates, metavar="R,R,...", help="requests per second (default: rates swept to saturation)")
    add(
        "--arrivals",
        choices=("poisson", "gamma", "uniform", "trace"),
        metavar="poisson|gamma|uniform|trace",
        help="process of arrivals (default: poisson)",
    )
    add("--cv", type=_above_zero, metavar="X", help="of gamma: coefficient of variation of the gaps (default: 2)")
    add("--trace", metavar="FILE", help="arrivals, as JSON lines with at_s or timestamp (ms), and lengths")
    add("--duration", type=_above_zero, metavar="S", help="seconds of each load (default: 10)")
    add("--requests", type=whole(1), metavar="N", help="requests of the scenario offline (default: 64)")
    add(
        "--streams",
        type=_streams,
        metavar="N,N,...",
        help="answers at a time: of a model 1,2,4,8,16; of a load closed in place of open",
    )
    add(
        "--scenario",
        choices=("single-stream", "server", "offline"),
        metavar="single-stream|server|offline",
        help="load and number of MLPerf Inference",
    )
    add("--e2e-ms", type=_above_zero, metavar="MS", help="an answer counts as good within this time")
    add("--ttft-ms", type=_above_zero, metavar="MS", help="and with its first text within this time")
    add("--tpot-ms", type=_above_zero, metavar="MS", help="and with this time for each further token")
    add(
        "--deadline-ms",
        type=_above_zero,
        metavar="MS",
        help="deadline sent with each request, and the target of goodput",
    )


def _answer_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--input-tokens", type=_range, metavar="N|N-M", help="words of prompts, about a token each (default: 40-400)")
    add("--output-tokens", type=_range, metavar="N|N-M", help="limits of answers (default: 16-128)")
    add("--prompts", metavar="FILE", help="prompts, by line or as JSON lines with prompt; each is used once")
    add("--repeat-prompts", action="store_true", help="prompts may come again, which caches answer")
    add("--ignore-eos", action="store_true", help="answers go on to their limit")
    add("--temperature", type=_number, metavar="X", help="0 takes the likeliest token (default: 0)")
    add("--timeout", type=_above_zero, metavar="S", help="seconds for a whole answer (default: 60)")
    add("--stall", type=_above_zero, metavar="S", help="seconds between two pieces of an answer (default: 30)")
    add(
        "--prompt-tokens",
        type=whole(1, 1 << 20),
        metavar="N",
        help="of the prompt whose reading is timed (default: 512)",
    )
    add("--answer-tokens", type=whole(2, 1 << 20), metavar="N", help="of the answers of a model (default: 128)")


def _run_options(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--model", metavar="NAME", help="model of the server (default: the first that it lists)")
    add("--route", choices=("chat", "completions"), metavar="chat|completions", help="route of servers (default: chat)")
    add("--repetitions", type=whole(1, 10_000), metavar="N", help="samples of each speed (default: 3)")
    add("--pairs", type=whole(2, 10_000), metavar="N", help="of a comparison (default: 12)")
    add("--threads", type=whole(1, 1024), metavar="N", help="default: one per usable physical core")
    add("--format", choices=("q4", "q5", "q6", "q8"), metavar="q4|q5|q6|q8", help="bits per weight, as in run")
    add("--kv", choices=("f16", "int8"), metavar="f16|int8", help="how keys and values are kept (default: f16)")
    add("--no-speculate", action="store_false", dest="speculate", help="one token in each pass")
    add("--seed", type=whole(0), metavar="N", help="of prompts and arrivals (default: drawn, and printed)")
    add("--html", metavar="FILE", help="write a report with charts, in one file")


def _above_zero(text: str) -> float:
    value = _number(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {text!r}")
    return value


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e9:
        raise argparse.ArgumentTypeError(f"must be a number from 0 on, not {text!r}")
    return value


def _list_of(read: Callable[[str], Any], text: str) -> tuple[Any, ...]:
    return tuple(read(part) for part in text.split(","))


def _rates(text: str) -> tuple[float, ...]:
    return _list_of(_above_zero, text)


def _streams(text: str) -> tuple[int, ...]:
    return _list_of(whole(1, 4096), text)


def _range(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([0-9]{1,7})(?:-([0-9]{1,7}))?", text)
    low, high = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 0 < low <= high:
        raise argparse.ArgumentTypeError(f"must be a number or two, such as 40-400, not {text!r}")
    return low, high
