"""Examples to learn from: JSONL of chats or texts, and plain text, as tokens of which some are learned.

Owns the forms of lines, and which tokens carry loss: those of answers, with the token that ends them, and all of a
plain text. Chats are written by the model's own template. Knows no torch. Invariants: no token of a question is
learned; sizes are bounded before memory is taken; a line that is wrong is named with its number.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from miaotui.errors import RequestError, TemplateError
from miaotui.text.chat import ChatEncoder
from miaotui.training.texts import numbered_lines

MOST_BYTES = 256 << 20  # of a file
MOST_LINE = 1 << 20  # characters of a line
FORMS = '{"messages": [...]}, {"prompt": ..., "completion": ...} or {"text": ...}'


@dataclass(frozen=True, eq=False)
class Example:
    """One text ``[n]``; ``counted`` says which tokens are learned. ``key`` is the digest of its line."""

    tokens: NDArray[np.int32]
    counted: NDArray[np.bool_]
    key: str


@dataclass(frozen=True, eq=False)
class ExampleSet:
    """Examples of some files, each line once; ``cut`` were too long, of ``skipped`` no answer was left."""

    name: str
    examples: tuple[Example, ...]
    cut: int = 0
    skipped: int = 0

    @property
    def digest(self) -> str:
        """Return the SHA-256 of all lines, in their order."""
        return hashlib.sha256("".join(each.key for each in self.examples).encode()).hexdigest()

    @property
    def counted(self) -> int:
        """Return how many tokens are learned."""
        return sum(int(each.counted[1:].sum()) for each in self.examples)

    def split(self, every: int) -> tuple[ExampleSet, ExampleSet]:
        """Return the set without one line in ``every``, and those lines: held out, by their place among all lines."""
        keys = list(dict.fromkeys(each.key for each in self.examples))
        held = set(keys[every // 2 :: every])
        parts = [tuple(each for each in self.examples if (each.key in held) is wanted) for wanted in (False, True)]
        return ExampleSet(self.name, parts[0], self.cut, self.skipped), ExampleSet(f"{self.name} (held out)", parts[1])

    def without(self, keys: frozenset[str]) -> ExampleSet:
        """Return the set without the lines of these digests."""
        left = tuple(each for each in self.examples if each.key not in keys)
        return ExampleSet(self.name, left, self.cut, self.skipped)

    def keys(self) -> frozenset[str]:
        """Return the digests of its lines."""
        return frozenset(each.key for each in self.examples)


def read_examples(paths: Sequence[Path], chat: ChatEncoder, length: int, vocab_size: int) -> ExampleSet:
    """Read ``.jsonl`` files and plain texts; no example is longer than ``length`` tokens.

    Raises `RequestError`, naming file and line, for what is no example.
    """
    found: list[Example] = []
    seen: set[str] = set()
    cut = skipped = 0
    for path in paths:
        is_jsonl = path.suffix.lower() in (".jsonl", ".ndjson", ".json")
        for number, line in numbered_lines(path, MOST_BYTES):
            key = hashlib.sha256(line.strip().encode()).hexdigest()
            if key in seen:
                continue
            seen.add(key)
            where = f"{path}, line {number}"
            if len(line) > MOST_LINE:
                raise RequestError(f"{where} has more than {MOST_LINE:,} characters: cut it")
            values = _object(line, where) if is_jsonl else {"text": line}
            for tokens, counted in _encoded(values, chat, where):
                if tokens and max(tokens) >= vocab_size:
                    raise RequestError(f"{where} has a token that the model lacks: use the model's own tokenizer")
                cut += len(tokens) > length
                pieces = _pieces(tokens, counted, length, "text" in values)
                kept = [Example(*piece, key) for piece in pieces if piece[1][1:].any()]
                skipped += not kept
                found += kept
    return ExampleSet(", ".join(path.name for path in paths), tuple(found), cut, skipped)


def _pieces(
    tokens: Sequence[int], counted: Sequence[bool], length: int, is_text: bool
) -> Iterator[tuple[NDArray[np.int32], NDArray[np.bool_]]]:
    """Yield a chat's beginning, or all of a text in pieces that share a token."""
    ids, chosen = np.array(tokens, np.int32), np.array(counted, np.bool_)
    yield ids[:length], chosen[:length]
    if is_text:
        for start in range(length - 1, len(ids) - 1, length - 1):
            yield ids[start : start + length], chosen[start : start + length]


