"""``/v1/support``: conversations with a customer service.

Owns these routes. Knows the service by its public calls; the server's operator makes it, and without
one each of these routes is a 404. Invariant: replies are made in threads, never in the event loop; a
caller reaches its own conversations only.
"""

from __future__ import annotations

from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from miaotui.apps.support import Reply, Support
from miaotui.serve.documents.apps_wire import (
    BeginRequest,
    DeletedConversation,
    MessageRequest,
    RatedBody,
    RatingRequest,
    ReplyBody,
    TranscriptBody,
)
from miaotui.serve.http.bodies import ignored_fields, json_response, read_body
from miaotui.serve.http.errors import ApiError
from miaotui.serve.http.routing import Endpoint
from miaotui.serve.middleware.access import caller_of, received, services_of

_CONVERSATIONS_PATH = "/v1/support/conversations"
_TALK = {"id": "The conversation's id."}


def routes() -> list[Endpoint]:
    """Return the routes of this module."""
    one = f"{_CONVERSATIONS_PATH}/{{id}}"
    return [
        Endpoint(_CONVERSATIONS_PATH, "POST", begin, "Begin a conversation", body=BeginRequest, answer=ReplyBody),
        Endpoint(
            f"{one}/messages", "POST", say, "Say something", body=MessageRequest, answer=ReplyBody, parameters=_TALK
        ),
        Endpoint(f"{one}/hand_over", "POST", hand_over, "Pass it on to a person", answer=ReplyBody, parameters=_TALK),
        Endpoint(
            f"{one}/rating",
            "POST",
            rate,
            "Rate a turn or the whole",
            body=RatingRequest,
            answer=RatedBody,
            parameters=_TALK,
        ),
        Endpoint(one, "DELETE", delete, "Delete it", answer=DeletedConversation, parameters=_TALK),
        Endpoint(one, "GET", transcript, "Read it", answer=TranscriptBody, parameters=_TALK),
    ]


async def begin(http: HttpRequest) -> Response:
    """Begin a conversation and answer with its greeting."""
    body = await read_body(received(http).body or b"{}", BeginRequest)
    service, caller = _service(http), caller_of(http).owner
    conversation, reply = await run_in_threadpool(lambda: service.begin(body.language, caller))
    return json_response(_reply(conversation.id, reply), headers=ignored_fields(body))


async def say(http: HttpRequest) -> Response:
    """Answer a customer's message; note the message of a person who took over."""
    body = await read_body(received(http).body, MessageRequest)
    service, caller, name = _service(http), caller_of(http).owner, http.path_params["id"]

    def work() -> Reply:
        if body.role == "user":
            return service.say(name, body.text, caller)
        turn = service.person_says(name, body.text, caller)
        return Reply(turn.text, "person", turn.number, handed_over=True)

    return json_response(_reply(name, await run_in_threadpool(work)), headers=ignored_fields(body))


async def hand_over(http: HttpRequest) -> Response:
    """Pass a conversation on to a person."""
    service, caller, name = _service(http), caller_of(http).owner, http.path_params["id"]
    return json_response(_reply(name, await run_in_threadpool(lambda: service.hand_over(name, caller))))


async def rate(http: HttpRequest) -> Response:
    """Note a rating."""
    body = await read_body(received(http).body, RatingRequest)
    service, caller, name = _service(http), caller_of(http).owner, http.path_params["id"]
    await run_in_threadpool(lambda: service.rate(name, body.score, body.turn, body.comment, caller))
    answer = {"object": "support.rating", "conversation": name}
    return json_response(answer, headers=ignored_fields(body))


async def delete(http: HttpRequest) -> Response:
    """Delete a conversation with all that was said."""
    service, caller, name = _service(http), caller_of(http).owner, http.path_params["id"]
    await run_in_threadpool(lambda: service.delete(name, caller))
    return json_response({"object": "support.conversation", "id": name, "deleted": True})


async def transcript(http: HttpRequest) -> Response:
    """Answer with the whole conversation."""
    service, caller, name = _service(http), caller_of(http).owner, http.path_params["id"]
    told = await run_in_threadpool(lambda: service.transcript(name, caller))
    return json_response({"object": "support.conversation", **told})


def _service(http: HttpRequest) -> Support:
    service = services_of(http).support
    if service is None:
        message = "This server has no customer service; its operator can give it one"
        raise ApiError(404, message, code="support_not_configured")
    return service


def _reply(conversation: str, reply: Reply) -> dict[str, Any]:
    values = {**reply.to_json(), "took_ms": round(reply.took_ms, 2)}
    return {"object": "support.reply", "conversation": conversation, **values}
