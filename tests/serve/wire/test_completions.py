"""/v1/completions, /tokenize and /detokenize on a real port."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import plain_http
import pytest
from serving import Serving, serving

from miaotui.serve.openai.completions_wire import TextCompletion
from tiny_engine import settings_in
from tiny_models import make_tiny_folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("completions")
    with serving({"tiny": make_tiny_folder(folder, "llama")}, settings_in(folder)) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Serving) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def ask(client: openai.OpenAI, **more: Any) -> Any:
    chosen = {"model": "tiny", "prompt": "the end", "max_tokens": 8, "seed": 3} | more
    own = {name: chosen.pop(name) for name in ("prompt_logprobs",) if name in chosen}
    return client.completions.create(**chosen, extra_body={"ignore_eos": True, **own})


def texts(chunks: Any, count: int) -> list[str]:
    joined = [""] * count
    for chunk in chunks:
        for choice in chunk.choices:
            joined[choice.index] += choice.text
    return joined


def post(server: Serving, path: str, **body: Any) -> Any:
    return plain_http.post(f"{server.url}{path}", json=body).json()


def test_an_answer_has_openais_shape(client: openai.OpenAI) -> None:
    answer = ask(client)
    assert answer.object == "text_completion"
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 8
    TextCompletion.model_validate(answer.model_dump(mode="json", exclude_unset=True))
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}))
    assert texts(chunks, 1) == [answer.choices[0].text]
    assert chunks[-1].choices == []
    assert chunks[-1].usage == answer.usage
    for chunk in chunks:
        TextCompletion.model_validate(chunk.model_dump(mode="json", exclude_unset=True))


def test_without_a_limit_there_are_sixteen_tokens(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="tiny", prompt="a", extra_body={"ignore_eos": True})
    assert answer.usage
    assert answer.usage.completion_tokens == 16


def test_a_prompt_has_four_forms(client: openai.OpenAI, server: Serving) -> None:
    ids = post(server, "/tokenize", prompt="the end")["tokens"]
    other = post(server, "/tokenize", prompt="and on")["tokens"]
    alone = [ask(client, prompt=prompt).choices[0].text for prompt in ("the end", "and on")]
    assert ask(client, prompt=ids).choices[0].text == alone[0]
    for prompts in (["the end", "and on"], [ids, other]):
        answer = ask(client, prompt=prompts)
        assert [choice.text for choice in answer.choices] == alone
        assert texts(ask(client, prompt=prompts, stream=True), 2) == alone


def test_n_answers_to_each_prompt_lie_together(client: openai.OpenAI) -> None:
    answer = ask(client, prompt=["the end", "and on"], n=2)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    second = ask(client, prompt="and on", seed=4)
    assert answer.choices[3].text == second.choices[0].text
    assert answer.usage.prompt_tokens == sum(
        ask(client, prompt=prompt).usage.prompt_tokens for prompt in ("the end", "and on")
    )


def test_echo_puts_the_prompt_first(client: openai.OpenAI, server: Serving) -> None:
    plain = ask(client).choices[0].text
    ids = post(server, "/tokenize", prompt="the end")["tokens"]
    for prompt in ("the end", ids):
        assert ask(client, prompt=prompt, echo=True).choices[0].text == "the end" + plain
        assert texts(ask(client, prompt=prompt, echo=True, stream=True), 1) == ["the end" + plain]


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_are_lists_with_offsets(client: openai.OpenAI, stream: bool) -> None:
    answer = ask(client, logprobs=2, temperature=0, stream=stream)
    answer = list(answer) if stream else answer
    parts = [c.choices[0].logprobs for c in answer] if stream else [answer.choices[0].logprobs]
    tokens = [token for part in parts if part for token in part.tokens]
    offsets = [offset for part in parts if part for offset in part.text_offset]
    tops = [top for part in parts if part for top in part.top_logprobs]
    assert len(tokens) == len(offsets) == len(tops) == 8
    text = "".join(texts(answer, 1)) if stream else answer.choices[0].text
    assert offsets == sorted(offsets)
    for token, offset in zip(tokens, offsets, strict=True):
        assert "\ufffd" in token or text[offset : offset + len(token)] == token
    assert all(1 <= len(top) <= 2 for top in tops)


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"suffix": "!"}, "suffix"),
        ({"best_of": 3}, "best_of"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt"),
        ({"prompt": [1, True]}, "prompt"),
        ({"prompt": [1.5]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": ["a"] * 65}, "prompt"),
        ({"prompt": ["a"] * 33, "n": 2}, "n"),
        ({"prompt": {"text": "a"}}, "prompt"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 0, "logprobs": 1}, "max_tokens"),
        ({"echo": True, "logprobs": 21}, "logprobs"),
        ({"prompt_logprobs": 21}, "prompt_logprobs"),
        ({"prompt_logprobs": -1}, "prompt_logprobs"),
        ({"prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
    ],
)
def test_a_wrong_value_is_named(client: openai.OpenAI, wrong: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, **wrong)
    assert caught.value.param == param


def test_prompts_beyond_the_model_are_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="ids go from 0 to 319"):
        ask(client, prompt=[5, 100_000])
    with pytest.raises(openai.BadRequestError, match="no tokens"):
        ask(client, prompt="")
    for prompt in ([1] * 5000, "word " * 500, "x" * 1_000_000, ["a", "word " * 500]):
        with pytest.raises(openai.BadRequestError) as caught:
            ask(client, prompt=prompt)
        assert caught.value.code == "context_length_exceeded"
        assert caught.value.param == "prompt"


def test_tokens_of_texts_and_conversations(server: Serving) -> None:
    told = post(server, "/tokenize", prompt="the end", return_token_strs=True)
    assert told["count"] == len(told["tokens"])
    assert "".join(told["token_strs"]) == "the end"
    assert told["max_model_len"] == server.hosts["tiny"].context
    assert post(server, "/detokenize", tokens=told["tokens"]) == {"prompt": "the end"}
    chat = post(server, "/tokenize", messages=[{"role": "user", "content": "hi"}])
    text = post(server, "/detokenize", tokens=chat["tokens"])["prompt"]
    assert text == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    open_ended = post(server, "/tokenize", messages=[{"role": "user", "content": "hi"}], add_generation_prompt=False)
    assert chat["tokens"][: open_ended["count"]] == open_ended["tokens"]


def test_wrong_tokens_are_refused(server: Serving) -> None:
    assert post(server, "/detokenize", tokens=[320])["error"]["param"] == "tokens"
    assert post(server, "/detokenize", tokens=["a"])["error"]["param"] == "tokens[0]"
    assert post(server, "/tokenize")["error"]["param"] == "prompt"
    assert post(server, "/tokenize", prompt="a", messages=[])["error"]["code"] == "invalid_value"
    half = plain_http.post(f"{server.url}/tokenize", content=b'{"prompt": "\\ud800"}')
    assert half.status_code == 400
    assert "half a character" in half.json()["error"]["message"]
