"""Plain values of a schedule: its limits, and one step's rows, which are all that the scheduler tells a backend.

A plan knows token ids, positions and physical page numbers; it does not know tensors, and holding one keeps nothing
alive. Drafted tokens are a line or a small tree. A tree's trunk is a line and lies in the sequence's own pages, at
the cost of a line; every other branch has a private tail of pages, which begins with a copy of the page in which it
leaves its parent. Invariants: a request that passes `ScheduleConfig.require_fitting` can run to its end when nothing
else runs; the rows of a chunk write only to pages that no other chunk of the plan mentions; a row finds at each
position before it the keys and values of its own path, in the page order of plain decoding. Verifying a tree in one
pass follows Miao et al., "SpecInfer" (2024), and Cai et al., "Medusa" (2024).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from miaotui.errors import EngineError, PromptTooLongError, RequestError

PAGE_SIZE = 16  # tokens
NO_ADAPTER = 0


def pages_for(n_tokens: int) -> int:
    """Return the number of pages that hold ``n_tokens`` positions."""
    return (n_tokens + PAGE_SIZE - 1) // PAGE_SIZE


@dataclass(frozen=True, slots=True)
class DraftTree:
    """Drafted tokens, each after its parent: an earlier token's index, or -1 for the last known token.

    The trunk comes first: tokens 0, 1, ... as long as each one's parent is the one before it. Likewise every later run
    of tokens that follow each other is one branch. Raises `EngineError` for parents that do not come before their
    children.
    """

    tokens: tuple[int, ...]
    parents: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.tokens) != len(self.parents):
            raise EngineError(
                f"a tree of {len(self.tokens)} drafted tokens names {len(self.parents)} parents; each token needs one"
            )
        for index, parent in enumerate(self.parents):
            if not -1 <= parent < index:
                raise EngineError(
                    f"drafted token {index} follows parent {parent}; expected an earlier token, -1 to {index - 1}"
                )

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def trunk(self) -> tuple[int, ...]:
        """Return the line with which the tree begins."""
        for index, parent in enumerate(self.parents):
            if parent != index - 1:
                return self.tokens[:index]
        return self.tokens

    def kept(self, wanted: Callable[[int, int], bool]) -> DraftTree:
        """Drop the tokens that are not ``wanted(token, depth)``, and all that follow them.

        Depths count from 0.
        """
        tokens: list[int] = []
        parents: list[int] = []
        moved = {-1: -1}
        depths = {-1: -1}
        for index, (token, parent) in enumerate(zip(self.tokens, self.parents, strict=True)):
            depths[index] = depths[parent] + 1
            if parent in moved and wanted(token, depths[index]):
                moved[index] = len(tokens)
                tokens.append(token)
                parents.append(moved[parent])
        return self if len(tokens) == len(self) else DraftTree(tuple(tokens), tuple(parents))

    def cut(self, count: int, depth: int) -> DraftTree:
        """Keep its first ``count`` tokens, of those fewer than ``depth`` steps from the known token."""
        shallow = self.kept(lambda _, at: at < depth)
        if count >= len(shallow):
            return shallow
        count = max(count, 0)
        return DraftTree(shallow.tokens[:count], shallow.parents[:count])


Draft = Sequence[int] | DraftTree  # a line, or a tree


def trunk_of(draft: Draft) -> Sequence[int]:
    """Return the line with which a draft begins, or the draft if it is a line."""
    return draft.trunk if isinstance(draft, DraftTree) else draft


@dataclass(frozen=True, slots=True)
class Branch:
    """Rows of a chunk that follow each other but not the trunk; rows count from the chunk's first."""

    row: int
    count: int
    parent: int  # the row that its first one follows
    start: int  # position of its first row
    pages: tuple[int, ...]  # of positions [0, start + count): its parent's, then its own
    again: tuple[int, ...]  # rows before it, up to `parent`, that its first own page holds too
    copied: int | None  # the page that its first own one is a copy of, because positions before
    # the chunk lie in it; None: there are none

    @property
    def own(self) -> int:
        """Return the index, in ``pages``, of the first page that is its own."""
        return self.start // PAGE_SIZE


@dataclass(frozen=True, slots=True)
class TreeShape:
    """A branch before it has pages."""

    row: int
    count: int
    parent: int
    start: int

    @property
    def n_pages(self) -> int:
        """Return the number of pages it needs for itself."""
        return pages_for(self.start + self.count) - self.start // PAGE_SIZE


def shapes(tree: DraftTree, start: int) -> list[TreeShape]:
    """Return the branches of a tree after a known token at position ``start``, which is row 0."""
    found: list[TreeShape] = []
    positions = [start]
    for row, parent in enumerate((parent + 1 for parent in tree.parents), 1):
        positions.append(positions[parent] + 1)
        if parent != row - 1:
            found.append(TreeShape(row, 1, parent, positions[row]))
        elif found:
            last = found[-1]
            found[-1] = TreeShape(last.row, last.count + 1, last.parent, last.start)
    return found


