"""The training data of a draft head: windows of texts, and the loss of a cell on them.

Owns the choice of windows and the loss. A head unrolled for some tokens should give the model's own distributions
(cross-entropy on the tokens that it can draft) and the model's own states (as in EAGLE; Li et al. 2024, section 4.2).
Knows neither files nor the engine. Invariant: one seed gives one sequence of windows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from miaotui.speculation.train.cell import Cell, Tensor, normed
from miaotui.speculation.train.corpus import Corpus
from miaotui.training.torch_loading import product_dtype

WINDOW, WINDOWS = 64, 24  # positions of a window; windows of a batch, unless a recipe says another number
ALIKE = 80  # texts of about one length that a batch is drawn from, since padding costs as much as text
FADE = 0.8  # weight of each further token against the one before
STATES = 0.3  # weight of the states against the distributions
SPREAD_BATCHES = 32  # batches that give the spread of states well enough

Texts = NDArray[np.int64]


class TextWindow(NamedTuple):
    """Rows ``[texts, WINDOW + depth + 1]`` of a corpus; ``counts [texts, WINDOW]`` are 1 for those in their text."""

    at: Tensor
    counts: Tensor


class HeadDataset:
    """Random windows of a corpus; ``embedding`` is that of `train`, ``outputs`` are the rows of the head's tokens."""

    def __init__(
        self,
        torch: Any,
        corpus: Corpus,
        embedding: NDArray[np.float32],
        outputs: NDArray[np.float32],
        depth: int,
        seed: int,
        attends: bool = False,
        *,
        windows: int = WINDOWS,
    ) -> None:
        self._torch, self._depth, self._windows = torch, depth, windows
        self.random = np.random.default_rng(seed)
        self._dtype = product_dtype(torch)
        self._hidden, self._middle = map(torch.from_numpy, (corpus.hidden, corpus.middle))
        self._tokens = torch.from_numpy(corpus.tokens).long()
        self._embedding = normed(torch.from_numpy(embedding))
        self._outputs = torch.from_numpy(outputs).to(self._dtype).t().contiguous()
        self._starts, self._lengths = corpus.starts[:-1], np.diff(corpus.starts)
        self._memory = corpus.memory if attends else None
        prompts = np.zeros(len(self._lengths), np.int64)  # tokens before the first row of each text
        if self._memory is not None:
            prompts = np.diff(self._memory.begins) - self._lengths
        self._prompts = prompts
        usable = np.nonzero(self._lengths > depth)[0]
        self._order = usable[np.argsort((prompts + self._lengths)[usable], kind="stable")]
        self._upto = np.cumsum(self._lengths[self._order])

    def loss(self, cell: Cell) -> Tensor:
        """Return the loss of one batch of windows."""
        torch, functional = self._torch, self._torch.nn.functional
        total = torch.zeros(())
        for depth, (state, wanted, counts, _) in enumerate(self._unrolled(cell)):
            with torch.no_grad():
                target = functional.softmax(self._logits(wanted), -1)
            found = functional.log_softmax(self._logits(state), -1)
            apart = -(target * found).sum(-1, dtype=torch.float32)
            states = functional.smooth_l1_loss(state, wanted, reduction="none").mean(-1)
            each = (apart + STATES * states) * counts
            total = total + FADE**depth * each.sum() / counts.sum()
        return total

    def spread(self, cell: Cell, batches: int = SPREAD_BATCHES) -> NDArray[np.float32]:
        """Return the mean of ``s sT`` over a cell's states ``s``, ``[hidden, hidden]``."""
        torch, count = self._torch, 0
        total: Tensor = 0.0
        with torch.no_grad():
            for _ in range(batches):
                for state, _, counts, _ in self._unrolled(cell):
                    some = state[counts > 0]
                    total, count = total + some.T @ some, count + len(some)
        spread: NDArray[np.float32] = (total / count).numpy()
        return spread

    def agreement(self, cell: Cell, tokens: NDArray[np.int64], batches: int) -> NDArray[np.int64]:
        """Count, by depth, drafts that were tried and those that the model would take: int64 ``[2, depth]``.

        ``tokens`` are those of the head. Greedy: a depth is tried where all tokens before it were drafted as the model
        would choose them, and the text goes on with them.
        """
        torch = self._torch
        places = torch.full((len(self._embedding),), -1)
        places[torch.from_numpy(tokens)] = torch.arange(len(tokens))
        counted = np.zeros((2, self._depth), np.int64)
        with torch.no_grad():
            for _ in range(batches):
                alive = None
                for depth, (state, wanted, counts, following) in enumerate(self._unrolled(cell)):
                    alive = counts > 0 if alive is None else alive
                    best = self._logits(wanted).argmax(-1)
                    right = alive & (self._logits(state).argmax(-1) == best)
                    counted[:, depth] += int(alive.sum()), int(right.sum())
                    alive = right & (places[following] == best)
        return counted

    def _unrolled(self, cell: Cell) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Yield for each depth of random windows the cell's states, the model's, which count, and the tokens after."""
        texts, firsts = self._pick()
        at, counts = self._window(texts, firsts)
        tokens = self._tokens[at]
        hidden, embedded = self._hidden[at].float(), self._embedding[tokens]
        state, middle = hidden[:, :WINDOW], self._middle[at[:, :WINDOW]].float()
        if self._memory is not None:
            inputs = state, embedded[:, 1 : 1 + WINDOW], middle
            middle = self._attend(cell, inputs, texts, firsts)
        begun = state
        for depth in range(1, self._depth + 1):
            if depth == 1 or "masks" not in cell.weights:
                state = begun = cell(begun, embedded[:, depth : depth + WINDOW], middle)
            else:  # from the first token's state, since the tokens after it are not known
                state = cell(begun, cell.mask(depth - 2).expand_as(middle), middle)
            yield state, hidden[:, depth : depth + WINDOW], counts, tokens[:, depth + 1 : depth + 1 + WINDOW]

    def _pick(self) -> tuple[Texts, Texts]:
        """Draw texts of about one length, long ones more often, and the first row of a window of each."""
        drawn = self.random.random() * self._upto[-1]
        middle = int(np.searchsorted(self._upto, drawn, "right"))
        first = max(min(middle - ALIKE // 2, len(self._order) - ALIKE), 0)
        some = self._order[first : first + ALIKE]
        lengths = self._lengths[some]
        texts = some[self.random.choice(len(some), self._windows, p=lengths / lengths.sum())]
        room = np.maximum(self._lengths[texts] - WINDOW - self._depth, 0)
        return texts, self.random.integers(0, room + 1)

    def _window(self, texts: Texts, firsts: Texts) -> TextWindow:
        starts = self._starts[texts]
        at = (starts + firsts)[:, None] + np.arange(WINDOW + self._depth + 1)
        last = (starts + self._lengths[texts] - 1)[:, None]
        inside = at[:, :WINDOW] + self._depth <= last
        from_numpy = self._torch.from_numpy
        return TextWindow(from_numpy(np.minimum(at, last)), from_numpy(inside).float())

    def _attend(self, cell: Cell, inputs: tuple[Tensor, Tensor, Tensor], texts: Texts, firsts: Texts) -> Tensor:
        torch, memory = self._torch, self._memory
        assert memory is not None, "a corpus with keys and values"
        before = self._prompts[texts] + firsts  # tokens of each text before its window
        ends = np.minimum(before + WINDOW, np.diff(memory.begins)[texts])
        some = torch.zeros(len(texts), int(ends.max()), *memory.found.shape[1:], dtype=self._dtype)
        for row, (text, end) in enumerate(zip(texts, ends, strict=True)):
            begin = memory.begins[text]
            some[row, :end] = torch.from_numpy(memory.found[begin : begin + end])
        keys, values = some.permute(2, 0, 3, 1, 4)
        rows = torch.from_numpy(before)[:, None] + torch.arange(WINDOW)
        seen = torch.arange(some.shape[1]) <= rows[:, None, :, None]
        return cell.attend(*inputs, rows + 1, (keys, values), seen)

    def _logits(self, state: Tensor) -> Tensor:
        return state.to(self._dtype) @ self._outputs
