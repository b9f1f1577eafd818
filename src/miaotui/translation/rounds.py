"""Translations of several texts by an encoder-decoder, in rounds: the requests of all of them, then their answers.

Owns which text waits for which answers. Knows neither threads nor event loops, which run the requests. Invariant: a
text's steps get the answers to their own requests, in order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from miaotui.translation.result import Translation
from miaotui.translation.sources import SourceAnswer, SourceRequest, SourceSteps


class TextRounds:
    """Steps of several texts. While there are `requests`, answer them with `send`; then `results` are there."""

    def __init__(self, steps: Sequence[SourceSteps]) -> None:
        self._steps = list(steps)
        self._waiting: dict[int, Sequence[SourceRequest]] = {}
        self._results: dict[int, Translation] = {}
        for place, each in enumerate(self._steps):
            self._go(place, lambda each=each: next(each))  # type: ignore[misc]

    @property
    def requests(self) -> list[SourceRequest]:
        """Return the requests that are to be answered now, of all texts."""
        return [request for requests in self._waiting.values() for request in requests]

    @property
    def results(self) -> list[Translation]:
        """Return the translations, in the order of the texts."""
        return [self._results[place] for place in range(len(self._steps))]

    def send(self, answers: Sequence[SourceAnswer]) -> None:
        """Go on with the answers to `requests`, in their order."""
        waiting, self._waiting, first = self._waiting, {}, 0
        for place, requests in waiting.items():
            given = answers[first : first + len(requests)]
            first += len(requests)
            self._go(place, lambda place=place, given=given: self._steps[place].send(given))  # type: ignore[misc]

    def _go(self, place: int, step: Callable[[], Sequence[SourceRequest]]) -> None:
        try:
            self._waiting[place] = step()
        except StopIteration as ended:
            self._results[place] = ended.value
