"""The three-line Python entry: `load` a model, then `LLM.generate`, `LLM.chat`, `LLM.stream`, `LLM.logits`.

Owns the way from text to requests and back; the engine does the work. An `LLM` may be used from
several threads: whoever waits for an answer drives the engine, and everybody's requests advance
together in each step.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeGuard, cast, overload

import numpy as np
from numpy.typing import NDArray

from miaotui.config import Settings
from miaotui.engine.build import Built, EngineOptions, Progress, build
from miaotui.engine.engine import Engine
from miaotui.engine.request import Request
from miaotui.errors import EngineError, PromptTooLongError, RequestError
from miaotui.hub.resolve import resolve
from miaotui.kernels.attention_fields import PAGE_TOKENS
from miaotui.kernels.formats import Format
from miaotui.model.files import open_model
from miaotui.model.workspace import KvPages
from miaotui.schedule.plan import Chunk
from miaotui.text.chat import ChatTemplate, Message
from miaotui.text.load import load_chat_template, load_tokenizer
from miaotui.types import Completion, Delta, SamplingParams

Prompt = str | Sequence[int]
_PARAMETERS = tuple(SamplingParams.__dataclass_fields__)


def load(
    model: str | os.PathLike[str],
    *,
    format: str | None = None,
    threads: int | None = None,
    kv: str = "f16",
    context: int | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> LLM:
    """Load a model by catalog name, GGUF file, folder of safetensors, or Hugging Face repository id.

    ``format`` (``q4``, ``q8``) packs weights that are stored as floats; ``kv`` (``f16``, ``int8``)
    stores keys and values; ``context`` bounds prompt plus answer in tokens. Further options are
    those of `EngineOptions`. Raises a `MiaotuiError`.
    """
    chosen = _options(format=format, threads=threads, kv=kv, context=context, **options)
    settings = Settings.from_env()
    path = resolve(model, progress=progress, settings=settings)
    return LLM(path, chosen, settings, progress)


class LLM:
    """A loaded model. Close it, or use it in a ``with`` block, to give its memory back."""

    def __init__(
        self,
        path: Path,
        options: EngineOptions,
        settings: Settings,
        progress: Progress | None = None,
    ) -> None:
        with open_model(path) as files:
            self.config = files.config
            self.tokenizer = load_tokenizer(files.metadata, files.folder)
            self._template = load_chat_template(files.metadata, files.folder)
        self._built: Built | None = build(path, self.config, options, settings, progress)
        self.context = self._built.context
        self.kv = options.kv
        self._engine = Engine(
            self._built.runner, self._built.scheduler, self.tokenizer, self.context
        )
        self._lock = threading.Lock()

    # answers -------------------------------------------------------------------------------------------------------

    @overload
    def generate(
        self, prompt: Prompt, params: SamplingParams | None = None, **parameters: Any
    ) -> Completion: ...

    @overload
    def generate(
        self, prompt: Sequence[Prompt], params: SamplingParams | None = None, **parameters: Any
    ) -> list[Completion]: ...

    def generate(
        self,
        prompt: Prompt | Sequence[Prompt],
        params: SamplingParams | None = None,
        **parameters: Any,
    ) -> Completion | list[Completion]:
        """Continue one prompt (text or token ids), or several together.

        Parameters are those of `SamplingParams`, as keywords or as one object. Raises `RequestError` and what a request
        failed with.
        """
        chosen = _params(params, parameters)
        if _is_prompt(prompt):
            return self._answers([self._tokens(prompt)], chosen)[0]
        several = cast("Sequence[Prompt]", prompt)
        return self._answers([self._tokens(one) for one in several], chosen)

    def chat(
        self, messages: Sequence[Message], params: SamplingParams | None = None, **parameters: Any
    ) -> Completion:
        """Answer a conversation: messages with ``role`` and ``content``, through the model's own template."""
        return self._answers([self.chat_tokens(messages)], _params(params, parameters))[0]

    def stream(
        self, prompt: Prompt, params: SamplingParams | None = None, **parameters: Any
    ) -> Iterator[Delta]:
        """Like `generate` for one prompt, piece by piece; the last piece carries the completion.

        Leaving the loop early cancels the request.
        """
        return self._pieces(self._tokens(prompt), _params(params, parameters))

    def chat_stream(
        self, messages: Sequence[Message], params: SamplingParams | None = None, **parameters: Any
    ) -> Iterator[Delta]:
        """Like `chat`, piece by piece."""
        return self._pieces(self.chat_tokens(messages), _params(params, parameters))

    def chat_tokens(self, messages: Sequence[Message]) -> list[int]:
        """A conversation as token ids, ready for the assistant's turn."""
        return self.tokenizer.encode(self.template.render(messages, add_generation_prompt=True))

    @property
    def template(self) -> ChatTemplate:
        """The model's chat template; raises `TemplateError` when it has none."""
        return self._template

    # numbers -------------------------------------------------------------------------------------------------------

    def logits(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """The logits after each of the tokens, float32 ``[n, vocab]``."""
        tokens = tuple(int(token) for token in token_ids)
        if len(tokens) > self.context:
            raise PromptTooLongError(
                f"{len(tokens)} tokens exceed the context of {self.context}: give fewer"
            )
        if not tokens or min(tokens) < 0 or max(tokens) >= self.config.vocab_size:
            raise RequestError(f"token_ids must be 1 or more ids in [0, {self.config.vocab_size})")
        built = self._parts()
        step = min(
            built.runner.program.workspace.max_logits, built.runner.program.workspace.max_rows
        )
        result = np.empty((len(tokens), self.config.vocab_size), np.float32)
        with self._lock:
            for start in range(0, len(tokens), step):
                part = tokens[start : start + step]
                end = start + len(part)
                pages = tuple(built.spare_pages[: -(-end // PAGE_TOKENS)])
                result[start:end] = built.runner.run([Chunk(-1, start, part, pages, len(part))])
        return result

    def memory_share(self, completion: Completion) -> float:
        """The share of the memory limit that decoding reached: bytes it had to read per second, over what can be read.

        Bytes are the packed weights and, at its mean length, the sequence's keys and values. The
        machine's read bandwidth is measured once and remembered.
        """
        from miaotui.kernels.bandwidth import remembered_bandwidth  # noqa: PLC0415

        mean_length = completion.prompt_tokens + len(completion.token_ids) / 2
        per_token = self.weight_bytes + mean_length * KvPages.bytes_per_token(self.config, self.kv)
        used = completion.timing.decode_tokens_per_s * per_token / 1e9
        return used / remembered_bandwidth(self._parts().runner.team.size, at_least=used)

    @property
    def weight_bytes(self) -> int:
        """Bytes of packed weights that a decode step reads."""
        weights = self._parts().weights
        unread = 0 if self.config.tied_head else weights.matrix("embed").data.nbytes
        return weights.size_bytes - unread

    def close(self) -> None:
        """Cancel what is running and give the memory back. Closing twice does nothing."""
        with self._lock:
            if self._built is not None:
                self._engine.cancel_all()
                self._built.weights.close()
                self._built = None

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # driving the engine --------------------------------------------------------------------------------------------

    def _answers(
        self, prompts: Sequence[Sequence[int]], params: SamplingParams
    ) -> list[Completion]:
        requests: list[Request] = []
        try:
            for prompt in prompts:
                requests.append(self._submit(prompt, params))
            for request in requests:
                self._drive(request, until_over=True)
            return [request.completion() for request in requests]
        finally:
            self._cancel(requests)

    def _pieces(self, prompt: Sequence[int], params: SamplingParams) -> Iterator[Delta]:
        request = self._submit(prompt, params)
        return self._read(request)

    def _read(self, request: Request) -> Iterator[Delta]:
        try:
            while True:
                self._drive(request, until_over=False)
                with self._lock:
                    delta = request.read()
                yield delta
                if delta.completion is not None:
                    return
        finally:
            self._cancel([request])

    def _submit(self, prompt: Sequence[int], params: SamplingParams) -> Request:
        self._parts()
        with self._lock:
            return self._engine.submit(prompt, params)

    def _drive(self, request: Request, until_over: bool) -> None:
        """Step the engine until the request has news (or is over); other threads' requests advance with it."""
        while not (request.is_over if until_over else request.has_news):
            with self._lock:
                if request.is_over or (request.has_news and not until_over):
                    return
                if not self._engine.step():
                    raise EngineError(
                        f"request {request.number} is neither running nor over: please report this"
                    )

    def _cancel(self, requests: Sequence[Request]) -> None:
        with self._lock:
            for request in requests:
                if not request.is_over:
                    self._engine.cancel(request)

    def _tokens(self, prompt: Prompt) -> list[int]:
        if isinstance(prompt, str):
            return self.tokenizer.encode(prompt)
        return [int(token) for token in prompt]

    def _parts(self) -> Built:
        if self._built is None:
            raise EngineError("this model is closed: load it again")
        return self._built


def _is_prompt(prompt: Prompt | Sequence[Prompt]) -> TypeGuard[Prompt]:
    return isinstance(prompt, str) or (len(prompt) > 0 and isinstance(prompt[0], (int, np.integer)))


def _params(params: SamplingParams | None, parameters: Mapping[str, Any]) -> SamplingParams:
    """One `SamplingParams` from either form; unknown names fail, naming the nearest."""
    if params is not None:
        if parameters:
            raise RequestError("give sampling parameters as one object or as keywords, not both")
        return params
    _known(parameters, _PARAMETERS)
    cleaned = dict(parameters)
    if isinstance(cleaned.get("stop"), str):
        cleaned["stop"] = (cleaned["stop"],)
    for name in ("stop", "stop_token_ids"):
        if cleaned.get(name) is not None:
            cleaned[name] = tuple(cleaned[name])
    try:
        return SamplingParams(
            **{name: value for name, value in cleaned.items() if value is not None}
        )
    except TypeError as error:
        raise RequestError(f"a sampling parameter has the wrong type: {error}") from None


def _options(format: str | None, **options: Any) -> EngineOptions:
    _known(options, tuple(EngineOptions.__dataclass_fields__))
    if format is not None and format not in ("q4", "q8"):
        raise RequestError(f"format must be 'q4' or 'q8', not {format!r}")
    return EngineOptions(format=None if format is None else Format(format), **options)


def _known(given: Mapping[str, Any], names: Sequence[str]) -> None:
    import difflib  # noqa: PLC0415

    for name in given:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are: {', '.join(names)}"
            raise RequestError(f"unknown parameter {name!r}: {hint}")
