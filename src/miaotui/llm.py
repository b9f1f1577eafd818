"""The three-line Python entry: `load` a model, then `LLM.generate`, `LLM.chat`, `LLM.stream`,
`LLM.score`, `LLM.logits`.

Owns the way from what a caller gives to token ids and checked parameters; the engine does the work.
Knows neither schedules nor threads. Invariant: what a caller gets wrong is a `RequestError` before
anything runs.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeGuard, cast, overload

import numpy as np
from numpy.typing import NDArray

from miaotui.backends.backend import probe_chunk
from miaotui.backends.options import EngineOptions, Progress
from miaotui.config import Settings
from miaotui.engine.driver import Driver
from miaotui.engine.loaded import load_model
from miaotui.engine.sampling.logprobs import score_of
from miaotui.engine.speculator import SourceReport
from miaotui.errors import PromptTooLongError, RequestError
from miaotui.hub.resolve import resolve
from miaotui.kernels.linear.formats import Format
from miaotui.schedule.plan import Plan
from miaotui.speculation.drafters.head import head_for
from miaotui.speculation.drafters.suffix import suffix_speculation
from miaotui.text.continuation import continued
from miaotui.text.templates.chat_template import Message
from miaotui.types import Completion, Delta, SamplingParams, Score

Prompt = str | Sequence[int]
_PARAMETERS = tuple(SamplingParams.__dataclass_fields__)


def load(
    model: str | os.PathLike[str],
    *,
    format: str | None = None,
    threads: int | None = None,
    kv: str = "f16",
    context: int | None = None,
    speculate: bool = True,
    progress: Progress | None = None,
    **options: Any,
) -> LLM:
    """Load a model by catalog name, GGUF file, folder of safetensors, or Hugging Face repository
    id.

    ``format`` (``q4``, ``q8``) packs weights that are stored as floats; ``kv`` (``f16``, ``int8``)
    stores keys and values; ``context`` bounds prompt plus answer in tokens. ``speculate`` tries
    several likely tokens in one pass where that is faster; answers are the same bytes with and
    without. Further options are those of `EngineOptions`. Raises a `MiaotuiError`.
    """
    chosen = _options(format=format, threads=threads, kv=kv, context=context, **options)
    settings = Settings.from_env()
    path = resolve(model, progress=progress, settings=settings)
    return LLM(path, chosen, settings, progress, speculate)


class LLM:
    """A loaded model. Close it, or use it in a ``with`` block, to give its memory back."""

    def __init__(
        self,
        path: Path,
        options: EngineOptions,
        settings: Settings,
        progress: Progress | None = None,
        speculate: bool = True,
    ) -> None:
        loaded = load_model(path, options, settings, progress)
        self.config, self.tokenizer = loaded.config, loaded.tokenizer
        self.template, self._chat = loaded.template, loaded.chat
        self.context = loaded.parts.backend.limits.context
        self.kv = options.kv
        speculation = None
        if speculate:
            speculation = suffix_speculation(progress, head_for(loaded.parts.backend, settings))
        self._driver = Driver(loaded.parts, self.tokenizer, speculation)

    # answers --------------------------------------------------------------------------------------

    @overload
    def generate(self, prompt: Prompt, params: SamplingParams | None = None, **parameters: Any) -> Completion: ...

    @overload
    def generate(
        self, prompt: Sequence[Prompt], params: SamplingParams | None = None, **parameters: Any
    ) -> list[Completion]: ...

    def generate(
        self, prompt: Prompt | Sequence[Prompt], params: SamplingParams | None = None, **parameters: Any
    ) -> Completion | list[Completion]:
        """Continue one prompt (text or token ids), or several together.

        Parameters are those of `SamplingParams`, as keywords or as one object. Raises
        `RequestError` and what a request failed with.
        """
        chosen = _params(params, parameters)
        if _is_prompt(prompt):
            return self._driver.answers([self._tokens(prompt)], chosen)[0]
        several = cast("Sequence[Prompt]", prompt)
        return self._driver.answers([self._tokens(one) for one in several], chosen)

    def chat(self, messages: Sequence[Message], params: SamplingParams | None = None, **parameters: Any) -> Completion:
        """Answer a conversation: messages with ``role`` and ``content``, in the model's own form.

        Raises like `generate`, and `TemplateError` if the model has no chat template.
        """
        chosen = _params(params, parameters)
        return self._driver.answers([self.chat_tokens(messages)], chosen)[0]

    def stream(self, prompt: Prompt, params: SamplingParams | None = None, **parameters: Any) -> Iterator[Delta]:
        """Like `generate` for one prompt, piece by piece; the last piece carries the completion.

        Leaving the loop early cancels the request.
        """
        chosen = _params(params, parameters)
        return self._driver.pieces(self._tokens(prompt), chosen)

    def chat_stream(
        self, messages: Sequence[Message], params: SamplingParams | None = None, **parameters: Any
    ) -> Iterator[Delta]:
        """Like `chat`, piece by piece."""
        chosen = _params(params, parameters)
        return self._driver.pieces(self.chat_tokens(messages), chosen)

    def chat_tokens(self, messages: Sequence[Message]) -> list[int]:
        """Return a conversation as token ids, ready for the assistant's turn.

        Contents are text: what looks like a control token in them is none.
        """
        return self._chat.encode(messages, at_most=self.context)

    def score(self, prompt: Prompt, continuations: Sequence[Prompt]) -> list[Score]:
        """Score continuations of a prompt (texts or token ids): their log-probabilities under the model, in nats.

        Two texts are cut into tokens as one, and a token that spans their boundary counts to the continuation. Raises
        `RequestError` unless both have a token, `PromptTooLongError` for more than the context holds.
        """
        if isinstance(continuations, str):
            raise RequestError("continuations must be a list: [text] for one")
        whole = [self._continued(prompt, continuation) for continuation in continuations]
        params = [SamplingParams(max_tokens=0, prompt_logprobs=0, prompt_logprobs_start=start) for _, start in whole]
        answers = self._driver.answers([tokens for tokens, _ in whole], params)
        return [score_of(answer.prompt_logprobs, start) for answer, (_, start) in zip(answers, whole, strict=True)]

    def _continued(self, prompt: Prompt, continuation: Prompt) -> tuple[list[int], int]:
        before, after = (part if isinstance(part, str) else self._tokens(part) for part in (prompt, continuation))
        return continued(self.tokenizer, before, after, at_most=self.context)

    # numbers --------------------------------------------------------------------------------------

    def logits(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """The logits after each of the tokens, float32 ``[n, vocab]``.

        Raises `RequestError` for tokens that the model does not have, `PromptTooLongError` for more
        than the context holds.
        """
        tokens = tuple(self._tokens(token_ids))
        if len(tokens) > self.context:
            raise PromptTooLongError(
                f"{len(tokens)} tokens exceed the context of {self.context}: give fewer, or load "
                "the model with a larger context"
            )
        if not tokens or min(tokens) < 0 or max(tokens) >= self.config.vocab_size:
            raise RequestError(f"token_ids must be 1 or more ids in [0, {self.config.vocab_size})")
        result = np.empty((len(tokens), self.config.vocab_size), np.float32)
        with self._driver.turn() as opened:
            backend, limits = opened.parts.backend, opened.parts.backend.limits
            step = min(limits.logits_rows, limits.rows)
            for start in range(0, len(tokens), step):
                part = tokens[start : start + step]
                step_result = backend.run(Plan((probe_chunk(limits, part, start, len(part)),)))
                result[start : start + len(part)] = step_result.logits
        return result

    def memory_share(self, completion: Completion) -> float:
        """The share of the memory limit that decoding reached: bytes it had to read, over possible.

        In each pass those are the packed weights and, at its mean length, the sequence's keys and
        values; a pass that verifies drafts reads them once for several tokens. The
        machine's read bandwidth is measured once and remembered.
        """
        from miaotui.kernels.platform.bandwidth import remembered_bandwidth  # noqa: PLC0415

        mean_length = completion.prompt_tokens + len(completion.token_ids) / 2
        stats = self._driver.opened.parts.backend.stats()
        per_token = stats.weight_bytes + mean_length * stats.kv_token_bytes
        timing = completion.timing
        used = timing.decode_tokens_per_s / timing.tokens_per_pass * per_token / 1e9
        return used / remembered_bandwidth(stats.threads, at_least=used)

    @property
    def drafts(self) -> Sequence[SourceReport]:
        """What each source of guesses has brought since the model was loaded; empty without."""
        speculation = self._driver.opened.engine.speculation
        return () if speculation is None else speculation.report()

    @property
    def weight_bytes(self) -> int:
        """Bytes of packed weights that a decode step reads."""
        return self._driver.opened.parts.backend.stats().weight_bytes

    def close(self) -> None:
        """Cancel what is running and give the memory back. Closing twice does nothing."""
        self._driver.close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _tokens(self, prompt: Prompt) -> list[int]:
        if isinstance(prompt, str):
            return self.tokenizer.encode(prompt, at_most=self.context)
        try:
            return [operator.index(token) for token in prompt]
        except TypeError:
            raise RequestError(f"a prompt must be text or token ids, not {type(prompt).__name__}") from None


def _is_prompt(prompt: Prompt | Sequence[Prompt]) -> TypeGuard[Prompt]:
    """Whether it is one prompt: text, or token ids."""
    if isinstance(prompt, str):
        return True
    if not isinstance(prompt, (Sequence, np.ndarray)) or isinstance(prompt, (bytes, bytearray)):
        kind = type(prompt).__name__
        raise RequestError(f"a prompt must be text, token ids, or a list of those, not {kind}")
    return len(prompt) > 0 and isinstance(prompt[0], (int, np.integer))


def _params(params: SamplingParams | None, parameters: Mapping[str, Any]) -> SamplingParams:
    """One `SamplingParams` from either form; unknown names fail, naming the nearest."""
    if params is not None:
        if parameters:
            raise RequestError("give sampling parameters as one object or as keywords, not both")
        return params
    _known(parameters, _PARAMETERS)
    given = {name: _plain(value) for name, value in parameters.items() if value is not None}
    if isinstance(given.get("stop"), str):
        given["stop"] = (given["stop"],)
    for name in ("stop", "stop_token_ids"):
        if isinstance(given.get(name), (list, set, frozenset)):
            given[name] = tuple(given[name])
    return SamplingParams(**given)


def _plain(value: Any) -> Any:
    """Numbers of NumPy as Python's own."""
    return value.item() if isinstance(value, np.generic) else value


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
