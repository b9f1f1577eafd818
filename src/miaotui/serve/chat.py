"""``POST /v1/chat/completions``: a conversation in, an answer out, whole or as it comes.

Owns OpenAI's chat shapes of an answer; what formats and tools make of its text is `forms`' business.
Invariant: the pieces of a streamed answer, joined, are the whole answer.
"""

from __future__ import annotations

from json.encoder import encode_basestring as quoted
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from miaotui.engine.request import Request
from miaotui.serve.asking import Asking, deadline_of
from miaotui.serve.errors import bad_value, json_response
from miaotui.serve.forms import Shaper, form_for
from miaotui.serve.json_body import ignored_fields, read_body
from miaotui.serve.logprobs import chat_logprobs
from miaotui.serve.params import check_choices, params_for
from miaotui.serve.prompts import chat_tokens
from miaotui.serve.report import deadline_report, usage
from miaotui.serve.routing import Endpoint
from miaotui.serve.state import arrival_of, state_of
from miaotui.serve.stream import DONE, Events, EventStream, event
from miaotui.serve.wire.chat import ChatChunk, ChatCompletion, ChatRequest
from miaotui.types import Completion, Delta


def routes() -> list[Endpoint]:
    """The route of this module."""
    return [
        Endpoint(
            "/v1/chat/completions",
            "POST",
            create,
            "Answer a conversation",
            body=ChatRequest,
            answer=ChatCompletion,
            chunk=ChatChunk,
        )
    ]


async def create(http: HttpRequest) -> Response:
    """Answer one request."""
    body = read_body(arrival_of(http).body, ChatRequest)
    asking = await _asking(http, body)
    headers = ignored_fields(body)
    if not body.stream:
        requests = asking.submit()
        completions = await asking.whole(requests)
        return json_response(_answer(asking, requests, completions), headers=headers)
    ping_s = state_of(http).settings.ping_s
    include_usage = bool(body.stream_options and body.stream_options.include_usage)
    return EventStream(_events(asking, include_usage, ping_s), ping_s, headers)


async def _asking(http: HttpRequest, body: ChatRequest) -> Asking:
    """Everything about the request that can be wrong is found here."""
    hosted = state_of(http).hosted(body.model)
    if body.top_logprobs is not None and not body.logprobs:
        raise bad_value("top_logprobs", "needs logprobs to be true")
    limit = body.max_completion_tokens if body.max_tokens is None else body.max_tokens
    params = params_for(body, limit, (body.top_logprobs or 0) if body.logprobs else None)
    deadline = deadline_of(http, body)
    form = form_for(body, hosted)
    messages = [message.model_dump(exclude_unset=True) for message in body.messages]
    tools = None if body.tool_choice == "none" else body.tools
    prompt = await chat_tokens(hosted, messages, tools or None, body.chat_template_kwargs)
    check_choices([prompt], len(params))
    return Asking(http, hosted, [prompt], params, deadline, form)


def _answer(
    asking: Asking, requests: list[Request], completions: list[Completion]
) -> dict[str, Any]:
    choices = [_choice(asking, index, whole) for index, whole in enumerate(completions)]
    return {
        **_identity(asking, "chat.completion"),
        "choices": choices,
        "usage": usage(completions, asking.n),
        "deadline": deadline_report(requests, asking.arrived_s),
    }


def _choice(asking: Asking, index: int, whole: Completion) -> dict[str, Any]:
    shaper = asking.form.shaper()
    reason: str = whole.finish_reason
    message: dict[str, Any] = {"role": "assistant", "content": whole.text, "refusal": None}
    if shaper is not None:
        shaper.push(whole.text)
        _, reason = shaper.finish(reason)
        message |= shaper.message()
    logprobs = None
    if asking.params[0].logprobs is not None:
        logprobs = chat_logprobs(asking.hosted.tokenizer, whole.logprobs)
    return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": reason}


