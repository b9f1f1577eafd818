"""Texts under way: whose turn it is, and in which pages each lies.

Owns pages and turns. Texts with a promise come first, the earliest due first (Liu and Layland 1973); the others take
turns, also in time that promises can spare. When pages run out the last text by that order loses them: its masks and
tokens stay, and its keys and values are computed again. Knows no model. Invariant: while a text waits, one has a turn.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field

from miaotui.dmlm.decoding.decode import DecodedPass
from miaotui.dmlm.decoding.passes import TextPasses
from miaotui.engine.request import Request
from miaotui.schedule.promises.forecast import Job


@dataclass(eq=False)
class RunningText:
    """One request's text; of its answer ``accepted`` tokens stay and ``shown`` were handed over."""

    request: Request
    passes: TextPasses
    steps: Iterator[DecodedPass]
    pages: range | None  # None: another text got them
    start: int = field(init=False)
    accepted: int = 0
    shown: int = 0
    is_moved: bool = False  # it lost its pages, and the book of promises does not know yet

    def __post_init__(self) -> None:
        self.start = len(self.request.prompt)

    def job(self) -> Job:
        """Return the work left: positions without masks, to be computed anew or not, and masks."""
        known, left = self.start + self.accepted, max(self.request.ending.max_tokens - self.accepted, 1)
        is_computed = self.pages is not None and self.passes.passes > 0 and not self.is_moved
        read, length = (0, known) if is_computed else (known, 0)
        return Job(self.request.number, read, left, length)


Begin = Callable[[Request, range], RunningText]


class RunningTexts:
    """Texts of one engine. ``pages``: a range for each text that may lie in memory; ``begin`` starts a request's."""

    def __init__(self, pages: Iterable[range], begin: Begin) -> None:
        self._free, self._begin = deque(pages), begin
        self._texts: deque[RunningText] = deque()  # the next one first, of those without a promise
        self._deferred: set[int] = set()  # numbers of requests whose promise was given up
        self._was_spared = False  # whether the last turn was that of a text without a promise, beside promises

    def __iter__(self) -> Iterator[RunningText]:
        return iter(self._texts)

    @property
    def n_free(self) -> int:
        """Return how many more texts may lie in memory."""
        return len(self._free)

    def next(self, waiting: Collection[Request], fits: Callable[[Job], bool]) -> RunningText | None:
        """Return the text whose turn it is, with pages; None if there is none.

        ``waiting`` requests have not begun; ``fits`` says whether promises can spare the next pass of a text.
        """
        texts = [text.request for text in self._texts]
        promised = [request for request in (*texts, *waiting) if self._is_promised(request)]
        others = [request for request in waiting if not self._is_promised(request)]
        if not promised:
            return self._next_in_turn(others)
        if not self._was_spared:
            spared = self._next_in_turn(others)
            if spared is not None and fits(spared.job()):
                self._was_spared = True
                return spared
        self._was_spared = False
        request = min(promised, key=lambda each: (each.due or 0, each.number))
        return self._with_pages(request)

    def defer(self, number: int) -> None:
        """Rank a request with those that have no promise."""
        self._deferred.add(number)

    def find(self, request: Request) -> RunningText | None:
        """Return a request's text; None: it has not begun."""
        return next((text for text in self._texts if text.request is request), None)

    def leave(self, request: Request) -> None:
        """Forget a request that has ended; its pages are free."""
        self._deferred.discard(request.number)
        text = self.find(request)
        if text is not None:
            self._texts.remove(text)
            text.steps = iter(())
            if text.pages is not None:
                self._free.append(text.pages)

    def _is_promised(self, request: Request) -> bool:
        return request.due is not None and request.number not in self._deferred

    def _next_in_turn(self, waiting: Iterable[Request]) -> RunningText | None:
        """Return the next text without a promise; those without pages get some first, as far as there are any."""
        for text in self._texts:
            if text.pages is None and self._free and not self._is_promised(text.request):
                self._move(text, self._free.popleft())
        for request in sorted(waiting, key=lambda each: each.number):
            if self._free:
                self._texts.append(self._begin(request, self._free.popleft()))
        for _ in range(len(self._texts)):
            text = self._texts.popleft()
            self._texts.append(text)
            if text.pages is not None and not self._is_promised(text.request):
                return text
        return None

    def _with_pages(self, request: Request) -> RunningText:
        text = self.find(request)
        if text is None:
            text = self._begin(request, self._free.popleft() if self._free else self._take())
            self._texts.append(text)
        elif text.pages is None:
            self._move(text, self._free.popleft() if self._free else self._take())
        return text

    @staticmethod
    def _move(text: RunningText, pages: range) -> None:
        text.pages = pages
        text.passes.move(pages)

    def _take(self) -> range:
        """Take the pages of a text without a promise, or of the promised one that is due last."""
        holders = [text for text in self._texts if text.pages is not None]
        last = max(holders, key=lambda t: (not self._is_promised(t.request), t.request.due or 0, t.request.number))
        pages, last.pages, last.is_moved = last.pages, None, True
        assert pages is not None, "it holds some"
        return pages
