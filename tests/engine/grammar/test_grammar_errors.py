"""Faulty grammars are refused on one line: the whole reason, the place in what the caller wrote, and what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miaotui.engine.grammar import constraint, trial
from miaotui.engine.grammar.constraint import Grammars
from miaotui.engine.grammar.explain import BROKEN, MAX_CHARACTERS, explain
from miaotui.engine.grammar.source import Grammar, from_lark, from_pattern, from_schema
from miaotui.engine.grammar.tool_calls import calls_after_marker, either
from miaotui.errors import RequestError
from miaotui.text.load import load_tokenizer
from miaotui.text.tokenizers.tokenizer import Tokenizer
from miaotui.text.tool_calls.formats import HERMES, Tool
from tiny_models import make_tiny_folder
from tiny_tokenizer import VOCAB_SIZE

PATTERNS = {
    "a(b": 'unclosed group (character 2 of "a(b")',
    "a)b": 'unopened group (character 2 of "a)b")',
    "[z-a]": 'invalid character class range, the start must be <= the end (character 2 of "[z-a]")',
    "a{3,1}": 'invalid repetition count range, the start must be <= the end (character 2 of "a{3,1}")',
    "*a": 'repetition operator missing expression (character 1 of "*a")',
    r"(a)\1": r'backreferences are not supported (character 4 of "(a)\1"): write the repeated part again',
    r"\k": r'unrecognized escape sequence (character 1 of "\k")',
    r"\p{Foo}": r'Unicode property not found (character 1 of "\p{Foo}")',
    "é(b": 'unclosed group (character 2 of "é(b")',
    "a/b/(c": 'unclosed group (character 5 of "a/b/(c")',
    r"a\/(c": r'unclosed group (character 4 of "a\/(c")',
    "a\n(c": r'unclosed group (character 3 of "a\n(c")',
    "x" * 3000 + "(": f'unclosed group (character 3001 of "...{"x" * 20}(")',
}
LARKS = {
    "start: foo": 'unknown name: "foo" (line 1, character 8)',
    'start: "a': "lexer error (line 1, character 10)",
    "start: /a(b/": 'unclosed group (character 2 of "a(b", line 1, character 8)',
    'foo: "a"': "no start rule found",
    'start: "a"\nstart: "b"': 'duplicate rule: "start" (line 2, character 8)',
    "start: A\nA: /x/ A": 'circular reference in token "A" definition (line 2, character 4)',
    'start: x\nx: %json {"type": "foo"}': "Invalid type: foo (at the top)",
}
SCHEMAS: list[tuple[Any, str]] = [
    ({"type": "foo"}, "Invalid type: foo (at the top)"),
    ({"properties": {"a": {"items": {"type": "strng"}}}}, "Invalid type: strng (at properties.a.items)"),
    ({"anyOf": [{"type": "null"}, {"$ref": "#/x"}]}, "Pointer '/x' does not exist (at anyOf[1]): define it"),
    ({"$ref": "http://a.example/b"}, "is not fetched (at the top): copy it into the schema's $defs"),
    ({"type": "string", "pattern": "a(b"}, 'unclosed group (character 2 of "a(b", at the top)'),
    ({"type": "object", "patternProperties": {"(": {}}}, 'unclosed group (character 1 of "(", at the top)'),
    ({"properties": {"a": {"not": {"type": "null"}}}}, '"not" cannot be enforced (at properties.a): leave them out'),
    ({"type": "string", "format": "foo"}, 'the format "foo" cannot be enforced (at the top): leave format out'),
    ({"type": "integer", "minimum": 5, "maximum": 1}, "minimum (5) is greater than maximum (1) (at the top)"),
    ({"enum": []}, "Unsatisfiable schema: anyOf is empty"),
    ({"type": "array", "items": 5}, "schema must be an object or boolean"),
    ({"allOf": [{"type": "string"}, {"type": "integer"}]}, "Unsatisfiable schema: incompatible types"),
]
ONE_OF = {"properties": {"x": {"oneOf": [{"type": "string"}, {"type": "string", "minLength": 2}]}}}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return load_tokenizer(None, make_tiny_folder(tmp_path_factory.mktemp("grammar_errors"), "llama"))


@pytest.fixture(scope="module")
def grammars(tokenizer: Tokenizer) -> Grammars:
    return Grammars(tokenizer, VOCAB_SIZE)


def reason(grammars: Grammars, grammar: Grammar) -> str:
    with pytest.raises(RequestError) as raised:
        grammars.starter(grammar)
    text = str(raised.value)
    assert text.isprintable(), "one line"
    prefix = "the grammar or JSON schema cannot be used: "
    assert text.startswith(prefix)
    return text.removeprefix(prefix)


@pytest.mark.parametrize(("pattern", "expected"), PATTERNS.items())
def test_patterns(grammars: Grammars, pattern: str, expected: str) -> None:
    assert reason(grammars, from_pattern(pattern)) == expected


@pytest.mark.parametrize("pattern", [r"\bword\b", "(?=x)y", "(?<!a)b"])
def test_look_around_is_named(grammars: Grammars, pattern: str) -> None:
    told = reason(grammars, from_pattern(pattern))
    assert "look" in told
    assert told.endswith(r": leave out \b, (?=...), (?!...), (?<=...) and (?<!...)")


@pytest.mark.parametrize(("source", "expected"), LARKS.items())
def test_lark(grammars: Grammars, source: str, expected: str) -> None:
    assert reason(grammars, from_lark(source)) == expected


@pytest.mark.parametrize(("schema", "expected"), SCHEMAS)
def test_schemas(grammars: Grammars, schema: Any, expected: str) -> None:
    assert expected in reason(grammars, from_schema(schema))


def test_advice_is_for_the_caller(grammars: Grammars) -> None:
    """The library's advice names an option of its own."""
    told = reason(grammars, from_schema(ONE_OF))
    assert told == "oneOf is enforced only if no value can fit two of its members (at properties.x): use anyOf"


