"""Models behind the server: those served, by name; each a running loop with a fingerprint and observers of requests.

Owns the map from the ``model`` field of a request to a `ServedModel`; what a server adds to a loop (compiling and
measuring before the first request, the observers of requests, the error of a server that stops); and the list of what
runs. Knows no route. Invariants: models are added while the server starts and closed when it ends, and the first one
answers requests that name none; each submitted request is reported twice, when it
is taken on and when it is read no more, and a refused one once; observers are called in the event loop's thread, in
the context of the request, whatever thread submits or leaves it, and must return at once.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing, suppress
from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Protocol

from miaotui.engine.calibrate import warm_up
from miaotui.engine.grammar.constraint import Grammars
from miaotui.engine.model_loop import ModelLoop, ModelParts
from miaotui.engine.reading import readers
from miaotui.engine.request import Request, RequestOptions
from miaotui.errors import MiaotuiError, OverloadedError, RefusedError, RequestError
from miaotui.schedule.promises.admission import AdmissionLimits
from miaotui.serve.adapters import AdaptedModel
from miaotui.serve.http.errors import bad_value, model_not_found
from miaotui.serve.middleware.access import PROBING, Account, current
from miaotui.served_model import RequestArguments, ServedModel
from miaotui.types import Completion, Delta, SamplingParams

if TYPE_CHECKING:
    from miaotui.serve.wire.fields import Quality

# Answered before the first request: long enough to show the time of reading a prompt.
FIRST_QUESTION = (
    "A small library lends books, maps and tools to the people of its town. It wants to tell new members on one page "
    "how long they may keep a thing, what happens when it comes back late, how to ask for something that is lent at "
    "the moment, and whom to call when a tool is broken. Write that page in short and friendly sentences, and begin "
    "with the opening hours: Monday to Friday from nine to six, on Saturdays until noon."
)


class ServedModels(Mapping[str, ServedModel]):
    """A read-only mapping of names to models, in the order in which they were added."""

    def __init__(
        self,
        models: Iterable[ServedModel] = (),
        encoder_names: Callable[[], Iterable[str]] = lambda: (),
        seq2seq_names: Callable[[], Iterable[str]] = lambda: (),
        speech_names: Callable[[], Iterable[str]] = lambda: (),
    ) -> None:
        self._by_name = {model.name: model for model in models}
        self._groups: dict[str, ModelGroup] = {}
        self.other_names = {"encoder": encoder_names, "encoder-decoder": seq2seq_names, "speech model": speech_names}

    def __getitem__(self, name: str) -> ServedModel:
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    def add(self, model: ServedModel) -> None:
        """Add a model under its own name."""
        self._by_name[model.name] = model

    def add_groups(self, groups: Iterable[ModelGroup]) -> None:
        """Add names that have several of the models behind them."""
        self._groups |= {group.name: group for group in groups}

    def groups(self) -> list[ModelGroup]:
        """Return the names that have several models behind them."""
        return [*self._groups.values()]

    def adapters(self) -> dict[str, AdaptedModel]:
        """Return a model for each adapter that is loaded now, by name."""
        return {
            adapter.name: AdaptedModel(model, adapter)
            for model in self._by_name.values()
            for adapter in tuple(model.loop.adapters.values())
        }

    def all(self) -> list[ServedModel]:
        """Return the models, one for each adapter and one for each group of tiers."""
        groups = (group.choice() for group in self._groups.values())
        return [*self._by_name.values(), *self.adapters().values(), *groups]

    def find(self, name: str | None, quality: Quality | None = None) -> ServedModel:
        """Return the model or adapter of that name; the first model for None. Of tiers, those within ``quality``.

        Raises `ApiError`: 404 if there is none, 400 for the name of a model of another kind.
        """
        if name is None and self._by_name:
            return next(iter(self._by_name.values()))
        found = None if name is None else self._by_name.get(name)
        if found is not None:
            return found
        if name in self._groups:
            return self._groups[name].choice(quality)
        adapted = self.adapters()
        if name in adapted:
            return adapted[name]
        self._refuse_other(name)
        raise model_not_found(name or "", {*self._by_name, *adapted, *self._groups})

    def _refuse_other(self, name: str | None) -> None:
        """Raise `ApiError` where a model of another kind is meant, or where there are such models alone."""
        chats = ", ".join(sorted(self._by_name)) or "none: start the server with one"
        for kind, names_of in self.other_names.items():
            names = set(names_of())
            if name in names:
                lack = "which writes no text" if kind == "encoder" else "which holds no conversation"
                article = "an" if kind[0] == "e" else "a"
                raise bad_value("model", f"{name} is {article} {kind}, {lack}; chat models here: {chats}")
            if name is None and names:
                raise bad_value("model", f"all models here are {kind}s; chat models here: {chats}")

    def close(self) -> None:
        """Close every model, also after one of them failed to close."""
        for model in self._by_name.values():
            with suppress(Exception):
                model.close()


class ModelGroup(Protocol):
    """Several of the models behind one name."""

    @property
    def name(self) -> str:
        """Return the name."""

    def choice(self, quality: Quality | None = None) -> ServedModel:
        """Return the model for one request, which its submission chooses; of tiers, those within ``quality``."""


class Observer(Protocol):
    """Observer of one model's requests, in the event loop's thread."""

    def submitted(self, model: str, request: Request) -> None:
        """Note a request that was taken on."""

    def refused(self, model: str, error: RefusedError) -> None:
        """Note a sound request that was not taken on."""

    def left(self, model: str, request: Request) -> None:
        """Note a request that is read no more; unless it is over, it is about to be cancelled."""


class Running:
    """An `Observer` that lists what runs, and what is over until it is counted.

    ``hosts`` may be filled later, while the server starts.
    """

    def __init__(self, hosts: Mapping[str, ServedModel]) -> None:
        self._hosts = hosts
        self._open: dict[tuple[str, int], tuple[Request, Account | None]] = {}
        self._ended: list[tuple[str, Request | RefusedError]] = []

    def __len__(self) -> int:
        return len(self._open)

    def submitted(self, model: str, request: Request) -> None:
        """Count its prompt from now on."""
        account = current()
        self._open[model, request.number] = request, account
        if account is not None:
            account.model = model
            account.use(prompt=request.prompt_tokens)

    def refused(self, model: str, error: RefusedError) -> None:
        """Note the refusal, and the model's name for the log."""
        if not PROBING.get():
            self._ended.append((model, error))
        account = current()
        if account is not None:
            account.model = model

    def left(self, model: str, request: Request) -> None:
        """Count what it answered too, and note that it is over.

        One that is left while it is tried counts nothing: another model takes its place.
        """
        _, account = self._open.pop((model, request.number), (request, None))
        if PROBING.get():
            if account is not None:
                account.use(prompt=-request.prompt_tokens)
            return
        self._ended.append((model, request))
        if account is None:
            return
        account.use(answer=len(request.token_ids), cached=request.cached_tokens)
        if request.finish_reason in ("stop", "length"):
            ttft_s = request.completion().timing.ttft_s
            account.ttft_s = ttft_s if account.ttft_s is None else min(account.ttft_s, ttft_s)

    def take_ended(self) -> list[tuple[str, Request | RefusedError]]:
        """Return the requests that were left or refused since the last call, but for the server's own, with models."""
        ended, self._ended = self._ended, []
        return ended

    def cancel_all(self) -> int:
        """Cancel everything and return the count; readers get what there is of their answers."""
        for (model, _), (request, _account) in self._open.items():
            self._hosts[model].loop.cancel(request)
        return len(self._open)


