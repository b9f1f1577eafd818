"""Messages between ingress and replicas: what goes in comes out, and anything else is refused."""

from __future__ import annotations

import ast
import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miaotui.cluster import messages
from miaotui.cluster.membership import admissible
from miaotui.cluster.messages import RemoteRequest, end_piece, error_of, error_piece, logprobs_of, tokens_piece
from miaotui.errors import (
    DeadlineUnattainableError,
    EngineError,
    MiaotuiError,
    OverloadedError,
    PromptTooLongError,
    RequestError,
)
from miaotui.types import Deadline, SamplingParams, TokenLogprobs

ASKED = RemoteRequest(
    prompt=(1, 2, 3),
    params=SamplingParams(max_tokens=9, temperature=0.5, seed=7, stop=("x",), logit_bias={3: -1.5}, logprobs=2),
    namespace=4,
    begun=(5, 6),
    passages=((7, 8), ()),
    deadline=Deadline(total_ms=100, on_late="shorten"),
    spent_ms=3.25,
    adapter=("law", "a" * 64),
    constraint={"grammar": "start: /a+/", "kind": "made"},
)
DESCRIBED = {"protocol": 2, "miaotui": "0.1.0", "digest": "a" * 64, "computes": ["cpu", ["q8"]], "context": 512}


def through_json(message: Any) -> Any:
    return json.loads(json.dumps(message))


def test_a_request_comes_out_as_it_went_in() -> None:
    assert RemoteRequest.read(through_json(ASKED.message(1))) == ASKED
    plain = RemoteRequest((1,), SamplingParams())
    assert RemoteRequest.read(through_json(plain.message(1))) == plain
    assert plain.message(1)["params"] == {}


def test_another_version_is_refused_by_name() -> None:
    with pytest.raises(RequestError, match="run one version of miaotui"):
        RemoteRequest.read({**ASKED.message(1), "version": 3})


@given(
    st.sampled_from(sorted(ASKED.message(1))),
    st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=3), lambda x: st.lists(x, max_size=3)),
)
def test_damaged_messages_end_in_a_request_error(name: str, value: Any) -> None:
    message = {**ASKED.message(1), name: value}
    with contextlib.suppress(RequestError):
        RemoteRequest.read(message)
    del message[name]
    if name != "number":
        with pytest.raises(RequestError):
            RemoteRequest.read(message)


def test_pieces_carry_tokens_and_log_probabilities() -> None:
    logprobs = [TokenLogprobs(3, -0.5, ((3, -0.5), (4, -1.0))), TokenLogprobs(4, -2.0, ())]
    assert logprobs_of(through_json(tokens_piece([3, 4], 0, 16, logprobs))) == logprobs
    assert logprobs_of(through_json(tokens_piece([3, 4], 0, 16, ()))) == [None, None]
    assert end_piece("stop", False) == {"end": "stop", "shortened": False}


@pytest.mark.parametrize(
    "error",
    [
        DeadlineUnattainableError("late", 0.5, 812.0),
        OverloadedError("full", 1.5),
        PromptTooLongError("long"),
        RequestError("wrong"),
        EngineError("broken"),
    ],
)
def test_errors_cross_as_what_they_are(error: MiaotuiError) -> None:
    found = error_of(through_json(error_piece(error)))
    assert type(found) is type(error)
    assert (str(found), vars(found)) == (str(error), vars(error))


def test_replicas_that_differ_may_not_join() -> None:
    expected: dict[str, Any] = {"protocol": 2, "digest": "a" * 64}
    assert admissible(DESCRIBED, expected) is None
    assert expected == DESCRIBED  # the first one says what the others must be
    for name, other, reason in (
        ("protocol", 3, "version 3"),
        ("miaotui", "0.2.0", "one version in the whole cluster"),
        ("digest", "b" * 64, "its model file is another one"),
        ("computes", ["cpu", ["q4"]], "computes otherwise"),
        ("context", 256, "its context holds 256"),
    ):
        assert reason in (admissible({**DESCRIBED, name: other}, expected) or "")


def test_nothing_in_a_cluster_reads_the_time_of_day() -> None:
    """A clock that jumps, or another machine's, decides nothing: deadlines cross as time that is spent."""
    source = Path(messages.__file__).parent
    readers = {
        path.name
        for path in [*source.rglob("*.py"), *(source.parent / "engine" / "remote").rglob("*.py")]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("time.time", "time.time_ns", "datetime.now")
    }
    assert readers == set()
    late = RemoteRequest((1,), SamplingParams(), deadline=Deadline(total_ms=100), spent_ms=40.0)
    crossed = through_json(late.message(1))
    assert (crossed["deadline"]["total_ms"], crossed["spent_ms"]) == (100, 40.0)