def _object(line: str, where: str) -> Mapping[str, Any]:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{where} is not JSON ({error}): each line is {FORMS}") from None
    if not isinstance(values, dict):
        raise RequestError(f"{where} must be a JSON object: {FORMS}")
    return values


def _encoded(values: Mapping[str, Any], chat: ChatEncoder, where: str) -> Iterator[tuple[list[int], list[bool]]]:
    try:
        if isinstance(values.get("text"), str):
            yield _text(values["text"], chat)
        elif isinstance(values.get("messages"), list):
            yield from _conversation(values["messages"], chat, values.get("tools"))
        elif isinstance(values.get("prompt"), str) and isinstance(values.get("completion"), str):
            yield from _answer(values["prompt"], values["completion"], chat)
        else:
            raise RequestError(f"expected {FORMS}, found {sorted(map(str, values))[:6]}")
    except (RequestError, TemplateError) as error:
        raise RequestError(f"{where}: {error}") from None


def _text(text: str, chat: ChatEncoder) -> tuple[list[int], list[bool]]:
    tokens = chat.tokenizer.encode(text, special=False, whole=True)
    if chat.tokenizer.eos_id is not None and tokens[-1:] != [chat.tokenizer.eos_id]:
        tokens = [*tokens, chat.tokenizer.eos_id]
    return tokens, [True] * len(tokens)


def _answer(prompt: str, completion: str, chat: ChatEncoder) -> Iterator[tuple[list[int], list[bool]]]:
    if not completion:
        raise RequestError("the completion is empty: the model would learn to say nothing; leave the line out")
    if chat.template.available:
        messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
        yield from _conversation(messages, chat, None)
        return
    before = chat.tokenizer.encode(prompt, special=False, whole=True)
    after = chat.tokenizer.encode(completion, special=False, whole=False)
    if chat.tokenizer.eos_id is not None:
        after = [*after, chat.tokenizer.eos_id]
    yield before + after, [False] * len(before) + [True] * len(after)


def _conversation(messages: Sequence[Any], chat: ChatEncoder, tools: Any) -> Iterator[tuple[list[int], list[bool]]]:
    """Yield a conversation, all of whose answers are learned; one text for each answer, where a template writes the
    answers before it in another way than when they were given.
    """
    turns = [
        at for at, each in enumerate(messages) if isinstance(each, dict) and each.get("role") == "assistant" and at
    ]
    if not turns:
        raise RequestError("no message is an answer (role assistant) to another: there is nothing to learn")
    if not all(messages[at].get("content") or messages[at].get("tool_calls") for at in turns):
        raise RequestError("an answer is empty: the model would learn to say nothing; leave the line out")
    if tools is not None and not (isinstance(tools, list) and all(isinstance(each, dict) for each in tools)):
        raise RequestError(f"tools must be a list of objects, not {str(tools)[:40]}")
    texts = []
    for at in turns:
        before = chat.encode(messages[:at], tools, add_generation_prompt=True)
        whole = chat.encode(messages[: at + 1], tools, add_generation_prompt=False)
        if whole[: len(before)] != before:  # the answer begins where both texts still agree
            before = before[: next((i for i, (a, b) in enumerate(zip(before, whole, strict=False)) if a != b), 0)]
        end = _end(whole, len(before), chat.tokenizer.eos_ids)
        texts.append((whole[:end], len(before)))
    last = texts[-1][0]
    if all(last[: len(text)] == text for text, _ in texts):
        counted = np.zeros(len(last), np.bool_)
        for text, start in texts:
            counted[start : len(text)] = True
        yield last, counted.tolist()
        return
    for text, start in texts:
        yield text, [False] * start + [True] * (len(text) - start)


def _end(tokens: Sequence[int], start: int, ends: frozenset[int]) -> int:
    """Return one past the last token that ends an answer; what a template writes behind it is not learned."""
    return next((at + 1 for at in range(len(tokens) - 1, start - 1, -1) if tokens[at] in ends), len(tokens))
