"""Bounds of one rendering of a chat template: time, memory, and size of any one value.

Owns the counting; the sandbox decides when to count. Invariant: a value whose size was allowed can be
printed, compared or sorted in about the time its size suggests, so no single step runs long.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextvars import ContextVar

from jinja2.utils import Namespace

from miaotui.errors import TemplateError

FREE_CHARACTERS = 1 << 20  # any template may use so many
VALUE_FACTOR = 2  # one value may be this many times as large as the input, and
TOTAL_FACTOR = 32  # all values together this many times
MAX_INTEGER_BITS = 4096


class Budget:
    """Time and memory left for one rendering of at most `limit_s`, given an input of `input_characters`.

    `private`: characters of the input that stand for others, see `escaping`. Every method raises
    `TemplateError` when its bound is passed.
    """

    def __init__(self, input_characters: int, limit_s: float, private: Mapping[str, str] | None = None) -> None:
        self.private = private or {}
        self.largest = FREE_CHARACTERS + VALUE_FACTOR * input_characters
        self._left = FREE_CHARACTERS + TOTAL_FACTOR * input_characters
        self._limit_s = limit_s
        self._deadline = time.monotonic() + limit_s

    def step(self) -> None:
        """Count one step of the template against the time."""
        if time.monotonic() > self._deadline:
            raise _exceeded(f"more than {self._limit_s:g} seconds")

    def spend(self, size: int) -> None:
        """Count memory that was taken, in characters or elements; and one step."""
        self._left -= size
        if self._left < 0:
            raise _exceeded("too much memory")
        self.step()

    def allow(self, size: int) -> None:
        """Refuse a value that would be larger than any may be, before it is made."""
        if size > self.largest:
            raise _exceeded(f"a value of more than {self.largest:,} characters")

    def keep(self, value: object) -> None:
        """Count a value that was just made of others, with its size when printed."""
        self.allow(self.weight(value))
        self.spend(_own_size(value))

    def weight(self, value: object) -> int:
        """Count the characters and elements in `value`, shared parts each time; stops if too many.

        Namespaces are refused: they could come to contain each other, so that they have no size.
        """
        total = 0
        pending = [value]
        while pending:
            part = pending.pop()
            total += 1 + _own_size(part)
            if total > self.largest:
                break
            if isinstance(part, dict):
                pending.extend(part)
                pending.extend(part.values())
            elif isinstance(part, (list, tuple)):
                pending.extend(part)
            elif isinstance(part, Namespace):
                raise TemplateError(
                    "the chat template prints a namespace or puts one into another value, "
                    "which is not allowed; use another template"
                )
        return total


def _own_size(value: object) -> int:
    if isinstance(value, (str, list, tuple, dict)):
        return len(value)
    if isinstance(value, int) and value.bit_length() > MAX_INTEGER_BITS:
        raise _exceeded(f"an integer of more than {MAX_INTEGER_BITS} bits")
    return 1


def _exceeded(what: str) -> TemplateError:
    return TemplateError(
        f"the chat template was stopped: it used {what}, more than any sound template needs; "
        "use another template, or generate from a plain prompt"
    )


current: ContextVar[Budget] = ContextVar("template_budget")