def test_a_place_that_is_not_certain_is_not_told(grammars: Grammars) -> None:
    twice = {"properties": {"a": {"type": "strng"}, "b": {"type": "strng"}}}
    assert reason(grammars, from_schema(twice)) == "Invalid type: strng"


def test_a_tool_is_named(grammars: Grammars, tokenizer: Tokenizer) -> None:
    sound = Tool("f", "", {"type": "object"})
    faulty = Tool("g", "", {"type": "object", "properties": {"a": {"type": "strng"}}})
    calls = calls_after_marker(HERMES, [sound, faulty], False, tokenizer)
    expected = "Invalid type: strng (at tools[1].properties.a)"
    assert reason(grammars, calls) == expected
    assert reason(grammars, either(calls, from_schema({"type": "object"}))) == expected


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}])
def test_what_is_no_json_is_no_schema(value: Any) -> None:
    with pytest.raises(RequestError, match="JSON"):
        from_schema({"const": value})


@pytest.mark.parametrize("make", [from_pattern, from_lark])
@given(text=st.text(min_size=1, max_size=60))
def test_any_error_is_one_short_line(make: Callable[[str], Grammar], text: str) -> None:
    try:
        grammar = make(text)
    except RequestError:
        return
    for error in (
        text,
        f"regex parse error:\n    {text}\n    ^\nerror: {text}",
        f"at 1(1): {text}\n   1 | {text}\n    ^",
    ):
        told = explain(error, grammar)
        assert told.isprintable()
        assert len(told) <= 10 * MAX_CHARACTERS
    assert explain("panic at\n/somewhere", grammar) == BROKEN


def test_a_warm_process_is_there_for_the_first_grammar(grammars: Grammars, monkeypatch: pytest.MonkeyPatch) -> None:
    def start() -> None:
        raise AssertionError("a request starts no process")

    constraint.TRIAL.close()
    grammars.warm()
    monkeypatch.setattr(trial, "_start", start)
    assert "unclosed group" in reason(grammars, from_pattern("b(c"))