def lay_out(tree: DraftTree, start: int, trunk: Sequence[int], take: Callable[[], int]) -> tuple[Branch, ...]:
    """Give the branches their pages.

    ``trunk`` are the pages of known tokens and trunk, ``take`` gives a page that no other sequence has.
    """
    branches: list[Branch] = []
    rows_before = (0, *(parent + 1 for parent in tree.parents))  # of row 0: itself
    for shape in shapes(tree, start):
        first = shape.start // PAGE_SIZE
        begin = first * PAGE_SIZE
        parent_pages = next((b.pages for b in branches if b.row <= shape.parent < b.row + b.count), trunk)
        again: list[int] = []
        row, position = shape.parent, shape.start - 1
        while position >= max(begin, start):
            again.append(row)
            row, position = rows_before[row], position - 1
        own = [take() for _ in range(shape.n_pages)]
        branches.append(
            Branch(
                shape.row,
                shape.count,
                shape.parent,
                shape.start,
                (*parent_pages[:first], *own),
                tuple(reversed(again)),
                trunk[first] if begin < start else None,
            )
        )
    return tuple(branches)


class RowKind(Enum):
    """The purpose of a chunk's rows."""

    DECODE = "decode"  # a sequence's newest token, and drafted ones after it
    PREFILL = "prefill"  # known tokens: of a prompt, or of a sequence that was paused
    ENCODE = "encode"  # tokens that see each other: a text, or blocks of one, after what is in the pages
    PROBE = "probe"  # rows of no sequence, in pages that none is given; ``sequence`` means nothing


