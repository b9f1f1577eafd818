"""The CPU backend of encoder-decoders: sources and rows of targets go into compiled passes, scores come out.

Owns the tables of a pass: which rows belong to which source, which tokens a row sees, and the blocks in which rows
attend. Knows no search. Invariant: a row's scores depend on its source and on the tokens before it alone, not on the
other rows, the threads, or its place in the pass.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from miaotui.backends.cpu.encoder.backend import BLOCK_ROWS, FEW_BLOCKS, pass_rows, rows_with_room
from miaotui.backends.cpu.seq2seq.kept import PanelRuns, RowTree
from miaotui.backends.cpu.seq2seq.packed import zero_row
from miaotui.backends.cpu.seq2seq.programs import SourceProgram, TargetProgram
from miaotui.backends.cpu.seq2seq.workspace import SourcePanels
from miaotui.backends.seq2seq_backend import (
    NO_PREFIX,
    Head,
    Seq2SeqIdentity,
    Seq2SeqLimits,
    Source,
    TargetAlignment,
    TargetRow,
    TargetRows,
    source_rows,
    target_rows,
)
from miaotui.backends.target_scores import Listed, TargetScores
from miaotui.errors import RequestError
from miaotui.kernels.attention.fields import PAGE_TOKENS
from miaotui.kernels.runtime import ops
from miaotui.kernels.runtime.thread_pool import ThreadPool, address_of, aligned_int64, fields_of
from miaotui.kernels.sampling import tops_fields as tp
from miaotui.model.packed import PackedModel
from miaotui.model.seq2seq.oracle import checked_frames

ARITHMETIC = (
    "int8, int16 or float32 activations, float32 attention, 2"  # changes whenever equal weights give other scores
)

SOUND_BLOCK_ROWS = 96  # of a source of sound: its keys leave the second-level cache, and are read for each block

Integers = NDArray[np.int64]


class CpuSeq2Seq:
    """A `Seq2SeqBackend` over one model's compiled programs. Threads may be shared with other models."""

    def __init__(
        self,
        weights: PackedModel,
        sources: SourceProgram,
        targets: TargetProgram,
        pool: ThreadPool,
        limits: Seq2SeqLimits,
        panels: SourcePanels,
    ) -> None:
        self.weights, self.pool, self.limits = weights, pool, limits
        self._encoder, self._decoder = sources, targets
        self._config = sources.config
        formats = tuple(sorted(form.value for form in weights.formats))
        self.identity = Seq2SeqIdentity("cpu", formats, ARITHMETIC)
        self._panels, self._sources, self._rows = panels, PanelRuns(panels.panels), RowTree(limits.kept_rows)
        self._source_tables = _Tables(sources.space.rows)
        self._target_tables = _Tables(targets.space.rows)
        vocab, space = self._config.vocab_size, targets.space
        self._logits = space.logits.floats(space.rows, vocab)
        pairs = space.records[:, tp.RECORD_TOKENS :].reshape(space.rows, tp.MOST, 2)
        self._tokens, self._values = pairs[:, :, 0], pairs.view(np.float32)[:, :, 2]
        self._totals = space.records.view(np.float32)[:, 2 * tp.RECORD_TOTAL]

    @property
    def kept(self) -> tuple[int, int]:
        """Return how many sources and rows are kept."""
        return len(self._sources), len(self._rows)

    @property
    def free_rows(self) -> int:
        """Return how many more target rows may be kept now."""
        return self._rows.free

    def fitting(self, sizes: Sequence[int]) -> int:
        """Return how many of the first sources one call of `encode` takes now."""
        sizes = sizes[: max(self.limits.sources - len(self._sources), 0)]
        rows = int(np.searchsorted(np.cumsum(sizes), self.limits.source_rows, side="right"))
        return self._sources.fitting([_panels(size) for size in sizes[:rows]])

    # sources -------------------------------------------------------------------------------------------------------

    def encode(self, sources: Sequence[Source]) -> list[int]:
        """Encode whole sources. Raises `RequestError`, see `Seq2SeqBackend.encode`."""
        sizes = [source_rows(source) for source in sources]
        for source in sources:
            if isinstance(source, np.ndarray):
                checked_frames(self._config, source)
            else:
                self._check_ids("source", source, self.limits.source_tokens)
        if self.fitting(sizes) < len(sources):
            raise RequestError(
                f"{len(sources)} sources of {sum(sizes):,} tokens do not fit: share them out over passes"
            )
        numbers = [self._sources.add(_panels(size), size) for size in sizes]
        for first, last in self._groups(sizes):
            rows = self._fill_sources(sources[first:last], numbers[first:last])
            self._source_tables.run[ops.RUN_ROWS] = rows
            self.pool.run(self._encoder.address, self._encoder.count, self._source_tables.run)
        return numbers

    def _groups(self, sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Yield which sources one compiled pass takes: as many as fit, or one long one, or one of sound."""
        most = 0 if self._config.mel_bins else pass_rows(self.pool.size)
        first = rows = 0
        for index, size in enumerate(sizes):
            if rows and rows + size > most:
                yield first, index
                first, rows = index, 0
            rows += size
        if first < len(sizes):
            yield first, len(sizes)

    def _fill_sources(self, sources: Sequence[Source], numbers: Sequence[int]) -> int:
        """Fill the tables of rows and blocks, and the frames of sound. Returns the number of rows."""
        tables, row, blocks = self._source_tables, 0, 0
        most = self._block_rows([source_rows(source) for source in sources], self._config.encoder.n_heads)
        last = self._config.encoder.max_tokens
        for source, number in zip(sources, numbers, strict=True):
            size = source_rows(source)
            rows, positions = tables.rows[row : row + size], np.arange(size)
            rows[:, ops.ROW_POSITION] = rows[:, ops.ROW_TYPE] = positions
            if isinstance(source, np.ndarray):
                self._encoder.space.sound.put(source)
                tables.run[ops.RUN_FRAMES] = len(source)
            else:
                rows[:, ops.ROW_TOKEN] = source
                rows[:, ops.ROW_TYPE] = self._places(np.asarray(source, np.int64), positions, last)
            rows[:, ops.ROW_PANEL], rows[:, ops.ROW_VIEW_END] = self._sources[number].panel, size
            at = min(most, rows_with_room(size, self._config.head_dim))
            firsts = np.arange(row, row + size, at)
            some = tables.blocks[blocks : blocks + len(firsts)]
            some[:, ops.BLOCK_ROW], some[:, ops.BLOCK_COUNT] = firsts, np.minimum(row + size - firsts, at)
            row, blocks = row + size, blocks + len(firsts)
        tables.run[ops.RUN_BLOCKS] = blocks
        return row

    def _block_rows(self, sizes: Sequence[int], heads: int) -> int:
        """Return the rows of a block: fewer where threads would share few blocks unevenly."""
        most = SOUND_BLOCK_ROWS if self._config.mel_bins else BLOCK_ROWS
        while most > BLOCK_ROWS // 4 and sum(-(-n // most) for n in sizes) * heads < FEW_BLOCKS * self.pool.size:
            most //= 2
        return most

    # targets -------------------------------------------------------------------------------------------------------

    def run(self, rows: Sequence[TargetRow]) -> TargetRows:
        """Compute one row of each of several targets. Raises `RequestError`, see `Seq2SeqBackend.run`."""
        count = target_rows(rows)
        if not 1 <= count <= self.limits.target_rows:
            raise RequestError(f"a pass has 1 to {self.limits.target_rows} target rows, not {count}")
        if count > self._rows.free:
            raise RequestError(f"{count} more target rows have no room: release rows first")
        start_s = time.perf_counter()
        self._check_ids("target", [token for row in rows for token in (*row.before, row.token)], count)
        longest = max(self._rows.length(row.prefix) + len(row.before) for row in rows)
        if longest >= self.limits.target_tokens:
            raise RequestError(f"a target has at most {self.limits.target_tokens:,} tokens here")
        numbers, wanted = self._pass(rows)
        return TargetRows(numbers, self._scores(wanted), time.perf_counter() - start_s)

    def _pass(self, rows: Sequence[TargetRow]) -> tuple[list[int], list[int]]:
        """Run a pass. Returns each row's number, and the place of its logits, or -1."""
        each_row, numbers, ends = [], [], []
        for row in rows:
            prefix = row.prefix
            for token in row.before:
                prefix = self._rows.add(prefix)
                each_row.append(TargetRow(row.source, NO_PREFIX, token, 0))
                numbers.append(prefix)
            each_row.append(row)
            ends.append(len(numbers))
            numbers.append(self._rows.add(prefix))
        places = self._fill_targets(each_row, numbers)
        self._target_tables.run[ops.RUN_CHAINED] = int(len(ends) < len(numbers))
        self.pool.run(self._decoder.address, self._decoder.count, self._target_tables.run)
        kept = [numbers[end] for end in ends]
        for number in set(numbers).difference(kept):
            self._rows.release(number)  # the row behind it holds it
        return kept, [places[end] for end in ends]

    def align(self, source: int, tokens: Sequence[int], heads: Sequence[Head]) -> TargetAlignment:
        """Compute the cross-attention of a whole target. Raises `RequestError`, see `Seq2SeqBackend.align`."""
        most = min(self.limits.target_rows, self.limits.target_tokens, self._rows.free)
        self._check_ids("target", tokens, most)
        rows, prefix = [], NO_PREFIX
        for token in tokens:
            prefix = self._rows.add(prefix)
            rows.append((TargetRow(source, NO_PREFIX, token, 1), prefix))
        self._fill_targets(*(list(each) for each in zip(*rows, strict=True)))
        self._target_tables.run[ops.RUN_CHAINED] = 1
        self.pool.run(self._decoder.address, self._decoder.count, self._target_tables.run)
        for _, number in reversed(rows):
            self._rows.release(number)
        kept, dim, space = self._sources[source], self._config.head_dim, self._decoder.space
        scores = []
        for layer, head in heads:
            queries = space.queries[layer].floats(len(tokens), (head + 1) * dim)[:, head * dim :]
            keys = self._panels.keys_of(layer, head, kept.panel, kept.panels, dim)[: kept.tokens]
            scores.append(queries @ keys.T * np.float32(self._config.attention_scale))
        return TargetAlignment(np.stack(scores), self._logits[: len(tokens)].copy())

    def _fill_targets(self, rows: Sequence[TargetRow], numbers: Sequence[int]) -> list[int]:
        """Fill the tables of a pass. Returns for each row the place of its logits, or -1."""
        tables, config, wanted, count = self._target_tables, self._config, [], 0
        fields, logit_fields = tables.row_fields, tables.logit_fields
        for index, (row, number) in enumerate(zip(rows, numbers, strict=True)):
            slots, source = self._rows.slots(number), self._sources[row.source]
            position, at = len(slots) - 1, index * ops.ROW_FIELDS
            is_zero = config.zero_start and position == 0
            fields[at + ops.ROW_TOKEN] = zero_row(config) if is_zero else row.token
            fields[at + ops.ROW_POSITION] = position
            fields[at + ops.ROW_PAGES] = slots.buffer_info()[0]
            fields[at + ops.ROW_TYPE] = self._place(row.token, position)
            fields[at + ops.ROW_PANEL], fields[at + ops.ROW_VIEW_END] = source.panel, source.tokens
            fields[at + ops.ROW_TOPS] = row.candidates if row.candidates <= tp.MOST else 0
            wanted.append(count if row.candidates else -1)
            if row.candidates:
                logit_fields[count] = index
                count += 1
        self._fill_blocks(rows)
        tables.run_fields[ops.RUN_ROWS], tables.run_fields[ops.RUN_LOGIT_ROWS] = len(rows), count
        return wanted

    def _fill_blocks(self, rows: Sequence[TargetRow]) -> None:
        """Fill the table of blocks: rows beside each other that have one source."""
        blocks, fields, first = 0, self._target_tables.block_fields, 0
        for index in range(1, len(rows) + 1):
            most = min(BLOCK_ROWS, rows_with_room(self._sources[rows[first].source].tokens, self._config.head_dim))
            if index == len(rows) or rows[index].source != rows[first].source or index - first == most:
                at = blocks * ops.BLOCK_FIELDS
                fields[at + ops.BLOCK_ROW], fields[at + ops.BLOCK_COUNT] = first, index - first
                blocks, first = blocks + 1, index
        self._target_tables.run_fields[ops.RUN_BLOCKS] = blocks

    def _scores(self, wanted: list[int]) -> TargetScores:
        records = self._decoder.space.records
        count = max(wanted, default=-1) + 1
        listed = records[:count, tp.RECORD_COUNT].tolist()
        with np.errstate(all="ignore"):
            totals = np.log(self._totals[:count]) + self._values[:count, 0]
        found = Listed(self._tokens, self._values, listed, totals)
        return TargetScores(self._logits, found, wanted)

    def release(self, prefixes: Sequence[int], sources: Sequence[int] = ()) -> None:
        """Forget rows and sources."""
        for number in prefixes:
            self._rows.release(number)
        for number in sources:
            self._sources.release(number)

    def close(self) -> None:
        """Unmap the weights; the backend must not be used after."""
        self._rows.clear()
        self._sources.clear()
        self.weights.close()

    # positions and ids ---------------------------------------------------------------------------------------------

    def _place(self, token: int, position: int) -> int:
        """Return the row of the position table; its last one is 0."""
        config = self._config
        if token == config.unplaced_token:
            return config.decoder.max_tokens + config.position_offset
        return position + config.position_offset

    def _places(self, tokens: Integers, positions: Integers, end: int) -> Integers:
        placed = positions + self._config.position_offset
        return np.where(tokens == self._config.unplaced_token, end + self._config.position_offset, placed)

    def _check_ids(self, name: str, ids: Sequence[int], most: int) -> None:
        end = self._config.vocab_size if name == "target" else self._config.source_vocab_size
        if not 1 <= len(ids) <= most:
            raise RequestError(f"the {name} has {len(ids):,} tokens here, and 1 to {most:,} fit: shorten it")
        if not 0 <= min(ids) <= max(ids) < end:
            raise RequestError(f"{name} token ids must be 0 to {end - 1}: these are of another vocabulary")


class _Tables:
    """Tables of a pass of up to ``rows`` rows."""

    def __init__(self, rows: int) -> None:
        self.run = aligned_int64(ops.RUN_FIELDS)
        self.rows = aligned_int64(rows * ops.ROW_FIELDS).reshape(-1, ops.ROW_FIELDS)
        self.blocks = aligned_int64(rows * ops.BLOCK_FIELDS).reshape(-1, ops.BLOCK_FIELDS)
        self.logit_rows = aligned_int64(rows)
        for field, table in (
            (ops.RUN_ROW_TABLE, self.rows),
            (ops.RUN_BLOCK_TABLE, self.blocks),
            (ops.RUN_LOGIT_TABLE, self.logit_rows),
        ):
            self.run[field] = address_of(table)
        self.run_fields, self.row_fields = fields_of(self.run), fields_of(self.rows)
        self.block_fields, self.logit_fields = fields_of(self.blocks), fields_of(self.logit_rows)


def _panels(tokens: int) -> int:
    return -(-tokens // PAGE_TOKENS)
