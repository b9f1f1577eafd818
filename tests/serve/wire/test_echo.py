"""Log-probabilities of prompts over HTTP: echo, prompt_logprobs, /tokenizer_info, and what evaluation programs ask."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import plain_http
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from serving import Serving, serving

from miaotui.serve.openai.chat_wire import ChatCompletion
from miaotui.serve.openai.completions_wire import TextCompletion
from miaotui.serve.openai.logprobs import TextLogprobs, prompt_offsets
from miaotui.serve.wire import params
from miaotui.text.load import load_tokenizer
from miaotui.text.tokenizers.tokenizer import Tokenizer
from miaotui.types import TokenLogprobs
from tiny_engine import settings_in
from tiny_models import make_tiny_folder
from tiny_tokenizer import write_tokenizer

PROMPT = "the end, then é and 汉字"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("echo")
    with serving({"tiny": make_tiny_folder(folder, "llama")}, settings_in(folder)) as running:
        yield running


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder)
    return load_tokenizer(None, folder)


def post(server: Serving, path: str, **body: Any) -> Any:
    return plain_http.post(f"{server.url}{path}", json=body).json()


def complete(server: Serving, **more: Any) -> Any:
    body = {"prompt": PROMPT, "max_tokens": 1, "temperature": 0, "logprobs": 1, "echo": True, "ignore_eos": True}
    answer = post(server, "/v1/completions", **{**body, **more})
    if "choices" in answer:
        TextCompletion.model_validate(answer)
    return answer


def events(server: Serving, **body: Any) -> list[Any]:
    text = plain_http.post(f"{server.url}/v1/completions", json={**body, "stream": True}).text
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def ids_of(server: Serving, text: str) -> list[int]:
    found: list[int] = post(server, "/tokenize", prompt=text, add_special_tokens=False)["tokens"]
    return found


def test_what_lm_evaluation_harness_asks(server: Serving) -> None:
    prompts = [ids_of(server, text) for text in (PROMPT, "a", "and so on and on")]
    body = {"model": "tiny", "temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": True}
    answer = post(server, "/v1/completions", prompt=prompts, **body)
    choices = sorted(answer["choices"], key=lambda choice: choice["index"])
    assert [choice["index"] for choice in choices] == [0, 1, 2]
    for prompt, choice in zip(prompts, choices, strict=True):
        logprobs = choice["logprobs"]
        assert len(logprobs["token_logprobs"]) == len(logprobs["top_logprobs"]) == len(prompt) + 1
        assert logprobs["token_logprobs"][0] is None
        assert all(isinstance(each, float) for each in logprobs["token_logprobs"][1:])
        assert logprobs["token_logprobs"][-1] == max(logprobs["top_logprobs"][-1].values()), "greedy is the best"
    alone = [complete(server, prompt=prompt, seed=1234, ignore_eos=False)["choices"][0] for prompt in prompts]
    assert [each | {"index": 0} for each in choices] == alone
    count = sum(map(len, prompts))
    assert answer["usage"]["prompt_tokens"] == count
    assert answer["usage"]["total_tokens"] == count + 3


def test_scores_of_an_answer_are_those_it_had_when_it_was_written(server: Serving) -> None:
    """Exactly equal floats, also among the best tokens."""
    prompt = ids_of(server, PROMPT)
    written = complete(server, prompt=prompt, max_tokens=24, logprobs=3, echo=False)["choices"][0]["logprobs"]
    whole = complete(server, prompt=prompt, max_tokens=24, logprobs=3)["choices"][0]["logprobs"]
    for name in ("tokens", "token_logprobs", "top_logprobs"):
        assert whole[name][len(prompt) :] == written[name]
    for own, best in zip(written["token_logprobs"], written["top_logprobs"], strict=True):
        assert own == max(best.values())


@pytest.mark.parametrize("most", [0, 1, 5])
@pytest.mark.parametrize("as_text", [True, False])
def test_echo_with_and_without_an_answer(server: Serving, most: int, as_text: bool) -> None:
    ids = ids_of(server, PROMPT)
    answer = complete(server, prompt=PROMPT if as_text else ids, max_tokens=most, logprobs=2)
    (choice,) = answer["choices"]
    plain = complete(server, echo=False, max_tokens=most)["choices"][0]["text"] if most else ""
    assert choice["text"] == PROMPT + plain
    assert choice["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == most
    assert answer["usage"]["prompt_tokens"] == len(ids)
    logprobs = choice["logprobs"]
    assert {len(values) for values in logprobs.values()} == {len(ids) + most}
    assert logprobs["top_logprobs"][0] is None
    for token, offset in zip(logprobs["tokens"], logprobs["text_offset"], strict=True):
        assert "\ufffd" in token or choice["text"][offset : offset + len(token)] == token


def test_echo_of_a_prompt_alone_needs_no_logprobs(server: Serving) -> None:
    (choice,) = complete(server, max_tokens=0, logprobs=None)["choices"]
    assert choice["text"] == PROMPT
    assert choice["logprobs"] is None


def test_streams_carry_the_prompt_in_their_first_piece(server: Serving) -> None:
    body = {"prompt": [PROMPT, "and"], "max_tokens": 6, "temperature": 0, "logprobs": 2, "ignore_eos": True}
    whole = complete(server, **body)["choices"]
    for more in ({}, {"logprobs": None}):
        chunks = events(server, **{**body, "echo": True, **more})
        for index in (0, 1):
            parts = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
            assert "".join(part["text"] for part in parts) == whole[index]["text"]
            assert parts[0]["text"].startswith(whole[index]["text"][:3])
            found = [part["logprobs"] for part in parts if part["logprobs"]]
            if more:
                assert not found
            else:
                names = ("tokens", "token_logprobs", "top_logprobs", "text_offset")
                joined = {name: [each for part in found for each in part[name]] for name in names}
                assert joined == whole[index]["logprobs"]
    (only,) = events(server, **{**body, "prompt": PROMPT, "echo": True, "max_tokens": 0})
    assert only["choices"][0]["text"] == PROMPT


def test_prompt_logprobs_in_vllms_form(server: Serving) -> None:
    ids = ids_of(server, PROMPT)
    answer = complete(server, prompt=ids, echo=False, logprobs=None, prompt_logprobs=2)
    found = answer["choices"][0]["prompt_logprobs"]
    echoed = complete(server, prompt=ids)["choices"][0]["logprobs"]["token_logprobs"]
    assert found[0] is None
    assert len(found) == len(ids)
    for token, entry, logprob in zip(ids[1:], found[1:], echoed[1:], strict=False):
        assert entry[str(token)]["logprob"] == logprob
        assert 2 <= len(entry) <= 3
        ranks = [each["rank"] for each in entry.values()]
        assert {1, 2} <= set(ranks)
        assert [each["logprob"] for each in sorted(entry.values(), key=lambda each: each["rank"])] == sorted(
            (each["logprob"] for each in entry.values()), reverse=True
        )
    assert "prompt_logprobs" not in complete(server)["choices"][0]


def test_prompt_logprobs_of_a_conversation(server: Serving) -> None:
    messages = [{"role": "user", "content": "hello"}]
    ids = post(server, "/tokenize", messages=messages)["tokens"]
    body = {"messages": messages, "temperature": 0, "prompt_logprobs": 1}
    answer = post(server, "/v1/chat/completions", max_tokens=3, **body)
    ChatCompletion.model_validate(answer)
    found = answer["prompt_logprobs"]
    assert found == complete(server, prompt=ids, prompt_logprobs=1)["choices"][0]["prompt_logprobs"]
    alone = post(server, "/v1/chat/completions", max_tokens=0, **body)
    assert alone["prompt_logprobs"] == found
    assert alone["choices"][0]["message"]["content"] == ""
    assert alone["usage"]["completion_tokens"] == 0
    refused = post(server, "/v1/chat/completions", max_tokens=0, messages=messages)
    assert refused["error"]["param"] == "max_tokens"


def test_more_numbers_than_an_answer_holds_are_refused(server: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(params, "MAX_PROMPT_LOGPROBS", 2 * 10 * 21)
    for count, logprobs, more in ((3, 20, {}), (1, 20, {"n": 3}), (2, 20, {"prompt_logprobs": 20, "n": 2})):
        wrong = complete(server, prompt=[[5] * 10] * count, logprobs=logprobs, **more)["error"]
        assert wrong["param"] == ("prompt_logprobs" if "prompt_logprobs" in more else "logprobs")
        assert "exceed 420" in wrong["message"]
    assert len(complete(server, prompt=[[5] * 10] * 2, logprobs=20)["choices"]) == 2


def test_a_prompt_may_fill_the_context_when_only_scored(server: Serving) -> None:
    full = [5] * server.hosts["tiny"].context
    assert len(complete(server, prompt=full, max_tokens=0)["choices"][0]["logprobs"]["tokens"]) == len(full)
    assert complete(server, prompt=full, max_tokens=1)["error"]["code"] == "context_length_exceeded"
    assert complete(server, prompt=[*full, 5], max_tokens=0)["error"]["code"] == "context_length_exceeded"


def test_a_deadline_counts_the_scoring(server: Serving) -> None:
    """A forecast knows that each row needs logits: it foresees more time than for an answer to the same prompt."""
    long = [5] * 200
    admitted = complete(server, prompt=long, max_tokens=1, deadline_ms=60_000)["deadline"]
    assert admitted["met"]
    refused = complete(server, prompt=long, max_tokens=1, deadline_ms=0.01)
    assert refused["error"]["code"] == "deadline_unattainable"
    plain = complete(server, prompt=[6] * 200, max_tokens=1, deadline_ms=60_000, logprobs=None, echo=False)["deadline"]
    assert admitted["predicted_ms"] > plain["predicted_ms"]


def test_the_tokenizer_describes_itself(server: Serving) -> None:
    info = plain_http.get(f"{server.url}/tokenizer_info").json()
    (eos,) = ids_of(server, info["eos_token"])
    assert eos in server.hosts["tiny"].tokenizer.eos_ids
    assert info["bos_token"] is None
    assert info["model_max_length"] == server.hosts["tiny"].context
    assert "messages" in info["chat_template"]


def test_what_evaluation_programs_send_besides_is_taken(server: Serving) -> None:
    body = {
        "messages": [{"type": "text", "role": "user", "content": "hello"}],
        "max_tokens": 9,
        "max_completion_tokens": 4,
        "stop": None,
        "logprobs": None,
        "top_logprobs": None,
        "prompt_logprobs": None,
        "ignore_eos": True,
        "temperature": 0,
    }
    for key in ("Bearer", "Bearer none"):
        answer = plain_http.post(f"{server.url}/v1/chat/completions", json=body, headers={"Authorization": key})
        assert answer.status_code == 200
        assert answer.json()["usage"]["completion_tokens"] == 4


def test_no_event_with_choices_comes_before_a_token(server: Serving) -> None:
    """Load generators take the first such event for the first token; each answer's first event names the role."""
    body = {"messages": [{"role": "user", "content": "hello " * 20}], "n": 3, "max_tokens": 5, "stream": True}
    text = plain_http.post(f"{server.url}/v1/chat/completions", json={**body, "ignore_eos": True, "seed": 1}).text
    first: dict[int, Any] = {}
    for line in text.splitlines():
        if line.startswith("data: {"):
            for choice in json.loads(line[6:])["choices"]:
                first.setdefault(choice["index"], choice["delta"])
    assert {index: delta["role"] for index, delta in first.items()} == dict.fromkeys(range(3), "assistant")
    assert all(delta["content"] for delta in first.values())


