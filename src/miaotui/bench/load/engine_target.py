"""The engine in this process as the target of a load, without HTTP.

Owns how an `AsyncLLM` is asked. Knows no sockets. Invariant: what is noted of an answer is what `HttpTarget` notes.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

from miaotui.async_llm import AsyncLLM
from miaotui.bench.load import outcome as ends
from miaotui.bench.load.outcome import RequestOutcome
from miaotui.bench.load.prompts import PlannedRequest
from miaotui.bench.load.target import AskOptions, LoadClock
from miaotui.errors import DeadlineUnattainableError, MiaotuiError, RefusedError, RequestError


class EngineTarget:
    """One loaded model; `close` leaves it open, since its owner closes it."""

    def __init__(self, llm: AsyncLLM, name: str, options: AskOptions) -> None:
        self.name, self.options, self._llm = name, options, llm

    async def close(self) -> None:
        """Do nothing: there are no connections."""

    async def ask(self, planned: PlannedRequest, outcome: RequestOutcome, clock: LoadClock) -> None:
        """Ask once, and note in ``outcome`` what came and how it ended."""
        outcome.sent_s = clock()
        try:
            await asyncio.wait_for(self._stream(planned, outcome, clock), self.options.timeout_s)
        except (TimeoutError, asyncio.TimeoutError):
            outcome.ended(ends.ENDLESS, clock(), f"longer than {self.options.timeout_s:g} s")
        except RefusedError as error:
            code = "deadline_unattainable" if isinstance(error, DeadlineUnattainableError) else "overloaded"
            outcome.ended(ends.REFUSED, clock(), code)
        except RequestError as error:
            outcome.ended(ends.REJECTED, clock(), str(error))
        except MiaotuiError as error:
            outcome.ended(ends.SERVER_ERROR, clock(), str(error))

    async def _stream(self, planned: PlannedRequest, outcome: RequestOutcome, clock: LoadClock) -> None:
        options = self.options
        params: dict[str, Any] = {"max_tokens": planned.max_tokens, "temperature": options.temperature}
        params |= {"seed": planned.number, "ignore_eos": options.ignore_eos, "deadline_ms": options.deadline_ms}
        messages = [{"role": "user", "content": planned.prompt}]
        has_form = self._llm.template.available
        stream = self._llm.chat_stream(messages, **params) if has_form else self._llm.stream(planned.prompt, **params)
        async with aclosing(stream) as deltas:
            async for delta in deltas:
                now_s, text = clock(), delta.text or delta.reasoning
                if text:
                    outcome.piece(now_s, len(text.encode("utf-8", "replace")))
                done = delta.completion
                if done is not None:
                    outcome.claimed_tokens, outcome.prompt_tokens = len(done.token_ids), done.prompt_tokens
                    outcome.cached_tokens = done.cached_tokens
                    if done.promise is not None and done.promise.asked_ms is not None:
                        outcome.promised, outcome.predicted_ms = True, done.promise.predicted_ms
                    outcome.ended(ends.ANSWERED, now_s)
