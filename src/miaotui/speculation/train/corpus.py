"""The corpus that a draft head is trained on: the model's own answers, and its hidden states while it gave them.

No data set is needed. The model also writes the questions, from openings of everyday ones (after Xu et al. 2024,
"Magpie", section 2), and answers them at several temperatures. Long answers serve as passages of later questions, so
that a head with attention is trained on long prompts. Owns how a corpus is written and kept in memory. Knows nothing
of training. Invariant: one seed gives one corpus.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miaotui.backends.backend import RowStates, probe_chunk
from miaotui.engine.engine import Engine
from miaotui.engine.loaded_model import LoadedModel
from miaotui.errors import RequestError
from miaotui.model.config import ModelConfig
from miaotui.schedule.plan import Plan
from miaotui.speculation.train.prompt_seeds import EVERYDAY, OPENINGS, quoting
from miaotui.types import SamplingParams

TEMPERATURES = (1.0, 1.0, 1.0, 0.7, 0.0)  # of answers; one is drawn for each batch
BATCH = 16
PASS = 512  # tokens of a text that are computed at a time
EPS = 1e-5
QUOTING = 0.3  # share of batches with passages, once there are long answers
LONG, KEPT = 400, 200  # characters of a long answer; how many of them are kept

_MARK = "\u2063miaotui\u2063"  # placeholder of the question, to split the template around it


@dataclass(frozen=True)
class Memory:
    """Keys and values ``[m, 2, heads, dim]`` of one layer, for a head with attention.

    Those of text ``i``, which begins with its prompt, start at ``begins[i]``.
    """

    found: NDArray[np.float16]
    begins: NDArray[np.int64]


@dataclass(frozen=True)
class Corpus:
    """Texts one after another; text ``i`` spans ``starts[i]`` to ``starts[i + 1]``.

    ``hidden`` float16 ``[n, width]`` are the last states of ``tokens [n]``, scaled to unit variance; ``middle`` are
    those before ``layer``.
    """

    hidden: NDArray[np.float16]
    middle: NDArray[np.float16]
    tokens: NDArray[np.int32]
    starts: NDArray[np.int64]
    layer: int
    memory: Memory | None = None


def collect(
    loaded: LoadedModel, batches: int, seed: int = 0, progress: Callable[[int, int], None] | None = None
) -> Corpus:
    """Let the model write ``batches`` of 16 questions and answers; returns the answers as a corpus.

    Takes about two minutes for 100,000 tokens of a model of 135 million weights on two cores. Raises
    `RequestError` for a model without a chat template, or one that answers nothing.
    """
    writer, layer = _QuestionWriter(loaded, seed), layer_of(loaded.config)
    texts = []
    for batch in range(batches):
        texts += [read(loaded, question, answer, layer) for question, answer in writer.batch() if answer]
        if progress is not None:
            progress(batch + 1, batches)
    if not texts:
        raise RequestError("the model answered none of its questions: use a larger context")
    starts, begins = (np.cumsum([0, *(len(text[part]) for text in texts)]) for part in (2, 3))
    hidden, middle, tokens, found = (np.concatenate(each) for each in zip(*texts, strict=True))
    return Corpus(hidden, middle, tokens, starts, layer, Memory(found, begins))


def layer_of(config: ModelConfig) -> int:
    """Return the layer of a head's middle state: two thirds up, one without an attention window if such a one is
    near.
    """
    most = config.n_layers * 2 // 3
    whole = [layer for layer in range(most // 2, most + 1) if not config.windows[layer]]
    return whole[-1] if whole else most


class _QuestionWriter:
    """A model that writes questions and answers."""

    def __init__(self, loaded: LoadedModel, seed: int) -> None:
        self._engine = Engine(loaded.parts, loaded.tokenizer)
        self._random = random.Random(seed)  # noqa: S311  (questions, no secrets)
        whole = loaded.template.render([{"role": "user", "content": _MARK}], add_generation_prompt=True)
        self._encode = loaded.tokenizer.encode
        self._before, found, self._after = whole.partition(_MARK)
        if not found:
            raise RequestError("the model's chat template leaves the question out: use another model")
        context = loaded.parts.backend.limits.context
        self._most = max(context // 4, 8)
        self._longest = context - self._most - 1  # prompt
        self._asked = list(EVERYDAY)
        self._texts: list[str] = []

    def batch(self) -> Iterator[tuple[list[int], Sequence[int]]]:
        """Yield prompts with their answers, both as tokens."""
        if len(self._texts) >= BATCH and self._random.random() < QUOTING:
            some = (quoting(self._random, self._texts, self._asked) for _ in range(BATCH))
            questions = list(some)
        else:
            questions = self._questions()
        prompts = [self._encode(self._before + each + self._after) for each in questions]
        prompts = [prompt for prompt in prompts if len(prompt) <= self._longest]
        answers = self._answers(prompts, temperature=self._random.choice(TEMPERATURES), max_tokens=min(256, self._most))
        self._texts = [*self._texts, *(text for text, _ in answers if len(text) >= LONG)][-KEPT:]
        yield from zip(prompts, (tokens for _, tokens in answers), strict=True)

    def _questions(self) -> list[str]:
        """Return questions that the model has written, each from an opening."""
        chosen = [self._random.choice(OPENINGS) for _ in range(BATCH)]
        openings = [self._before + opening for opening in chosen]
        size = 200 if self._random.random() < 0.3 else 80
        ending = self._after.strip().splitlines()[:1]
        asked = self._answers(
            [self._encode(opening) for opening in openings],
            temperature=0.9,
            top_p=0.85,
            repetition_penalty=1.05,
            max_tokens=min(size, self._most),
            stop=tuple(ending),
        )
        questions = [opening + text.rstrip() for opening, (text, _) in zip(chosen, asked, strict=True)]
        self._asked = [*self._asked, *(each for each in questions if len(each) < LONG // 2)][-KEPT:]
        return questions

    def _answers(self, prompts: Sequence[Sequence[int]], **how: Any) -> list[tuple[str, Sequence[int]]]:
        requests = [
            self._engine.submit(prompt, SamplingParams(seed=self._random.randrange(1 << 40), **how))
            for prompt in prompts
        ]
        while self._engine.step():
            pass
        done = [request.completion() for request in requests]
        return [(each.text, each.token_ids) for each in done]


def read(
    loaded: LoadedModel, prompt: Sequence[int], answer: Sequence[int], layer: int
) -> tuple[NDArray[np.float16], NDArray[np.float16], NDArray[np.int32], NDArray[np.float16]]:
    """Compute a text and return its last states, its states before ``layer``, its tokens, and its keys and values.

    All but the keys and values, which are the layer's for the whole text, begin with the last token of the prompt.
    """
    backend, ids, end = loaded.parts.backend, [*prompt, *answer], loaded.config.n_layers
    last, middle = [], []
    pages: tuple[int, ...] = ()
    size = min(PASS, backend.limits.rows)
    for start in range(0, len(ids), size):
        chunk = probe_chunk(backend.limits, ids[start : start + size], start)
        found = backend.run(Plan((chunk,)), states=RowStates(layers=(layer, end))).states
        last.append(_normed(found[end]))
        middle.append(_normed(found[layer]))
        pages = chunk.pages
    first = len(prompt) - 1
    states, inner = np.concatenate(last)[first:], np.concatenate(middle)[first:]
    cache = backend.read_cache(layer, pages, len(ids))
    return states, inner, np.array(ids[first:], np.int32), cache


def _normed(state: NDArray[np.float32]) -> NDArray[np.float16]:
    scale = np.sqrt((state * state).mean(axis=1, keepdims=True) + EPS)
    normed: NDArray[np.float16] = (state / scale).astype(np.float16)
    return normed