class ObservedModel:
    """A `ServedModel` over a running loop. Made and used in one running event loop."""

    adapter = parent = tier = None  # see `AdaptedModel`, `TieredModel`

    def __init__(
        self, name: str, loop: ModelLoop, observer: Observer | None = None, limits: AdmissionLimits | None = None
    ) -> None:
        model = loop.model
        self.name, self.loop = name, loop
        self.created_s = int(time.time())
        self.tokenizer, self.chat, self.context = model.tokenizer, model.chat, model.context
        self.dialect = model.chat.dialect
        self.grammars = Grammars(model.tokenizer, model.config.vocab_size)
        with suppress(RequestError):  # a model that can have no grammars: requests for them are refused
            self.grammars.warm()  # holds the interpreter: not while others wait for answers
        prompt = _first_prompt(model)
        self.fingerprint = _fingerprint(name, model)
        if loop.can_promise:
            loop.calibrate(limits=limits or AdmissionLimits())
            if not loop.may_sleep:  # it would wait here for a start, or put a sleep off
                with suppress(MiaotuiError):  # a context too short for that
                    warm_up(loop, prompt[: max(self.context // 2, 1)])
        if observer is not None:
            self.observe(observer)

    @cached_property
    def identity(self) -> str:
        """Return a digest of weights, their packing, keys and values."""
        return self.loop.model.identity(self.fingerprint)

    def observe(self, observer: Observer) -> None:
        """Tell ``observer`` of all requests from now on. Call it in the event loop."""
        self.loop.observer = _InEventLoop(self.name, observer)

    def submit(self, prompt: Sequence[int], params: SamplingParams, options: RequestOptions) -> Request:
        """Submit one request, see `EngineLoop.submit`."""
        return self.loop.submit(prompt, params, options)

    def submit_all(self, submissions: Iterable[RequestArguments]) -> list[Request]:
        """Submit requests that belong together: all are on their way, or none is."""
        return readers.together(self.loop, (self.loop.submit(*each) for each in submissions))

    async def pieces(self, request: Request) -> AsyncGenerator[Delta, None]:
        """Yield one answer as it comes. Use it in ``contextlib.aclosing``."""
        async with aclosing(self.pieces_of([request])) as steps:
            async for pieces in steps:
                for _, delta in pieces:
                    yield delta

    async def pieces_of(
        self, requests: Sequence[Request], silence_s: float | None = None
    ) -> AsyncGenerator[list[tuple[int, Delta]], None]:
        """Yield answers as they come, see `readers.pieces_of`. Raises `OverloadedError` when the server stops."""
        async with aclosing(readers.pieces_of(self.loop, requests, silence_s)) as steps:
            async for pieces in steps:
                for _, delta in pieces:
                    if delta.completion is not None:
                        _check_whole(delta.completion)
                yield pieces

    async def whole(self, requests: Sequence[Request]) -> list[Completion]:
        """Wait for whole answers. Raises `OverloadedError` when the server stops, and what one failed with."""
        completions = await readers.await_whole(self.loop, requests)
        for completion in completions:
            _check_whole(completion)
        return completions

    def leave(self, request: Request) -> None:
        """Stop reading a request; it is cancelled if it has not ended."""
        self.loop.leave(request)

    def leave_all(self, requests: Iterable[Request]) -> None:
        """Stop reading requests, see `leave`."""
        readers.leave_all(self.loop, requests)

    def close(self) -> None:
        """Cancel everything and give the memory back."""
        self.loop.close()


class _InEventLoop:
    """Calls one model's observer in the event loop's thread, at once or soon."""

    def __init__(self, name: str, observer: Observer) -> None:
        self._name, self._observer = name, observer
        self._event_loop, self._thread = asyncio.get_running_loop(), threading.get_ident()

    def submitted(self, request: Request) -> None:
        self._call(self._observer.submitted, request)

    def refused(self, error: RefusedError) -> None:
        self._call(self._observer.refused, error)

    def left(self, request: Request) -> None:
        self._call(self._observer.left, request)

    def _call(self, observe: Callable[[str, Any], None], what: Any) -> None:
        if threading.get_ident() == self._thread:
            observe(self._name, what)
        else:
            with suppress(RuntimeError):  # the event loop has ended
                self._event_loop.call_soon_threadsafe(observe, self._name, what)


def _first_prompt(model: ModelParts) -> list[int]:
    """Return tokens of a question; making them imports and compiles what the first conversation needs."""
    if model.template.available:
        with suppress(MiaotuiError):  # requests with that template are refused with its error
            return model.chat.encode([{"role": "user", "content": FIRST_QUESTION}])
    return model.tokenizer.encode(FIRST_QUESTION)


def _fingerprint(name: str, model: ModelParts) -> str:
    words = (version("miaotui"), name, model.path.name, repr(model.config))
    return "fp_" + hashlib.sha256("\n".join(words).encode()).hexdigest()[:12]


def _check_whole(completion: Completion) -> None:
    """Raise `OverloadedError` for an answer that is still read and was cancelled: the engine is stopping."""
    if completion.finish_reason == "cancelled":
        raise OverloadedError("the server is stopping: ask again in a moment", 1.0)
