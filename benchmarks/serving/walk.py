"""The way of one token and of one HTTP chat: which Python files of the package they pass.

Owns the trace: a profile function in every thread notes the code that runs while a window is open. Knows
the package through `miaotui.load` and the command line alone. Invariant: warm-up, imports and ends of
answers lie outside the windows, so a file counts only if each further token or chat needs it.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import inspect
import io
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from urllib.parse import urlsplit

import miaotui
from miaotui.cli import main as command_line

PACKAGE = Path(miaotui.__file__).parent
MODEL = "smollm2-135m"
BARS = {"token": 16, "token with drafts": 24, "chat": 32, "chat with drafts": 37}
TOKENS = 96
CHATS = 8
SHARE = 0.75
WARM_UP = 2
IDLE_S = 2.5  # the server looks after itself each second
GENERATORS = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR
NAME = "walked"  # what the server calls the model
START_S = 300.0
POEM = "The fox ran home. The owl sat still. The moon rose late."
PROMPTS = (
    "Explain in some detail how a rainbow forms and why its colours have an order.",
    f"Repeat this text five times, word for word: {POEM}",
)
QUESTION = "Why is the sky blue? Answer in one sentence."

Functions = dict[str, list[str]]  # the names of functions that ran, by file, in the order of first calls


@dataclass(frozen=True)
class Walk:
    """The files that one kind of walk passes, and the number of them that is wanted at most."""

    name: str
    functions: Functions

    @property
    def count(self) -> int:
        """The number of files."""
        return len(self.functions)

    def report(self) -> str:
        """A line with count and bar, then one line for each file."""
        bar = BARS[self.name]
        verdict = "holds" if self.count <= bar else f"{self.count - bar} too many"
        width = max(map(len, self.functions), default=0)
        lines = [f"  {file:{width}}  {' '.join(names)}" for file, names in self.functions.items()]
        return "\n".join([f"one {self.name}: {self.count} files, at most {bar}: {verdict}", *lines])


@dataclass
class Tracer:
    """A profile of this thread and of those that start after `install`; it notes code in windows only."""

    seen: dict[CodeType, None] = field(default_factory=dict)
    is_open: bool = False
    only: int | None = None  # the thread that counts; None: all do

    def install(self) -> None:
        """Profile this thread and those to come."""
        threading.setprofile(self._on_event)
        sys.setprofile(self._on_event)

    @contextlib.contextmanager
    def window(self, only: threading.Thread | None = None) -> Iterator[Functions]:
        """Note what runs until the block ends; then the yielded dictionary has the package's part of it."""
        self.seen, functions = {}, Functions()
        self.only = None if only is None else only.ident
        self.is_open = True
        try:
            yield functions
        finally:
            self.is_open = False
            for code in tuple(self.seen):  # a thread may still be at an event
                path = Path(code.co_filename)
                if PACKAGE in path.parents:
                    functions.setdefault(path.relative_to(PACKAGE).as_posix(), []).append(code.co_name)

    def _on_event(self, frame: FrameType, event: str, argument: object) -> None:
        if self.is_open and event == "call" and not _goes_on(frame) and self.only in (None, threading.get_ident()):
            self.seen[frame.f_code] = None


def _goes_on(frame: FrameType) -> bool:
    """Return whether a coroutine or generator goes on that was entered before, maybe when the server started."""
    code = frame.f_code
    if not code.co_flags & GENERATORS or frame.f_lasti < 0:
        return False
    if sys.version_info < (3, 11):
        return True  # `f_lasti` is -1 at the first entry
    return bool(code.co_code[frame.f_lasti + 1] & 3)  # argument of RESUME: 0 at the beginning


def walk_tokens(tracer: Tracer, model: str, speculate: bool) -> Functions:
    """Return what runs between the first piece of an answer and later ones: the union over all prompts."""
    windows: list[Functions] = []
    with miaotui.load(model, speculate=speculate) as llm:
        for index, prompt in enumerate(PROMPTS * 2):
            chat = [{"role": "user", "content": prompt}]
            pieces = llm.chat_stream(chat, max_tokens=TOKENS, ignore_eos=True, temperature=1.0, seed=index)
            count = len(next(pieces).token_ids)
            with tracer.window() as functions:
                while count < TOKENS // 2:
                    count += len(next(pieces).token_ids)
            windows.append(functions)
            pieces.close()
    return union(windows[len(PROMPTS) :])  # the first round warms up


