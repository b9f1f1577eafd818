"""Rules of a customer service: a small YAML file of what to say, ask and do.

Owns the file's grammar, its checks, and the matching of rules. Knows neither storage nor models. Invariants: a loaded
file is complete (every name it uses is defined); rules are data, without expressions, patterns or code, and are tried
in the order of the file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from miaotui.apps.untrusted_yaml import read_yaml
from miaotui.errors import RequestError

MAX_RULES_BYTES = 1 << 20
MAX_RULES, MAX_SLOTS, MAX_TEXT = 500, 50, 4_000
KINDS = ("text", "number", "email", "phone", "date", "choice", "code")
_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
_FIELD = re.compile(r"\{([a-z][a-z0-9_]{0,39})\}")
_NUMBER = re.compile(r"-?\d{1,15}(?:\.\d{1,6})?")
_EMAIL = re.compile(r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,4}", re.ASCII)
_PHONE = re.compile(r"\+?\d[\d -]{5,18}\d", re.ASCII)
_DATE = re.compile(r"\d{4}[-/.年]\d{1,2}[-/.月]\d{1,2}日?|\d{1,2}[-/.月]\d{1,2}日?")
Check = Callable[[bool, str], None]


@dataclass(frozen=True)
class Said:
    """Text in both languages; either may stand for the other."""

    en: str
    zh: str

    def text(self, language: str, slots: Mapping[str, str]) -> str:
        """Return the text in a language, its ``{fields}`` filled in."""
        template = self.zh if language == "zh" else self.en
        return _FIELD.sub(lambda match: slots.get(match[1], ""), template)


@dataclass(frozen=True)
class Slot:
    """Value that a rule needs before it can act: its kind, and how to ask for it.

    ``form`` of a ``code``: A stands for a letter, 9 for a digit, other characters for themselves.
    """

    name: str
    kind: str
    ask: Said
    choices: tuple[str, ...] = ()
    form: str = ""

    def find(self, message: str) -> str | None:
        """Return its value in a message, or None."""
        if self.kind == "choice":
            folded = message.casefold()
            return next((choice for choice in self.choices if choice.casefold() in folded), None)
        if self.kind == "code":
            return _find_code(self.form, message)
        if self.kind == "text":
            return message.strip()[:MAX_TEXT] or None
        found = {"number": _NUMBER, "email": _EMAIL, "phone": _PHONE, "date": _DATE}[self.kind].search(message)
        return None if found is None else found.group().strip()


@dataclass(frozen=True)
class Rule:
    """Conditions and actions. Empty conditions always hold; all must hold."""

    name: str
    intent: str = ""
    confidence: float = 0.5
    contains: tuple[str, ...] = ()
    failures: int = 0  # messages in a row that nothing answered
    need: tuple[str, ...] = ()
    say: Said | None = None
    hand_over: bool = False
    answer: bool = False  # let the questions and documents answer

    def meets(self, message: str, intent: str, confidence: float, failures: int) -> bool:
        """Return whether the rule applies to a message."""
        if self.intent and (self.intent != intent or confidence < self.confidence):
            return False
        folded = message.casefold()
        if self.contains and not any(word.casefold() in folded for word in self.contains):
            return False
        return failures >= self.failures


@dataclass(frozen=True)
class Rules:
    """Contents of a rules file."""

    greeting: Said
    fallback: Said
    handed_over: Said
    intents: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    slots: Mapping[str, Slot] = field(default_factory=dict)
    rules: Sequence[Rule] = ()


_PERSON = ("human", "agent", "real person", "operator", "人工", "真人", "客服人员", "转人工")
DEFAULT_RULES = Rules(
    greeting=Said("Hello! How can I help?", "您好！请问有什么可以帮您？"),
    fallback=Said(
        "I could not find an answer to that. Could you put it differently?", "抱歉，没有找到答案。可以换一种说法吗？"
    ),
    handed_over=Said(
        "I am passing you on to a colleague, who will read this conversation.",
        "正在为您转接人工客服，同事会看到这段对话。",
    ),
    rules=(
        Rule("asks_for_a_person", contains=_PERSON, hand_over=True),
        Rule("failed_three_times", failures=3, hand_over=True),
    ),
)


def read_rules(path: Path) -> Rules:
    """Return the rules of a file. Raises `RequestError`, naming what is wrong in it."""
    return parse_rules(read_yaml(path, MAX_RULES_BYTES), str(path))


def parse_rules(value: Any, place: str = "rules") -> Rules:
    """Read rules from plain values. Raises `RequestError`."""

    def check(holds: bool, expected: str) -> None:
        if not holds:
            raise RequestError(f"{place}: {expected}")

    value = {} if value is None else value
    check(isinstance(value, dict), "expected a mapping of greeting, intents, slots, rules")
    known = ("greeting", "fallback", "handed_over", "intents", "slots", "rules")
    _only(value, known, "the file", check)
    slots = {name: _slot(name, each, check) for name, each in _mapping(value, "slots", check).items()}
    check(len(slots) <= MAX_SLOTS, f"at most {MAX_SLOTS} slots")
    intents = {name: _texts(each, f"intents.{name}", check) for name, each in _mapping(value, "intents", check).items()}
    rows = value.get("rules", [])
    check(isinstance(rows, list) and len(rows) <= MAX_RULES, f"rules: at most {MAX_RULES} in a list")
    rules = [_rule(number, row, intents, slots, check) for number, row in enumerate(rows, 1)]
    texts = {
        name: _said(value[name], name, check) if name in value else getattr(DEFAULT_RULES, name)
        for name in ("greeting", "fallback", "handed_over")
    }
    return Rules(**texts, intents=intents, slots=slots, rules=(*rules, *DEFAULT_RULES.rules))


def _rule(number: int, row: Any, intents: Mapping[str, Any], slots: Mapping[str, Any], check: Check) -> Rule:
    where = f"rule {number}"
    check(isinstance(row, dict), f"{where}: expected a mapping with when and say")
    _only(row, ("name", "when", "need", "say", "hand_over", "answer"), where, check)
    when = _mapping(row, "when", check)
    _only(when, ("intent", "confidence", "contains", "failures"), f"{where}, when", check)
    intent, confidence = when.get("intent", ""), when.get("confidence", 0.5)
    check(intent == "" or intent in intents, f"{where}: intent {intent!r} has no examples")
    check(_is_number(confidence) and 0 <= confidence <= 1, f"{where}: confidence is 0 to 1")
    failures = when.get("failures", 0)
    check(isinstance(failures, int) and 0 <= failures <= 100, f"{where}: failures is 0 to 100")
    need = row.get("need") or []
    check(isinstance(need, list) and all(n in slots for n in need), f"{where}: need names slots")
    contains = _texts(when["contains"], f"{where}, contains", check) if "contains" in when else ()
    said = _said(row["say"], where, check) if "say" in row else None
    for name in _FIELD.findall("" if said is None else said.en + said.zh):
        check(name in slots, f"{where}: {{{name}}} is not one of the slots")
    flags = (row.get("hand_over", False), row.get("answer", False))
    check(all(isinstance(flag, bool) for flag in flags), f"{where}: hand_over, answer: true or false")
    check(said is not None or any(flags), f"{where}: expected say, hand_over or answer")
    name = str(row.get("name", f"rule_{number}"))[:80]
    return Rule(name, intent, float(confidence), contains, failures, tuple(need), said, *flags)


def _slot(name: object, row: Any, check: Check) -> Slot:
    check(isinstance(name, str) and _NAME.fullmatch(name) is not None, f"slot name {name!r}")
    where = f"slots.{name}"
    check(isinstance(row, dict), f"{where}: expected kind and ask")
    _only(row, ("kind", "ask", "choices", "form"), where, check)
    kind, form = row.get("kind", "text"), row.get("form", "")
    check(kind in KINDS, f"{where}: kind must be one of {', '.join(KINDS)}")
    check("ask" in row, f"{where}: ask says how to ask for it")
    choices = _texts(row["choices"], where, check) if "choices" in row else ()
    check((kind == "choice") == bool(choices), f"{where}: choices go with kind choice")
    check((kind == "code") == bool(form), f"{where}: form goes with kind code")
    check(isinstance(form, str) and len(form) <= 40, f"{where}: form is a text such as AA-9999")
    return Slot(str(name), kind, _said(row["ask"], where, check), choices, form)


def _said(value: Any, where: str, check: Check) -> Said:
    if isinstance(value, str):
        value = {"en": value, "zh": value}
    check(isinstance(value, dict) and bool(value), f"{where}: expected a text, or en and zh")
    _only(value, ("en", "zh"), where, check)
    texts = list(value.values())
    fit = all(isinstance(text, str) and 0 < len(text) <= MAX_TEXT for text in texts)
    check(fit, f"{where}: texts of at most {MAX_TEXT:,} characters")
    return Said(value.get("en", texts[0]), value.get("zh", texts[0]))


def _texts(value: Any, where: str, check: Check) -> tuple[str, ...]:
    fit = isinstance(value, list) and 0 < len(value) <= 10_000
    fit = fit and all(isinstance(text, str) and 0 < len(text) <= MAX_TEXT for text in value)
    check(fit, f"{where}: expected a list of texts")
    return tuple(value)


def _mapping(value: Mapping[str, Any], name: str, check: Check) -> dict[str, Any]:
    found = value.get(name) or {}
    check(isinstance(found, dict), f"{name}: expected a mapping")
    return dict(found)


def _only(value: Mapping[str, Any], known: Sequence[str], where: str, check: Check) -> None:
    unknown = [str(name) for name in value if name not in known]
    check(not unknown, f"{where} knows {', '.join(known)}, not {', '.join(unknown)[:80]}")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _find_code(form: str, message: str) -> str | None:
    """Return the first run of characters that has the form, on its own."""
    size = len(form)
    for start in range(len(message) - size + 1):
        piece = message[start : start + size]
        around = message[max(0, start - 1) : start] + message[start + size : start + size + 1]
        alone = not any(letter.isascii() and letter.isalnum() for letter in around)
        if alone and all(_has_form(f, letter) for f, letter in zip(form, piece, strict=True)):
            return piece
    return None


def _has_form(form: str, letter: str) -> bool:
    if form == "A":
        return letter.isascii() and letter.isalpha()
    if form == "9":
        return letter.isascii() and letter.isdigit()
    return form == letter
