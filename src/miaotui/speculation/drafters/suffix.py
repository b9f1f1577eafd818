"""Drafting from texts: the request's own, its passages, and answers given before.

Owns one suffix index for each request's prompt and answer, one for its passages, and one for each namespace's past
answers. Search and update are compiled (`kernels.draft.suffix`). Knows token ids alone. Invariants: the tokens that
`SuffixIndex.find` returns did follow, somewhere in the store, the very tokens that it matched; a request sees its own
text and its own namespace's past, nothing else; every index is bounded, and forgets its oldest tokens first.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from miaotui.kernels.draft.suffix_fields import (
    BRANCH_COUNT,
    BRANCH_FIELDS,
    BRANCH_TOKENS,
    BRANCHES,
    CAPACITY,
    FIRST,
    FOUND_FIELDS,
    MASK,
    NOTHING,
    ORDERS,
    PREVIOUS,
    STORE_FIELDS,
    TOKENS,
)
from miaotui.kernels.runtime import compiled
from miaotui.speculation.controller import Speculation
from miaotui.speculation.drafters.protocol import Candidate, DraftRequest, Head
from miaotui.speculation.policy import KERNELS as POLICY_KERNELS
from miaotui.types import Progress

KERNELS = ("draft.suffix:extend", "draft.suffix:find")  # to prepare before the first request
LEAST_CAPACITY = 64
_NOTHING = (NOTHING,)
_FEW = 32


class SuffixMatch(NamedTuple):
    """One way in which a store goes on after a text, of which the last ``length`` tokens match.

    Of the places that were compared, ``agreeing`` go on with its first token and ``disagreeing`` with another.
    """

    length: int
    agreeing: int
    disagreeing: int
    tokens: list[int]  # at least one


class SuffixIndex:
    """A ring of up to ``capacity`` tokens, which forgets the oldest first; about 40 bytes each.

    Not safe for several threads at once.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = max(capacity, LEAST_CAPACITY)
        slots = 1 << (self.capacity - 1).bit_length()
        # One place more than tokens: the seam between the newest and the oldest.
        self._tokens = np.full(self.capacity + 1, NOTHING, np.int32)
        self._first = np.zeros(len(ORDERS) * slots, np.int32)
        self._previous = np.zeros(len(ORDERS) * (self.capacity + 1), np.int32)
        self._store = np.zeros(STORE_FIELDS, np.int64)
        self._store[CAPACITY], self._store[MASK] = self.capacity + 1, slots - 1
        for field, table in ((TOKENS, self._tokens), (FIRST, self._first), (PREVIOUS, self._previous)):
            self._store[field] = table.ctypes.data
        self._found = np.zeros(FOUND_FIELDS, np.int64)
        self.address = int(self._store.ctypes.data)
        self._found_address = int(self._found.ctypes.data)
        self._found_fields = memoryview(self._found.data)
        self._source = np.zeros(_FEW, np.int64)
        self._source_fields = memoryview(self._source.data)
        self._source_address = int(self._source.ctypes.data)
        self.size = 0  # tokens appended since the start, separators included

    @property
    def size_bytes(self) -> int:
        """Return the bytes of the index."""
        return self._tokens.nbytes + self._first.nbytes + self._previous.nbytes

    def extend(self, tokens: Sequence[int] | NDArray[np.int64]) -> None:
        """Append tokens to the current text."""
        count = len(tokens)
        if count <= _FEW:  # every step of every request comes here
            for index, token in enumerate(tokens):
                self._source_fields[index] = token
            _extend()(self.address, self._source_address, count)
        else:
            source = np.ascontiguousarray(tokens, np.int64)
            _extend()(self.address, source.ctypes.data, count)
        self.size += count

    def end_text(self) -> None:
        """End the current text; matches never reach over its end."""
        self.extend(_NOTHING)

    def find(self, reader: SuffixIndex, most: int = BRANCHES, after: Sequence[int] = ()) -> list[SuffixMatch]:
        """Return the continuation in this index after the last tokens of ``reader``'s text (which may be itself).

        A few tokens ``after`` them may be assumed. Returns the ``most`` longest matches, the longest first: one for
        each different next token of the latest places, at most `BRANCHES`.
        """
        if after:
            for index, token in enumerate(after):
                self._source_fields[index] = token
        count = _find()(self.address, reader.address, self._found_address, self._source_address, len(after))
        if not count:
            return []
        found = self._found_fields
        total = sum(found[1 + BRANCH_COUNT + i * BRANCH_FIELDS] for i in range(count)) if count > 1 else 0
        fields = found[: 1 + min(count, most) * BRANCH_FIELDS].tolist()
        matches = []
        for base in range(1, len(fields), BRANCH_FIELDS):
            length, agreeing, size = fields[base : base + BRANCH_TOKENS]
            first = base + BRANCH_TOKENS
            tokens = fields[first : first + size]
            matches.append(SuffixMatch(length, agreeing, max(total - agreeing, 0), tokens))
        return matches


