"""A device that a scheduler's tests can run plans on: paged memory and a model that is a hash.

Each slot of a page stores a hash of everything up to it, as keys and values do; reading a slot that
another sequence or branch wrote, or nobody, is therefore noticed. The next token depends on the hash alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from miaotui.schedule import PAGE_SIZE, Chunk, Plan
from miaotui.schedule.plan import Branch

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
        expected = {chunk.sequence: hashes(_rows(chunk, tokens), namespaces[chunk.sequence]) for chunk in plan.chunks}
        sides = [
            (chunk, branch, hashes(_branch_rows(chunk, branch, tokens), namespaces[chunk.sequence]))
            for chunk in plan.chunks
            for branch in chunk.branches
        ]
        for chunk in plan.chunks:
            self._verify(chunk.sequence, chunk.pages, expected[chunk.sequence][: chunk.start])
        for _, branch, _ in sides:
            if branch.copied is not None:
                self.memory[branch.pages[branch.own]] = list(self.memory[branch.copied])
        for chunk in plan.chunks:
            self._store(chunk.pages, chunk.start, chunk.trunk, expected[chunk.sequence])
        for _, branch, states in sides:
            again = len(branch.again)
            self._store(branch.pages, branch.start - again, again + branch.count, states)
        for chunk in plan.chunks:
            self._verify(chunk.sequence, chunk.pages, expected[chunk.sequence])
        for chunk, branch, states in sides:
            self._verify(chunk.sequence, branch.pages, states)
        self.rows += plan.n_rows
        accepted = {}
        for chunk in plan.chunks:
            if chunk.n_logits:
                branches = {b.row: states for c, b, states in sides if c is chunk}
                accepted[chunk.sequence] = _accept(chunk, expected[chunk.sequence], branches)
        return accepted

    def _store(self, pages: Sequence[int], start: int, count: int, states: Sequence[int]) -> None:
        for position in range(start, start + count):
            self.memory[pages[position // PAGE_SIZE]][position % PAGE_SIZE] = states[position]

    def _verify(self, sequence: int, pages: Sequence[int], expected: Sequence[int]) -> None:
        for position, state in enumerate(expected):
            found = self.memory[pages[position // PAGE_SIZE]][position % PAGE_SIZE]
            assert found == state, f"{sequence} reads another's position {position}"


def _rows(chunk: Chunk, tokens: Mapping[int, Sequence[int]]) -> list[int]:
    """All tokens up to the trunk's end, after checking that the chunk continues its sequence."""
    known = list(tokens[chunk.sequence])
    end = chunk.start + chunk.trunk
    drafted = max(0, end - len(known))
    assert list(chunk.tokens[: chunk.trunk - drafted]) == known[chunk.start : end]
    side = len(chunk.tokens) - chunk.trunk
    assert chunk.n_logits == (0 if end < len(known) else 1 + drafted + side)
    assert len(chunk.pages) == -(-end // PAGE_SIZE)
    return known[: chunk.start] + list(chunk.tokens[: chunk.trunk])


def _parents(chunk: Chunk) -> list[int]:
    """The row before each row of a chunk."""
    parents = list(range(-1, len(chunk.tokens) - 1))
    for branch in chunk.branches:
        parents[branch.row] = branch.parent
    return parents


def _branch_rows(chunk: Chunk, branch: Branch, tokens: Mapping[int, Sequence[int]]) -> Sequence[int]:
    """All tokens up to a branch's end; the rows before it that it holds again are on its path."""
    parents, path = _parents(chunk), []
    row = branch.row + branch.count - 1
    while row >= 0:
        path.append(row)
        row = parents[row]
    path.reverse()
    before = path[: -branch.count]
    assert branch.start == chunk.start + len(before)
    assert branch.again == tuple(before[len(before) - len(branch.again) :])
    assert len(branch.pages) == -(-(branch.start + branch.count) // PAGE_SIZE)
    return [*tokens[chunk.sequence][: chunk.start], *(chunk.tokens[row] for row in path)]


def _accept(chunk: Chunk, trunk: Sequence[int], branches: Mapping[int, Sequence[int]]) -> list[int]:
    """The model's token after each row with logits, up to the first that no row drafted."""
    known = len(chunk.tokens) - chunk.n_logits
    parents = _parents(chunk)
    states: dict[int, int] = {}
    for row in range(known, chunk.trunk):
        states[row] = trunk[chunk.start + row]
    for branch in chunk.branches:
        for index in range(branch.count):
            states[branch.row + index] = branches[branch.row][branch.start + index]
    row, accepted = known, []
    while True:
        accepted.append(next_token(states[row]))
        following = [r for r in states if parents[r] == row and chunk.tokens[r] == accepted[-1] and r > row]
        if not following:
            return accepted
        row = following[0]
