"""Tracker of a dialogue's state: what the customer has asked for so far, slot by slot.

Owns the way from labelled turns to a tagger and from a message to values. Knows no rules and no replies. Invariants: a
value comes from a span of a message, which is given with it; the same dialogues give the same tracker.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher

from miaotui.apps.dialogue.schema import DialogueSchema, SlotKey, SlotSchema
from miaotui.apps.dialogue.tagger import SpanTagger, TaggedMessage, ValueSpan, tokens_of
from miaotui.apps.dialogue.values import canonical
from miaotui.errors import RequestError

MAX_MESSAGE = 4_000  # characters
MAX_TURNS = 100_000  # to learn from
MOST_TOKENS = 12  # of a value that is looked for in other words
SIMILAR = 0.6  # of a choice's characters that a mention shares with it
_YES, _NO = "true", "false"


@dataclass(frozen=True)
class SlotValue:
    """Value of a slot, and the part of the message that says it, in characters."""

    key: SlotKey
    value: str
    start: int = 0
    end: int = 0


@dataclass(frozen=True)
class LabelledTurn:
    """Message of a customer, the values that it names or changes, and the reply before it with what that asked for."""

    message: str
    values: Mapping[SlotKey, Sequence[str]]
    asked: tuple[SlotKey, ...] = ()
    reply: str = ""


@dataclass(frozen=True)
class DialogueState:
    """Values so far by slot; ``focus`` is the domain that was spoken of last."""

    values: Mapping[SlotKey, tuple[str, ...]] = field(default_factory=dict)
    focus: str = ""


class DialogueTracker:
    """Tracker that was trained on labelled dialogues. Make it with `fit` or `dialogue.files.load_tracker`."""

    def __init__(self, schema: DialogueSchema, tagger: SpanTagger, aliases: Mapping[str, Mapping[str, str]]) -> None:
        self.schema, self.tagger, self.aliases = schema, tagger, aliases
        self._slots = {_label(slot, value): (slot, value) for slot in schema.slots for value in _label_values(slot)}

    @staticmethod
    def fit(schema: DialogueSchema, dialogues: Iterable[Sequence[LabelledTurn]]) -> DialogueTracker:
        """Learn from dialogues. A value that its message does not say in any known wording is left out.

        Raises `RequestError` for slots that the schema lacks, and for too much or nothing to learn from.
        """
        messages, wordings = list[TaggedMessage](), dict[str, Counter[tuple[str, str]]]()
        slots = schema.by_key
        for dialogue in dialogues:
            focus = ""
            for turn in dialogue:
                if len(messages) >= MAX_TURNS:
                    raise RequestError(f"at most {MAX_TURNS:,} turns are learned from: give fewer dialogues")
                message = turn.message[:MAX_MESSAGE]
                context, focus = _context(schema, message, turn.asked, focus)
                spans = []
                for key, values in turn.values.items():
                    if key not in slots:
                        raise RequestError(f"the schema has no slot {key[1]!r} in domain {key[0]!r}: add it")
                    for span, said, value in _located(slots[key], values, message):
                        spans.append(span)
                        wordings.setdefault(_label(slots[key], ""), Counter())[said, value] += 1
                    focus = key[0] or focus
                messages.append(TaggedMessage(message, context, tuple(spans), turn.reply[:MAX_MESSAGE]))
        if not messages:
            raise RequestError("there are no turns to learn from: give labelled dialogues")
        return DialogueTracker(schema, SpanTagger.fit(messages), _aliases(wordings))

    def found(self, message: str, asked: Sequence[SlotKey] = (), focus: str = "", reply: str = "") -> list[SlotValue]:
        """Find the values that one message names, after ``reply``, which asked for some slots.

        Raises `RequestError` for a message that is too long.
        """
        if len(message) > MAX_MESSAGE:
            raise RequestError(f"a message has at most {MAX_MESSAGE:,} characters, not {len(message):,}")
        context, _ = _context(self.schema, message, asked, focus)
        return [self._value(span, message) for span in self.tagger.tag(message, context, reply[:MAX_MESSAGE])]

    def update(
        self, state: DialogueState, message: str, asked: Sequence[SlotKey] = (), reply: str = ""
    ) -> DialogueState:
        """Return the state after a message; the newest value of a slot replaces the one before."""
        _, focus = _context(self.schema, message, asked, state.focus)
        values = dict(state.values)
        for each in self.found(message, asked, state.focus, reply):
            many = self.schema.by_key[each.key].many
            before = [value for value in values.get(each.key, ()) if many and value != each.value]
            values[each.key] = (*before, each.value)
            focus = each.key[0] or focus
        return replace(state, values=values, focus=focus)

    def require_known(self, labels: Iterable[str]) -> None:
        """Raise `RequestError` for a label that is no slot of the schema."""
        if unknown := [label for label in labels if label not in self._slots]:
            raise RequestError(f"the label {unknown[0]!r} is no slot of the schema: learn the tracker anew")

    def _value(self, span: ValueSpan, message: str) -> SlotValue:
        slot, fixed = self._slots[span.label]
        if fixed:
            return SlotValue(slot.key, fixed, span.start, span.end)
        text = message[span.start : span.end]
        form = canonical(slot.kind, text)
        value = self.aliases.get(_label(slot, ""), {}).get(form)
        if value is None and slot.values:
            value = nearest(slot, form)
        if value is None:
            value = text.strip() if slot.kind in ("text", "date") else form
        return SlotValue(slot.key, value, span.start, span.end)


def nearest(slot: SlotSchema, form: str) -> str | None:
    """Return the value of a choice that is most like a wording; None if none is like it."""
    scored = [(_likeness(canonical(slot.kind, value), form), value) for value in slot.values]
    best, value = max(scored)
    return value if best >= SIMILAR else None


def _likeness(value: str, form: str) -> float:
    if value == form:
        return 2.0
    return SequenceMatcher(None, value, form, autojunk=False).ratio() + (0.3 if form in value or value in form else 0.0)


def _label(slot: SlotSchema, value: str) -> str:
    return "\x1f".join((slot.domain, slot.name, value))


def _label_values(slot: SlotSchema) -> tuple[str, ...]:
    return (_YES, _NO) if slot.kind == "boolean" else ("",)


def _context(schema: DialogueSchema, message: str, asked: Sequence[SlotKey], focus: str) -> tuple[tuple[str, ...], str]:
    """Return what is known of a message's place, and the domain that it speaks of."""
    at = [(message.find(domain), domain) for domain in schema.domains if domain and domain in message]
    spoken = [domain for _, domain in sorted(at)]
    context = [f"asked={domain}/{name}" for domain, name in asked]
    context += [f"of={domain}" for domain in spoken] or [f"focus={focus}"]
    return tuple(context or ["asked="]), spoken[-1] if spoken else focus


