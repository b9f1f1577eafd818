"""One model behind the server: its engine's thread, and answers as asynchronous streams.

Owns the bridge between the engine's thread and the event loop: at most one wake-up for each step,
and fewer the more streams there are, so that events never take much of the machine. First pieces
and ends never wait. Knows nothing of HTTP. Invariant: leaving an answer early, for whatever reason,
cancels its request.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing, suppress
from importlib.metadata import version

from miaotui.config import Settings
from miaotui.engine.engine import Engine
from miaotui.engine.grammar.constraint import Grammars
from miaotui.engine.loaded import Loaded
from miaotui.engine.loop import EngineLoop
from miaotui.engine.request import Request, RequestOptions
from miaotui.errors import MiaotuiError, OverloadedError, RefusedError, RequestError
from miaotui.serve.observer import NO_OBSERVER, Observer
from miaotui.speculation.drafters.head import head_for
from miaotui.speculation.drafters.suffix import suffix_speculation
from miaotui.types import Completion, Delta, SamplingParams

Submission = tuple[Sequence[int], SamplingParams, RequestOptions]  # a prompt's tokens, and what is asked


EVENT_S = 4e-3  # between wake-ups, for each stream: an event takes about a seventieth of that


class _Reader:
    """Whoever waits for some requests; ``patient`` ones only want to know of the end."""

    def __init__(self, patient: bool = False) -> None:
        self.news, self.patient = asyncio.Event(), patient
        self.begun = False  # it has heard of a first piece


class ServedModel:
    """A model that serves many at once. Made and used in one running event loop."""

    def __init__(self, name: str, loaded: Loaded, watch: Observer = NO_OBSERVER, speculate: bool = True) -> None:
        self.name, self.loaded, self.watch = name, loaded, watch
        self.created_s = int(time.time())
        self.tokenizer, self.chat = loaded.tokenizer, loaded.chat
        self.context = loaded.parts.backend.limits.context
        self.grammars = Grammars(loaded.tokenizer, loaded.config.vocab_size)
        self.dialect = loaded.chat.dialect
        with suppress(RequestError):  # a model that can have no grammars; who asks is told
            self.grammars.warm()  # holds the interpreter: not while others wait for answers
        _warm(loaded)
        self.fingerprint = _fingerprint(name, loaded)
        self._event_loop = asyncio.get_running_loop()
        self._readers: dict[int, _Reader] = {}
        self._next_s = 0.0  # when streams hear of their next pieces
        self._has_new = False  # whether a reader may wait for a first piece
        self.speculation = None
        if speculate:
            head = head_for(loaded.parts.backend, Settings.from_env())
            self.speculation = suffix_speculation(head=head)
        engine = Engine(loaded.parts, loaded.tokenizer, self.speculation)
        self.loop = EngineLoop(engine, self._on_news, is_due=self._is_due)

    def submit(self, prompt: Sequence[int], params: SamplingParams, asked: RequestOptions) -> Request:
        """A request on its way, to be read with `pieces`. Raises what `EngineLoop.submit` raises."""
        try:
            request = self.loop.submit(prompt, params, asked)
        except RefusedError as error:
            self.watch.refused(self.name, error)
            raise
        self._readers[request.number] = _Reader()
        self._has_new = True
        self.watch.submitted(self.name, request)
        return request

    def submit_all(self, questions: Iterable[Submission]) -> list[Request]:
        """Several requests that belong together: all are on their way, or none is."""
        requests: list[Request] = []
        try:
            requests += (self.submit(*question) for question in questions)
        except BaseException:
            self.leave_all(requests)
            raise
        return requests

    async def pieces(self, request: Request) -> AsyncGenerator[Delta, None]:
        """The answer as it comes, once per step at most; the last piece carries the completion.

        Use it in ``contextlib.aclosing``, so that leaving early cancels at once. Raises what the
        request failed with.
        """
        async with aclosing(self.pieces_of([request])) as news:
            async for pieces in news:
                for _, delta in pieces:
                    yield delta

    async def pieces_of(
        self, requests: Sequence[Request], silence_s: float | None = None
    ) -> AsyncGenerator[list[tuple[int, Delta]], None]:
        """The answers as they come: (index in ``requests``, piece), all that a step brought at once.

        An empty list says that nothing came for about ``silence_s``. Use it like `pieces`.
        """
        reader = self._read_with(requests, _Reader())
        ticking = None if silence_s is None else _Ticking(reader.news, silence_s)
        open_ = dict(enumerate(requests))
        try:
            while open_:
                await reader.news.wait()
                reader.news.clear()
                news = [(i, request.read()) for i, request in open_.items() if request.has_news]
                for index, delta in news:
                    if delta.completion is not None:
                        _check_whole(delta.completion)
                        del open_[index]
                yield news
        finally:
            if ticking is not None:
                ticking.stop()
            self.leave_all(requests)

    async def whole(self, requests: Sequence[Request]) -> list[Completion]:
        """The whole answers, once all are there. Raises what one of them failed with."""
        reader = self._read_with(requests, _Reader(patient=True))
        try:
            open_ = list(requests)
            while open_:
                await reader.news.wait()
                reader.news.clear()
                for request in open_:
                    if request.error is not None:
                        raise request.error
                open_ = [request for request in open_ if not request.is_over]
            return [_check_whole(request.read().completion) for request in requests]
        finally:
            self.leave_all(requests)

    def leave(self, request: Request) -> None:
        """Nobody reads this request any more; it is cancelled if it has not ended."""
        if self._readers.pop(request.number, None) is not None:
            self.watch.left(self.name, request)
        if not request.is_over:
            self.loop.cancel(request)

    def leave_all(self, requests: Iterable[Request]) -> None:
        """`leave` each of them."""
        for request in requests:
            self.leave(request)

    def close(self) -> None:
        """Cancel everything and give the memory back."""
        self.loop.close()
        self.loaded.parts.backend.close()

    def _read_with(self, requests: Sequence[Request], reader: _Reader) -> _Reader:
        """From now on ``reader`` hears of these requests; also of what came before."""
        for request in requests:
            self._readers[request.number] = reader
        self._has_new = True
        reader.news.set()
        return reader

    def _is_due(self) -> bool:
        """In the engine's thread: whether someone is to hear what a step has brought."""
        return self._has_new or time.perf_counter() >= self._next_s

    def _on_news(self, requests: Sequence[Request]) -> None:
        """In the engine's thread: wake the event loop for what cannot wait, and now and then for all.

        What is not told of now is told of after a later step, since it is still unread.
        """
        self._has_new = False  # before a look at the readers: the event loop sets it after a change
        now_s, readers = time.perf_counter(), self._readers
        told, streams, due = [], 0, now_s >= self._next_s
        for request in requests:
            reader = readers.get(request.number)  # None: it is being submitted, or left
            over = request.finish_reason is not None
            if reader is None or over or not reader.patient:
                streams += 1
                if due or over or reader is None or not reader.begun:
                    told.append(request)
                    if reader is not None:
                        reader.begun = True
        if due:
            self._next_s = now_s + EVENT_S * streams
        if not all(reader.begun or reader.patient for reader in tuple(readers.values())):
            self._has_new = True
        if told:
            with suppress(RuntimeError):  # the event loop has ended first: nobody reads any more
                self._event_loop.call_soon_threadsafe(self._spread, told)

    def _spread(self, requests: Sequence[Request]) -> None:
        for request in requests:
            reader = self._readers.get(request.number)
            if reader is not None and (not reader.patient or request.is_over):
                reader.news.set()


