"""``POST /v1/tasks/classify`` and ``/v1/tasks/sentiment``: labels of texts, with or without examples.

Owns these routes. Knows heads and encoders by their public calls. Invariants: texts, labels and examples are one job
of the encoder, promised as a whole; a head is fitted in a thread; a text that cannot be taken fails alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from miaotui.encoders.tasks import EncodeTask
from miaotui.engine.encoding.job import Reduction
from miaotui.engine.encoding.loaded import LoadedEncoder
from miaotui.errors import RequestError
from miaotui.serve.encoders.registry import EncoderEntry
from miaotui.serve.encoders.requests import EncoderAnswer, find_encoder, run_task
from miaotui.serve.http.bodies import ignored_fields, json_response, read_body
from miaotui.serve.http.errors import bad_value
from miaotui.serve.http.routing import Endpoint
from miaotui.serve.middleware.access import received, services_of
from miaotui.serve.tasks.wire import MAX_TASK_TEXTS, LabelRequest, SentimentRequest, TaskAnswer, TaskFields
from miaotui.tasks.classification import Names, labelled, names_head, names_of, phrases_of, require_fit
from miaotui.tasks.heads.head import ClassifierHead, fit_head
from miaotui.tasks.result import LabelledText, Sentiment, TaskResult
from miaotui.tasks.sentiments import NEUTRAL_BELOW, SENTIMENT_PHRASES, within_band
from miaotui.tasks.vectors import PROMPT, TextVectors, vector_task
from miaotui.tasks.word_effects import MAX_WORDS, effects_of, placed_words, strongest, texts_without

Results = Sequence[TaskResult]
MakeHead = Callable[[TextVectors, str], ClassifierHead]


def routes() -> list[Endpoint]:
    """Return the routes of this module."""
    return [
        Endpoint("/v1/tasks/classify", "POST", classify, "Label texts", body=LabelRequest, answer=TaskAnswer),
        Endpoint(
            "/v1/tasks/sentiment", "POST", sentiment, "Tell texts' sentiment", body=SentimentRequest, answer=TaskAnswer
        ),
    ]


async def classify(http: HttpRequest) -> Response:
    """Answer with each text's label."""
    body = await read_body(received(http).body, LabelRequest)
    if sum(each is not None for each in (body.labels, body.examples, body.head)) != 1:
        raise bad_value("labels", "give one of labels, examples with their labels, and head")
    threshold = body.threshold or 0.0

    def results(head: ClassifierHead, read: TextVectors) -> Results:
        return labelled(head, read, LabelledText, threshold=threshold)

    return await _answered(http, body, body.labels, body.template or "{}", results)


async def sentiment(http: HttpRequest) -> Response:
    """Answer with each text's sentiment."""
    body = await read_body(received(http).body, SentimentRequest)
    below = NEUTRAL_BELOW if body.neutral_below is None else body.neutral_below

    def results(head: ClassifierHead, read: TextVectors) -> Results:
        return [within_band(each, below) for each in labelled(head, read, Sentiment)]

    if body.examples is not None and body.head is not None:
        raise bad_value("head", "give examples or a head, not both")
    labels = SENTIMENT_PHRASES if body.examples is None and body.head is None else None
    return await _answered(http, body, labels, "{}", results)


async def _answered(
    http: HttpRequest,
    body: TaskFields,
    labels: Names | None,
    template: str,
    results: Callable[[ClassifierHead, TextVectors], Results],
) -> Response:
    """Read texts and labels or examples as one job, make the head, and answer."""
    ready = None if body.head is None else services_of(http).heads.find(body.head)
    entry = find_encoder(http, body.model or _encoder_of(http, ready), "embed")
    before, make = _head_of(body, labels, template) if ready is None else ([], lambda read, name: ready)
    texts, words = list(body.texts), body.words or 0
    occluded = await asyncio.to_thread(_Occluded, texts) if words else None
    every = texts if occluded is None else [*texts, *occluded.without]
    answer = await run_task(
        http, entry, body, [*before, *every], lambda model: _whole_task(model, before, every, ready)
    )
    named, read = answer.result
    head = await asyncio.to_thread(make, named, entry.name)
    found = await asyncio.to_thread(results, head, read[: len(texts)])
    if occluded is not None:
        found = await asyncio.to_thread(occluded.explained, head, read, found, words)
    return json_response(_body(entry, answer, found), headers=ignored_fields(body))