@given(st.text(max_size=30))
def test_offsets_are_those_of_characters(tokenizer: Tokenizer, text: str) -> None:
    tokens = tokenizer.encode(text)
    starts, spelled = [], b""
    for token in tokens:
        starts.append(len(spelled.decode("utf-8", "ignore")))
        spelled += tokenizer.token_bytes(token)
    if spelled == text.encode():  # no normalization
        assert prompt_offsets(tokenizer, tokens, text) == starts
        assert prompt_offsets(tokenizer, [0, *tokens], text)[1:] == starts, "a token that was put in front"
        found = [TokenLogprobs(token, -1.0, ()) for token in tokens]
        assert TextLogprobs(tokenizer, 0, "before ").answer(found)["text_offset"] == [7 + start for start in starts]


@given(st.lists(st.integers(0, 255), max_size=20))
@example([237, 160, 0])  # the decoder keeps two bytes that become two U+FFFD
def test_offsets_within_broken_text_are_in_order_and_in_the_text(tokenizer: Tokenizer, tokens: list[int]) -> None:
    text = tokenizer.decode(tokens, skip_special=False)
    offsets = prompt_offsets(tokenizer, tokens, text)
    assert offsets == sorted(offsets)
    for token, offset in zip(tokens, offsets, strict=True):
        own = tokenizer.token_text(token)
        assert offset < len(text)
        assert not own or text[offset : offset + len(own)] == own


def test_of_equal_texts_the_likeliest_counts(tokenizer: Tokenizer) -> None:
    broken = [token for token in range(256) if tokenizer.token_text(token) is None][:3]
    found = TokenLogprobs(broken[2], -3.0, ((broken[0], -1.0), (broken[1], -2.0)))
    assert TextLogprobs(tokenizer, 2).answer([found])["top_logprobs"] == [{"\ufffd": -1.0}]
