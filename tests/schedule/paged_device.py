"""A device that a scheduler's tests can run plans on: paged memory and a model that is a hash.

Each slot of a page stores a hash of everything up to it, as keys and values do; reading a slot that
another sequence wrote, or nobody, is therefore noticed. The next token depends on the hash alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from miaotui.schedule import PAGE_SIZE, Chunk, Plan

VOCABULARY = 3  # few tokens, so that different sequences share prefixes


@dataclass
class Request:
    prompt: tuple[int, ...]
    max_tokens: int
    namespace: int = 0

    def answer(self) -> list[int]:
        """What the model says when nothing else runs."""
        tokens = list(self.prompt)
        state = hashes(tokens, self.namespace)[-1]
        for _ in range(self.max_tokens):
            tokens.append(next_token(state))
            state = hash((state, tokens[-1]))
        return tokens[len(self.prompt) :]


def hashes(tokens: Sequence[int], namespace: int) -> list[int]:
    """The content of the slot of each position."""
    state, states = hash((namespace, -1)), []
    for token in tokens:
        state = hash((state, token))
        states.append(state)
    return states


def next_token(state: int) -> int:
    return (state >> 7) % VOCABULARY


class PagedDevice:
    """Runs plans; ``tokens[sequence]`` are the prompt and what was accepted so far."""

    def __init__(self, n_pages: int) -> None:
        self.memory = [[0] * PAGE_SIZE for _ in range(n_pages)]
        self.rows = 0

    def run(
        self, plan: Plan, tokens: Mapping[int, Sequence[int]], namespaces: Mapping[int, int]
    ) -> dict[int, list[int]]:
        """The accepted tokens of each chunk with logits; all rows of a step run at once."""
        expected = {
            chunk.sequence: hashes(_rows(chunk, tokens), namespaces[chunk.sequence])
            for chunk in plan.chunks
        }
        for chunk in plan.chunks:
            self._verify(chunk, expected[chunk.sequence][: chunk.start])
        for chunk in plan.chunks:
            for position in range(chunk.start, chunk.start + len(chunk.tokens)):
                page = chunk.pages[position // PAGE_SIZE]
                self.memory[page][position % PAGE_SIZE] = expected[chunk.sequence][position]
        for chunk in plan.chunks:
            self._verify(chunk, expected[chunk.sequence])
        self.rows += plan.n_rows
        return {
            chunk.sequence: _accept(chunk, expected[chunk.sequence])
            for chunk in plan.chunks
            if chunk.n_logits
        }

    def _verify(self, chunk: Chunk, expected: Sequence[int]) -> None:
        for position, state in enumerate(expected):
            page = chunk.pages[position // PAGE_SIZE]
            found = self.memory[page][position % PAGE_SIZE]
            assert found == state, f"{chunk.sequence} reads another's position {position}"


def _rows(chunk: Chunk, tokens: Mapping[int, Sequence[int]]) -> list[int]:
    """All tokens up to the chunk's end, after checking that the chunk continues its sequence."""
    known = list(tokens[chunk.sequence])
    end = chunk.start + len(chunk.tokens)
    drafted = max(0, end - len(known))
    assert list(chunk.tokens[: len(chunk.tokens) - drafted]) == known[chunk.start : end]
    assert chunk.n_logits == (0 if end < len(known) else 1 + drafted)
    assert len(chunk.pages) == -(-end // PAGE_SIZE)
    return known[: chunk.start] + list(chunk.tokens)


def _accept(chunk: Chunk, states: Sequence[int]) -> list[int]:
    """The model's token at each row with logits, up to the first that the draft did not foresee."""
    accepted = []
    drafted = chunk.tokens[len(chunk.tokens) - chunk.n_logits + 1 :]
    for row, state in enumerate(states[len(states) - chunk.n_logits :]):
        accepted.append(next_token(state))
        if row < len(drafted) and drafted[row] != accepted[-1]:
            break
    return accepted
