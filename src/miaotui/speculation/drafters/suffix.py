"""Drafting from texts: the request's own, its passages, and answers given before.

Owns one suffix index for each request's prompt and answer, one for its passages, and one for each namespace's past
answers. Knows token ids alone. Invariant: a request sees its own text and its own namespace's past, nothing else;
every index is bounded, and forgets its oldest tokens first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from miaotui.kernels.runtime import compiled
from miaotui.speculation.controller import Speculation
from miaotui.speculation.drafters.protocol import Candidate, DraftRequest, Head
from miaotui.speculation.drafters.suffix_index import KERNELS as INDEX_KERNELS
from miaotui.speculation.drafters.suffix_index import SuffixIndex
from miaotui.speculation.policy import KERNELS as POLICY_KERNELS
from miaotui.types import Progress

TEXT, PASSAGES, PAST = "text", "passages", "past"  # the names of the sources
MOST_TEXT = 1 << 15  # tokens of one request that are indexed
PAST_TOKENS = 1 << 17  # of one namespace: some hundred answers, 6 MB
NAMESPACES = 16  # namespaces whose past is kept, those used last: 100 MB when all are full
PROMPT_END = 24  # last tokens of the prompt that are kept before an answer: a like question has a like answer


@dataclass(slots=True)
class _SuffixState:
    """One request's indexes."""

    text: SuffixIndex
    passages: SuffixIndex | None
    namespace: int
    prompt_end: list[int]
    answer: list[int]


class SuffixDrafter:
    """A `Drafter` over suffix indexes; ``past_tokens=0`` remembers no answers."""

    sources = (TEXT, PASSAGES, PAST)
    is_certain = False

    def __init__(self, past_tokens: int = PAST_TOKENS, namespaces: int = NAMESPACES) -> None:
        self._past_tokens, self._namespaces = past_tokens, namespaces
        self._states: dict[int, _SuffixState] = {}
        self._past: OrderedDict[int, SuffixIndex] = OrderedDict()

    def enter(self, request: DraftRequest) -> None:
        """See `Drafter.enter`. Takes time in proportion to the prompt: 0.1 us a token."""
        number, prompt, max_tokens, namespace, passages, _ = request
        text = SuffixIndex(min(len(prompt) + max_tokens, MOST_TEXT))
        text.extend(prompt)
        stored = SuffixIndex(sum(map(len, passages)) + len(passages)) if passages else None
        for passage in passages:
            assert stored is not None, "made for these passages"
            stored.extend(passage)
            stored.end_text()
        self._states[number] = _SuffixState(text, stored, namespace, list(prompt[-PROMPT_END:]), [])

    def extend(self, number: int, tokens: Sequence[int]) -> None:
        """See `Drafter.extend`."""
        state = self._states[number]
        state.text.extend(tokens)
        state.answer.extend(tokens)

    def propose(self, number: int, after: Sequence[int] = ()) -> list[Candidate]:
        """See `Drafter.propose`; takes a few microseconds for each source."""
        state = self._states[number]
        text, candidates = state.text, []
        past = self._past.get(state.namespace)
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
        past = self._past.get(state.namespace)
        if past is None:
            past = self._past[state.namespace] = SuffixIndex(self._past_tokens)
            if len(self._past) > self._namespaces:
                self._past.popitem(last=False)
        self._past.move_to_end(state.namespace)
        past.extend([*state.prompt_end, *state.answer])
        past.end_text()

    def forget(self, namespace: int) -> None:
        """Drop a namespace's past answers."""
        self._past.pop(namespace, None)


def suffix_speculation(progress: Progress | None = None, head: Head | None = None, **options: int) -> Speculation:
    """Make the speculation that engines have by default; ``options`` are those of `SuffixDrafter`."""
    note = None if progress is None else lambda _, done, of: progress("compiling", done, of)
    compiled.prepare((*INDEX_KERNELS, *POLICY_KERNELS), note)
    return Speculation(SuffixDrafter(**options), head=head)
