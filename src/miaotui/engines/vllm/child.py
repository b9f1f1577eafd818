"""The child process around vLLM's AsyncLLM: lines of JSON in, lines of JSON out.

    in    {"add": N, "prompt": [...], "params": {...}}    {"cancel": N}
    out   {"ready": {...}}    {"number": N, "tokens": [...], "logprobs": [...], "end": "length"}
          {"number": N, "error": "...", "kind": "request" | "failed"}

Runs by the Python that has vLLM, as a file: it imports vLLM and the standard library alone, never miaotui. Ends with
its input. Whatever else is printed goes to standard error. Invariant: every request that was added ends with one line
that has an end or an error, unless it is cancelled.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

MOST_LINE = 1 << 26


class Child:
    """Requests of one parent to one AsyncLLM."""

    def __init__(self, engine: Any, output: Any) -> None:
        self._engine, self._output = engine, output
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def say(self, **values: Any) -> None:
        """Write one line."""
        self._output.write(json.dumps(values, separators=(",", ":")).encode() + b"\n")
        self._output.flush()

    def take(self, message: dict[str, Any]) -> None:
        """Begin or cancel a request."""
        if "cancel" in message:
            task = self._tasks.get(message["cancel"])
            if task is not None:
                task.cancel()
            return
        number = message["add"]
        task = asyncio.create_task(self._answer(number, message["prompt"], message["params"]))
        self._tasks[number] = task
        task.add_done_callback(lambda _: self._tasks.pop(number, None))

    async def _answer(self, number: int, prompt: list[int], params: dict[str, Any]) -> None:
        from vllm import SamplingParams  # noqa: PLC0415  (imported by `main` already)
        from vllm.sampling_params import RequestOutputKind  # noqa: PLC0415

        try:
            bias = {int(token): value for token, value in params.pop("logit_bias", [])}
            chosen = SamplingParams(
                **params,
                logit_bias=bias or None,
                ignore_eos=True,
                detokenize=False,
                output_kind=RequestOutputKind.DELTA,
            )
            stream = self._engine.generate({"prompt_token_ids": prompt}, chosen, request_id=str(number))
            async for output in stream:
                found = output.outputs[0]
                values: dict[str, Any] = {"number": number, "tokens": list(found.token_ids)}
                if found.logprobs is not None:
                    values["logprobs"] = [_ranked(each) for each in found.logprobs]
                if output.num_cached_tokens:
                    values["cached"] = output.num_cached_tokens
                if output.finished:
                    values["end"] = found.finish_reason or "length"
                self.say(**values)
        except asyncio.CancelledError:
            pass
        except (ValueError, TypeError) as error:
            self.say(number=number, error=str(error), kind="request")
        except Exception as error:  # the parent fails this request with it
            self.say(number=number, error=f"{type(error).__name__}: {error}", kind="failed")
            if self._engine.errored:  # no request can be answered any more: the parent makes a new child
                os._exit(3)


def _ranked(found: dict[int, Any]) -> list[list[float]]:
    """Return [token, log-probability, rank] of each token that vLLM names; the chosen one is among them."""
    return [[token, each.logprob, each.rank or 0] for token, each in found.items()]


async def _serve(arguments: dict[str, Any], output: Any) -> None:
    from vllm.engine.arg_utils import AsyncEngineArgs  # noqa: PLC0415  (takes seconds)
    from vllm.v1.engine.async_llm import AsyncLLM  # noqa: PLC0415

    engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))
    child = Child(engine, output)
    lines = asyncio.StreamReader(MOST_LINE)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    config = engine.model_config
    child.say(ready={"context": config.max_model_len, "vocab_size": config.get_vocab_size(), "vllm": _version()})
    try:
        while line := await lines.readline():
            child.take(json.loads(line))
    finally:
        engine.shutdown()


def _version() -> str:
    import vllm  # noqa: PLC0415

    return str(vllm.__version__)


def main() -> None:
    """Run the child; its one argument is a JSON object of `AsyncEngineArgs`."""
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    asyncio.run(_serve(json.loads(sys.argv[1]), output))


if __name__ == "__main__":
    main()
