"""/v1/responses with OpenAI's own client, on a real port."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import jsonschema
import openai
import plain_http
import pytest
from serving import Serving, serving

from miaotui.errors import OverloadedError
from miaotui.serve.http.errors import ApiError
from miaotui.serve.openai.responses.store import KEPT, RUNNING, ResponseStore, StoredResponse
from tiny_engine import settings_in
from tiny_models import make_tiny_folder

FREE = {"ignore_eos": True, "seed": 7}
CITY = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOLS: Any = [{"type": "function", "name": "weather", "parameters": CITY, "strict": True}]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("responses")
    path = make_tiny_folder(folder, "llama", max_position_embeddings=2048)
    with serving({"tiny": path}, settings_in(folder)) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Serving) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def ask(client: openai.OpenAI, **more: Any) -> Any:
    wanted = {"input": "hello", "max_output_tokens": 12, "extra_body": FREE, **more}
    return client.responses.create(model="tiny", **wanted)


# answers ------------------------------------------------------------------------------------------


def test_an_answer(client: openai.OpenAI) -> None:
    response = ask(client)
    assert (response.object, response.status, response.model) == ("response", "incomplete", "tiny")
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.output[0].type == "message"
    assert response.output_text
    assert response.usage.output_tokens == 12
    assert response.deadline["met"] is None


def test_chat_says_the_same(server: Serving, client: openai.OpenAI) -> None:
    chat = client.chat.completions.create(
        model="tiny",
        messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}],
        max_tokens=12,
        extra_body=FREE,
    )
    assert ask(client, instructions="Be brief.").output_text == chat.choices[0].message.content


def test_streamed_is_whole(client: openai.OpenAI) -> None:
    whole = ask(client)
    events = list(ask(client, stream=True))
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    final = events[-1].response
    assert deltas == events[-4].text == final.output_text == whole.output_text
    assert final.deadline["took_ms"] > 0


def test_the_client_s_own_stream_understands_it(client: openai.OpenAI) -> None:
    format_: Any = {"type": "json_schema", "name": "city", "schema": CITY, "strict": True}
    with client.responses.stream(model="tiny", input="hello", text={"format": format_}) as stream:
        final = stream.get_final_response()
    assert final.status == "completed"
    jsonschema.validate(json.loads(final.output_text), CITY)


INPUTS: list[Any] = [
    [{"role": "user", "content": "hello"}],
    [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hello"}]}],
    [{"type": "reasoning", "id": "r", "summary": []}, {"role": "user", "content": "hello"}],
]


@pytest.mark.parametrize("value", INPUTS)
def test_forms_of_input(client: openai.OpenAI, value: Any) -> None:
    assert ask(client, input=value).output_text == ask(client).output_text


def test_a_format(client: openai.OpenAI) -> None:
    format_ = {"type": "json_schema", "name": "city", "schema": CITY, "strict": True}
    response = ask(client, text={"format": format_}, max_output_tokens=100, extra_body={})
    assert response.status == "completed"
    jsonschema.validate(json.loads(response.output_text), CITY)


# tools --------------------------------------------------------------------------------------------


def called(client: openai.OpenAI, **more: Any) -> Any:
    wanted = {"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False}
    return ask(client, max_output_tokens=200, extra_body={"seed": 1}, **wanted, **more)


def test_a_call(client: openai.OpenAI) -> None:
    response = called(client)
    (item,) = response.output
    assert (item.type, item.name, item.status) == ("function_call", "weather", "completed")
    jsonschema.validate(json.loads(item.arguments), CITY)


def test_a_streamed_call_is_the_whole_call(client: openai.OpenAI) -> None:
    whole = called(client).output[0].arguments
    events = list(called(client, stream=True))
    deltas = [e.delta for e in events if e.type == "response.function_call_arguments.delta"]
    (done,) = (e.arguments for e in events if e.type == "response.function_call_arguments.done")
    assert "".join(deltas) == done == events[-1].response.output[0].arguments == whole


def test_a_result_goes_back(client: openai.OpenAI) -> None:
    before = called(client)
    result = {"type": "function_call_output", "call_id": before.output[0].call_id, "output": "rain"}
    after = ask(client, input=[result], previous_response_id=before.id, tools=TOOLS, extra_body={})
    assert after.usage.input_tokens > before.usage.input_tokens
    spelled = [{"role": "user", "content": "hello"}, before.output[0].model_dump(), result]
    again = ask(client, input=spelled, tools=TOOLS, extra_body={})
    assert again.usage.input_tokens == after.usage.input_tokens


# what is kept -------------------------------------------------------------------------------------


def test_a_response_can_be_read_again_and_gone_on_from(client: openai.OpenAI) -> None:
    first = ask(client)
    assert client.responses.retrieve(first.id).output_text == first.output_text
    second = ask(client, input="and?", previous_response_id=first.id)
    assert second.previous_response_id == first.id
    assert second.usage.input_tokens > first.usage.total_tokens
    client.responses.delete(first.id)
    for again in (client.responses.retrieve, client.responses.delete):
        with pytest.raises(openai.NotFoundError):
            again(first.id)
    with pytest.raises(openai.NotFoundError) as caught:
        ask(client, previous_response_id=first.id)
    assert caught.value.param == "previous_response_id"


def test_a_streamed_response_is_kept_and_one_without_store_is_not(client: openai.OpenAI) -> None:
    streamed = list(ask(client, stream=True))[-1].response
    assert client.responses.retrieve(streamed.id).output_text == streamed.output_text
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(ask(client, store=False).id)


def until_over(client: openai.OpenAI, identity: str) -> Any:
    for _ in range(1000):
        response = client.responses.retrieve(identity)
        if response.status != "in_progress":
            return response
        time.sleep(0.01)
    raise AssertionError("it never ended")


def test_work_in_the_background(client: openai.OpenAI) -> None:
    begun = ask(client, background=True)
    assert begun.status == "in_progress"
    response = until_over(client, begun.id)
    assert (response.status, response.output_text) == ("incomplete", ask(client).output_text)
    assert client.responses.cancel(begun.id).status == "incomplete"


def test_work_in_the_background_can_be_cancelled(server: Serving, client: openai.OpenAI) -> None:
    begun = ask(client, background=True, max_output_tokens=1900)
    assert client.responses.cancel(begun.id).status == "cancelled"
    other = ask(client, background=True, max_output_tokens=1900)
    client.responses.delete(other.id)
    for _ in range(500):
        if not server.call(server.in_flight):
            break
        time.sleep(0.01)
    assert server.call(server.in_flight) == 0
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(other.id)


def test_only_work_in_the_background_can_be_cancelled(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="background"):
        client.responses.cancel(ask(client).id)


def kept(identity: str, size: int = 1) -> StoredResponse:
    return StoredResponse({"id": identity, "output": "x" * size}, [])


def test_the_oldest_go_first_and_callers_see_only_their_own() -> None:
    store = ResponseStore()
    for n in range(KEPT + 3):
        store.keep("1", kept(f"r{n}"))
    store.find("1", "r3")
    for owner, identity in (("1", "r2"), ("2", "r5")):
        with pytest.raises(ApiError):
            store.find(owner, identity)
    for n in range(5):
        store.keep("3", kept(f"big{n}", 6 << 20))
    with pytest.raises(ApiError):
        store.find("3", "big2")
    store.find("3", "big4")


def test_work_in_the_background_is_bounded() -> None:
    class Busy:
        def done(self) -> bool:
            return False

    store = ResponseStore()
    for n in range(RUNNING):
        running = kept(f"r{n}")
        running.work = Busy()  # type: ignore[assignment]
        store.keep("1", running)
    with pytest.raises(OverloadedError):
        store.require_room("1")
    store.require_room("2")


# errors -------------------------------------------------------------------------------------------

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"input": []}, "input"),
    ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
    ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role"),
    ({"input": [{"role": "user", "content": 7}]}, "input[0].content"),
    ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0]"),
    ({"input": [{"type": "function_call", "name": "f"}]}, "input[0].arguments"),
    ({"input": [{"type": "function_call_output", "output": "x"}]}, "input[0].call_id"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"text": {"format": {"type": "xml"}}}, "response_format.type"),
    ({"text": {"format": 7}}, "text.format"),
    ({"max_output_tokens": 0}, "max_output_tokens"),
    ({"background": True, "stream": True}, "background"),
    ({"background": True, "store": False}, "background"),
]


@pytest.mark.parametrize(("wrong", "param"), WRONG)
def test_what_is_wrong_is_named(client: openai.OpenAI, wrong: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, **wrong)
    assert caught.value.param == param


def test_a_deadline_that_cannot_be_met_is_refused(server: Serving) -> None:
    body = {"input": "hello", "max_output_tokens": 500, **FREE}
    for stream in (False, True):
        answer = plain_http.post(
            f"{server.url}/v1/responses", json={**body, "stream": stream}, headers={"X-Deadline-Ms": "0.001"}
        )
        assert answer.status_code == 429
        assert answer.json()["error"]["code"] == "deadline_unattainable"
