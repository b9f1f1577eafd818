"""LiteLLM and LangChain against a real server; they have dependencies of their own, hence a marker."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
from serving import Serving, serving

from tiny_engine import settings_in
from tiny_models import make_tiny_folder

pytestmark = pytest.mark.clients
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else it asks a server for prices

QUESTION: list[Any] = [{"role": "user", "content": "hello"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Looks a word up.",
        "parameters": {
            "type": "object",
            "properties": {"word": {"type": "string", "maxLength": 5}},
            "required": ["word"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("clients")
    model = make_tiny_folder(folder, "llama", max_position_embeddings=1024)
    with serving({"tiny": model}, settings_in(folder)) as running:
        yield running


# LiteLLM ------------------------------------------------------------------------------------------


def lite(server: Serving, **more: Any) -> Any:
    import litellm  # noqa: PLC0415 - a second, and only where the marker is asked for

    litellm.telemetry = False
    chosen = {"messages": QUESTION, "max_tokens": 8, "seed": 3, "temperature": 0} | more
    return litellm.completion(model="openai/tiny", api_base=f"{server.url}/v1", api_key="none", num_retries=0, **chosen)


def test_litellm_whole_and_streamed(server: Serving) -> None:
    whole = lite(server)
    assert whole.choices[0].finish_reason in ("stop", "length")
    assert whole.usage.prompt_tokens > 0
    streamed = list(lite(server, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in streamed if chunk.choices)
    assert text == whole.choices[0].message.content


def test_litellm_calls_tools(server: Serving) -> None:
    answer = lite(server, tools=[TOOL], tool_choice="required", max_tokens=100)
    (call,) = answer.choices[0].message.tool_calls[:1]
    assert call.function.name == "look_up"
    assert len(json.loads(call.function.arguments)["word"]) <= 5


def test_litellm_turns_our_errors_into_its_own(server: Serving) -> None:
    import litellm  # noqa: PLC0415

    with pytest.raises(litellm.BadRequestError):
        lite(server, temperature=-3)
    with pytest.raises(litellm.RateLimitError):
        lite(server, max_tokens=900, extra_body={"deadline_ms": 1, "ignore_eos": True})
    with pytest.raises(litellm.ContextWindowExceededError):
        lite(server, messages=[{"role": "user", "content": "word " * 2000}])


def test_litellm_speaks_anthropics_language(server: Serving) -> None:
    import litellm  # noqa: PLC0415

    chosen = {"messages": QUESTION, "max_tokens": 8, "temperature": 0}
    answer = litellm.completion(model="anthropic/tiny", api_base=server.url, api_key="none", num_retries=0, **chosen)
    assert answer.choices[0].message.content == lite(server).choices[0].message.content


# LangChain ----------------------------------------------------------------------------------------


@pytest.fixture
def chain(server: Serving) -> Any:
    from langchain_openai import ChatOpenAI  # noqa: PLC0415

    return ChatOpenAI(
        model="tiny", base_url=f"{server.url}/v1", api_key="none", max_retries=0, temperature=0, max_tokens=8, seed=3
    )


def test_langchain_whole_streamed_and_in_batches(chain: Any) -> None:
    whole = chain.invoke("hello")
    assert whole.usage_metadata["input_tokens"] > 0
    assert "".join(piece.content for piece in chain.stream("hello")) == whole.content
    assert [each.content for each in chain.batch(["hello", "hello"])] == [whole.content] * 2


def test_langchain_calls_tools(chain: Any) -> None:
    bound = chain.bind_tools([TOOL], tool_choice="look_up")
    call = bound.bind(max_tokens=100).invoke("look it up").tool_calls[0]
    assert call["name"] == "look_up"
    assert set(call["args"]) == {"word"}


def test_langchain_reads_structured_answers(chain: Any) -> None:
    from pydantic import BaseModel, Field  # noqa: PLC0415

    class Person(BaseModel):
        name: str = Field(max_length=6)
        age: int = Field(ge=0, le=9)

    chain.max_tokens = 100
    person = chain.with_structured_output(Person, method="json_schema").invoke("who?")
    assert isinstance(person, Person)


def test_langchain_takes_logprobs_and_stops(chain: Any) -> None:
    answer = chain.bind(logprobs=True, top_logprobs=2, stop=["q"]).invoke("hello")
    assert len(answer.response_metadata["logprobs"]["content"]) <= 8
