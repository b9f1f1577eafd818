"""Streamed answers: the pieces of each step become events, in any wire format.

Owns the order of events: a beginning, pieces, one end for each answer, usage if asked for, [DONE]. Knows no wire
format; an `EventWriter` does. Invariant: the deadline is in the last event, and all that a step brought goes out in
one write.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Protocol

from miaotui.serve.answer import ModelAnswer
from miaotui.serve.generation import GenerationRequest
from miaotui.serve.http.stream import DONE, Events, EventStream, event
from miaotui.serve.services import services_of
from miaotui.serve.wire.fields import Json
from miaotui.types import Completion, Delta


class EventWriter(Protocol):
    """Writes the events of one HTTP request."""

    def piece(self, index: int, delta: Delta, deadline: Json | None) -> str:
        """Return the events of a piece of answer ``index``; none if there is nothing to show yet.

        ``deadline`` is the report for the very last one.
        """

    def identity(self) -> Json:
        """Return what all events of the request have in common."""


def respond(
    generation: GenerationRequest, writer: EventWriter, include_usage: bool, headers: Mapping[str, str]
) -> EventStream:
    """Return the response that streams the answers."""
    ping_s = services_of(generation.http).settings.ping_s
    return EventStream(_events(generation, writer, include_usage, ping_s), ping_s, headers)


async def _events(generation: GenerationRequest, writer: EventWriter, include_usage: bool, ping_s: float) -> Events:
    batch = generation.submit()
    answers = batch.answers
    wholes: dict[int, Completion] = {}
    text = ""
    async with aclosing(batch.pieces(ping_s)) as steps:
        async for step in steps:
            for index, delta in step:
                report = None
                if delta.completion is not None:
                    wholes[index] = delta.completion
                    if len(wholes) == len(answers) and not include_usage:
                        report = generation.deadline_report(answers)
                text += writer.piece(index, delta, report)
            if len(wholes) == len(answers):
                if include_usage:
                    text += _last(generation, writer, answers, [wholes[i] for i in sorted(wholes)])
                text += DONE
            if step:
                yield text
                text = ""
            else:
                yield ""


def _last(
    generation: GenerationRequest, writer: EventWriter, answers: Sequence[ModelAnswer], wholes: Sequence[Completion]
) -> str:
    """Return the event with the usage, which has no choices."""
    return event(
        {
            **writer.identity(),
            "choices": [],
            "usage": generation.usage(wholes),
            "cache": generation.cache,
            "deadline": generation.deadline_report(answers),
        }
    )
