"""Bounds of grammars: sources, schemas and patterns that are refused or that end in time."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from constrained import may_follow, read

from miaotui.backends.options import BackendName
from miaotui.engine.engine import Engine
from miaotui.engine.grammar import source
from miaotui.engine.grammar.constraint import KEPT, Grammars
from miaotui.errors import RequestError
from miaotui.text.load import load_tokenizer
from tiny_engine import open_engine
from tiny_models import make_tiny_folder
from tiny_tokenizer import VOCAB_SIZE

pytestmark = pytest.mark.usefixtures("backend")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, backend: BackendName) -> Engine:
    folder = tmp_path_factory.mktemp("models")
    path = make_tiny_folder(folder, "llama", max_position_embeddings=1024)
    return open_engine(path, folder)


@pytest.fixture(scope="module")
def grammars(engine: Engine) -> Grammars:
    return Grammars(engine.tokenizer, VOCAB_SIZE)


# bounds -------------------------------------------------------------------------------------------


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.parametrize(
    ("grammar", "reason"),
    [
        (lambda: source.from_schema(nested(200)), "levels deep"),
        (lambda: source.from_schema({"enum": ["x" * 200_000]}), "bytes"),
        (lambda: source.from_schema(["no"]), "must be an object"),
        (lambda: source.from_choices([]), "choices"),
        (lambda: source.from_choices(["a"] * 1000), "choices"),
        (lambda: source.from_pattern(""), "pattern"),
        (lambda: source.from_lark(" "), "Lark"),
        (lambda: source.from_lark('start: "\ud800"'), "surrogate"),
    ],
)
def test_sources_are_bounded(grammar: Any, reason: str) -> None:
    with pytest.raises(RequestError, match=reason):
        grammar()


@pytest.mark.parametrize(
    "grammar",
    [
        source.from_pattern("(a"),
        source.from_lark("start: missing"),
        source.from_lark("{"),
        source.from_schema({"type": "strange"}),
        source.from_schema({"$ref": "http://example.org/schema"}),
        source.from_schema({"type": "array", "uniqueItems": True}),
        source.from_schema({"properties": {f"p{i}": {"type": "string"} for i in range(4000)}}),
    ],
)
def test_what_cannot_be_followed_is_refused(grammar: source.Grammar, grammars: Grammars) -> None:
    with pytest.raises(RequestError) as caught:
        grammars.constraint(grammar)
    assert "backtrace" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_hostile_patterns_end_in_bounded_time(grammars: Grammars) -> None:
    """Each step is bounded by the library's fuel, so a walk takes seconds at the very worst."""
    rng = np.random.default_rng(0)
    for pattern in ("(.*a){25}", "(.*[a-z].*){30}x{1000}", "((a{1,50}){1,50}){1,50}"):
        try:
            constraint = grammars.constraint(source.from_pattern(pattern))
            for _ in range(50):
                constraint.accept(int(rng.choice(sorted(may_follow(constraint)))))
                if constraint.mask() is None:
                    break
        except RequestError as error:
            assert "grammar" in str(error)  # noqa: PT017 - either end is right


def chained(count: int, kind: str) -> dict[str, Any]:
    links: dict[str, Any] = {
        f"d{i}": {"type": "array", "items": {"$ref": f"#/$defs/d{i + 1}"}}
        if kind == "array"
        else {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}, {"minLength": 1}]}
        for i in range(count)
    }
    return {"$defs": {**links, f"d{count}": {"type": "string"}}, "$ref": "#/$defs/d0"}


HOSTILE = {
    "overflows the stack, by arrays": source.from_schema(chained(1500, "array")),
    "overflows the stack, by allOf": source.from_schema(chained(1500, "allOf")),
    "overflows the stack, by rules": source.from_lark(
        "start: r0\n" + "\n".join(f"r{i}: r{i + 1}" for i in range(4000)) + '\nr4000: "a"'
    ),
    "hangs": source.from_lark("start: A\nA: " + " & ".join(f"/.*a.{{{i}}}/" for i in range(200))),
    "takes seconds and much memory": source.from_schema({"type": "integer", "multipleOf": 999_983}),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_would_crash_or_hang_breaks_another_process(kind: str, grammars: Grammars) -> None:
    with pytest.raises(RequestError, match="too much time"):
        grammars.constraint(HOSTILE[kind])
    start_s = time.perf_counter()
    with pytest.raises(RequestError, match="too much time"):
        grammars.constraint(HOSTILE[kind])
    assert time.perf_counter() - start_s < 0.5  # it is remembered
    grammars.constraint(source.from_choices([kind]))  # and others are served


def test_what_is_large_but_harmless_passes(grammars: Grammars) -> None:
    grammars.constraint(source.from_schema(nested(40)))
    grammars.constraint(source.from_schema(chained(60, "array")))
    grammars.constraint(source.from_schema({"enum": [f"value {i}" for i in range(4000)]}))


def test_a_lenient_schema_may_hold_what_cannot_be_enforced(grammars: Grammars) -> None:
    schema = {"type": "array", "uniqueItems": True, "items": {"type": "boolean"}}
    constraint = grammars.constraint(source.from_schema(schema, strict=False))
    assert may_follow(constraint) == {ord("[")}


def test_a_schema_s_own_options_for_the_library_are_ignored(engine: Engine, grammars: Grammars) -> None:
    options = {"whitespace_flexible": True, "item_separator": ";"}
    schema = {"type": "array", "items": {"type": "integer"}, "x-guidance": options}
    constraint = grammars.constraint(source.from_schema(schema))
    read(constraint, engine, "[1")
    assert ord(";") not in may_follow(constraint)


def test_compiled_grammars_are_kept_up_to_a_bound(engine: Engine) -> None:
    grammars = Grammars(engine.tokenizer, VOCAB_SIZE)
    for n in range(KEPT + 5):
        grammars.constraint(source.from_choices([f"choice {n}"]))
    assert len(grammars._compiled) == KEPT


def test_a_model_without_an_end_token_is_refused(tmp_path: Path) -> None:
    folder = make_tiny_folder(tmp_path, "llama")
    for name in ("tokenizer_config.json", "generation_config.json"):
        (folder / name).write_text("{}")
    tokenizer = load_tokenizer(None, folder)
    if not tokenizer.eos_ids:
        with pytest.raises(RequestError, match="no end token"):
            Grammars(tokenizer, VOCAB_SIZE).constraint(source.any_object())
