"""Formats in which a call is a name between marks, with arguments as JSON, marked or bare values, or Python's keywords.

Owns these formats as data, and the reading of a whole stretch from its first mark to its last. Knows no stream, no
template and no grammar. Invariant: a stretch is calls of declared functions from end to end, or none at all; nothing in
it is executed.
Sources: the chat templates that Qwen3-Coder, GLM-4.5, MiniMax-M2, Seed-OSS, DeepSeek R1 and V3.1, Kimi K2, Mistral
Small 3.2, Functionary 3.1, MiniCPM 5, Hunyuan 3, Gemma 4 and LFM2.5 are published with; OpenAI's harmony format.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from miaotui.text.tool_calls.bare_values import read_members, write_members

Strings = Mapping[str, Collection[str]]
"""Parameters whose values are strings, by function: their text is taken as it is."""
_NAME = r"(?P<name>[A-Za-z0-9_.:-]+?)"
_CONSTANTS = {"true": True, "false": False, "null": None}


class ReadCall(NamedTuple):
    """A call as it was read; ``arguments`` is the text of a JSON object."""

    name: str
    arguments: str


class Marks(NamedTuple):
    """Texts around the keys and values of a call's arguments."""

    before_key: str
    after_key: str
    after_value: str


@dataclass(frozen=True)
class TaggedFormat:
    """``begin`` ``open`` call (``again`` call)* ``close``; a call is ``before`` name ``after`` arguments ``end``.

    Arguments are a JSON object, or each value stands between `marks`, or ``pythonic``: ``key=value, …``, or with a
    ``quote`` ``key:value,…``, where it stands around each string. A zero in ``after`` stands for any number. ``close``
    empty: a stretch ends with its JSON object.
    """

    begin: str
    close: str
    before: str = ""
    after: str = ""
    end: str = ""
    marks: Marks | None = None
    pythonic: bool = False
    quote: str = ""
    between: str = ""  # a pattern of what may stand behind the name
    open: str = ""
    again: str | None = None
    id_length: int = 24
    bare: bool = False

    def write(self, name: str, arguments: Mapping[str, Any]) -> str:
        """Return one call as text."""
        return self.before + name + self.after + self._written(arguments) + self.end

    def _written(self, arguments: Mapping[str, Any]) -> str:
        if self.pythonic:
            return ", ".join(
                f"{key}={value if isinstance(value, bool) else _dumped(value)}" for key, value in arguments.items()
            )
        if self.quote:
            return write_members(arguments, self.quote)
        if self.marks is None:
            return _dumped(dict(arguments))
        marks, pairs = self.marks, []
        for key, value in arguments.items():
            text = value if isinstance(value, str) else _dumped(value)
            pairs.append(f"{marks.before_key}{key}{marks.after_key}{text}{marks.after_value}")
        return "".join(pairs)

    @property
    def marker_texts(self) -> tuple[str, ...]:
        """Return every text that may hold control tokens."""
        return (self.begin, self.open, self.close, self.before, self.after, self.end, self.quote, *(self.marks or ()))

    def read(self, stretch: str, names: Collection[str], strings: Strings) -> list[ReadCall] | None:
        """Return the calls of a stretch behind ``begin``, up to and with ``close``; None if it is no calls."""
        body = stretch.strip().removesuffix(self.close.strip()).strip().removeprefix(self.open.strip())
        if self.pythonic:
            return _python_calls(body, names)
        calls, at = [], 0
        while body[at:].strip():
            found = self._head.match(body, at)
            if found is None or found["name"] not in names:
                return None
            read = self._arguments(body, found.end(), strings.get(found["name"], ()))
            tail = self._tail.match(body, read[1]) if read is not None else None
            if read is None or tail is None:
                return None
            calls.append(ReadCall(found["name"], read[0]))
            at = tail.end()
        return calls or None

    def _arguments(self, body: str, at: int, strings: Collection[str]) -> tuple[str, int] | None:
        """Return the text of the arguments at ``at``, and where they end."""
        if self.quote:
            members = read_members(body, at, self.quote)
            return None if members is None else (_dumped(members[0]), members[1])
        if self._pair is None:
            try:
                value, end = json.JSONDecoder(object_pairs_hook=_members).raw_decode(body, at)
            except (ValueError, RecursionError):
                return None
            return (body[at:end], end) if isinstance(value, dict) else None
        found: dict[str, Any] = {}
        while (pair := self._pair.match(body, at)) is not None:
            key = pair["key"].strip()
            if key in found:
                return None
            found[key] = pair["value"] if key in strings else _value(pair["value"])
            at = pair.end()
        return _dumped(found), at

    @cached_property
    def _head(self) -> re.Pattern[str]:
        after = _loose(self.after, numbers=True) if self.after.strip() else r"(?=[\s<]|\Z)"
        return re.compile(rf"\s*{_loose(self.before)}\s*{_NAME}\s*{self.between}{after}\s*")

    @cached_property
    def _tail(self) -> re.Pattern[str]:
        return re.compile(rf"\s*{_loose(self.end)}\s*")

    @cached_property
    def _pair(self) -> re.Pattern[str] | None:
        if self.marks is None:
            return None
        before, after, behind = (_loose(mark.strip()) for mark in self.marks)
        return re.compile(rf"\s*{before}(?P<key>[^<>\n]{{1,128}}?){after}\n?(?P<value>.*?)\n?{behind}", re.DOTALL)


