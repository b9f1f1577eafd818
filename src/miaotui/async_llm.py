"""The Python entry for event loops: `load_async` a model, then await or iterate what `LLM` waits for.

Owns nothing but the calls: `submission` reads what a caller gives, in a thread, so that long prompts do not hold up
the event loop; `EngineLoop` runs it; `engine.reading.readers` waits for it. Invariants: every method of `LLM` is here
with the same parameters; a task that is cancelled cancels its requests.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, overload

import numpy as np
from numpy.typing import NDArray

from miaotui.closing import AsyncClosing
from miaotui.engine.reading import readers
from miaotui.engine.request import Request, RequestOptions
from miaotui.llm import Facade, read_options, scores_of
from miaotui.runtime import open_model
from miaotui.submission import Prompt, Submission, is_prompt
from miaotui.text.chat import Message
from miaotui.types import Completion, Delta, Progress, SamplingParams, Score

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from miaotui.engine.adapters import LoadedAdapter
    from miaotui.schedule.promises.capacity import Capacity
    from miaotui.submission import ChatParameters, TextParameters


async def load_async(
    model: str | os.PathLike[str],
    *,
    format: str | None = None,
    threads: int | None = None,
    kv: str = "f16",
    context: int | None = None,
    speculate: bool = True,
    progress: Progress | None = None,
    **options: Any,
) -> AsyncLLM:
    """Load a model as `miaotui.load` does, in a thread; ``progress`` is called in that thread."""
    chosen = read_options(speculate, format=format, threads=threads, kv=kv, context=context, **options)
    loop = await asyncio.to_thread(open_model, model, chosen, progress=progress)
    return AsyncLLM(loop, owns_loop=True)


class AsyncLLM(Facade, AsyncClosing):
    """A loaded model, for any number of tasks at once, in any number of event loops.

    Close it, or use it in an ``async with`` block, to give its memory back.
    """

    @overload
    async def generate(  # type: ignore[overload-overlap]  # a text is a sequence of texts
        self, prompt: Prompt, params: SamplingParams | None = None, **parameters: Unpack[TextParameters]
    ) -> Completion: ...

    @overload
    async def generate(
        self, prompt: Sequence[Prompt], params: SamplingParams | None = None, **parameters: Unpack[TextParameters]
    ) -> list[Completion]: ...

    async def generate(
        self,
        prompt: Prompt | Sequence[Prompt],
        params: SamplingParams | None = None,
        **parameters: Unpack[TextParameters],
    ) -> Completion | list[Completion]:
        """Continue one prompt or several together, see `LLM.generate`."""
        is_one = is_prompt(prompt)
        prompts = [cast("Prompt", prompt)] if is_one else cast("Sequence[Prompt]", prompt)
        asked = await self._read(self._reader.texts, prompts, params, parameters)
        completions = await self.whole(self.submit_all(asked))
        return completions[0] if is_one else completions

    async def chat(
        self, messages: Sequence[Message], params: SamplingParams | None = None, **parameters: Unpack[ChatParameters]
    ) -> Completion:
        """Answer a conversation, see `LLM.chat`."""
        asked = await self._read(self._reader.chat, messages, params, parameters)
        return asked.finished(await self.whole(self.submit_all(asked)))[0]

    async def stream(
        self, prompt: Prompt, params: SamplingParams | None = None, **parameters: Unpack[TextParameters]
    ) -> AsyncGenerator[Delta, None]:
        """Continue one prompt, piece by piece, see `LLM.stream`; iterate it with ``async for``.

        Nothing happens before the first piece is awaited. Wrap it in ``contextlib.aclosing`` to cancel at once where
        the loop is left early.
        """
        asked = await self._read(self._reader.texts, [prompt], params, parameters)
        async with aclosing(self._streamed(asked)) as pieces:
            async for delta in pieces:
                yield delta

    async def chat_stream(
        self, messages: Sequence[Message], params: SamplingParams | None = None, **parameters: Unpack[ChatParameters]
    ) -> AsyncGenerator[Delta, None]:
        """Answer a conversation, piece by piece, see `LLM.chat_stream` and `stream`."""
        asked = await self._read(self._reader.chat, messages, params, parameters)
        reader = asked.reader()
        async with aclosing(self._streamed(asked)) as pieces:
            async for delta in pieces:
                yield delta if reader is None else reader.read(delta)

    async def infill(
        self,
        prefix: str,
        suffix: str,
        params: SamplingParams | None = None,
        *,
        files: Sequence[tuple[str, str]] = (),
        **parameters: Unpack[TextParameters],
    ) -> Completion:
        """Write the text between two others, see `LLM.infill`."""
        asked = await self._read(self._reader.infill, prefix, suffix, files, params, parameters)
        return (await self.whole(self.submit_all(asked)))[0]

    async def infill_stream(
        self,
        prefix: str,
        suffix: str,
        params: SamplingParams | None = None,
        *,
        files: Sequence[tuple[str, str]] = (),
        **parameters: Unpack[TextParameters],
    ) -> AsyncGenerator[Delta, None]:
        """Write the text between two others, piece by piece, see `LLM.infill` and `stream`."""
        asked = await self._read(self._reader.infill, prefix, suffix, files, params, parameters)
        async with aclosing(self._streamed(asked)) as pieces:
            async for delta in pieces:
                yield delta

    async def score(self, prompt: Prompt, continuations: Sequence[Prompt]) -> list[Score]:
        """Score continuations of a prompt, see `LLM.score`."""
        asked, starts = await asyncio.to_thread(self._reader.scored, prompt, continuations)
        return scores_of(await self.whole(self.submit_all(asked)), starts)

    async def logits(self, token_ids: Prompt) -> NDArray[np.float32]:
        """Compute the logits after each of the tokens, see `LLM.logits`."""
        return await asyncio.to_thread(self.loop.logits, self._reader.tokens(token_ids))

    async def load_adapter(self, name: str, path: str | os.PathLike[str]) -> LoadedAdapter:
        """Load a low-rank adapter, see `LLM.load_adapter`."""
        return await asyncio.to_thread(self.loop.adapters.load, name, Path(path))

    async def unload_adapter(self, name: str) -> None:
        """Unload an adapter, see `LLM.unload_adapter`."""
        await asyncio.to_thread(self.loop.adapters.unload, name)

    async def capacity(self) -> Capacity:
        """Return what this machine can promise, see `LLM.capacity`."""
        return await asyncio.to_thread(self.loop.capacity)

    async def prompt_budget(self, deadline_ms: float, answer_tokens: int) -> int:
        """Return how many tokens a prompt may have, see `LLM.prompt_budget`."""
        return await asyncio.to_thread(self.loop.prompt_budget, deadline_ms, answer_tokens)

    # requests, for callers that make prompts themselves ------------------------------------------

    def submit(self, prompt: Sequence[int], params: SamplingParams, options: RequestOptions) -> Request:
        """Submit one request, see `EngineLoop.submit`; read it with `pieces` or `whole`, or `leave` it."""
        return self.loop.submit(prompt, params, options)

    def submit_all(
        self, submissions: Submission | Iterable[tuple[Sequence[int], SamplingParams, RequestOptions]]
    ) -> list[Request]:
        """Submit requests that belong together: all are on their way, or none is."""
        loop = self.loop
        if isinstance(submissions, Submission):
            return readers.together(loop, submissions.submit(loop))
        return readers.together(loop, (loop.submit(*each) for each in submissions))

    def pieces(self, request: Request) -> AsyncGenerator[Delta, None]:
        """Yield one request's answer as it comes, see `pieces_of`; the last piece carries the completion."""
        return _singly(self.pieces_of([request]))

    def pieces_of(
        self, requests: Sequence[Request], silence_s: float | None = None
    ) -> AsyncGenerator[list[tuple[int, Delta]], None]:
        """Yield several answers as they come, see `readers.pieces_of`."""
        return readers.pieces_of(self.loop, requests, silence_s)

    async def whole(self, requests: Sequence[Request]) -> list[Completion]:
        """Wait for whole answers. Raises what one of them failed with."""
        return await readers.await_whole(self.loop, requests)

    def leave(self, request: Request) -> None:
        """Stop reading a request; it is cancelled if it has not ended."""
        self.loop.leave(request)

    def leave_all(self, requests: Iterable[Request]) -> None:
        """Stop reading requests, see `leave`."""
        readers.leave_all(self.loop, requests)

    # --------------------------------------------------------------------------------------------

    async def _read(self, read: Any, *arguments: Any) -> Submission:
        """Read a call's arguments in a thread, and measure what passes cost if they name the first deadline."""
        loop = self.loop
        asked: Submission = await asyncio.to_thread(read, *arguments)
        if asked.options.deadline is not None and loop.promises is None:
            await asyncio.to_thread(loop.calibrate)
        return asked

    def _streamed(self, asked: Submission) -> AsyncGenerator[Delta, None]:
        return self.pieces(asked.submit_one(self.loop))


async def _singly(steps: AsyncGenerator[list[tuple[int, Delta]], None]) -> AsyncGenerator[Delta, None]:
    async with aclosing(steps):
        async for pieces in steps:
            for _, delta in pieces:
                yield delta