@functools.cache
def _extend() -> Callable[..., int]:
    return compiled.function("draft.suffix:extend", arguments=3, brief=True)


@functools.cache
def _find() -> Callable[..., int]:
    return compiled.function("draft.suffix:find", arguments=5, brief=True)


TEXT, PASSAGES, PAST = "text", "passages", "past"  # the names of the sources
MOST_TEXT = 1 << 15  # tokens of one request that are indexed
PAST_TOKENS = 1 << 17  # of one namespace: some hundred answers, 6 MB
NAMESPACES = 16  # namespaces (each under an adapter) whose past is kept, those used last: 100 MB when all are full
PROMPT_END = 24  # last tokens of the prompt that are kept before an answer: a like question has a like answer


@dataclass(slots=True)
class _SuffixState:
    """One request's indexes."""

    text: SuffixIndex
    passages: SuffixIndex | None
    past: tuple[int, int]  # whose earlier answers it sees: a namespace, and an adapter
    prompt_end: list[int]
    answer: list[int]


class SuffixDrafter:
    """A `Drafter` over suffix indexes; ``past_tokens=0`` remembers no answers."""

    sources = (TEXT, PASSAGES, PAST)
    is_certain = False

    def __init__(self, past_tokens: int = PAST_TOKENS, namespaces: int = NAMESPACES) -> None:
        self._past_tokens, self._namespaces = past_tokens, namespaces
        self._states: dict[int, _SuffixState] = {}
        self._past: OrderedDict[tuple[int, int], SuffixIndex] = OrderedDict()

    def enter(self, request: DraftRequest) -> bool:
        """See `Drafter.enter`. Takes time in proportion to the prompt: 0.1 us a token."""
        number, prompt, max_tokens, namespace, passages, _, adapter = request
        text = SuffixIndex(min(len(prompt) + max_tokens, MOST_TEXT))
        text.extend(prompt)
        stored = SuffixIndex(sum(map(len, passages)) + len(passages)) if passages else None
        for passage in passages:
            assert stored is not None, "made for these passages"
            stored.extend(passage)
            stored.end_text()
        self._states[number] = _SuffixState(text, stored, (namespace, adapter), list(prompt[-PROMPT_END:]), [])
        return True

    def extend(self, number: int, tokens: Sequence[int]) -> None:
        """See `Drafter.extend`."""
        state = self._states[number]
        state.text.extend(tokens)
        state.answer.extend(tokens)

    def propose(self, number: int, after: Sequence[int] = ()) -> list[Candidate]:
        """See `Drafter.propose`; takes a few microseconds for each source."""
        state = self._states[number]
        text, candidates = state.text, []
        past = self._past.get(state.past)
        for source, index in ((TEXT, text), (PASSAGES, state.passages), (PAST, past)):
            if index is not None:
                for length, agreeing, disagreeing, tokens in index.find(text, 1, after):
                    candidates.append(Candidate(source, length, tokens, agreeing, disagreeing))
        return candidates

    def leave(self, number: int, finished: bool) -> None:
        """See `Drafter.leave`."""
        state = self._states.pop(number, None)
        if state is None or not finished or not self._past_tokens or not state.answer:
            return
        past = self._past.get(state.past)
        if past is None:
            past = self._past[state.past] = SuffixIndex(self._past_tokens)
            if len(self._past) > self._namespaces:
                self._past.popitem(last=False)
        self._past.move_to_end(state.past)
        past.extend([*state.prompt_end, *state.answer])
        past.end_text()

    def forget(self, namespace: int) -> None:
        """Drop a namespace's past answers, under all adapters."""
        for past in [past for past in self._past if past[0] == namespace]:
            del self._past[past]


def suffix_speculation(progress: Progress | None = None, head: Head | None = None, **options: int) -> Speculation:
    """Make the speculation that engines have by default; ``options`` are those of `SuffixDrafter`."""
    note = None if progress is None else lambda _, done, of: progress("compiling", done, of)
    compiled.prepare((*KERNELS, *POLICY_KERNELS), note)
    return Speculation(SuffixDrafter(**options), head=head)
