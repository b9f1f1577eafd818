"""``miaotui support``: a customer service in the terminal.

Owns the loop of lines and replies, and the commands that begin with a slash. Knows the service by its public calls.
Invariants: replies go to standard output, everything else to standard error; text from documents and people never
steers a terminal.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from miaotui.apps.conversations import ConversationStore
from miaotui.apps.dialogue import DialogueTracker, load_tracker, read_dialogues, save_tracker
from miaotui.apps.faq import Faq, read_faq
from miaotui.apps.qa_pipeline import QaPipeline
from miaotui.apps.rules import DEFAULT_RULES, read_rules
from miaotui.apps.support import Reply, Support
from miaotui.cli.ask import model_key, model_path
from miaotui.cli.ask import opened as opened_model
from miaotui.cli.chat import read_lines
from miaotui.cli.meaning import by_meaning
from miaotui.cli.output import messages
from miaotui.cli.run import write
from miaotui.config import Settings
from miaotui.errors import RequestError
from miaotui.retrieval.answers.cache import AnswerCache
from miaotui.retrieval.index.index import Index


def support(parsed: argparse.Namespace) -> int:
    """Reply to messages until the input ends; return the exit status."""
    with opened(parsed, Settings.from_env()) as service:
        language = parsed.language or messages.language()
        conversation, greeting = service.begin(language)
        _show(greeting, as_json=parsed.json)
        for line in read_lines():
            if line.startswith("/"):
                if not _command(service, conversation.id, line):
                    break
            elif line:
                _turn(service, conversation.id, line, as_json=parsed.json)
    return 0


@contextmanager
def opened(parsed: argparse.Namespace, settings: Settings) -> Iterator[Support]:
    """Open the service that a command line describes. Raises a `MiaotuiError`."""
    if parsed.faq is None and parsed.docs is None and parsed.rules is None:
        raise RequestError(messages.NOTHING_TO_SAY())
    tracker = _tracker(parsed)
    rules = DEFAULT_RULES if parsed.rules is None else read_rules(Path(parsed.rules))
    faq = None if parsed.faq is None else Faq(read_faq(Path(parsed.faq)))
    place = parsed.store or settings.folder("support") / "conversations.db"
    with ExitStack() as stack:
        store = ConversationStore(Path(place))
        stack.callback(store.close)
        desk = None
        if parsed.docs is not None:
            index = stack.enter_context(Index.open(parsed.docs))
            searched = stack.enter_context(by_meaning(index, rerank=True, threads=parsed.threads))
            searched.load()
            path = None if parsed.extract else model_path(parsed, settings)
            llm = None if path is None else stack.enter_context(opened_model(path, parsed))
            desk = QaPipeline(searched.index, llm, AnswerCache(), model_key(path), searched.reranker)
        turn_ms = None if parsed.deadline is None else 1e3 * parsed.deadline
        yield Support(store, rules=rules, faq=faq, desk=desk, index=parsed.docs or "", turn_ms=turn_ms, tracker=tracker)


def _tracker(parsed: argparse.Namespace) -> DialogueTracker | None:
    """Learn a tracker and write it, or read one; None if neither is asked for. Raises `RequestError`."""
    if parsed.dialogues is None:
        return None if parsed.tracker is None else load_tracker(Path(parsed.tracker))
    if parsed.tracker is None:
        raise RequestError(messages.NO_TRACKER_FILE())
    tracker = DialogueTracker.fit(*read_dialogues(Path(parsed.dialogues)))
    save_tracker(tracker, Path(parsed.tracker))
    return tracker


def _turn(service: Support, conversation: str, line: str, *, as_json: bool) -> None:
    try:
        reply = service.say(conversation, line)
    except RequestError as error:
        print(messages.ERROR(reason=error), file=sys.stderr)
    else:
        _show(reply, as_json=as_json)


def _show(reply: Reply, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(reply.to_json(), ensure_ascii=False), flush=True)
        return
    write(f"{reply.text}\n" if reply.text else "")
    print(messages.REPLIED(how=reply.how, took=f"{reply.took_ms:.0f} ms"), file=sys.stderr)


def _command(service: Support, conversation: str, line: str) -> bool:
    """Obey a command; whether the conversation goes on."""
    name, _, rest = line.partition(" ")
    if name in {"/exit", "/quit"}:
        return False
    if name == "/rate" and rest.strip().isdecimal():
        try:
            service.rate(conversation, int(rest))
            print(messages.RATED(), file=sys.stderr)
        except RequestError as error:
            print(messages.ERROR(reason=error), file=sys.stderr)
    elif name == "/person":
        _show(service.hand_over(conversation), as_json=False)
    elif name == "/transcript":
        print(json.dumps(service.transcript(conversation), ensure_ascii=False, indent=1))
    else:
        print(messages.SUPPORT_HELP(), file=sys.stderr)
    return True
