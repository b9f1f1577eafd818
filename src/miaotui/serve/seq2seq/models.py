"""Encoder-decoders of one server, by name: in memory from its start to its end.

Owns which of them a request means. Knows no wire form. Invariants: a request that names a model gets that one; of those
that name none, translations go to an encoder-decoder that translates, and everything else to a chat model if there is
one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from miaotui.engine.seq2seq.loop import Seq2SeqLoop
from miaotui.seq2seq.async_model import AsyncSeq2Seq


@dataclass(eq=False)
class ServedSeq2Seq:
    """An encoder-decoder that runs, under the name that requests call it by."""

    name: str
    model: AsyncSeq2Seq
    created_s: int = field(default_factory=lambda: int(time.time()))

    @property
    def max_tokens(self) -> int:
        """Return tokens of the longest text."""
        return self.model.model.max_tokens


class Seq2SeqModels(Mapping[str, ServedSeq2Seq]):
    """A read-only mapping of names to encoder-decoders, in the order in which they were given."""

    def __init__(self, loops: Mapping[str, Seq2SeqLoop] | None = None) -> None:
        self._by_name = {name: ServedSeq2Seq(name, AsyncSeq2Seq(loop)) for name, loop in (loops or {}).items()}

    def __getitem__(self, name: str) -> ServedSeq2Seq:
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    def only(self, allows: Callable[[str], bool]) -> Seq2SeqModels:
        """Return those whose names are allowed; they are the same models."""
        found = Seq2SeqModels()
        found._by_name = {name: each for name, each in self._by_name.items() if allows(name)}
        return found

    def named(self, name: str | None, *, instead: bool) -> ServedSeq2Seq | None:
        """Return the model of that name; for None the first one, if it is to answer ``instead`` of a chat model."""
        if name is not None:
            return self._by_name.get(name)
        return next(iter(self._by_name.values()), None) if instead else None

    def translator(self, name: str | None) -> ServedSeq2Seq | None:
        """Return the model of that name; for None the first one that translates."""
        if name is not None:
            return self._by_name.get(name)
        return next((each for each in self._by_name.values() if each.model.model.translates), None)

    def close(self) -> None:
        """Cancel everything and give the memory back."""
        for each in self._by_name.values():
            each.model.loop.close()
