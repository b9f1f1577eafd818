"""The next tokens, guessed from what was said before: in this text, in passages, in past answers.

Owns one suffix index for each request's prompt and answer, one for its passages, and one for each
namespace's past answers. Knows token ids alone. Invariant: a request sees its own text and its own
namespace's past, nothing else; every index is bounded, and forgets its oldest tokens first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from miaotui.backends.options import Progress
from miaotui.kernels.runtime import compiled
from miaotui.speculation.controller import Speculation
from miaotui.speculation.drafters.protocol import Guess, Head
from miaotui.speculation.drafters.suffix_index import KERNELS, SuffixIndex

TEXT, PASSAGES, PAST = 0, 1, 2
MOST_TEXT = 1 << 15  # tokens of one request that are looked at
PAST_TOKENS = 1 << 17  # of one namespace: some hundred answers, 6 MB
NAMESPACES = 16  # whose past is kept, the latest used: 100 MB when all are full
LEAD = 24  # tokens of the prompt that are remembered before an answer: like question, like answer


@dataclass(slots=True)
class _SuffixState:
    """One request's indexes."""

    text: SuffixIndex
    passages: SuffixIndex | None
    namespace: int
    lead: list[int]
    answer: list[int]


class SuffixDrafter:
    """A `Drafter` over suffix indexes; ``past_tokens=0`` remembers no answers."""

    sources = ("text", "passages", "past")

    def __init__(self, past_tokens: int = PAST_TOKENS, namespaces: int = NAMESPACES) -> None:
        self._past_tokens, self._namespaces = past_tokens, namespaces
        self._following: dict[int, _SuffixState] = {}
        self._past: OrderedDict[int, SuffixIndex] = OrderedDict()

    def enter(
        self, number: int, prompt: Sequence[int], most: int, namespace: int, passages: Sequence[Sequence[int]]
    ) -> None:
        """See `Drafter.enter`. Takes time in proportion to the prompt: 0.1 us a token."""
        text = SuffixIndex(min(len(prompt) + most, MOST_TEXT))
        text.extend(prompt)
        stored = SuffixIndex(sum(map(len, passages)) + len(passages)) if passages else None
        for passage in passages:
            assert stored is not None
            stored.extend(passage)
            stored.end_text()
        self._following[number] = _SuffixState(text, stored, namespace, list(prompt[-LEAD:]), [])

    def extend(self, number: int, tokens: Sequence[int]) -> None:
        """See `Drafter.extend`."""
        following = self._following[number]
        following.text.extend(tokens)
        following.answer.extend(tokens)

    def guess(self, number: int, after: Sequence[int] = ()) -> list[Guess]:
        """See `Drafter.guess`; a few microseconds for each source."""
        following = self._following[number]
        text, guesses = following.text, []
        past = self._past.get(following.namespace)
        for source, index in ((TEXT, text), (PASSAGES, following.passages), (PAST, past)):
            if index is not None:
                for length, places, rivals, tokens in index.follow(text, 1, after):
                    guesses.append(Guess(source, length, tokens, places, rivals))
        return guesses

    def leave(self, number: int, finished: bool) -> None:
        """See `Drafter.leave`."""
        following = self._following.pop(number, None)
        if following is None or not finished or not self._past_tokens or not following.answer:
            return
        past = self._past.get(following.namespace)
        if past is None:
            past = self._past[following.namespace] = SuffixIndex(self._past_tokens)
            if len(self._past) > self._namespaces:
                self._past.popitem(last=False)
        self._past.move_to_end(following.namespace)
        past.extend([*following.lead, *following.answer])
        past.end_text()

    def forget(self, namespace: int) -> None:
        """Drop a namespace's past answers."""
        self._past.pop(namespace, None)


def suffix_speculation(progress: Progress | None = None, head: Head | None = None, **options: int) -> Speculation:
    """Speculation as engines have it by default; ``options`` are those of `SuffixDrafter`."""
    told = None if progress is None else lambda _, done, of: progress("compiling", done, of)
    compiled.prepare(KERNELS, told)
    return Speculation(SuffixDrafter(**options), head)
