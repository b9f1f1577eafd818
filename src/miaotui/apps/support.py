"""Customer service: one message in, one reply out, within its time.

Owns the order of decisions: an open question first, then rules, then frequently asked questions, then the documents,
then a polite fallback. Knows neither HTTP nor the command line. Invariant: every message gets exactly one reply,
which says how it was made; after a hand-over only people reply.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from miaotui.apps.answering import Answer, Mode
from miaotui.apps.conversations import Conversation, ConversationStore, State, Turn, checked_message
from miaotui.apps.dialogue.slots import TrackedSlots
from miaotui.apps.dialogue.tracker import DialogueTracker
from miaotui.apps.faq import Faq
from miaotui.apps.intents import Intent, IntentClassifier
from miaotui.apps.qa_pipeline import QaPipeline, Question
from miaotui.apps.rules import DEFAULT_RULES, Rule, Rules
from miaotui.errors import MiaotuiError, RequestError
from miaotui.retrieval.meaning.languages import is_chinese
from miaotui.types import namespace_number

_LOG = logging.getLogger(__name__)
TURN_MS = 500.0
DOCUMENTS_SHARE = 0.84  # of them, at most, for the documents
ANSWER_TOKENS = 24
Said = tuple[str, str, Mapping[str, Any]]  # role, text, detail
_NO_INTENT = Intent("", 0.0)


@dataclass(frozen=True)
class Reply:
    """Reply and how it was made: rule, slot, faq, documents, fallback, handed_over or greeting."""

    text: str
    how: str
    turn: int = 0
    intent: str = ""
    confidence: float = 0.0
    rule: str = ""
    citations: tuple[Mapping[str, Any], ...] = ()
    slots: Mapping[str, str] = field(default_factory=dict)
    handed_over: bool = False
    took_ms: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return this reply as plain values."""
        return {**vars(self), "citations": list(self.citations), "slots": dict(self.slots)}


@dataclass(frozen=True)
class _Step:
    """Result of a message: a reply, and the state after it."""

    reply: Reply
    state: State


