"""The Python entry for threads: `load` a model, then `LLM.generate`, `LLM.chat`, `LLM.stream`, `LLM.score`.

Owns nothing but the calls: `submission` reads what a caller gives, `EngineLoop` runs it, `engine.reading` waits for
it. `AsyncLLM` is its twin for event loops. Invariant: when a call returns or raises, its requests have ended.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, overload

import numpy as np
from numpy.typing import NDArray

from miaotui.backends.options import EngineOptions
from miaotui.closing import Closing, LoopHolder
from miaotui.engine.model_loop import ModelLoop
from miaotui.engine.reading.readers import DeltaStream, whole
from miaotui.engine.sampling.logprobs import score_of
from miaotui.engine.speculator import SourceReport
from miaotui.errors import RequestError
from miaotui.kernels.linear.formats import WANTED
from miaotui.model.config import ModelConfig
from miaotui.runtime import ModelOptions, open_served_model
from miaotui.schedule.plan import PAGE_SIZE
from miaotui.submission import Prompt, SubmissionReader, is_prompt, require_known
from miaotui.text.chat import ChatTemplate, Message
from miaotui.text.tokenizers.tokenizer import Tokenizer
from miaotui.types import Completion, Progress, SamplingParams, Score

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from miaotui.engine.adapters import LoadedAdapter
    from miaotui.schedule.promises.capacity import Capacity
    from miaotui.seq2seq.model import Seq2Seq
    from miaotui.submission import ChatParameters, TextParameters


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
) -> LLM | Any:
    """Load a model by catalog name, GGUF file, folder of safetensors, or Hugging Face repository id.

    ``format`` (``q4``, ``q5``, ``q6``, ``q8``) packs weights that are stored as floats; ``kv`` (``f16``, ``int8``)
    stores keys and values; ``context`` bounds prompt plus answer in tokens. ``speculate`` tries several likely tokens
    in one pass where that is faster; answers are the same bytes with and without. Further options are those of
    `EngineOptions`. Raises a `MiaotuiError`.

    The result is an `LLM`, or a `Seq2Seq` where the folder holds an encoder-decoder, whose options are those of
    `load_seq2seq`. For type checkers it is an `LLM` until ``isinstance`` says otherwise.
    """
    if is_seq2seq_folder(model):
        return _load_seq2seq(model, progress, format=format, threads=threads, context=context, **options)
    chosen = read_options(speculate, format=format, threads=threads, kv=kv, context=context, **options)
    return LLM(open_served_model(model, chosen, progress=progress), owns_loop=True)


def is_seq2seq_folder(model: str | os.PathLike[str]) -> bool:
    """Return whether ``model`` is an encoder-decoder: a folder, or a name of the catalog."""
    if not isinstance(model, str | os.PathLike):
        return False  # for `open_model` to refuse
    folder = os.fspath(model)
    if not isinstance(folder, str):
        return False
    if not os.path.isdir(folder):
        from miaotui.hub.catalog import CATALOG  # noqa: PLC0415  (a path does not need it)

        named = CATALOG.get(folder)
        return named is not None and named.pair is not None
    if not any(
        name == "config.json" or (name.startswith("model") and name.endswith(".bin")) for name in os.listdir(folder)
    ):
        return False
    from miaotui.model.seq2seq.opened import is_seq2seq  # noqa: PLC0415  (a catalog name does not need it)

    return is_seq2seq(folder)


def _load_seq2seq(model: str | os.PathLike[str], progress: Progress | None, **options: Any) -> Seq2Seq:
    from miaotui.seq2seq.model import load_seq2seq  # noqa: PLC0415  (most models need none of it)

    own = {name: options.pop(name) for name in ("format", "threads", "backend") if name in options}
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise RequestError(f"{given[0]}: an encoder-decoder has no such option; leave it away")
    return load_seq2seq(model, progress=progress, **own)


def scores_of(completions: Sequence[Completion], starts: Sequence[int]) -> list[Score]:
    """Return the scores of prompts from these positions on."""
    return [score_of(each.prompt_logprobs, start) for each, start in zip(completions, starts, strict=True)]


def read_options(speculate: bool, *, format: str | None, **options: Any) -> ModelOptions:
    """Return the keywords of `load` as `ModelOptions`. Raises `RequestError`."""
    require_known(options, tuple(EngineOptions.__dataclass_fields__))
    if format is not None and format not in WANTED:
        raise RequestError(f"format must be one of {', '.join(WANTED)}, not {format!r}")
    engine = EngineOptions(format=None if format is None else WANTED[format], **options)
    return ModelOptions(engine, speculate)


class Facade(LoopHolder[ModelLoop]):
    """Base of `LLM` and `AsyncLLM`: one loop, its model, and the numbers that need no waiting.

    With ``owns_loop`` the loop is closed when this object is dropped. Calls that name no adapter go through
    ``adapter``.
    """

    def __init__(self, loop: ModelLoop, *, owns_loop: bool = False, adapter: LoadedAdapter | str | None = None) -> None:
        super().__init__(loop, owns_loop=owns_loop)
        self._reader = SubmissionReader(loop.model, adapter)
        self.config: ModelConfig = loop.model.config
        self.tokenizer: Tokenizer = loop.model.tokenizer
        self.template: ChatTemplate = loop.model.template
        self.context: int = loop.model.context

    def chat_tokens(self, messages: Sequence[Message]) -> list[int]:
        """Return a conversation's token ids, ready for the assistant's turn."""
        return self._reader.chat_tokens(messages)

    def page_excess(self, messages: Sequence[Message]) -> int:
        """Return how many of a conversation's tokens lie beyond the last whole page of the KV cache.

        Requests that begin alike share whole pages; each computes these tokens again.
        """
        return len(self.chat_tokens(messages)) % PAGE_SIZE

    def memory_share(self, completion: Completion) -> float:
        """Return the share of the memory limit that decoding reached: bytes it had to read, over possible.

        In each pass those are the packed weights and, at its mean length, the sequence's keys and values; a pass that
        verifies drafts reads them once for several tokens. The machine's read bandwidth is measured once and
        remembered.
        """
        from miaotui.kernels.platform.bandwidth import remembered_bandwidth  # noqa: PLC0415  (rare)

        stats = self.loop.engine.backend.stats()
        mean_length = completion.prompt_tokens + len(completion.token_ids) / 2
        per_token = stats.weight_bytes + mean_length * stats.kv_token_bytes
        timing = completion.timing
        used = timing.decode_tokens_per_s / timing.tokens_per_pass * per_token / 1e9
        return used / remembered_bandwidth(stats.threads, at_least=used)

    @property
    def drafts(self) -> Sequence[SourceReport]:
        """Return counts of each source of drafts since the model was loaded; empty without speculation."""
        speculation = self.loop.engine.speculation
        return () if speculation is None else speculation.report()

    @property
    def adapters(self) -> Mapping[str, LoadedAdapter]:
        """Return the low-rank adapters that calls may name, by name."""
        return self.loop.adapters

    @property
    def weight_bytes(self) -> int:
        """Return bytes of packed weights that a decode step reads."""
        return self.loop.engine.backend.stats().weight_bytes


class LLM(Closing, Facade):
    """A loaded model, for any number of threads at once.

    Close it, or use it in a ``with`` block, to give its memory back. Ctrl-C while a call waits cancels its requests.
    """

    @overload
    def generate(  # type: ignore[overload-overlap]  # a text is a sequence of texts
        self, prompt: Prompt, params: SamplingParams | None = None, **parameters: Unpack[TextParameters]
    ) -> Completion: ...

    @overload
    def generate(
        self, prompt: Sequence[Prompt], params: SamplingParams | None = None, **parameters: Unpack[TextParameters]
    ) -> list[Completion]: ...

    def generate(
        self,
        prompt: Prompt | Sequence[Prompt],
        params: SamplingParams | None = None,
        **parameters: Unpack[TextParameters],
    ) -> Completion | list[Completion]:
        """Continue one prompt (text or token ids), or several together.

        Parameters are those of `SamplingParams`, as keywords or as one object, and the others of `TextParameters`.
        Raises `RequestError`, `DeadlineUnattainableError`, and what a request failed with.
        """
        if is_prompt(prompt):
            return self._whole([prompt], params, parameters)[0]
        return self._whole(cast("Sequence[Prompt]", prompt), params, parameters)

    def chat(
        self, messages: Sequence[Message], params: SamplingParams | None = None, **parameters: Unpack[ChatParameters]
    ) -> Completion:
        """Answer a conversation: messages with ``role`` and ``content``, in the model's own form.

        Parameters are those of `generate`, and those for tools in `ChatParameters`; the answer's calls are in
        `Completion.tool_calls`. Raises like `generate`, and `TemplateError` if the model has no chat template.
        """
        loop = self.loop
        asked = self._reader.chat(messages, params, parameters)
        return asked.finished(whole(loop, lambda: asked.submit(loop)))[0]

    def stream(
        self, prompt: Prompt, params: SamplingParams | None = None, **parameters: Unpack[TextParameters]
    ) -> DeltaStream:
        """Continue one prompt, piece by piece; the last piece carries the completion.

        Leaving the loop early, closing or dropping the stream cancels the request.
        """
        loop = self.loop
        asked = self._reader.texts([prompt], params, parameters)
        return DeltaStream(loop, lambda: asked.submit_one(loop), self)

    def infill(
        self,
        prefix: str,
        suffix: str,
        params: SamplingParams | None = None,
        *,
        files: Sequence[tuple[str, str]] = (),
        **parameters: Unpack[TextParameters],
    ) -> Completion:
        """Write the text between ``prefix`` and ``suffix``, with a model that was trained to fill in.

        Parameters are those of `generate`; ``files`` are (name, text) pairs that belong to the same project. Raises
        like `generate`, and `RequestError` for a model that only continues texts.
        """
        loop = self.loop
        asked = self._reader.infill(prefix, suffix, files, params, parameters)
        return whole(loop, lambda: asked.submit(loop))[0]

    def infill_stream(
        self,
        prefix: str,
        suffix: str,
        params: SamplingParams | None = None,
        *,
        files: Sequence[tuple[str, str]] = (),
        **parameters: Unpack[TextParameters],
    ) -> DeltaStream:
        """Write the text between two others, piece by piece, see `infill` and `stream`."""
        loop = self.loop
        asked = self._reader.infill(prefix, suffix, files, params, parameters)
        return DeltaStream(loop, lambda: asked.submit_one(loop), self)

    def chat_stream(
        self, messages: Sequence[Message], params: SamplingParams | None = None, **parameters: Unpack[ChatParameters]
    ) -> DeltaStream:
        """Answer a conversation, piece by piece, see `chat` and `stream`."""
        loop = self.loop
        asked = self._reader.chat(messages, params, parameters)
        reader = asked.reader()
        return DeltaStream(loop, lambda: asked.submit_one(loop), self, None if reader is None else reader.read)

    def score(self, prompt: Prompt, continuations: Sequence[Prompt]) -> list[Score]:
        """Score continuations of a prompt (texts or token ids): their log-probabilities under the model, in nats.

        Two texts are cut into tokens as one, and a token that spans their boundary counts to the continuation. Raises
        `RequestError` unless both have a token, `PromptTooLongError` for more than the context holds.
        """
        loop = self.loop
        asked, starts = self._reader.scored(prompt, continuations)
        return scores_of(whole(loop, lambda: asked.submit(loop)), starts)

    def logits(self, token_ids: Prompt) -> NDArray[np.float32]:
        """Compute the logits after each of the tokens, float32 ``[n, vocab]``.

        Raises `RequestError` for tokens that the model does not have, `PromptTooLongError` for more than the context
        holds.
        """
        return self.loop.logits(self._reader.tokens(token_ids))

    def load_adapter(self, name: str, path: str | os.PathLike[str]) -> LoadedAdapter:
        """Load a low-rank adapter, PEFT's folder or a GGUF file, which calls then choose by ``adapter=name``.

        Calls with different adapters, and without one, share passes. Raises `RequestError` for a name in use and where
        there is no room, and `ModelError` for an adapter of another model or one that cannot be read.
        """
        return self.loop.adapters.load(name, Path(path))

    def unload_adapter(self, name: str) -> None:
        """Take an adapter's name away at once, and its memory when the calls that use it have ended.

        Raises `RequestError` for an unknown name.
        """
        self.loop.adapters.unload(name)

    def capacity(self) -> Capacity:
        """Return what this machine can promise; measures it, in at most 0.6 s, unless a deadline has done so."""
        return self.loop.capacity()

    def prompt_budget(self, deadline_ms: float, answer_tokens: int) -> int:
        """Return how many tokens a prompt may have for an answer of so many tokens in time."""
        return self.loop.prompt_budget(deadline_ms, answer_tokens)

    def close(self) -> None:
        """Cancel what is running and give the memory back. Closing twice does nothing."""
        self._close()

    def _whole(
        self, prompts: Sequence[Prompt], params: SamplingParams | None, parameters: TextParameters
    ) -> list[Completion]:
        loop = self.loop
        asked = self._reader.texts(prompts, params, parameters)
        return whole(loop, lambda: asked.submit(loop))