def walk_chats(tracer: Tracer, model: str, speculate: bool) -> Functions:
    """Return what a chat with a deadline runs at a server, from its socket to its last byte.

    With drafts half of the chats are streamed. What the event loop runs without any chat belongs to what the
    server does beside the answers, and so do files of which more runs in fewer than `SHARE` of the chats of a kind.
    """
    said = io.StringIO()
    kinds: list[Functions] = []
    failures: list[BaseException] = []

    def client() -> None:
        try:
            address = _address(said)
            for stream in (False, True) if speculate else (False,):
                windows: list[Functions] = []
                for _ in range(WARM_UP + CHATS):
                    with tracer.window() as functions:
                        _chat(address, stream)
                    windows.append(functions)
                with tracer.window(only=threading.main_thread()) as beside:
                    time.sleep(IDLE_S)
                kinds.append(often([without(window, beside) for window in windows[WARM_UP:]]))
        except BaseException as error:
            failures.append(error)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=client, name="client")
    thread.start()
    with contextlib.redirect_stderr(said):
        command_line(["serve", f"{NAME}={model}", "--port", "0", *([] if speculate else ["--no-speculate"])])
    thread.join()
    if failures:
        raise RuntimeError(f"the server said: {said.getvalue()}") from failures[0]
    return union(kinds)


def _address(said: io.StringIO) -> str:
    """Wait for the line with the server's address."""
    end_s = time.monotonic() + START_S
    while time.monotonic() < end_s:
        found = re.search(r"http://[\w.:]+", said.getvalue())
        if found:
            return urlsplit(found[0]).netloc
        time.sleep(0.05)
    raise TimeoutError(f"no server within {START_S:.0f} s")


def _chat(address: str, stream: bool) -> None:
    """Ask one question over a connection of its own and read the answer to its end."""
    messages = [{"role": "user", "content": QUESTION}]
    body = {"model": NAME, "messages": messages, "stream": stream, "deadline_ms": 60_000, "max_tokens": 24, "seed": 1}
    connection = http.client.HTTPConnection(address, timeout=120)
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
        if answer.status != http.HTTPStatus.OK:
            raise RuntimeError(f"status {answer.status}: {text!r}")
    finally:
        connection.close()


def union(windows: list[Functions]) -> Functions:
    """Return every file and function of any window."""
    together = Functions()
    for window in windows:
        for file, names in window.items():
            known = together.setdefault(file, [])
            known += [name for name in names if name not in known]
    return together


def often(windows: list[Functions]) -> Functions:
    """Return the files that `SHARE` of the windows have."""
    together, wanted = union(windows), SHARE * len(windows)
    return {file: names for file, names in together.items() if sum(file in w for w in windows) >= wanted}


def without(functions: Functions, beside: Functions) -> Functions:
    """Return the files of which a function ran that is not in ``beside``."""
    return {file: names for file, names in functions.items() if set(names) - set(beside.get(file, ()))}


def counts(walks: list[Walk]) -> Mapping[str, int]:
    """Return the number of files by the name of the walk."""
    return {walk.name: walk.count for walk in walks}


def walk_all(model: str) -> list[Walk]:
    """Trace all walks with one model. Profiles this process from now on."""
    tracer = Tracer()
    tracer.install()
    return [
        Walk("token", walk_tokens(tracer, model, speculate=False)),
        Walk("token with drafts", walk_tokens(tracer, model, speculate=True)),
        Walk("chat", walk_chats(tracer, model, speculate=False)),
        Walk("chat with drafts", walk_chats(tracer, model, speculate=True)),
    ]


def main() -> None:
    """Print the walks, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default=MODEL)
    walks = walk_all(parser.parse_args().model)
    print("\n\n".join(walk.report() for walk in walks))
    print(json.dumps({"files": counts(walks), "bars": BARS}))


if __name__ == "__main__":
    main()
