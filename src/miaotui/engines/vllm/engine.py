"""A child process with vLLM as a stepped engine: requests go out as lines, tokens come back as lines.

Owns the child, its pipes and their form. Knows no vLLM: `child` does, run by the Python that has it. Invariants: a
child that has ended is `EngineError` at the next step, and the dispatcher makes another one; a child does not outlive
its parent, because its input ends with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from miaotui.engines.stepped import Progress
from miaotui.errors import EngineError, RequestError
from miaotui.types import SamplingParams, TokenLogprobs

STEP_S = 0.005  # that a step waits for tokens: a new request waits no longer
START_S = 600.0  # vLLM compiles at its first start
STOP_S = 20.0  # that a child gets to end by itself
Ready = dict[str, Any]


class VllmEngine:
    """A `SteppedEngine` over a child. ``command`` starts it. Raises `EngineError` for one that does not get ready."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        pipe = subprocess.PIPE
        try:
            self._child = subprocess.Popen(  # noqa: S603  (our own program)
                command,
                stdin=pipe,
                stdout=pipe,
                env={**os.environ, **(environment or {})},
                start_new_session=True,  # Ctrl-C is the parent's, and vLLM's own children end with this group
            )
        except OSError as error:
            raise EngineError(f"vLLM could not be started ({command[0]}): {error.strerror or error}") from error
        self._lines: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._running: dict[int, int] = {}  # how many likely tokens each request asks for
        threading.Thread(target=self._read, name="miaotui-vllm-lines", daemon=True).start()
        self.ready = self._begin()

    def _read(self) -> None:
        """Put the child's lines into the queue, until it ends."""
        assert self._child.stdout is not None, "it was started with pipes"
        with contextlib.suppress(ValueError, OSError):  # closed, or a line that is none
            for line in self._child.stdout:
                self._lines.put(json.loads(line))
        self._lines.put(None)

    def _begin(self) -> Ready:
        try:
            first = self._lines.get(timeout=START_S)
        except queue.Empty:
            first = None
        if first is None or "ready" not in first:
            self.close()
            raise EngineError("vLLM did not start: its reason stands above, in the server's output")
        return dict(first["ready"])

    def add(self, number: int, prompt: Sequence[int], params: SamplingParams, most: int) -> None:
        """Begin a request. Raises `EngineError` where the child has ended."""
        self._running[number] = params.logprobs or 0
        self._say({"add": number, "prompt": list(prompt), "params": vllm_params(params, most)})

    def step(self) -> Iterator[Progress]:
        """Yield what has come; wait `STEP_S` for it at most. Raises `EngineError` where the child has ended."""
        wait_s = STEP_S
        while True:
            try:
                message = self._lines.get(timeout=wait_s) if wait_s else self._lines.get_nowait()
            except queue.Empty:
                return
            wait_s = 0.0
            if message is None:
                raise EngineError(f"vLLM's process has ended (status {self._status()})")
            number = message.get("number")
            if number in self._running:  # not one that was cancelled meanwhile
                yield self._progress(number, message)

    def _progress(self, number: int, message: Mapping[str, Any]) -> Progress:
        if "error" in message:
            self._running.pop(number, None)
            kind = RequestError if message["kind"] == "request" else EngineError
            return Progress(number, (), error=kind(f"vLLM does not answer this request: {message['error']}"))
        end: Literal["length"] | None = "length" if "end" in message else None
        most = self._running.pop(number) if end is not None else self._running[number]
        tokens = [int(token) for token in message["tokens"]]
        ranked = message.get("logprobs", ())
        found = [logprobs_of(token, each, most) for token, each in zip(tokens, ranked, strict=False)]
        return Progress(number, tokens, end, logprobs=found)

    def cancel(self, number: int) -> None:
        """End a request."""
        if number in self._running:
            self._running.pop(number, None)
            with contextlib.suppress(EngineError):
                self._say({"cancel": number})

    def close(self) -> None:
        """End the child and its own children."""
        assert self._child.stdin is not None, "it was started with pipes"
        with contextlib.suppress(OSError):
            self._child.stdin.close()
        try:
            self._child.wait(STOP_S)
        except subprocess.TimeoutExpired:
            pass
        finally:
            with contextlib.suppress(OSError):  # mostly gone
                os.killpg(self._child.pid, signal.SIGKILL)
            self._child.wait()

    def _status(self) -> int | None:
        """Return how the child ended; its pipes may have ended a moment before."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(1.0)
        return self._child.poll()

    def _say(self, message: Mapping[str, Any]) -> None:
        assert self._child.stdin is not None, "it was started with pipes"
        try:
            self._child.stdin.write(json.dumps(message, separators=(",", ":")).encode() + b"\n")
            self._child.stdin.flush()
        except (OSError, ValueError) as error:
            raise EngineError(f"vLLM's process has ended (status {self._status()})") from error


def vllm_params(params: SamplingParams, most: int) -> dict[str, Any]:
    """Return a request's parameters as vLLM names them; ends of texts are found by the caller."""
    found: dict[str, Any] = {
        "max_tokens": most,
        "temperature": params.temperature,
        "repetition_penalty": params.repetition_penalty,
        "presence_penalty": params.presence_penalty,
        "frequency_penalty": params.frequency_penalty,
    }
    if params.temperature > 0:
        found |= {"top_p": params.top_p, "min_p": params.min_p, "seed": params.seed % (1 << 31)}
        found["top_k"] = params.top_k or 0
    if params.logprobs is not None:
        found["logprobs"] = params.logprobs
    if params.logit_bias:
        found["logit_bias"] = [[token, bias] for token, bias in params.logit_bias.items()]
    return found


def logprobs_of(token: int, ranked: Sequence[Sequence[float]], most: int) -> TokenLogprobs:
    """Return a chosen token's log-probabilities; vLLM lists the ``most`` likely ones, and it beside them."""
    found = {int(each): logprob for each, logprob, _ in ranked}
    top = sorted((rank, int(each), logprob) for each, logprob, rank in ranked)[:most]
    return TokenLogprobs(token, found[token], tuple((each, logprob) for _, each, logprob in top))


def child_command(python: str, arguments: Mapping[str, Any]) -> list[str]:
    """Return what starts a child by the Python that has vLLM."""
    return [python, str(Path(__file__).with_name("child.py")), json.dumps(dict(arguments))]
