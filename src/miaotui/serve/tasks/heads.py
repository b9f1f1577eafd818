"""Heads of classifiers that a server was started with, by name.

Owns reading ``--head NAME=FILE`` and finding one for a request. Knows no route. Invariant: every head is read and
checked before the first request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from miaotui.errors import RequestError
from miaotui.serve.http.errors import bad_value
from miaotui.tasks.heads.head import ClassifierHead
from miaotui.tasks.heads.head_file import load_head

MAX_HEADS = 64


class ServedHeads(Mapping[str, ClassifierHead]):
    """A read-only mapping of names to heads."""

    def __init__(self, heads: Mapping[str, ClassifierHead] | None = None) -> None:
        self._by_name = dict(heads or {})

    def __getitem__(self, name: str) -> ClassifierHead:
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    def only(self, allows: Callable[[str], bool]) -> ServedHeads:
        """Return those whose names are allowed."""
        return ServedHeads({name: head for name, head in self._by_name.items() if allows(name)})

    def find(self, name: str) -> ClassifierHead:
        """Return the head of that name. Raises `ApiError` (400)."""
        found = self._by_name.get(name)
        if found is None:
            known = ", ".join(sorted(self._by_name)) or "none: start the server with --head NAME=FILE"
            raise bad_value("head", f"{name!r} is no head of this server; heads here: {known}")
        return found


def open_heads(words: Iterable[str]) -> ServedHeads:
    """Read the heads of ``NAME=FILE`` words. Raises `RequestError`, and what reading a file raises."""
    found: dict[str, ClassifierHead] = {}
    for word in words:
        name, equals, path = word.partition("=")
        if not equals or not name.strip() or not path:
            raise RequestError(f"--head {word!r}: expected NAME=FILE, a file that miaotui classify --save has written")
        if name in found:
            raise RequestError(f"two heads are called {name}: give one of them another name")
        if len(found) == MAX_HEADS:
            raise RequestError(f"a server has at most {MAX_HEADS} heads")
        found[name] = load_head(path)
    return ServedHeads(found)
