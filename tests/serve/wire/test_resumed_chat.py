"""Chats that go on: from known tokens, byte for byte, and from a text; and the prediction of a chat that is not run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import plain_http
import pytest
from serving import Serving, serving

from tiny_engine import settings_in
from tiny_models import make_tiny_folder

HELLO = [{"role": "user", "content": "hello there"}]
SCHEMA = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"enum": ["one", "two", "three"]}}}
PARAMETERS: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 1, "seed": 5, "logprobs": True, "top_logprobs": 2},
    {"temperature": 1, "seed": 6, "presence_penalty": 1.5, "frequency_penalty": 0.5, "repetition_penalty": 1.3},
    {"temperature": 1, "seed": 7, "min_tokens": 14, "logit_bias": {"2": 5}},
    {"temperature": 1, "seed": 8, "response_format": SCHEMA, "ignore_eos": None},
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("resumed")
    with serving({"tiny": make_tiny_folder(folder, "llama")}, settings_in(folder)) as running:
        yield running


def post(server: Serving, path: str = "/v1/chat/completions", **body: Any) -> httpx.Response:
    chosen = {"messages": HELLO, "max_tokens": 16, "ignore_eos": True, "explain": True, **body}
    return plain_http.post(f"{server.url}{path}", json=chosen, timeout=30)


def choice_of(server: Serving, **body: Any) -> Any:
    response = post(server, **body)
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]


def streamed(server: Serving, **body: Any) -> tuple[str, list[Any], str]:
    """The text of a stream, the notes of its tokens, and why it ended."""
    text, notes, reason = "", list[Any](), ""
    for line in post(server, stream=True, **body).text.splitlines():
        if line.startswith("data: {"):
            for choice in json.loads(line[6:])["choices"]:
                text += choice["delta"].get("content") or ""
                notes += choice.get("tokens") or []
                reason = choice["finish_reason"] or reason
    return text, notes, reason


def ids(notes: list[Any]) -> list[int]:
    return [note["id"] for note in notes]


@pytest.mark.parametrize("parameters", PARAMETERS, ids=",".join)
def test_an_answer_goes_on_with_the_same_bytes_from_each_of_its_tokens(
    server: Serving, parameters: dict[str, Any]
) -> None:
    whole = choice_of(server, **parameters)
    tokens = ids(whole["tokens"])
    assert len(tokens) > 1
    for count in sorted({1, len(tokens) // 2, len(tokens) - 1}):
        again = choice_of(server, answer_token_ids=tokens[:count], **parameters)
        assert again["message"] == whole["message"]
        assert ids(again["tokens"]) == tokens
        assert [note["source"] for note in again["tokens"][:count]] == ["given"] * count
        text, notes, reason = streamed(server, answer_token_ids=tokens[:count], **parameters)
        assert (text, ids(notes), reason) == (whole["message"]["content"], tokens, whole["finish_reason"])


def test_a_stop_text_that_began_before_the_break_still_ends_the_answer(server: Serving) -> None:
    whole = choice_of(server, temperature=1, seed=9)
    tokens = whole["tokens"]
    stop = tokens[6]["text"] + tokens[7]["text"]
    cut = choice_of(server, temperature=1, seed=9, stop=stop)
    assert cut["finish_reason"] == "stop"
    again = choice_of(server, temperature=1, seed=9, stop=stop, answer_token_ids=ids(tokens)[:7])
    assert (again["message"], again["finish_reason"]) == (cut["message"], "stop")


def test_an_answer_that_has_ended_does_not_go_on(server: Serving) -> None:
    tokens = ids(choice_of(server)["tokens"])
    full = post(server, answer_token_ids=tokens)
    assert full.status_code == 400
    assert "limit is 16" in full.json()["error"]["message"]
    unknown = post(server, answer_token_ids=[10**6])
    assert unknown.status_code == 400
    wrong = post(server, answer_token_ids=tokens[:1], response_format=SCHEMA, ignore_eos=None)
    assert wrong.status_code == 400
    assert "does not fit" in wrong.json()["error"]["message"]


def test_usage_counts_the_whole_answer(server: Serving) -> None:
    whole = post(server).json()
    tokens = ids(whole["choices"][0]["tokens"])
    again = post(server, answer_token_ids=tokens[:9]).json()
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert again["usage"][name] == whole["usage"][name]


def test_a_text_is_continued(server: Serving) -> None:
    said = [*HELLO, {"role": "assistant", "content": "one two"}]
    body = {"messages": said, "continue_final_message": True}
    begun = plain_http.post(f"{server.url}/tokenize", json={"messages": HELLO}).json()["tokens"]
    assert post(server, **body).json()["usage"]["prompt_tokens"] > len(begun)
    assert choice_of(server, **body)["message"]["content"] != choice_of(server)["message"]["content"]


@pytest.mark.parametrize(
    "said",
    [HELLO, [{"role": "assistant", "content": "one"}], [*HELLO, {"role": "assistant", "content": None}]],
    ids=["user", "alone", "empty"],
)
def test_only_the_beginning_of_an_answer_is_continued(server: Serving, said: list[Any]) -> None:
    refused = post(server, messages=said, continue_final_message=True)
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "continue_final_message"


def test_each_token_has_a_note(server: Serving) -> None:
    answer = choice_of(server, temperature=0, max_tokens=64)
    text, notes, _ = streamed(server, temperature=0, max_tokens=64)
    assert text == answer["message"]["content"]
    assert ids(notes) == ids(answer["tokens"])
    assert len(notes) == 64
    assert {note["source"] for note in notes} <= {"model", "text", "past"}
    scored = choice_of(server, temperature=0, logprobs=True, top_logprobs=3)
    for note, token in zip(scored["tokens"], scored["logprobs"]["content"], strict=True):
        assert (note["text"], note["logprob"]) == (token["token"], token["logprob"])
        assert [each[1] for each in note["alternatives"]] == [best["token"] for best in token["top_logprobs"]]


def test_what_repeats_is_drafted_and_says_so(server: Serving) -> None:
    bias = {"4": 100}  # the same token again and again: the text drafts itself
    answer = choice_of(server, temperature=0, max_tokens=96, logit_bias=bias)
    drafted = [note["source"] for note in answer["tokens"]].count("text")
    assert drafted > 10
    steps = answer["timeline"]["steps"]
    assert sum(step[2] for step in steps) == drafted


def test_the_time_line_holds_all_tokens_and_goes_forwards(server: Serving) -> None:
    line = choice_of(server)["timeline"]
    assert sum(step[1] for step in line["steps"]) == 15  # the first one comes with the prompt
    moments = [step[0] for step in line["steps"]]
    assert moments == sorted(moments)
    assert moments[0] >= line["queue_ms"] + line["prefill_ms"] > 0
    assert line["cached_tokens"] <= line["prompt_tokens"]


def test_nothing_is_explained_unless_asked_for(server: Serving) -> None:
    answer = choice_of(server, explain=None)
    assert "tokens" not in answer
    assert "timeline" not in answer


def promise(server: Serving, **body: Any) -> Any:
    response = post(server, "/v1/promise", **body)
    assert response.status_code == 200, response.text
    return response.json()


def test_a_prediction_runs_nothing(server: Serving) -> None:
    loop = server.hosts["tiny"].loop
    before = len(loop.admission)
    found = promise(server, deadline_ms=60_000)
    assert found["fits"]
    assert found["answer_tokens"] == 16
    assert found["fitting_tokens"] is None
    assert 0 < found["predicted_ms"] < 60_000
    assert (len(loop.admission), server.in_flight()) == (before, 0)
    kept = post(server, deadline_ms=60_000).json()["deadline"]
    assert kept["predicted_ms"] == pytest.approx(found["predicted_ms"], rel=0.9)


def test_a_deadline_that_is_too_short_says_what_would_fit(server: Serving) -> None:
    long = promise(server, max_tokens=100, deadline_ms=60_000)["predicted_ms"]
    found = promise(server, max_tokens=100, deadline_ms=0.5 * long)
    assert not found["fits"]
    assert found["fitting_tokens"] is None or 1 <= found["fitting_tokens"] < 100
    assert promise(server, max_tokens=100)["fits"]


def test_a_prediction_is_refused_for_what_the_chat_would_refuse(server: Serving) -> None:
    for wrong in ({"messages": []}, {"temperature": -1}, {"model": "none"}):
        assert post(server, "/v1/promise", **wrong).status_code == post(server, **wrong).status_code >= 400