class Support:
    """Customer service over a store. Safe to use from several threads.

    ``desk`` answers from documents; ``mode`` says whether in a model's words or in the documents' own; ``turn_ms`` is
    the time limit of a reply. ``tracker`` finds values of slots in every message, asked for or not.
    """

    def __init__(
        self,
        store: ConversationStore,
        *,
        rules: Rules = DEFAULT_RULES,
        faq: Faq | None = None,
        desk: QaPipeline | None = None,
        index: str = "",
        mode: Mode = "generated",
        turn_ms: float | None = None,
        tracker: DialogueTracker | None = None,
    ) -> None:
        self.store, self.rules, self.faq, self.desk = store, rules, faq, desk
        self._tracked = None if tracker is None else TrackedSlots(tracker, rules)
        self._index, self._mode = index, mode
        self._documents_ms = DOCUMENTS_SHARE * (turn_ms or TURN_MS)
        self._intents = IntentClassifier(rules.intents) if len(rules.intents) > 1 else None
        self._by_name = {rule.name: rule for rule in rules.rules}

    # what people do -------------------------------------------------------------------------------

    def begin(self, language: str = "en", namespace: str = "") -> tuple[Conversation, Reply]:
        """Begin a conversation. Returns it with its greeting. Raises `RequestError`."""
        if language not in ("en", "zh"):
            raise RequestError(f"language must be 'en' or 'zh', not {language!r}")
        conversation = self.store.begin(language, namespace)
        text = self.rules.greeting.text(language, {})
        step = _Step(Reply(text, "greeting"), conversation.state)
        return conversation, self._note(conversation, None, step, language, time.perf_counter())

    def say(self, conversation_id: str, message: str, namespace: str = "") -> Reply:
        """Return the reply to a message. Raises `RequestError`."""
        started = time.perf_counter()
        text = checked_message(message)
        conversation = self.store.get(conversation_id, namespace)
        language = "zh" if is_chinese(text) else "en" if text.isascii() else conversation.language
        if conversation.state.handed_over:
            reply = Reply("", "handed_over", handed_over=True)
            step = _Step(reply, conversation.state)
        else:
            step = self._decide(conversation, text, language, started)
        return self._note(conversation, text, step, language, started)

    def hand_over(self, conversation_id: str, namespace: str = "") -> Reply:
        """Pass a conversation on to a person. Raises `RequestError`."""
        started = time.perf_counter()
        conversation = self.store.get(conversation_id, namespace)
        step = self._handed_over(conversation.language, Reply("", "handed_over"), conversation.state)
        return self._note(conversation, None, step, conversation.language, started)

    def person_says(self, conversation_id: str, message: str, namespace: str = "") -> Turn:
        """Note what a person replies after a hand-over. Raises `RequestError`."""
        conversation = self.store.get(conversation_id, namespace)
        if not conversation.state.handed_over:
            raise RequestError("the conversation is not with a person: hand it over first")
        said: Said = ("person", checked_message(message), {})
        return self.store.add(conversation, [said], conversation.state, conversation.language)[0]

    def rate(
        self, conversation_id: str, score: int, turn: int | None = None, comment: str = "", namespace: str = ""
    ) -> None:
        """Note a rating of 1 to 5. Raises `RequestError`."""
        self.store.rate(self.store.get(conversation_id, namespace), score, turn, comment)

    def delete(self, conversation_id: str, namespace: str = "") -> None:
        """Delete a conversation. Raises `ConversationMissingError`."""
        self.store.delete(self.store.get(conversation_id, namespace))

    def transcript(self, conversation_id: str, namespace: str = "") -> dict[str, Any]:
        """Return the conversation as plain values. Raises `RequestError`."""
        conversation = self.store.get(conversation_id, namespace)
        ratings = self.store.ratings(conversation)
        return {
            "id": conversation.id,
            "language": conversation.language,
            "begun_s": conversation.begun_s,
            "handed_over": conversation.state.handed_over,
            "slots": dict(conversation.state.slots),
            "turns": [vars(turn) for turn in self.store.transcript(conversation)],
            "ratings": [{"turn": t, "score": s, "comment": c} for t, s, c in ratings],
        }

    # decisions ------------------------------------------------------------------------------------

    def _decide(self, conversation: Conversation, text: str, language: str, started: float) -> _Step:
        state = conversation.state
        if self._tracked is not None:
            state = self._tracked.after(state, text)
        intent = _NO_INTENT if self._intents is None else self._intents.classify(text)
        reply = Reply("", "fallback", intent=intent.name, confidence=intent.confidence)
        if state.waiting_for:
            step = self._fill(state, text, language, reply)
            if step is not None:
                return step
            state = replace(state, waiting_for="", rule="")
        for rule in self.rules.rules:
            if rule.meets(text, intent.name, intent.confidence, state.failures):
                if rule.answer:
                    break
                return self._apply(rule, state, text, language, reply)
        found = self._from_faq(text, reply) or self._from_documents(text, reply, started, conversation.namespace)
        if found is not None:
            return _Step(found, replace(state, failures=0))
        return self._fail(state, text, language, reply, intent)

    def _fill(self, state: State, text: str, language: str, reply: Reply) -> _Step | None:
        """Take the awaited value from the message; None if it has none and a rule says otherwise."""
        slot, rule = self.rules.slots.get(state.waiting_for), self._by_name.get(state.rule)
        value = None if slot is None else state.slots.get(slot.name) or slot.find(text)
        if slot is None or rule is None or value is None:
            return None
        known = replace(state, slots={**state.slots, slot.name: value}, waiting_for="", rule="")
        return self._apply(rule, known, "", language, reply)

    def _apply(self, rule: Rule, state: State, text: str, language: str, reply: Reply) -> _Step:
        """Ask for what the rule needs, or do what it says."""
        slots = dict(state.slots)
        for name in rule.need:
            slot = self.rules.slots[name]
            found = slot.find(text) if text and slot.kind != "text" else None
            if found is not None:
                slots[name] = found
            if name not in slots:
                asks = replace(state, slots=slots, waiting_for=name, rule=rule.name)
                said = slot.ask.text(language, slots)
                return _Step(replace(reply, text=said, how="slot", rule=rule.name), asks)
        done = {name: value for name, value in slots.items() if name not in rule.need}
        state = replace(state, slots=slots, failures=0)
        said = "" if rule.say is None else rule.say.text(language, slots)
        reply = replace(reply, text=said, how="rule", rule=rule.name, slots=slots)
        if rule.hand_over:
            return self._handed_over(language, reply, state)
        return _Step(reply, replace(state, slots=done))

    def _handed_over(self, language: str, reply: Reply, state: State) -> _Step:
        text = reply.text or self.rules.handed_over.text(language, state.slots)
        reply = replace(reply, text=text, how="handed_over", handed_over=True)
        return _Step(reply, replace(state, handed_over=True, waiting_for="", rule=""))

    def _from_faq(self, text: str, reply: Reply) -> Reply | None:
        match = None if self.faq is None else self.faq.match(text)
        if match is None:
            return None
        cited = {"question": match.question, "score": round(match.score, 3)}
        return replace(reply, text=match.entry.answer, how="faq", citations=(cited,))

    def _from_documents(self, text: str, reply: Reply, started: float, namespace: str) -> Reply | None:
        if self.desk is None:
            return None
        left_ms = max(1.0, self._documents_ms - (time.perf_counter() - started) * 1e3)
        mode: Mode = "extractive" if self.desk.llm is None else self._mode
        number = namespace_number(namespace) if namespace else 0
        asked = Question(text[:2_000], self._index, mode, left_ms, namespace, number, ANSWER_TOKENS)
        try:
            return self._answered(self.desk, asked, mode, reply)
        except MiaotuiError as error:  # a conversation outlives an index that cannot be read
            _LOG.warning("customer service: the documents could not be asked: %s", error)
            return None

    @staticmethod
    def _answered(desk: QaPipeline, asked: Question, mode: Mode, reply: Reply) -> Reply | None:
        answer = _whole(desk, asked)
        written = answer.how in ("generated", "selected") and answer.supported and not answer.shortened
        if mode == "generated" and not written:
            answer = _whole(desk, replace(asked, mode="extractive"))
        if not answer.found:
            return None
        said = answer.text if answer.how == "generated" else answer.citations[0].quote
        cited = tuple(map(vars, answer.citations))
        return replace(reply, text=said, how="documents", citations=cited)

    def _fail(self, state: State, text: str, language: str, reply: Reply, intent: Intent) -> _Step:
        """Reply when nothing answers; a rule may apply after so many failures."""
        failed = replace(state, failures=state.failures + 1)
        for rule in self.rules.rules:
            known = rule.failures and not rule.intent and not rule.contains
            if known and rule.meets(text, intent.name, intent.confidence, failed.failures):
                return self._apply(rule, failed, "", language, reply)
        said = self.rules.fallback.text(language, state.slots)
        return _Step(replace(reply, text=said), failed)

    def _note(
        self, conversation: Conversation, message: str | None, step: _Step, language: str, started: float
    ) -> Reply:
        """Store both turns. Returns the reply with its number and its time."""
        reply = step.reply
        said: list[Said] = []
        if message is not None:
            said.append(("user", message, {}))
        if reply.text:
            detail = reply.to_json()
            detail = {k: detail[k] for k in ("how", "intent", "confidence", "rule", "citations")}
            said.append(("assistant", reply.text, detail))
        turns = self.store.add(conversation, said, step.state, language)
        took_ms = (time.perf_counter() - started) * 1e3
        return replace(reply, turn=turns[-1].number if turns else 0, took_ms=took_ms)


def _whole(desk: QaPipeline, question: Question) -> Answer:
    return [part for part in desk.ask(question) if isinstance(part, Answer)][-1]
