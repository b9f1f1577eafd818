"""Grammars: a random model, which knows nothing, must still answer in the form that was asked for."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from constrained import PROMPT, SHORT_TEXT, answer, may_follow, read
from hypothesis import given, settings
from hypothesis import strategies as st

from miaotui.backends.options import BackendName
from miaotui.engine.engine import Engine
from miaotui.engine.grammar import source
from miaotui.engine.grammar.constraint import GrammarConstraint, Grammars
from miaotui.errors import RequestError
from miaotui.speculation.controller import GRAMMAR
from miaotui.speculation.drafters.suffix import suffix_speculation
from miaotui.speculation.policy import RowCost
from miaotui.types import SamplingParams
from tiny_engine import open_engine, open_parts, run, settings_in
from tiny_models import make_tiny_folder
from tiny_tokenizer import END, START, VOCAB_SIZE

pytestmark = pytest.mark.usefixtures("backend")


SCHEMAS: dict[str, dict[str, Any]] = {
    "person": {
        "type": "object",
        "properties": {"name": SHORT_TEXT, "age": {"type": "integer", "minimum": 0, "maximum": 150}},
        "required": ["name", "age"],
        "additionalProperties": False,
    },
    "list of choices": {
        "type": "array",
        "items": {"enum": ["red", "green", 3, None, True]},
        "minItems": 1,
        "maxItems": 3,
    },
    "pattern": {"type": "string", "pattern": "^[A-Z]{3}-[0-9]{4}$"},
    "either": {"anyOf": [{"type": "boolean"}, {"type": "null"}, {"const": "both"}]},
    "recursive": {
        "$defs": {
            "node": {
                "type": "object",
                "properties": {
                    "label": {"type": "string", "maxLength": 3},
                    "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]},
                },
                "required": ["label", "next"],
                "additionalProperties": False,
            }
        },
        "$ref": "#/$defs/node",
    },
}


TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=5)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, backend: BackendName) -> Engine:
    folder = tmp_path_factory.mktemp("models")
    path = make_tiny_folder(folder, "llama", max_position_embeddings=1024)
    return open_engine(path, folder)


@pytest.fixture(scope="module")
def grammars(engine: Engine) -> Grammars:
    return Grammars(engine.tokenizer, VOCAB_SIZE)


class FreeRows(RowCost):
    """As if rows cost nothing: everything drafted is tried."""

    def ratio(self, rows: int) -> float:
        return 1.0


# what comes out -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", SCHEMAS)
def test_a_random_model_answers_by_the_schema(name: str, seed: int, engine: Engine, grammars: Grammars) -> None:
    constraint = grammars.constraint(source.from_schema(SCHEMAS[name]))
    completion = answer(engine, constraint, seed=seed)
    assert completion.finish_reason == "stop"
    jsonschema.validate(json.loads(completion.text), SCHEMAS[name])


def test_greedy_answers_are_held_to_it_too(engine: Engine, grammars: Grammars) -> None:
    constraint = grammars.constraint(source.from_schema(SCHEMAS["pattern"]))
    completion = answer(engine, constraint, temperature=0.0)
    assert re.fullmatch('"[A-Z]{3}-[0-9]{4}"', completion.text)


def test_a_limit_cuts_the_answer_short(engine: Engine, grammars: Grammars) -> None:
    completion = answer(engine, grammars.constraint(source.any_object()), max_tokens=1)
    assert (completion.finish_reason, completion.text[0]) == ("length", "{")


def test_patterns_choices_and_lark(engine: Engine, grammars: Grammars) -> None:
    for grammar, expected in (
        (source.from_pattern(r"[a-c]{2}/\d\n"), r"[a-c]{2}/[0-9]\n"),
        (source.from_choices(["yes", 'say "no"', "a\nb"]), 'yes|say "no"|a\nb'),
        (source.from_lark('start: "x" NUMBER\nNUMBER: /[0-9]{1,3}/'), "x[0-9]{1,3}"),
    ):
        completion = answer(engine, grammars.constraint(grammar))
        assert re.fullmatch(expected, completion.text)


def test_many_at_once_say_what_each_says_alone(engine: Engine, grammars: Grammars) -> None:
    grammar = source.from_schema(SCHEMAS["person"])
    params = [SamplingParams(max_tokens=40, temperature=1.0, seed=seed) for seed in range(3)]
    alone = [answer(engine, grammars.constraint(grammar), **vars(p)).token_ids for p in params]
    requests = [engine.prepare(PROMPT, each, constraint=grammars.constraint(grammar)) for each in params]
    for request in requests:
        engine.enter(request)
    run(engine)
    assert [request.completion().token_ids for request in requests] == alone


def test_drafts_change_nothing(engine: Engine, grammars: Grammars) -> None:
    """A drafted branch is verified under the masks that decoding would have used."""
    grammar = source.from_schema(SCHEMAS["pattern"])
    params = SamplingParams(max_tokens=40, temperature=1.0, seed=4)
    plain = answer(engine, grammars.constraint(grammar), **vars(params)).token_ids
    request = engine.prepare(PROMPT, params, constraint=grammars.constraint(grammar))
    engine.enter(request)
    while not request.is_over:
        done = len(request.token_ids)
        engine.step({request.number: plain[done : done + 2]})
        engine.scheduler.check()
    assert request.completion().token_ids == plain


def test_what_a_grammar_forces_is_drafted_and_changes_nothing(
    engine: Engine, grammars: Grammars, tmp_path: Path
) -> None:
    grammar = source.from_schema(SCHEMAS["person"])
    params = SamplingParams(max_tokens=60, temperature=1.0, seed=2)
    plain = answer(engine, grammars.constraint(grammar), **vars(params)).token_ids
    path = make_tiny_folder(tmp_path, "llama", max_position_embeddings=1024)
    drafting = Engine(*open_parts(path, settings_in(tmp_path)), suffix_speculation())
    assert drafting.speculation is not None
    drafting.speculation.cost = FreeRows()
    assert answer(drafting, grammars.constraint(grammar), **vars(params)).token_ids == plain
    brought = drafting.speculation.report()[-1]
    assert brought.name == GRAMMAR
    assert brought.accepted == brought.proposed > 5


def test_forced_tokens_are_those_without_a_choice(engine: Engine, grammars: Grammars) -> None:
    constraint = grammars.constraint(source.from_lark('start: "once " ("a" | "b") " time"'))
    decoded = engine.tokenizer.decode
    assert decoded(constraint.forced()) == "once"  # the space may belong to the next token
    read(constraint, engine, "once b")
    assert decoded(constraint.forced()) == " time"
    read(constraint, engine, " time")
    constraint.accept(END)
    assert constraint.forced() == []


# where it may end ---------------------------------------------------------------------------------


def test_the_end_is_allowed_exactly_where_the_text_is_whole(engine: Engine, grammars: Grammars) -> None:
    constraint = grammars.constraint(source.from_pattern("ab?"))
    assert END not in may_follow(constraint)
    read(constraint, engine, "a")
    assert {END, ord("b")} <= may_follow(constraint)
    read(constraint, engine, "b")
    assert constraint.may_end
    assert may_follow(constraint) == engine.tokenizer.eos_ids
    constraint.accept(END)
    assert constraint.mask() is None


def test_markers_are_never_part_of_a_text(grammars: Grammars) -> None:
    allowed = may_follow(grammars.constraint(source.from_pattern("(.|\n)+")))
    assert START not in allowed
    assert END not in allowed


@pytest.mark.parametrize("wrong", [{"ignore_eos": True}, {"min_tokens": 2}])
def test_what_forbids_the_end_is_refused(wrong: dict[str, Any], engine: Engine, grammars: Grammars) -> None:
    constraint = grammars.constraint(source.any_object())
    with pytest.raises(RequestError, match=next(iter(wrong))):
        engine.prepare(PROMPT, SamplingParams(**wrong), constraint=constraint)


# free text, then a grammar ------------------------------------------------------------------------


def test_a_marker_binds_what_follows(engine: Engine, grammars: Grammars) -> None:
    constraint = grammars.after(b"<call>", grammars.constraint(source.from_pattern("\n[0-9]+")))
    read(constraint, engine, "anything <cal <call")
    assert constraint.mask() is None
    read(constraint, engine, ">")
    read(constraint, engine, "\n12")
    assert END in may_follow(constraint)


def test_a_marker_that_does_not_fit_is_text(engine: Engine, grammars: Grammars) -> None:
    constraint = grammars.after(b"h", grammars.constraint(source.from_pattern("[0-9]")))
    read(constraint, engine, "he")  # one token: the marker, and what the grammar refuses
    assert constraint.mask() is None
    read(constraint, engine, "h1")
    assert may_follow(constraint) == engine.tokenizer.eos_ids


def test_what_the_marker_s_token_holds_behind_it_counts(engine: Engine, grammars: Grammars) -> None:
    token = engine.tokenizer.encode("er", special=False)
    assert len(token) == 1
    constraint = grammars.after(b"e", grammars.constraint(source.from_pattern("r[0-9]")))
    constraint.accept(token[0])
    assert may_follow(constraint) == set(b"0123456789")
    refused = grammars.after(b"e", grammars.constraint(source.from_pattern("[0-9]")))
    refused.accept(token[0])
    assert refused.mask() is None


def test_a_marker_may_be_a_token(grammars: Grammars) -> None:
    constraint = grammars.after(START, grammars.constraint(source.from_pattern("[0-9]")))
    constraint.accept(ord("a"))
    assert constraint.mask() is None
    constraint.accept(START)
    assert len(may_follow(constraint)) == 10


@settings(max_examples=30, deadline=None)
@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers(-(10**6), 10**6) | TEXT,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
        max_leaves=8,
    )
)
def test_every_object_in_compact_form_is_allowed(value: Any, engine: Engine, grammars: Grammars) -> None:
    constraint = grammars.constraint(source.any_object())
    assert isinstance(constraint, GrammarConstraint)
    text = json.dumps({"value": value}, ensure_ascii=False)
    assert constraint.follow(text.encode("utf-8"))
    assert constraint.may_end
