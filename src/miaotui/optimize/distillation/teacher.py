"""Teacher's distributions over texts, in chunks on the disk: for each place its likeliest tokens.

Owns the chunks: who wrote their texts, and what the teacher says of them. A chunk is made when it is first needed, and
kept. Runs the teacher by `LLM`. Invariant: the bytes on the disk are bounded before they are taken; a chunk appears
whole or not at all; the same teacher, seed and number give the same chunk.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miaotui.errors import ModelFormatError, RequestError
from miaotui.hub.files import require_room, write_whole
from miaotui.llm import LLM
from miaotui.llm import load as load_llm
from miaotui.optimize.layerwise import log_probabilities

KEPT = 64  # tokens of each place
BATCH = 16  # texts that are written side by side
SEEDS = 1009  # the seed of a chunk's texts is a multiple of it
Tokens = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class TeacherChunk:
    """Some texts, ``tokens [texts, n]``, and the teacher's likeliest tokens after each: ``ids`` and log-probabilities
    ``logs``, both ``[texts, n, KEPT]``.
    """

    tokens: Tokens
    ids: Tokens
    logs: NDArray[np.float16]


@dataclass(frozen=True)
class ChunkPlan:
    """Sizes of chunks: texts of ``length`` tokens, begun by one of ``openings``, of which a share are given texts."""

    openings: Sequence[str]
    given: Sequence[Sequence[int]]  # rows of given texts, used before any are written
    texts: int
    length: int
    seed: int

    @property
    def chunk_bytes(self) -> int:
        """Return the bytes of a chunk on the disk."""
        return self.texts * self.length * (4 + 6 * KEPT) + 4096


class TeacherCache:
    """Chunks of one teacher in ``folder``; those whose texts a student wrote are in ``own``, the folder of its run."""

    def __init__(self, folder: Path, own: Path, teacher: Path, plan: ChunkPlan, vocabulary: int) -> None:
        self._folder, self._own, self._path, self._plan, self.vocabulary = folder, own, teacher, plan, vocabulary
        self._teacher: LLM | None = None

    def chunk(self, number: int, writer: Path | None = None, own: bool = False) -> TeacherChunk:
        """Return a chunk, a student's ``own`` or the teacher's.

        ``writer`` is the model that writes its texts if it is not there (None: the teacher).
        """
        path = self._place(number, own)
        found = _read(path)
        if found is None:
            found = self._made(number, writer)
            arrays: Mapping[str, Any] = {"tokens": found.tokens, "ids": found.ids, "logs": found.logs}
            write_whole(path, "a chunk of the teacher's distributions", lambda file: np.savez(file, **arrays))
        return found

    def has(self, number: int, own: bool) -> bool:
        """Return whether a chunk is there."""
        return self._place(number, own).is_file()

    def require_room(self, chunks: int) -> None:
        """Raise `CacheError` unless the disk has room for so many chunks."""
        require_room(self._folder, self._plan.chunk_bytes * chunks)

    def _place(self, number: int, own: bool) -> Path:
        return (self._own if own else self._folder) / f"chunk-{number:05}.npz"

    def close(self) -> None:
        """Drop the teacher's memory."""
        if self._teacher is not None:
            self._teacher.close()
            self._teacher = None

    def _made(self, number: int, writer: Path | None) -> TeacherChunk:
        if self._teacher is None:
            self._teacher = load_llm(os.fspath(self._path), context=self._plan.length + 16, speculate=False)
        if writer is None:
            texts = self._texts(self._teacher, number)
        else:
            with load_llm(os.fspath(writer), context=self._plan.length + 16, speculate=False) as student:
                texts = self._texts(student, number)
        likeliest = [self._likeliest(self._teacher, row) for row in texts]
        ids, logs = (np.stack(each) for each in zip(*likeliest, strict=True))
        return TeacherChunk(np.array(texts, np.int32), ids, logs)

    def _texts(self, writer: LLM, number: int) -> list[list[int]]:
        """Return rows of given texts while there are some, then texts that are written."""
        plan, first = self._plan, number * self._plan.texts
        rows = [list(row) for row in plan.given[first : first + plan.texts]]
        most = writer.config.vocab_size
        for start in range(len(rows), plan.texts, BATCH):
            count = min(BATCH, plan.texts - start)
            prompts = [plan.openings[(first + start + i) % len(plan.openings)] for i in range(count)]
            done = writer.generate(
                prompts,
                max_tokens=plan.length,
                temperature=1.0,
                seed=plan.seed + SEEDS * (first + start),
                ignore_eos=True,
            )
            for prompt, one in zip(prompts, done, strict=True):
                tokens = [*writer.tokenizer.encode(prompt), *one.token_ids][: plan.length]
                rows.append([min(token, most - 1) for token in tokens])
        return rows

    def _likeliest(self, teacher: LLM, tokens: Sequence[int]) -> tuple[Tokens, NDArray[np.float16]]:
        logs = log_probabilities(teacher.logits(list(tokens))[:, : self.vocabulary])
        kept = min(KEPT, self.vocabulary - 1)
        ids = np.argpartition(logs, -kept, axis=1)[:, -kept:].astype(np.int32)
        ids.sort(axis=1)
        return ids, np.take_along_axis(logs, ids, 1).astype(np.float16)


def _read(path: Path) -> TeacherChunk | None:
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as found:
            return TeacherChunk(found["tokens"], found["ids"], found["logs"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ModelFormatError(f"{path} is damaged ({error}): remove it, and it is made again") from error


def common_vocabulary(teacher: Mapping[str, Any], student: Mapping[str, Any], sizes: tuple[int, int]) -> int:
    """Return how many tokens both models have, from their GGUF metadata and the rows of their embeddings.

    One may be padded with rows that no token has. Raises `RequestError` for other vocabularies.
    """
    first, second = (found.get("tokenizer.ggml.tokens") for found in (teacher, student))
    if first is None or second is None:
        raise RequestError("a model without a tokenizer cannot teach or learn: choose another file")
    count = min(len(first), len(second), *sizes)
    differs = next((i for i in range(count) if first[i] != second[i]), None)
    longest = max(len(first), len(second))
    if differs is not None or longest - count > max(1024, count // 50):
        where = f"token {differs} differs" if differs is not None else f"{len(first):,} tokens, not {len(second):,}"
        raise RequestError(f"the teacher has another vocabulary than the student ({where}): choose one of its family")
    return count
