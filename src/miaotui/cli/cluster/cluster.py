"""``miaotui cluster``: up, status, scale, drain, down, check.

Owns what is printed and the words of each action. Knows neither Ray nor pools. Invariant: a cluster file is checked
whole, with the digests of its models, before anything starts.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from miaotui.cli.output import messages
from miaotui.cluster.cluster_file import ClusterFile
from miaotui.cluster.routing.scaling import MOST_REPLICAS
from miaotui.errors import EngineError, RequestError

HEAD_LOOK_S, HEAD_MISSES = 2.0, 3  # between looks at Ray's head, and looks in vain after which it has ended
ACTIONS = ("up", "check", "status", "scale", "drain", "down")


def cluster(parsed: argparse.Namespace) -> int:
    """Do one action and return the exit status."""
    action, *words = parsed.words
    if action in ("up", "check"):
        file = ClusterFile.read(Path(_only(action, words, "FILE")))
        return _up(file) if action == "up" else _check(file)
    if action == "scale":
        return _scale(parsed.address, words)
    if action not in ACTIONS:
        raise RequestError(f"unknown action {action!r}: expected {', '.join(ACTIONS)}")
    if words:
        raise RequestError(f"{action} takes no words, and got {words[0]!r}")
    from miaotui.cluster.on_ray import run

    if action == "status":
        print(_table(run.state(parsed.address), parsed.json))
        return 0
    left = run.drain(parsed.address, parsed.timeout) if action == "drain" else run.down(parsed.address, parsed.timeout)
    _say_left(left)
    return 1 if left else 0


def _up(file: ClusterFile) -> int:
    """Start a cluster; where Ray was started for it, stay until a signal and end it."""
    from miaotui.cluster.on_ray import run

    run.up(file)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):  # in place of Ray's, which end this process at once
        signal.signal(number, lambda *_: stop.set())
    models = ", ".join(f"{pool.name} x {pool.replicas}" for pool in file.pools)
    host = f"[{file.host}]" if ":" in file.host else file.host
    print(messages.CLUSTER_READY(url=f"http://{host}:{file.port}", models=models), file=sys.stderr, flush=True)
    if file.address is not None:
        return 0
    _stay(stop, partial(run.head_answers, run.head_address()), file.settings.drain_timeout_s)
    left = run.down(None, file.settings.drain_timeout_s)
    _say_left(left)
    return 1 if left else 0


def _say_left(left: int) -> None:
    """Say how many requests did not end in time."""
    print(messages.CLUSTER_LEFT(count=left) if left else messages.CLUSTER_ENDED(), file=sys.stderr)


def _stay(stop: threading.Event, head_answers: Callable[[], bool], drain_s: float) -> None:
    """Wait for the signal to stop.

    Raises `EngineError` where Ray's head has ended, without which no replica is started any more, after ``drain_s``
    seconds in which what runs may end.
    """
    misses = 0
    while not stop.wait(HEAD_LOOK_S):
        misses = 0 if head_answers() else misses + 1
        if misses == HEAD_MISSES:
            stop.wait(drain_s)
            raise EngineError(
                "Ray's head has ended, and the cluster ends with it: start it again with `miaotui cluster up` and the "
                "same file"
            )


def _check(file: ClusterFile) -> int:
    """Print the digests of a cluster file's models, as its file may name them."""
    for pool in file.located().pools:
        print(f"{pool.name}\t{pool.digest}\t{pool.model}")
    return 0


def _scale(address: str | None, words: Sequence[str]) -> int:
    from miaotui.cluster.on_ray import run

    if not words:
        raise RequestError("scale: expected NAME=COUNT, such as small=3")
    counts = {}
    for word in words:
        name, equals, count = word.partition("=")
        if not equals or not count.isdecimal() or int(count) > MOST_REPLICAS:
            raise RequestError(f"{word!r}: expected NAME=COUNT with a count from 0 to {MOST_REPLICAS}")
        counts[name] = int(count)
    run.scale(address, counts)
    return 0


def _table(state: dict[str, Any], as_json: bool) -> str:
    if as_json:
        return json.dumps(state)
    lines = [f"{state['status']}  {state['message']}".rstrip()]
    for model, pool in state["pools"].items():
        lines.append(f"{model}: {len(pool['replicas'])} / {pool['deployed']}")
        for name, each in pool["replicas"].items():
            mark = "+" if each["takes_requests"] else "-"
            lines.append(
                f"  {mark} {name}  {each['machine']}:{each['process']}  {each['in_flight']} {messages.RUNNING()}  "
                f"{each['queue_s']:.1f} s"
            )
        lines += [f"  x {name}  {reason}" for name, reason in pool["refused"].items()]
    return "\n".join(lines)


def _only(action: str, words: Sequence[str], expected: str) -> str:
    if len(words) != 1:
        raise RequestError(f"{action}: expected {expected}, got {len(words)} words")
    return words[0]