class JsonDepth:
    """Finder of the end of the first JSON object in a text that comes character by character."""

    def __init__(self) -> None:
        self._depth, self._quoted, self._escaped = 0, False, False

    def ends(self, character: str) -> bool:
        """Take the next character; return whether it closes the object."""
        if self._quoted:
            if self._escaped:
                self._escaped = False
            elif character == "\\":
                self._escaped = True
            elif character == '"':
                self._quoted = False
            return False
        if character == '"' and self._depth:
            self._quoted = True
        elif character in "{[" and (self._depth or character == "{"):
            self._depth += 1
        elif character in "}]" and self._depth:
            self._depth -= 1
            return self._depth == 0
        return False


def _loose(text: str, numbers: bool = False) -> str:
    """Return a pattern of ``text`` in which any blank space stands for any other."""
    pattern = r"\s*".join(re.escape(part) for part in text.split())
    return pattern.replace("0", r"\d+") if numbers else pattern


def _dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a key is there twice")
    return members


def _value(text: str) -> Any:
    """Return JSON data, or the text itself where it is none."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return text


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _python_calls(body: str, names: Collection[str]) -> list[ReadCall] | None:
    """Read ``name(key=literal, …), …`` from Python's syntax tree, which is never run."""
    try:
        tree = ast.parse(f"[{body.strip().removesuffix(']')}]", mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    calls = []
    for node in tree.elts if isinstance(tree, ast.List) else ():
        if not isinstance(node, ast.Call) or not isinstance(node.func, (ast.Name, ast.Attribute)) or node.args:
            return None
        name = ast.unparse(node.func)
        try:
            found = {str(each.arg): _literal(each.value) for each in node.keywords if each.arg}
            text = json.dumps(found, ensure_ascii=False, allow_nan=False)
        except (ValueError, TypeError, RecursionError):
            return None
        if name not in names or len(found) < len(node.keywords):
            return None
        calls.append(ReadCall(name, text))
    return calls or None


def _literal(node: ast.expr) -> Any:
    """Return the value of a literal, with JSON's words for Python's."""
    if isinstance(node, ast.Name) and node.id in _CONSTANTS:
        return _CONSTANTS[node.id]
    if isinstance(node, ast.List):
        return [_literal(each) for each in node.elts]
    if isinstance(node, ast.Dict):
        return {ast.literal_eval(key): _literal(value) for key, value in _pairs(node)}
    value = ast.literal_eval(node)
    if not isinstance(value, (str, int, float, bool, type(None))):
        raise ValueError("no JSON value")
    return value


def _pairs(node: ast.Dict) -> list[tuple[ast.expr, ast.expr]]:
    if None in node.keys:
        raise ValueError("an unpacked mapping")
    return [(key, value) for key, value in zip(node.keys, node.values, strict=True) if key is not None]


def _alone(begin: str, close: str, **parts: Any) -> TaggedFormat:
    """Return a format in which each call has a begin and a close of its own."""
    return TaggedFormat(begin, close, again=f"{close}\n{begin}" if close else begin, **parts)


_PARAMETERS = Marks("<parameter=", ">\n", "\n</parameter>\n")
QWEN_CODER = _alone(
    "<tool_call>", "\n</tool_call>", before="\n<function=", after=">\n", end="</function>", marks=_PARAMETERS
)
SEED = _alone(
    "<seed:tool_call>", "\n</seed:tool_call>", before="\n<function=", after=">\n", end="</function>", marks=_PARAMETERS
)
GLM = _alone(
    "<tool_call>", "</tool_call>", after="\n", marks=Marks("<arg_key>", "</arg_key>\n<arg_value>", "</arg_value>\n")
)
MINIMAX = TaggedFormat(
    "<minimax:tool_call>",
    "\n</minimax:tool_call>",
    before='\n<invoke name="',
    after='">\n',
    end="</invoke>",
    marks=Marks('<parameter name="', '">', "</parameter>\n"),
    again="",
)
DEEPSEEK_V31 = TaggedFormat(
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁calls▁end｜>",
    before="<｜tool▁call▁begin｜>",
    after="<｜tool▁sep｜>",
    end="<｜tool▁call▁end｜>",
    again="",
)
DEEPSEEK_R1 = TaggedFormat(
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁calls▁end｜>",
    before="<｜tool▁call▁begin｜>function<｜tool▁sep｜>",
    after="\n```json\n",
    end="\n```<｜tool▁call▁end｜>",
    again="\n",
)
KIMI = TaggedFormat(
    "<|tool_calls_section_begin|>",
    "<|tool_calls_section_end|>",
    before="<|tool_call_begin|>functions.",
    after=":0<|tool_call_argument_begin|>",
    end="<|tool_call_end|>",
    again="",
)
MISTRAL_ARGS = _alone("[TOOL_CALLS]", "", after="[ARGS]", between=r"(?:\[CALL_ID\]\w+)?", id_length=9)
FUNCTIONARY = _alone("<function=", "</function>", after=">")
MINICPM = _alone('<function name="', "</function>", after='">', marks=Marks('<param name="', '">', "</param>"))
HUNYUAN = TaggedFormat(
    "<tool_calls:opensource>",
    "\n</tool_calls:opensource>",
    before="\n<tool_call:opensource>",
    after="<tool_sep:opensource>\n",
    end="</tool_call:opensource>",
    marks=Marks("<arg_key:opensource>", "</arg_key:opensource>\n<arg_value:opensource>", "</arg_value:opensource>\n"),
    again="",
)
GEMMA4 = TaggedFormat(
    "<|tool_call>", "<tool_call|>", before="call:", after="{", end="}", quote='<|"|>', again="<tool_call|><|tool_call>"
)
LFM = TaggedFormat("<|tool_call_start|>", "]<|tool_call_end|>", after="(", end=")", pythonic=True, open="[", again=", ")
HARMONY_CALLS = _alone("<|channel|>commentary to=functions.", "", after=" <|constrain|>json<|message|>")  # gpt-oss
TAGGED = (
    QWEN_CODER,
    SEED,
    GLM,
    MINIMAX,
    DEEPSEEK_V31,
    DEEPSEEK_R1,
    KIMI,
    MISTRAL_ARGS,
    FUNCTIONARY,
    MINICPM,
    HUNYUAN,
    GEMMA4,
    LFM,
    HARMONY_CALLS,
)
