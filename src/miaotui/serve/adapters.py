"""Low-rank adapters as models of their own: chosen by ``model``, listed beside the model that they change.

Owns the view of a served model through one adapter, and reading ``--adapter NAME=PATH``. Knows no route. Invariants: a
view names the adapter itself, not its name, so that an answer, and what caches keep of it, are never another one's;
the names of models, encoders and adapters are different.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from miaotui.engine.adapters import LoadedAdapter
from miaotui.engine.grammar.constraint import Grammars
from miaotui.engine.model_loop import ModelLoop
from miaotui.engine.request import Request, RequestOptions
from miaotui.errors import RequestError
from miaotui.served_model import RequestArguments, ServedModel
from miaotui.text.chat import ChatEncoder
from miaotui.text.tokenizers.tokenizer import Tokenizer
from miaotui.text.tool_calls.dialect import Dialect
from miaotui.types import Completion, Delta, SamplingParams


class AdaptedModel:
    """A `ServedModel` that answers through an adapter; everything else is its parent's."""

    tier = None

    def __init__(self, parent: ServedModel, adapter: LoadedAdapter, name: str | None = None) -> None:
        self._model, self.adapter = parent, adapter
        self.name, self.parent, self.created_s = name or adapter.name, parent.name, adapter.loaded_s
        digest = hashlib.sha256(f"{parent.fingerprint} {adapter.digest}".encode()).hexdigest()
        self.fingerprint = f"fp_{digest[:12]}"

    def renamed(self, name: str) -> AdaptedModel:
        """Return the view under another name."""
        return self if name == self.name else AdaptedModel(self._model, self.adapter, name)

    @property
    def identity(self) -> str:
        """Return the parent's digest and the adapter's."""
        return f"{self._model.identity} {self.adapter.digest}"

    @property
    def context(self) -> int:
        """Return tokens of the longest prompt plus answer."""
        return self._model.context

    @property
    def tokenizer(self) -> Tokenizer:
        """Return the parent's tokenizer."""
        return self._model.tokenizer

    @property
    def chat(self) -> ChatEncoder:
        """Return the parent's encoder of conversations."""
        return self._model.chat

    @property
    def dialect(self) -> Dialect:
        """Return the form in which answers write tool calls."""
        return self._model.dialect

    @property
    def grammars(self) -> Grammars:
        """Return the compiled grammars of its answers."""
        return self._model.grammars

    @property
    def loop(self) -> ModelLoop:
        """Return the parent's loop."""
        return self._model.loop

    def submit(self, prompt: Sequence[int], params: SamplingParams, options: RequestOptions) -> Request:
        """Submit one request, see `ServedModel.submit`."""
        return self._model.submit(prompt, params, replace(options, adapter=self.adapter))

    def submit_all(self, submissions: Iterable[RequestArguments]) -> list[Request]:
        """Submit requests that belong together, see `ServedModel.submit_all`."""
        return self._model.submit_all(
            (prompt, params, replace(options, adapter=self.adapter)) for prompt, params, options in submissions
        )

    def pieces(self, request: Request) -> AsyncGenerator[Delta, None]:
        """Yield one answer as it comes."""
        return self._model.pieces(request)

    def pieces_of(
        self, requests: Sequence[Request], silence_s: float | None = None
    ) -> AsyncGenerator[list[tuple[int, Delta]], None]:
        """Yield answers as they come."""
        return self._model.pieces_of(requests, silence_s)

    async def whole(self, requests: Sequence[Request]) -> list[Completion]:
        """Wait for whole answers."""
        return await self._model.whole(requests)

    def leave(self, request: Request) -> None:
        """Stop reading a request."""
        self._model.leave(request)

    def leave_all(self, requests: Iterable[Request]) -> None:
        """Stop reading requests."""
        self._model.leave_all(requests)

    def close(self) -> None:
        """Do nothing: the parent is closed for itself."""


def load_adapter(model: ServedModel, name: str, path: str, taken: Collection[str]) -> LoadedAdapter:
    """Load an adapter over ``model``. Raises `RequestError` for a name that is ``taken``, and what loading raises."""
    if name in taken:
        raise RequestError(f"{name!r} is served here already: choose another name for the adapter")
    return model.loop.adapters.load(name, Path(path))


def load_adapters(model: ServedModel, words: Iterable[str], taken: Collection[str]) -> None:
    """Load the adapters of ``NAME=PATH`` words over ``model``. Raises `RequestError`, and what loading raises."""
    for word in words:
        name, equals, path = word.partition("=")
        if not equals or not name.strip() or not path:
            raise RequestError(f"--adapter {word!r}: expected NAME=PATH, a folder of PEFT's or a GGUF file")
        load_adapter(model, name, path, taken)
