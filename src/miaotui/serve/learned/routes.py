"""``POST /v1/recommendations`` and ``/v1/graphs/{name}/ask``: answers from what the command line has learned.

Owns these routes. Knows recommenders and graphs by their public calls. Invariants: work runs in threads, never in the
event loop; an intent is one job of the encoder that read the items' texts; a chat model words an answer and decides
nothing; requests change nothing.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from miaotui.engine.request import RequestOptions
from miaotui.retrieval.graph.answers import THRESHOLD, GraphAnswer
from miaotui.serve.encoders.requests import find_encoder, run_task
from miaotui.serve.http.bodies import ignored_fields, json_response, read_body, unless_gone
from miaotui.serve.http.errors import bad_value
from miaotui.serve.http.routing import Endpoint
from miaotui.serve.learned.wire import (
    GraphAnswerBody,
    GraphQuestion,
    RecommendationAnswer,
    RecommendationRequest,
    WeightedItem,
)
from miaotui.serve.middleware.access import caller_of, received, services_of
from miaotui.serve.tasks.written import run_tasks
from miaotui.tasks.graph_wording import wording_steps
from miaotui.tasks.recommend import Recommendations, Recommender
from miaotui.tasks.recommend.collaborative import Floats
from miaotui.tasks.vectors import vector_task


def routes() -> list[Endpoint]:
    """Return the routes of this module."""
    return [
        Endpoint(
            "/v1/recommendations",
            "POST",
            recommend,
            "Recommend items",
            body=RecommendationRequest,
            answer=RecommendationAnswer,
        ),
        Endpoint(
            "/v1/graphs/{name}/ask",
            "POST",
            ask_graph,
            "Answer a question from a knowledge graph",
            body=GraphQuestion,
            answer=GraphAnswerBody,
            parameters={"name": "The graph's name: letters, digits, dots, hyphens and underscores."},
        ),
    ]


async def recommend(http: HttpRequest) -> Response:
    """Answer with items for a user, a history, an intent, or like an item."""
    body = await read_body(received(http).body, RecommendationRequest)
    if body.similar_to is not None and (body.user or body.history is not None or body.intent is not None):
        raise bad_value("similar_to", "stands alone: leave out user, history and intent")
    found: Recommender = await run_in_threadpool(services_of(http).recommenders.find, body.recommender)
    aim = None if body.intent is None else await _aim(http, body, found)
    answer = await run_in_threadpool(_recommended, found, body, aim)
    content = {"object": "list", "recommender": body.recommender, **answer.to_json()}
    return json_response(content, headers=ignored_fields(body))


async def _aim(http: HttpRequest, body: RecommendationRequest, found: Recommender) -> Floats:
    """Return the vector of an intent. Raises `ApiError` where its encoder is not served."""
    if found.fitted.parts.vectors is None:
        raise bad_value("intent", f"the recommender {body.recommender} has no texts of items: fit it with them")
    entry = find_encoder(http, body.model or found.fitted.encoder, "embed")
    answer = await run_task(http, entry, body, [body.intent], lambda model: vector_task(model, [body.intent]))
    if answer.result.errors[0] is not None:
        raise bad_value("intent", answer.result.errors[0].partition(": ")[2])
    vector: Floats = answer.result.values[0]
    return vector


def _recommended(found: Recommender, body: RecommendationRequest, aim: Floats | None) -> Recommendations:
    if body.similar_to is not None:
        return found.similar(body.similar_to, body.n)
    history: Any = body.history and [
        (each.item, each.weight) if isinstance(each, WeightedItem) else each for each in body.history
    ]
    return found.recommend(
        body.user,
        history=history,
        intent=aim,
        n=body.n,
        popularity=body.popularity,
        diversity=body.diversity,
        seen=body.seen,
    )


async def ask_graph(http: HttpRequest) -> Response:
    """Answer a question from a graph."""
    body = await read_body(received(http).body, GraphQuestion)
    name, services = http.path_params["name"], services_of(http)
    threshold = THRESHOLD if body.threshold is None else body.threshold

    def work() -> GraphAnswer:
        return services.graph(name).ask(body.question, threshold=threshold, hops=body.hops)

    model = None if body.words_from is None else services.models.find(body.words_from)
    found = await run_in_threadpool(work)
    content = {"object": "graph.answer", "graph": name, **found.to_json()}
    if model is not None:
        options = RequestOptions(caller_of(http).namespace, arrived_s=received(http).arrived_s)
        (worded,) = await unless_gone(http.receive, run_tasks(model, [partial(wording_steps, found)], options))
        content |= {"text": worded.text, "is_written": worded.is_written}
    return json_response(content, headers=ignored_fields(body))