def _identity(asking: Asking, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{asking.token}",
        "object": kind,
        "created": asking.created_s,
        "model": asking.hosted.name,
        "system_fingerprint": asking.hosted.fingerprint,
    }


# streams --------------------------------------------------------------------------------------------


async def _events(asking: Asking, include_usage: bool, ping_s: float) -> Events:
    """The answer's events, all of one step joined; "" when nothing comes for a while."""
    hosted, requests = asking.hosted, asking.submit()
    wholes: list[Completion | None] = [None] * len(requests)
    chunks = [_Chunks(asking, index, include_usage) for index in range(len(requests))]
    text, left = "".join(each.begin() for each in chunks), len(requests)
    async for news in hosted.pieces_of(requests, ping_s):
        for index, delta in news:
            if delta.completion is None:
                text += chunks[index].piece(delta)
                continue
            wholes[index] = delta.completion
            left -= 1
            more = None
            if not left and not include_usage:
                more = deadline_report(requests, asking.arrived_s)
            text += chunks[index].piece(delta) + chunks[index].end(delta, more)
        if not left:
            if include_usage:
                text += _usage_event(asking, requests, [w for w in wholes if w is not None])
            text += DONE
        if news or left == 0:
            yield text
            text = ""
        else:
            yield ""


def _usage_event(asking: Asking, requests: list[Request], wholes: list[Completion]) -> str:
    return event(
        {
            **_identity(asking, "chat.completion.chunk"),
            "choices": [],
            "usage": usage(wholes, asking.n),
            "deadline": deadline_report(requests, asking.arrived_s),
        }
    )


class _Chunks:
    """The events of one of n answers; all that does not change is written once."""

    def __init__(self, asking: Asking, index: int, include_usage: bool) -> None:
        empty = event({**_identity(asking, "chat.completion.chunk"), "choices": []})
        self._head = empty.removesuffix("]}\n\n") + f'{{"index":{index},"delta":'
        self._usage = ',"usage":null' if include_usage else ""
        self._tail = f',"logprobs":null,"finish_reason":null}}]{self._usage}}}\n\n'
        self._shaper: Shaper | None = asking.form.shaper()
        self._with_logprobs = asking.params[0].logprobs is not None
        self._tokenizer = asking.hosted.tokenizer

    def begin(self) -> str:
        """The first event: who speaks."""
        return f'{self._head}{{"role":"assistant","content":""}}{self._tail}'

    def piece(self, delta: Delta) -> str:
        """The events of a piece of the answer; often one, or none if it has no text yet."""
        if self._shaper is not None:
            return "".join(self._shaped(dict(each)) for each in self._shaper.push(delta.text))
        if not self._with_logprobs:
            if not delta.text:
                return ""
            return f'{self._head}{{"content":{quoted(delta.text)}}}{self._tail}'
        if not delta.token_ids and not delta.text:
            return ""
        return self._full({"content": delta.text}, delta)

    def end(self, delta: Delta, deadline: dict[str, Any] | None) -> str:
        """The last events: what was held back, why it ended, and the deadline if given."""
        held, reason = "", str(delta.finish_reason)
        if self._shaper is not None:
            deltas, reason = self._shaper.finish(reason)
            held = "".join(self._shaped(dict(each)) for each in deltas)
        more = "" if deadline is None else f',"deadline":{_json(deadline)}'
        return (
            f'{held}{self._head}{{}},"logprobs":null,"finish_reason":{quoted(reason)}}}]'
            f"{self._usage}{more}}}\n\n"
        )

    def _shaped(self, delta: dict[str, Any]) -> str:
        return f"{self._head}{_json(delta)}{self._tail}"

    def _full(self, delta: dict[str, Any], piece: Delta) -> str:
        logprobs = _json(chat_logprobs(self._tokenizer, piece.logprobs))
        return (
            f'{self._head}{_json(delta)},"logprobs":{logprobs},"finish_reason":null}}]'
            f"{self._usage}}}\n\n"
        )


def _json(value: Any) -> str:
    return event(value)[6:-2]
