"""The Python entry of models that restore masked tokens: `load_masked`, then `MaskedLM.generate` and `restore`.

Owns the way from text to tokens and back, the lock under which a text runs, and its turns at the cores. Knows neither
schedulers nor promises, which these models do not take part in yet (docs/architecture.md). Invariant: the pieces of a
stream, joined, are the whole answer.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

from miaotui.backends.backend import Backend
from miaotui.backends.build import build_backend
from miaotui.backends.options import BackendName, EngineOptions
from miaotui.closing import Closing
from miaotui.config import Settings
from miaotui.dmlm.decoding.decode import DecodedPass, DecodeOptions, decode, restore
from miaotui.dmlm.decoding.passes import TextPasses
from miaotui.engine.turns import CoreTurns, PlainSharer, shared_turns
from miaotui.errors import EngineError, RequestError, UnsupportedModelError
from miaotui.hub.resolve import resolve
from miaotui.kernels.linear.formats import WANTED
from miaotui.model.config import ModelConfig
from miaotui.model.masked import MaskedConfig
from miaotui.model.reading import files
from miaotui.text.chat import ChatEncoder, Message
from miaotui.text.load import load_chat_template, load_tokenizer
from miaotui.types import Progress, token_ids

LEAST_LOGITS = 64  # rows of a pass with logits: two blocks of the usual length


@dataclass(frozen=True)
class MaskedCompletion:
    """A whole answer, and what it took: ``passes`` over ``rows`` rows, in ``seconds``."""

    text: str
    token_ids: tuple[int, ...]
    prompt_tokens: int
    finish_reason: Literal["stop", "length"]
    passes: int
    rows: int
    seconds: float

    @property
    def tokens_per_pass(self) -> float:
        """Return how many tokens a pass brought."""
        return len(self.token_ids) / max(self.passes, 1)


def load_masked(
    model: str | os.PathLike[str],
    *,
    block: int | None = None,
    format: str | None = None,
    threads: int | None = None,
    context: int | None = None,
    chunk_size: int = 1024,
    backend: BackendName = "cpu",
    progress: Progress | None = None,
) -> MaskedLM:
    """Load a model that restores masked tokens, from a folder of safetensors or a GGUF file.

    ``block`` is how many positions see each other, for models whose files do not say (dLLM's bd3lm: 32); 0: all.
    ``chunk_size`` bounds the rows of a pass, and with them a text whose positions all see each other. Raises a
    `MiaotuiError`.
    """
    settings = Settings.from_env()
    path = resolve(model, progress=progress, settings=settings)
    with files.open_model(path) as opened:
        config = opened.config
        if config.masked is None:
            raise UnsupportedModelError(f"{path.name} continues texts: open it with miaotui.load")
        tokenizer = load_tokenizer(opened.metadata, opened.folder)
        chat = ChatEncoder(load_chat_template(opened.metadata, opened.folder), tokenizer)
    masked = config.masked if block is None else replace(config.masked, block=block)
    if format is not None and format not in WANTED:
        raise RequestError(f"format must be one of {', '.join(WANTED)}, not {format!r}")
    options = EngineOptions(
        format=None if format is None else WANTED[format],
        threads=threads,
        context=context,
        chunk_size=chunk_size,
        max_sequences=max(masked.block, LEAST_LOGITS),
        backend=backend,
    )
    parts = build_backend(path, config, options, settings, progress)
    return MaskedLM(config, masked, chat, parts.backend)


class MaskedLM(Closing):
    """A loaded model, for any number of threads, one after the other. Close it to give its memory back."""

    def __init__(self, config: ModelConfig, masked: MaskedConfig, chat: ChatEncoder, backend: Backend) -> None:
        self.config, self.masked, self.tokenizer = config, masked, chat.tokenizer
        self._chat = chat
        self._passes = TextPasses(backend, masked, turn=self._turn)
        self._lock = threading.Lock()
        self._turns, self._sharer = shared_turns(), PlainSharer()
        self._turns.join(self._sharer)
        self._release = weakref.finalize(self, _release, self._turns, self._sharer, backend)

    def generate(self, prompt: str | Sequence[int], options: DecodeOptions | None = None) -> MaskedCompletion:
        """Write an answer after ``prompt`` (text or token ids), block by block."""
        *_, (_, completion) = self._answer(prompt, options or DecodeOptions())
        assert completion is not None, "the last piece carries the answer"
        return completion

    def chat(self, messages: Sequence[Message], options: DecodeOptions | None = None) -> MaskedCompletion:
        """Answer a conversation: messages with ``role`` and ``content``. Raises `TemplateError` without a template."""
        return self.generate(self._chat.encode(messages, at_most=self._passes.most_tokens), options)

    def stream(self, prompt: str | Sequence[int], options: DecodeOptions | None = None) -> Iterator[str]:
        """Yield an answer's text as it becomes final from its beginning; leaving the loop ends it."""
        for piece, _ in self._answer(prompt, options or DecodeOptions()):
            if piece:
                yield piece

    def restore(self, tokens: Sequence[int], options: DecodeOptions | None = None) -> list[int]:
        """Return token ids with every mask restored. Raises `RequestError` for a text without a mask."""
        text = list(tokens)
        if self.masked.mask_id not in text:
            raise RequestError(f"the text has no mask: put token {self.masked.mask_id} where tokens are missing")
        with self._running():
            for each in restore(self._passes, self.masked, text, options or DecodeOptions()):
                text = each.tokens
        return text

    def close(self) -> None:
        """Give the memory back. Closing twice does nothing."""
        with self._lock:
            self._release()

    def _answer(
        self, prompt: str | Sequence[int], options: DecodeOptions
    ) -> Iterator[tuple[str, MaskedCompletion | None]]:
        """Yield what each pass added to the text; the last one carries the whole answer."""
        tokens = self.tokenizer.encode(prompt) if isinstance(prompt, str) else token_ids(prompt)
        if any(not 0 <= token < self.config.vocab_size for token in tokens):
            raise RequestError(f"token ids of this model are in [0, {self.config.vocab_size:,})")
        ends, stream = self.tokenizer.eos_ids, self.tokenizer.stream(start=False)
        start_s, shown, said = time.perf_counter(), 0, ""
        with self._running():
            last = None
            for last in decode(self._passes, self.masked, tokens, options, ends):
                answer = _until_end(last, len(tokens), ends)
                piece = stream.push_all(answer[shown:])
                shown, said = max(shown, len(answer)), said + piece
                yield piece, None
            assert last is not None, "an answer has at least one block"
            is_over = any(token in ends for token in last.tokens[len(tokens) : len(tokens) + last.final])
            tail = stream.finish(cut=not is_over)
            yield (
                tail,
                MaskedCompletion(
                    said + tail,
                    tuple(_until_end(last, len(tokens), ends)),
                    len(tokens),
                    "stop" if is_over else "length",
                    self._passes.passes,
                    self._passes.rows,
                    time.perf_counter() - start_s,
                ),
            )

    @contextmanager
    def _turn(self) -> Iterator[None]:
        self._turns.enter(self._sharer)
        try:
            yield
        finally:
            self._turns.done(self._sharer)

    def _running(self) -> threading.Lock:
        if not self._release.alive:
            raise EngineError("the model is closed: load it again")
        return self._lock


def _release(turns: CoreTurns, sharer: PlainSharer, backend: Backend) -> None:
    turns.leave(sharer)
    backend.close()


def _until_end(state: DecodedPass, start: int, ends: frozenset[int]) -> list[int]:
    """Return the final tokens of the answer before its end token."""
    answer = state.tokens[start : start + state.final]
    return answer[: next((at for at, token in enumerate(answer) if token in ends), len(answer))]