def _located(slot: SlotSchema, values: Sequence[str], message: str) -> list[tuple[ValueSpan, str, str]]:
    """Find the span of each value, with its wording there and the value, both in their form."""
    if slot.kind == "boolean":
        value = _YES if canonical("text", values[0]) in (_YES, "yes", "是", "1") else _NO
        spans = [_find(message, cue) for cue in slot.cues]
        first = next((span for span in spans if span is not None), None)
        return [] if first is None else [(ValueSpan(_label(slot, value), *first), "", "")]
    found = []
    for value in values:
        place = _find(message, value) or _reworded(slot, value, message) or _partly(slot, value, message)
        if place is not None:
            said = canonical(slot.kind, message[place[0] : place[1]])
            found.append((ValueSpan(_label(slot, ""), *place), said, value))
            if not slot.many:
                break
    return found


def _find(message: str, value: str) -> tuple[int, int] | None:
    start = message.casefold().find(value.casefold())
    return None if start < 0 or not value or len(message.casefold()) != len(message) else (start, start + len(value))


def _reworded(slot: SlotSchema, value: str, message: str) -> tuple[int, int] | None:
    """Find the shortest words that have the value's form."""
    if slot.kind not in ("number", "date", "range"):
        return None
    tokens, wanted = tokens_of(message), canonical(slot.kind, value)
    for length in range(1, MOST_TOKENS + 1):
        for first in range(len(tokens) - length + 1):
            start, end = tokens[first].start, tokens[first + length - 1].end
            if canonical(slot.kind, message[start:end]) == wanted:
                return start, end
    return None


def _partly(slot: SlotSchema, value: str, message: str) -> tuple[int, int] | None:
    """Find the longest part of a choice or a range that the message says."""
    if slot.kind not in ("choice", "range"):
        return None
    match = SequenceMatcher(None, message.casefold(), value.casefold(), autojunk=False).find_longest_match()
    return (match.a, match.a + match.size) if match.size >= max(2, len(value) // 2) else None


def _aliases(wordings: Mapping[str, Counter[tuple[str, str]]]) -> dict[str, dict[str, str]]:
    """Return, for each slot, the value that a wording mostly meant."""
    found: dict[str, dict[str, str]] = {}
    for label, counts in wordings.items():
        for (said, value), _ in counts.most_common():
            found.setdefault(label, {}).setdefault(said, value)
    return found
