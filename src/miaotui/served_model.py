"""The seam between a server and the models that it serves.

Owns nothing but the contract: what routes, caches and metrics need of one model. `serve.models` fulfils it
with our own engine; an engine of another make would fulfil it likewise. Invariant: every submitted request is left
exactly once, and leaving early cancels it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from typing import Protocol

from miaotui.engine.adapters import LoadedAdapter
from miaotui.engine.grammar.constraint import Grammars
from miaotui.engine.model_loop import ModelLoop
from miaotui.engine.request import Request, RequestOptions
from miaotui.text.chat import ChatEncoder
from miaotui.text.tokenizers.tokenizer import Tokenizer
from miaotui.text.tool_calls.dialect import Dialect
from miaotui.types import Completion, Delta, SamplingParams

RequestArguments = tuple[Sequence[int], SamplingParams, RequestOptions]  # those of `ServedModel.submit`


class ServedModel(Protocol):
    """A model that answers many requests at once, in one event loop."""

    @property
    def name(self) -> str:
        """Return the name that requests call it by."""

    @property
    def adapter(self) -> LoadedAdapter | None:
        """Return the low-rank adapter that answers go through; None: the model as it is."""

    @property
    def parent(self) -> str | None:
        """Return the name of the model that the adapter changes; None without one."""

    @property
    def tier(self) -> str | None:
        """Return the name of the model that answers, of several behind this one's name; None without such."""

    @property
    def created_s(self) -> int:
        """Return the time at which it was opened, in seconds since 1970."""

    @property
    def fingerprint(self) -> str:
        """Return a name of model and settings: equal fingerprints, seeds and parameters give equal answers."""

    @property
    def identity(self) -> str:
        """Return a digest of weights, their packing, keys and values: what caches of answers tell models apart by."""

    @property
    def context(self) -> int:
        """Return tokens of the longest prompt plus answer."""

    @property
    def tokenizer(self) -> Tokenizer:
        """Return the model's tokenizer."""

    @property
    def chat(self) -> ChatEncoder:
        """Return the encoder from conversations to its prompts."""

    @property
    def dialect(self) -> Dialect:
        """Return the form in which its answers write tool calls."""

    @property
    def grammars(self) -> Grammars:
        """Return the compiled grammars of its answers."""

    @property
    def loop(self) -> ModelLoop:
        """Return the loop that runs it, for health, metrics, and applications in threads."""

    def submit(self, prompt: Sequence[int], params: SamplingParams, options: RequestOptions) -> Request:
        """Submit one request. Raises `RefusedError` and `RequestError`."""

    def submit_all(self, submissions: Iterable[RequestArguments]) -> list[Request]:
        """Submit requests that belong together: all are on their way, or none is."""

    def pieces(self, request: Request) -> AsyncGenerator[Delta, None]:
        """Yield one answer as it comes; the last piece carries the completion."""

    def pieces_of(
        self, requests: Sequence[Request], silence_s: float | None = None
    ) -> AsyncGenerator[list[tuple[int, Delta]], None]:
        """Yield answers as they come: (index in ``requests``, piece); an empty list after a silence."""

    async def whole(self, requests: Sequence[Request]) -> list[Completion]:
        """Wait for whole answers. Raises what one of them failed with."""

    def leave(self, request: Request) -> None:
        """Stop reading a request; it is cancelled if it has not ended."""

    def leave_all(self, requests: Iterable[Request]) -> None:
        """Stop reading requests, see `leave`."""

    def close(self) -> None:
        """Cancel everything and give the memory back."""