class _Ticking:
    """Sets an event now and then, at no cost to whoever waits for it between ticks."""

    def __init__(self, event: asyncio.Event, every_s: float) -> None:
        self._event, self._every_s = event, every_s
        self._loop = asyncio.get_running_loop()
        self._next = self._loop.call_later(every_s, self._tick)

    def _tick(self) -> None:
        self._event.set()
        self._next = self._loop.call_later(self._every_s, self._tick)

    def stop(self) -> None:
        """No tick from now on."""
        self._next.cancel()


def _warm(loaded: Loaded) -> None:
    """Import and compile what the first conversation would: a tenth of a second of its deadline."""
    if loaded.template.available:
        with suppress(MiaotuiError):  # who asks with that template is told
            loaded.chat.encode([{"role": "user", "content": "?"}])


def _fingerprint(name: str, loaded: Loaded) -> str:
    """Equal fingerprints, seeds and parameters give equal answers."""
    words = (version("miaotui"), name, loaded.path.name, repr(loaded.config))
    return "fp_" + hashlib.sha256("\n".join(words).encode()).hexdigest()[:12]


def _check_whole(completion: Completion | None) -> Completion:
    """Nobody who still reads has cancelled: the engine is stopping."""
    assert completion is not None, "it is over"
    if completion.finish_reason == "cancelled":
        raise OverloadedError("the server is stopping: ask again in a moment", 1.0)
    return completion
