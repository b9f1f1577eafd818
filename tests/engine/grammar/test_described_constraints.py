"""Constraints that were sent as plain data allow what the originals allow, token by token."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from constrained import may_follow

from miaotui.engine.constraint import Constraint
from miaotui.engine.grammar import source
from miaotui.engine.grammar.constraint import Grammars
from miaotui.engine.grammar.described import describe, restore
from miaotui.engine.grammar.reasoning import ReasoningConstraint, ReasoningTokens
from miaotui.errors import RequestError
from miaotui.text.load import load_tokenizer
from tiny_tokenizer import VOCAB_SIZE, write_tokenizer


@pytest.fixture(scope="module")
def grammars(tmp_path_factory: pytest.TempPathFactory) -> Grammars:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return Grammars(load_tokenizer(None, folder), VOCAB_SIZE)


def made(grammars: Grammars, name: str) -> Constraint:
    spell = grammars._tokenizer.token_bytes
    schema = source.from_schema({"type": "array", "items": {"enum": ["red", 3]}, "minItems": 1, "maxItems": 3})
    if name == "schema":
        return grammars.constraint(schema)
    if name == "lark":
        return grammars.constraint(source.from_lark('start: "a" /[b-d]{2,4}/'))
    if name == "after bytes":
        return grammars.after(b"<x>", grammars.constraint(schema))
    if name == "after a token":
        return grammars.after(7, grammars.constraint(schema))
    tokens = ReasoningTokens((3,), (), b"</t>", (4, 5), VOCAB_SIZE, spell)
    inner = None if name == "free thought" else grammars.constraint(schema)
    return ReasoningConstraint(tokens, name == "open thought", 6, inner)


NAMES = ["schema", "lark", "after bytes", "after a token", "thought", "open thought", "free thought"]


@pytest.mark.parametrize("name", NAMES)
def test_a_constraint_comes_out_as_it_went_in(grammars: Grammars, name: str) -> None:
    rng = random.Random(name)
    original = made(grammars, name)
    described = json.loads(json.dumps(describe(original)))
    for _ in range(3):
        left = made(grammars, name)
        right = restore(described, grammars, grammars._tokenizer.token_bytes)
        assert left.decides_end == right.decides_end
        for _ in range(24):
            masks = left.mask(), right.mask()
            if masks[0] is None or masks[1] is None:
                assert masks[0] is masks[1]
                token = rng.choice([7, 3, *b"<x></t>a"])
            else:
                assert np.array_equal(*masks)
                if not may_follow(left):
                    break
                token = rng.choice(sorted(may_follow(left)))
            assert list(left.forced()) == list(right.forced())
            left.accept(token)
            right.accept(token)
    assert describe(left) == describe(original)  # what it has accepted makes no difference


@pytest.mark.parametrize("described", [{}, {"grammar": 3, "kind": "made"}, {"grammar": "x", "kind": "y"}, {"after": 1}])
def test_damaged_descriptions_are_refused(grammars: Grammars, described: dict[str, object]) -> None:
    with pytest.raises(RequestError):
        restore(described, grammars, grammars._tokenizer.token_bytes)
    with pytest.raises(RequestError, match="grammar"):
        restore({"grammar": "start: )", "kind": "lark"}, grammars, grammars._tokenizer.token_bytes)