class Chunk(NamedTuple):
    """One sequence's share of a step: ``tokens`` at positions ``start, start + 1, ...``.

    Rows of ``branches`` are the last ones, and have their own positions and pages.
    """

    sequence: int
    start: int  # position of tokens[0]: everything before it is already in the pages
    tokens: tuple[int, ...]  # known tokens, then drafted ones
    pages: tuple[int, ...]  # physical pages of positions [0, start + trunk), in order
    n_logits: int  # the last n rows choose tokens: 0 in mid-prompt, 1, or 1 + drafted tokens
    branches: tuple[Branch, ...] = ()  # of a tree of drafts; then there is one known token
    n_scored: int = 0  # rows before those whose logits score the known tokens that follow them
    kind: RowKind = RowKind.DECODE
    adapter: int = NO_ADAPTER  # number of the low-rank adapter that its rows go through
    block: int = 0  # of kind ENCODE: rows see to the end of their block of so many positions; 0: to the chunk's end
    n_after: int = 0  # of kind ENCODE: rows behind those that have logits

    @property
    def trunk(self) -> int:
        """Return the number of rows at positions ``start, start + 1, ...`` in ``pages``: all but those of branches."""
        return self.branches[0].row if self.branches else len(self.tokens)

    @property
    def views(self) -> Sequence[int]:
        """Return one past the last position that each row sees, where rows see those after them; else ()."""
        if self.kind is not RowKind.ENCODE:
            return ()
        end = self.start + len(self.tokens)
        if not self.block:
            return (end,) * len(self.tokens)
        return [min((at // self.block + 1) * self.block, end) for at in range(self.start, end)]

    def follow(self, row: int, token: int) -> int:
        """Find the first row that drafts ``token`` after ``row``, -1 for none; both of those with logits."""
        known = len(self.tokens) - self.n_logits
        after = row + 1
        if not self.branches:
            return after if after < self.n_logits and self.tokens[known + after] == token else -1
        if (
            after < self.n_logits
            and self.tokens[known + after] == token
            and all(branch.row != after for branch in self.branches)
        ):
            return after
        for branch in self.branches:
            if branch.parent == row and self.tokens[branch.row] == token:
                return branch.row
        return -1

    def accepted(self, new_tokens: Mapping[int, Sequence[int]], passes: int = 1) -> Sequence[int]:
        """Check and return its new tokens: none without logits, else 1 to ``n_logits`` or ``passes``.

        All but the last must be drafted ones, each after the one before it. Raises `EngineError` for others.
        """
        accepted = new_tokens.get(self.sequence, ())
        count = len(accepted)
        if (count == 1 and self.n_logits) or (count == 0 and not self.n_logits):
            return accepted  # no drafted token among them
        if self.n_logits == 1 <= count <= passes:
            return accepted  # one from each pass
        if not 1 <= count <= self.n_logits:
            expected = f"1 to {self.n_logits}" if self.n_logits else "no"
            raise EngineError(
                f"sequence {self.sequence} got {count} new tokens from {self.n_logits} rows of "
                f"logits; expected {expected}"
            )
        if self.last_row(accepted) < 0:
            first = len(self.tokens) - self.n_logits + 1
            raise EngineError(
                f"sequence {self.sequence} accepted tokens {list(accepted)} against the draft "
                f"{list(self.tokens[first:])}; all but the last must equal the draft"
            )
        return accepted

    def last_row(self, accepted: Sequence[int]) -> int:
        """Find the row, of those with logits, that the last accepted token came from; -1: none drafted it."""
        row = 0
        for token in accepted[:-1]:
            row = self.follow(row, token)
            if row < 0:
                break
        return row

    def pages_of(self, row: int) -> tuple[int, ...]:
        """Return the pages that a row sees."""
        for branch in self.branches:
            if branch.row <= row < branch.row + branch.count:
                return branch.pages
        return self.pages


@dataclass(frozen=True)
class ScheduleConfig:
    """Limits of a scheduler. Raises `RequestError` for values that could not make progress."""

    n_pages: int  # physical KV pages of PAGE_SIZE tokens
    context: int  # tokens: the longest prompt plus answer
    max_rows: int = 512  # rows of one step
    max_sequences: int = 64  # sequences that run at once; each gets a row in every step
    chunk_size: int = 512  # prompt tokens of one sequence in one step
    reuse_prefix: bool = True
    scored_rows: int = 64  # rows of logits that one step may spend on drafts and on scoring prompts

    def __post_init__(self) -> None:
        for name in ("n_pages", "context", "max_rows", "max_sequences", "chunk_size", "scored_rows"):
            value = getattr(self, name)
            if value < 1:
                raise RequestError(f"{name} must be at least 1, not {value}")
        if self.max_rows < self.max_sequences:
            raise RequestError(
                f"max_rows ({self.max_rows}) must be at least max_sequences "
                f"({self.max_sequences}), as each running one needs a row in every step; "
                "raise the one or lower the other"
            )

    def require_fitting(self, n_prompt: int, max_tokens: int) -> None:
        """Raise unless prompt and answer, in tokens, fit the context, and the pages when alone.

        Raises `RequestError` for numbers below 1 and `PromptTooLongError` for what does not fit.
        """
        if n_prompt < 1:
            raise RequestError("the prompt has no tokens; at least one is needed")
        if max_tokens < 1:
            raise RequestError(f"max_tokens must be at least 1, not {max_tokens}")
        total = f"a prompt of {n_prompt} tokens and an answer of up to {max_tokens}"
        if n_prompt + max_tokens > self.context:
            raise PromptTooLongError(
                f"{total} exceed the context of {self.context} tokens; shorten the prompt or lower max_tokens"
            )
        needed = pages_for(n_prompt + max_tokens - 1)  # the last token is never fed back
        if needed > self.n_pages:
            raise PromptTooLongError(
                f"{total} need {needed} KV pages of {PAGE_SIZE} tokens, but there are only "
                f"{self.n_pages}; shorten the prompt, lower max_tokens or enlarge the KV cache"
            )


class StepLimits(NamedTuple):
    """Limits of the next steps, so that promises are kept; None: no limit."""

    prompt_rows: int | None = None  # of one step, over all prompts
    width: int | None = None  # sequences that may run at once
    hold_best_effort: bool = False  # only the promised ones go on, and requests that were passed over for long
    prompts_until: int | None = None  # prompts due later than this order wait


NO_LIMITS = StepLimits()


class Plan(NamedTuple):
    """The chunks of one step, the oldest sequence first; empty when there is nothing to compute.

    Up to ``passes`` may follow each other, with each row's token as the input of the next pass: then every chunk is one
    row, and has pages for all of them.
    """

    chunks: tuple[Chunk, ...]
    passes: int = 1

    @property
    def n_rows(self) -> int:
        """Return the number of rows of the step: tokens over all chunks."""
        return sum(len(chunk.tokens) for chunk in self.chunks)

    @property
    def prompt_rows(self) -> int:
        """Return the number of rows of prompts that are not read to their end by this step."""
        return sum(len(chunk.tokens) for chunk in self.chunks if not chunk.n_logits)


def affordable(drafts: Mapping[int, Draft], rows: int, vocab_size: int) -> dict[int, Draft]:
    """Return drafts, by number of sequence, as far as there are rows of logits to verify them, oldest sequence first.

    A draft ends before a token that the model does not have: a pass does not check its tokens.
    """
    kept: dict[int, Draft] = {}
    for number in sorted(drafts):
        draft = drafts[number]
        if isinstance(draft, DraftTree):
            draft = draft.kept(lambda token, depth: 0 <= token < vocab_size).cut(rows, len(draft))
        else:
            draft = draft[:rows]
            known = [0 <= token < vocab_size for token in draft]
            draft = draft if all(known) else draft[: known.index(False)]
        kept[number] = draft
        rows -= len(draft)
    return kept
