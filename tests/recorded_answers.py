"""Answers of an engine together with the logits they were chosen from, to be compared bit by bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from miaotui.backends.backend import Backend, StepResult
from miaotui.config import Settings
from miaotui.engine.engine import Engine
from miaotui.engine.request import Request
from miaotui.schedule.plan import Chunk, Draft, Plan
from miaotui.types import SamplingParams
from tiny_engine import open_parts

Ask = tuple[tuple[int, ...], SamplingParams]  # a prompt and how to answer it
Drafter = Callable[[int, Sequence[int]], Draft]  # (which ask, answer so far) -> draft

ALONE = {"threads": 1, "reuse_prefix": False, "chunk_size": 512}  # options: nothing runs beside a request


@dataclass(frozen=True)
class Answer:
    """What one request got: tokens, text, log-probabilities, and each token's row of logits."""

    token_ids: tuple[int, ...]
    text: str
    finish_reason: str
    logprobs: tuple[Any, ...]
    rows: tuple[bytes, ...]


class RecordingBackend:
    """A backend that remembers the logits of every sequence and position; all else is another's."""

    def __init__(self, inner: Backend) -> None:
        self._inner = inner
        self.rows: dict[tuple[int, int], dict[tuple[int, ...], bytes]] = {}  # by drafted path
        self.passes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def run(self, plan: Plan, *how: Any) -> StepResult:
        assert plan.passes == 1, "of several, only the last one's logits could be seen"
        result = self._inner.run(plan, *how)
        self.passes += 1
        row = 0
        for chunk in plan.chunks:
            first = chunk.start + len(chunk.tokens) - chunk.n_logits
            paths = drafted_paths(chunk)
            for path in paths:
                self.rows[chunk.sequence, first + len(path)] = {}
            for path in paths:
                here = self.rows[chunk.sequence, first + len(path)]
                here.setdefault(path, result.logits[row].tobytes())
                row += 1
        return result


def drafted_paths(chunk: Chunk) -> list[tuple[int, ...]]:
    """The drafted tokens that each row with logits comes after and is."""
    if not chunk.n_logits:
        return []
    tokens = chunk.tokens[len(chunk.tokens) - chunk.n_logits :]
    parents = {branch.row: branch.parent for branch in chunk.branches}
    paths: list[tuple[int, ...]] = [()]
    for row in range(1, chunk.n_logits):
        paths.append((*paths[parents.get(row, row - 1)], tokens[row]))
    return paths


def _ends(tokens: Sequence[int], path: Sequence[int]) -> bool:
    return list(tokens[len(tokens) - len(path) :]) == list(path)


class Recorder:
    """An engine whose answers come with their logits."""

    def __init__(self, path: Path, settings: Settings, **options: Any) -> None:
        parts, tokenizer = open_parts(path, settings, **options)
        self.backend = RecordingBackend(parts.backend)
        self.engine = Engine(parts._replace(backend=cast("Backend", self.backend)), tokenizer)

    def answers(
        self,
        asks: Sequence[Ask],
        order: Sequence[int] | None = None,
        every: int = 0,
        drafter: Drafter | None = None,
        checked: bool = False,
    ) -> list[Answer]:
        """Answer all, together; in ``order`` of arrival, ``every`` so many steps (0: at once)."""
        requests: dict[int, Request] = {}
        waiting = list(order if order is not None else range(len(asks)))
        steps = 0
        while waiting or self.engine.in_flight:
            while waiting and steps >= every * len(requests):
                number = waiting.pop(0)
                requests[number] = self.engine.submit(*asks[number])
            self.engine.step(_drafts(requests, drafter))
            if checked:
                self.engine.scheduler.check()
            steps += 1
        self.engine.scheduler.check()
        return [self._answer(requests[number]) for number in range(len(asks))]

    def _answer(self, request: Request) -> Answer:
        done = request.completion()
        positions = range(len(done.token_ids))
        first = request.prompt_tokens - 1
        rows = tuple(
            next(row for path, row in paths.items() if _ends(done.token_ids[:i], path))
            for i, paths in ((i, self.backend.rows[request.number, first + i]) for i in positions)
        )
        return Answer(done.token_ids, done.text, done.finish_reason, done.logprobs, rows)


def _drafts(requests: Mapping[int, Request], drafter: Drafter | None) -> dict[int, Draft]:
    if drafter is None:
        return {}
    return {
        request.number: drafter(number, request.token_ids)
        for number, request in requests.items()
        if not request.is_over
    }


def drafter_of(answers: Sequence[Answer], kind: str, length: int = 5) -> Drafter:
    """Drafts that are ``right``, ``wrong``, or ``half`` right, knowing the answers."""

    def draft(number: int, so_far: Sequence[int]) -> Sequence[int]:
        coming = list(answers[number].token_ids[len(so_far) : len(so_far) + length])
        good = {"right": length, "wrong": 0, "half": length // 2}[kind]
        return coming[:good] + [token ^ 1 for token in coming[good:]]

    return draft


def assert_same(found: Sequence[Answer], expected: Sequence[Answer]) -> None:
    """Equal to the last bit; says which answer differs, and from which token on."""
    for number, (one, other) in enumerate(zip(found, expected, strict=True)):
        assert one.token_ids == other.token_ids, f"answer {number}"
        differing = [i for i, pair in enumerate(zip(one.rows, other.rows, strict=True)) if pair[0] != pair[1]]
        assert not differing, f"answer {number}: logits of tokens {differing}"
        assert one == other, f"answer {number}"


class Case:
    """One model: its requests, and what each gets alone."""

    def __init__(self, path: Path, settings: Settings, asks: Sequence[Ask], **options: str) -> None:
        self.path, self.settings, self.asks, self.options = path, settings, asks, options
        recorder = self.recorder(**ALONE)
        self.alone: list[Answer] = []
        for ask in asks:
            self.alone += recorder.answers([ask])

    def recorder(self, **options: object) -> Recorder:
        return Recorder(self.path, self.settings, **{**self.options, **options})
