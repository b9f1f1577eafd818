"""``miaotui chat``: a conversation in the terminal.

Owns the conversation's messages and the commands that begin with a slash. Every turn sends the whole conversation;
the engine reuses the pages of earlier turns. Invariant: a failed or stopped turn leaves the conversation consistent:
user and assistant always alternate.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Generator, Iterator
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

from miaotui.cli.options.parser import sampling_params
from miaotui.cli.output import messages
from miaotui.cli.run import checked, load, note_language, show, statistics, write
from miaotui.errors import PromptTooLongError, RequestError
from miaotui.hub.catalog import DEFAULT_MODEL
from miaotui.types import Delta

if TYPE_CHECKING:
    from miaotui.llm import LLM


def chat(parsed: argparse.Namespace) -> int:
    """Talk until the user leaves; return the exit status."""
    params = sampling_params(parsed)
    model = parsed.words[0] if parsed.words else DEFAULT_MODEL
    with load(model, parsed) as llm:
        print(messages.WELCOME(model=model), file=sys.stderr)
        conversation = ChatSession(llm, params, parsed.system)
        noted = False
        for line in read_lines():
            if line.startswith("/"):
                if not conversation.command(line):
                    break
            elif line:
                _turn(conversation, line)
                noted = noted or note_language("chat", model, line)
    return 0


class ChatSession:
    """Messages so far, and the way to go on."""

    def __init__(self, llm: LLM, params: dict[str, Any], system: str | None) -> None:
        self._llm = llm
        self._params = params
        self._system = [] if system is None else [{"role": "system", "content": system}]
        self.turns: list[tuple[str, str]] = []  # (question, answer)

    def say(self, text: str) -> None:
        """Answer `text` on stdout; drop the oldest turns when the context is full."""
        while True:
            try:
                return self._answer(text)
            except PromptTooLongError:
                if not self.turns:
                    raise
                self.turns = self.turns[(len(self.turns) + 1) // 2 :]
                print(messages.SHORTENED(), file=sys.stderr)

    def command(self, line: str) -> bool:
        """Obey a command; return whether the conversation goes on."""
        name = line.split(maxsplit=1)[0]
        if name in {"/exit", "/quit"}:
            return False
        if name == "/reset":
            self.turns.clear()
            print(messages.FORGOTTEN(), file=sys.stderr)
        elif name == "/history":
            self._show_history()
        elif name == "/help":
            print(messages.CHAT_HELP(), file=sys.stderr)
        else:
            print(messages.UNKNOWN_COMMAND(name=name), file=sys.stderr)
        return True

    def _answer(self, text: str) -> None:
        said: list[str] = []
        spoken = [
            {"role": role, "content": content}
            for turn in self.turns
            for role, content in zip(("user", "assistant"), turn, strict=True)
        ]
        dialogue = [*self._system, *spoken, {"role": "user", "content": text}]
        try:
            deltas = _overheard(self._llm.chat_stream(dialogue, **self._params), said)
            with closing(deltas):
                completion = show(deltas)
        except KeyboardInterrupt:  # keep what was said: the next turn may refer to it
            print(file=sys.stderr)
        else:
            share = self._llm.memory_share(completion)
            print(statistics(completion, share), file=sys.stderr)
        self.turns.append((text, "".join(said)))

    def _show_history(self) -> None:
        if not self.turns:
            print(messages.NO_HISTORY(), file=sys.stderr)
        for question, answer in self.turns:
            write(f"> {question}\n{answer}\n")


def _turn(conversation: ChatSession, line: str) -> None:
    """Answer one line; a request that cannot be answered does not end the conversation."""
    try:
        conversation.say(checked(line))
    except RequestError as error:
        print(messages.ERROR(reason=error), file=sys.stderr)


def _overheard(deltas: Iterator[Delta], said: list[str]) -> Generator[Delta, None, None]:
    for delta in deltas:
        said.append(delta.text)
        yield delta


def read_lines() -> Iterator[str]:
    """Yield what the user types, stripped, until the end of input."""
    if sys.stdin.isatty():
        with suppress(ImportError):  # arrow keys and recall, where the platform has them
            import readline  # noqa: F401  (its import gives `input` line editing)
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "")
        except EOFError:
            if sys.stdin.isatty():
                print(file=sys.stderr)
            return
        yield line.strip()
