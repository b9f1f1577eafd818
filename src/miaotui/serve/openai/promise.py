"""``POST /v1/promise``: the prediction for a chat request, without running it.

Owns that route and its shapes. Knows no model; asks the book of promises. Invariant: the body is that of
``/v1/chat/completions``, and what that route would refuse for its form is refused here with the same words; nothing is
computed, and no promise is given.
"""

from __future__ import annotations

from dataclasses import replace

from pydantic import Field
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from miaotui.engine.quote import quote
from miaotui.serve.http.bodies import ignored_fields, json_response, read_body
from miaotui.serve.http.routing import Endpoint
from miaotui.serve.middleware.access import received, services_of
from miaotui.serve.openai.chat import read_generation
from miaotui.serve.openai.chat_wire import ChatRequest
from miaotui.serve.wire.fields import Wire


class PromiseQuote(Wire):
    """The prediction for a request that was not run."""

    predicted_ms: float = Field(description="From the request's last byte to the answer's last byte.")
    fits: bool = Field(description="Whether it would be promised now; true without a deadline.")
    prompt_tokens: int
    cached_tokens: int = Field(description="Of the prompt, those whose work would be reused.")
    answer_tokens: int = Field(description="Length of the answer that is reckoned with.")
    fitting_tokens: int | None = Field(description="The longest answer that fits, if this one does not.")


def routes() -> list[Endpoint]:
    """Return the route of this module."""
    text = "Predict how long a conversation's answer takes, without making it"
    return [Endpoint("/v1/promise", "POST", predict, text, body=ChatRequest, answer=PromiseQuote)]


async def predict(http: HttpRequest) -> Response:
    """Answer one request."""
    body = await read_body(received(http).body, ChatRequest)
    generation = await read_generation(http, services_of(http), body)
    (prompt,), model = generation.prompts, generation.model
    options = replace(generation.options(), adapter=model.adapter)
    found = quote(model.loop, prompt, generation.params[0], options)
    return json_response(
        {
            "predicted_ms": round(found.predicted_ms, 1),
            "fits": found.fits,
            "prompt_tokens": len(prompt),
            "cached_tokens": found.cached_tokens,
            "answer_tokens": found.answer_tokens,
            "fitting_tokens": found.fitting_tokens,
        },
        headers=ignored_fields(body),
    )
