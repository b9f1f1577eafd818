"""/v1/chat/completions with OpenAI's own client, on a real port."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import openai
import plain_http
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from serving import Serving, serving

from miaotui.serve.openai.chat_wire import ChatChunk
from miaotui.serve.openai.chat_wire import ChatCompletion as OurCompletion
from tiny_engine import settings_in
from tiny_models import make_tiny_folder

HELLO: list[Any] = [{"role": "user", "content": "hello there"}]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("chat")
    models = {"tiny": make_tiny_folder(folder, "llama"), "other": make_tiny_folder(folder, "qwen3")}
    with serving(models, settings_in(folder)) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Serving) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def ask(client: openai.OpenAI, **more: Any) -> Any:
    chosen = {"model": "tiny", "messages": HELLO, "max_tokens": 12, "seed": 7} | more
    body = {"ignore_eos": True} | chosen.pop("extra_body", {})
    return client.chat.completions.create(**chosen, extra_body=body)


def contents(chunks: Any, n: int = 1) -> list[str]:
    texts = [""] * n
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    return texts


def test_an_answer_has_openais_shape_and_says_how_it_stood(client: openai.OpenAI) -> None:
    answer: ChatCompletion = ask(client)
    assert answer.object == "chat.completion"
    assert answer.id.startswith("chatcmpl-")
    assert answer.model == "tiny"
    assert answer.choices[0].finish_reason == "length"
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 12
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 12
    stood = answer.model_extra["deadline"] if answer.model_extra else {}
    assert stood["asked_ms"] is None
    assert stood["met"] is None
    assert stood["took_ms"] > 0
    OurCompletion.model_validate(answer.model_dump(mode="json", exclude_unset=True))


def test_a_streamed_answer_is_the_whole_answer(client: openai.OpenAI) -> None:
    whole = ask(client).choices[0].message.content
    chunks: list[ChatCompletionChunk] = list(ask(client, stream=True))
    assert contents(chunks) == [whole]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices[0].finish_reason] == ["length"]
    assert (chunks[-1].model_extra or {})["deadline"]["took_ms"] > 0
    assert all(chunk.usage is None for chunk in chunks)
    for chunk in chunks:
        ChatChunk.model_validate(chunk.model_dump(mode="json", exclude_unset=True))


def test_usage_comes_in_a_last_chunk_without_choices(client: openai.OpenAI) -> None:
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}))
    assert all(chunk.choices and chunk.usage is None for chunk in chunks[:-1])
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 12
    assert chunks[-1].model_extra["deadline"]["shortened"] is False


def test_n_answers_are_those_of_the_following_seeds(client: openai.OpenAI) -> None:
    alone = [ask(client, seed=seed).choices[0].message.content for seed in (7, 8, 9)]
    together = ask(client, n=3)
    assert [choice.message.content for choice in together.choices] == alone
    assert [choice.index for choice in together.choices] == [0, 1, 2]
    assert together.usage.completion_tokens == 36
    assert contents(ask(client, n=3, stream=True), 3) == alone
    assert len(set(alone)) == 3


def test_without_a_seed_answers_differ(client: openai.OpenAI) -> None:
    texts = {ask(client, seed=None).choices[0].message.content for _ in range(3)}
    assert len(texts) > 1


def test_negative_seeds_are_seeds(client: openai.OpenAI) -> None:
    assert ask(client, seed=-1).choices == ask(client, seed=-1).choices


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_have_texts_bytes_and_the_best(client: openai.OpenAI, stream: bool) -> None:
    answer = ask(client, logprobs=True, top_logprobs=3, temperature=0, stream=stream)
    choices = [c.choices[0] for c in answer] if stream else [answer.choices[0]]
    tokens = [token for c in choices if c.logprobs for token in c.logprobs.content]
    assert len(tokens) == 12
    for token in tokens:
        assert len(token.top_logprobs) == 3
        assert token.logprob == token.top_logprobs[0].logprob <= 0
        assert bytes(token.bytes).decode("utf-8", "replace") == token.token


def test_stop_strings_end_an_answer_and_are_not_shown(client: openai.OpenAI) -> None:
    whole = ask(client, temperature=0).choices[0].message.content
    stop = whole[2:4]
    cut = ask(client, temperature=0, stop=[stop, "never said"])
    assert cut.choices[0].finish_reason == "stop"
    assert cut.choices[0].message.content == whole[: whole.index(stop)]
    assert contents(ask(client, temperature=0, stop=stop, stream=True)) == [cut.choices[0].message.content]


def test_bias_and_penalties_are_heard(client: openai.OpenAI) -> None:
    biased = ask(client, logit_bias={"65": 100}, temperature=0)
    assert (
        biased.choices[0].message.content
        == client.chat.completions.create(
            model="tiny",
            messages=HELLO,
            temperature=0,
            max_tokens=12,
            logit_bias={"65": 100},
            extra_body={"ignore_eos": True, "top_k": 1, "min_p": 0.5, "repetition_penalty": 1.0},
        )
        .choices[0]
        .message.content
    )
    assert len(set(biased.choices[0].message.content)) == 1
    free = ask(client, temperature=0).choices[0].message.content
    held = ask(client, temperature=0, frequency_penalty=2, presence_penalty=2)
    assert held.choices[0].message.content != free


def test_stop_token_ids_and_min_tokens(client: openai.OpenAI) -> None:
    bias = {"65": 100}
    ended = ask(client, temperature=0, logit_bias=bias, extra_body={"stop_token_ids": [65]})
    assert ended.choices[0].finish_reason == "stop"
    assert ended.usage.completion_tokens == 1
    more = {"stop_token_ids": [65], "min_tokens": 4}
    later = ask(client, temperature=0, logit_bias=bias, extra_body=more)
    assert later.usage.completion_tokens >= 4


def test_what_web_frontends_always_send_is_taken(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="tiny",
        messages=[{"role": "system", "content": "Be kind."}, *HELLO],
        user="somebody",
        store=False,
        metadata={"chat": "1"},
        top_p=1,
        presence_penalty=0,
        frequency_penalty=0,
        max_completion_tokens=5,
        temperature=0.7,
        stop=None,
    )
    assert answer.usage is not None
    assert answer.usage.completion_tokens <= 5
    both = ask(client, max_tokens=9, max_completion_tokens=4, logprobs=False, top_logprobs=0)
    assert both.usage.completion_tokens == 4


def test_without_a_limit_the_context_is_the_limit(client: openai.OpenAI, server: Serving) -> None:
    answer = ask(client, max_tokens=None, temperature=0)
    assert answer.usage.total_tokens == server.hosts["tiny"].context
    assert answer.choices[0].finish_reason == "length"


def test_text_parts_are_joined(client: openai.OpenAI) -> None:
    parts = [{"type": "text", "text": "hello"}, {"type": "text", "text": "there"}]
    joined = ask(client, messages=[{"role": "user", "content": "hello\nthere"}])
    assert ask(client, messages=[{"role": "user", "content": parts}]).choices == joined.choices


def test_models_are_chosen_by_name(client: openai.OpenAI) -> None:
    assert {model.id for model in client.models.list()} == {"tiny", "other"}
    assert client.models.retrieve("other").owned_by == "miaotui"
    assert ask(client, model="other").choices != ask(client).choices
    with pytest.raises(openai.NotFoundError) as caught:
        ask(client, model="another")
    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("another")


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"temperature": -1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": 10_000}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stop": [""]}, "stop[0]"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"999999": 1}}, "logit_bias"),
        ({"logit_bias": {str(i): 1 for i in range(2000)}}, "logit_bias"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "boss", "content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "messages[0]"),
        ({"response_format": {"type": "tune"}}, "response_format.type"),
        ({"extra_body": {"deadline_ms": 0}}, "deadline_ms"),
        ({"extra_body": {"on_late": "whatever"}}, "on_late"),
        ({"extra_body": {"min_p": True}}, "min_p"),
        ({"extra_body": {"stop_token_ids": [-1]}}, "stop_token_ids[0]"),
        ({"extra_body": {"chat_template_kwargs": {"messages": "x"}}}, "chat_template_kwargs"),
        ({"extra_headers": {"X-Deadline-Ms": "soon"}}, "x-deadline-ms"),
    ],
)
def test_a_wrong_value_is_named(client: openai.OpenAI, wrong: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, **wrong)
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"
    assert caught.value.request_id


def test_long_prompts_are_refused_with_openais_code(client: openai.OpenAI) -> None:
    for text in ("word " * 400, "x" * 1_000_000):
        with pytest.raises(openai.BadRequestError) as caught:
            ask(client, messages=[{"role": "user", "content": text}])
        assert caught.value.code == "context_length_exceeded"


def test_unknown_fields_are_named_in_a_header(server: Serving) -> None:
    body = {"messages": HELLO, "max_tokens": 1, "mirostat": 2, "née\r\nx: y": 1}
    answer = plain_http.post(f"{server.url}/v1/chat/completions", json=body)
    assert answer.status_code == 200
    assert answer.headers["x-ignored-fields"] == "mirostat, n?e??x??y"
    assert answer.headers["x-request-id"].startswith("req_")
    assert (
        "x-ignored-fields"
        not in plain_http.post(f"{server.url}/v1/chat/completions", json={"messages": HELLO, "max_tokens": 1}).headers
    )


def test_deadlines_are_heard_from_body_and_headers(server: Serving) -> None:
    url = f"{server.url}/v1/chat/completions"
    body: dict[str, Any] = {"messages": HELLO, "max_tokens": 2, "ignore_eos": True}
    told = plain_http.post(url, json=body | {"deadline_ms": 60_000, "on_late": "best_effort"}).json()
    assert told["deadline"]["asked_ms"] == 60_000
    assert told["deadline"]["met"] is True
    told = plain_http.post(url, json=body, headers={"x-deadline-ms": "50000"}).json()
    assert told["deadline"]["asked_ms"] == 50_000
    told = plain_http.post(url, json=body, headers={"x-slo-ttft-ms": "50000"}).json()
    assert told["deadline"]["asked_ms"] is None


def test_what_cannot_be_done_in_time_is_refused_with_a_prediction(server: Serving) -> None:
    body = {"messages": HELLO, "max_tokens": 150, "ignore_eos": True, "deadline_ms": 0.01}
    for stream in (False, True):
        answer = plain_http.post(f"{server.url}/v1/chat/completions", json=body | {"stream": stream})
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) >= 1
        error = answer.json()["error"]
        assert error["code"] == "deadline_unattainable"
        assert error["predicted_ms"] > 0


def test_the_clients_own_accumulation_of_a_stream_is_the_answer(client: openai.OpenAI) -> None:
    ending = {"stop_token_ids": [65], "min_tokens": 6}
    whole = ask(client, max_tokens=100, logit_bias={"65": 100}, extra_body=ending)
    with client.chat.completions.stream(
        model="tiny",
        messages=HELLO,
        max_tokens=100,
        seed=7,
        logit_bias={"65": 100},
        extra_body={"ignore_eos": True} | ending,
    ) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done"} <= kinds
    assert final.choices[0].message.content == whole.choices[0].message.content
    assert final.choices[0].finish_reason == "stop"


def test_the_asynchronous_client_gets_the_same(client: openai.OpenAI, server: Serving) -> None:
    async def main() -> list[str | None]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as own:
            answers = await asyncio.gather(*(ask(own, seed=seed) for seed in range(4)))  # type: ignore[arg-type]
        return [answer.choices[0].message.content for answer in answers]

    alone = [ask(client, seed=seed).choices[0].message.content for seed in range(4)]
    assert asyncio.run(main()) == alone