class _Occluded:
    """Texts with each of their first words left out once. Raises `ApiError` for more than one request may hold."""

    def __init__(self, texts: Sequence[object]) -> None:
        self._texts = len(texts)
        self._words = [placed_words(text)[:MAX_WORDS] if isinstance(text, str) else [] for text in texts]
        pairs = zip(texts, self._words, strict=True)
        self.without = [part for text, words in pairs for part in texts_without(str(text), words)]
        if self._texts + len(self.without) > MAX_TASK_TEXTS:
            reason = f"the texts have {len(self.without):,} words whose effects are measured: send fewer texts at once"
            raise bad_value("words", reason)

    def explained(self, head: ClassifierHead, read: TextVectors, found: Results, count: int) -> Results:
        """Return the results with the strongest words of each text."""
        done, place = list[TaskResult](), self._texts
        for at, (each, words) in enumerate(zip(found, self._words, strict=True)):
            part = read.joined(slice(at, at + 1), slice(place, place + len(words)))
            place += len(words)
            can_tell = each.error is None and each.best is not None and words
            effects = effects_of(head, part, words, each.best or "") if can_tell else []
            done.append(replace(each, words=strongest(effects, count)))
        return done


def _encoder_of(http: HttpRequest, head: ClassifierHead | None) -> str | None:
    """Return the name of the encoder that a head was made with, if it is served under it."""
    return None if head is None or head.encoder not in services_of(http).encoders else head.encoder


def _head_of(body: TaskFields, labels: Names | None, template: str) -> tuple[list[str], MakeHead]:
    """Return the texts that the head is made of, and how. Raises `RequestError` for labels missing or twice."""
    if labels is not None:
        phrases = phrases_of(labels, template)
        flat = [phrase for each in phrases.values() for phrase in each]
        return flat, lambda read, name: names_head(phrases, read, name, PROMPT)
    examples = body.examples or []
    given = [each.label for each in examples]
    names = names_of(given)

    def fitted(read: TextVectors, name: str) -> ClassifierHead:
        errors = read.errors[: len(given)]
        if any(errors):
            raise RequestError("examples" + next(error for error in errors if error).removeprefix("texts"))
        vectors = dict(zip(names, read.values[len(given) :], strict=True))
        return fit_head(read.values[: len(given)], given, encoder=name, prompt=PROMPT, names=vectors)

    return [*(each.text for each in examples), *names.values()], fitted


def _whole_task(
    model: LoadedEncoder, before: Sequence[str], texts: Sequence[object], head: ClassifierHead | None
) -> EncodeTask[tuple[TextVectors, TextVectors]]:
    """Make one task of what the head is made of and of the texts. Raises `RequestError` for another encoder's head."""
    if head is not None:
        require_fit(head, model)
    first = vector_task(model, before)
    second = vector_task(model, texts, prompt=PROMPT if head is None else head.prompt)
    rows = [*first.rows, *second.rows]
    assert first.reduction.reading is not None, "vectors are read"
    assert second.reduction.reading is not None, "vectors are read"
    reading = first.reduction.reading.joined(second.reduction.reading, len(first.rows), len(second.rows))
    return EncodeTask(
        rows,
        Reduction.of(model, first.reduction.name, reading),
        lambda found: (first.finish(found[: len(first.rows)]), second.finish(found[len(first.rows) :])),
        [*first.dropped, *second.dropped],
    )


def _body(entry: EncoderEntry, answer: EncoderAnswer[Any], found: Results) -> dict[str, object]:
    deadline = answer.deadline
    took_ms = deadline["took_ms"]
    data = [replace(each, model=entry.name, took_ms=took_ms).to_json() for each in found]
    return {"object": "list", "model": entry.name, "data": data, "usage": answer.usage, "deadline": deadline}
