"""One stage: the compiled pass over some layers, from states to states.

Owns the program of these layers and the pages of their keys and values. Knows no connection and no request.
Invariant: a row's state after the last layer is, bit for bit, what a program of all layers leaves there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args

from miaotui.backends.cpu.backend import Runner
from miaotui.backends.cpu.program import PassPart, Program
from miaotui.backends.cpu.workspace import KvPages, Workspace, rotation_tables
from miaotui.backends.options import MAX_OPTION, KvKind
from miaotui.backends.stages.wire import Floats, logit_rows
from miaotui.config import Settings
from miaotui.errors import EngineError, UnsupportedModelError
from miaotui.hub.store import PackedStore
from miaotui.kernels.linear.formats import Format
from miaotui.kernels.runtime.thread_pool import shared_pool
from miaotui.model.config import ModelConfig
from miaotui.model.packed import PackedPart, load_packed
from miaotui.model.reading.files import open_model
from miaotui.schedule.plan import Chunk

MOST_BYTES = 1 << 40  # of keys and values: more is a damaged message


@dataclass(frozen=True)
class StageSizes:
    """Sizes that all stages of a model share."""

    rows: int  # of a pass
    logits_rows: int
    pages: int  # spare ones included
    context: int  # tokens
    kv: KvKind
    format: Format

    def plain(self) -> dict[str, Any]:
        """Return the sizes as JSON values, for `read`."""
        return {each.name: getattr(self, each.name) for each in fields(self)} | {"format": self.format.value}

    @staticmethod
    def read(values: Any) -> StageSizes:
        """Return the sizes of a message. Raises `EngineError`."""
        try:
            counts = [values[name] for name in ("rows", "logits_rows", "pages", "context")]
            kv, form = values["kv"], Format(values["format"])
        except (KeyError, TypeError, ValueError) as error:
            raise EngineError(f"a stage got sizes that it cannot read: {error}") from error
        if any(type(count) is not int or not 1 <= count <= MAX_OPTION for count in counts) or kv not in get_args(
            KvKind
        ):
            raise EngineError(f"a stage got sizes out of range: {values}")
        rows, logits_rows, pages, context = counts
        return StageSizes(rows, logits_rows, pages, context, kv, form)


def require_one_stream(config: ModelConfig) -> None:
    """Raise `UnsupportedModelError` for a model whose layers hand on more than one residual stream."""
    reasons = {
        "hands on more than one residual stream": config.state_size != config.hidden_size,
        "shares keys between layers": bool(config.kv_layers),
        "restores masked tokens": config.masked is not None,
    }
    for reason, holds in reasons.items():
        if holds:
            raise UnsupportedModelError(
                f"the model {reason}, so its layers cannot be shared out: leave stages out, or choose another model"
            )


class LayerStage:
    """The layers of one process. Raises a `MiaotuiError` for a model that cannot be cut, or too little memory."""

    def __init__(
        self, path: Path, layers: range, sizes: StageSizes, settings: Settings, threads: int | None = None
    ) -> None:
        with open_model(path) as opened:
            config = opened.config
        require_one_stream(config)
        if not 0 <= layers.start < layers.stop <= config.n_layers:
            raise EngineError(f"the model has {config.n_layers} layers, and a stage was asked for {layers}")
        kv_bytes = KvPages.bytes_per_token(config, sizes.kv, layers)
        if kv_bytes * sizes.pages > MOST_BYTES or sizes.context > config.context_length:
            raise EngineError(f"a stage was asked for {sizes}, which its model cannot have")
        store = PackedStore(settings.folder("packed"), settings.packed_max_bytes)
        self.weights = load_packed(path, store, sizes.format, part=PackedPart(layers, has_ends=False))
        try:
            self._open(config, layers, sizes, threads)
        except BaseException:
            self.weights.close()
            raise
        self.layers, self.sizes, self.hidden = layers, sizes, config.hidden_size
        self.kv_token_bytes = kv_bytes

    def _open(self, config: ModelConfig, layers: range, sizes: StageSizes, threads: int | None) -> None:
        try:
            workspace = Workspace(config, sizes.rows, sizes.logits_rows)
            pages = KvPages(config, sizes.pages, sizes.kv, layers)
        except (MemoryError, OSError, ValueError) as error:  # mmap says OSError, NumPy either of the others
            raise EngineError(
                f"there is not enough memory for the keys and values of {layers}: lower kv_tokens or context, or use "
                "more stages"
            ) from error
        tables = rotation_tables(config, sizes.context)
        program = Program(config, self.weights, workspace, pages, tables, part=PassPart(layers))
        self.runner = Runner(program, shared_pool(threads))

    def run(self, chunks: Sequence[Chunk], states: Floats, *, only_logits: bool) -> tuple[Floats, float]:
        """Return the states after the last layer, ``[rows, hidden]``, and the seconds of the pass.

        ``only_logits``: of the rows whose logits are wanted. Raises `EngineError`.
        """
        program, count = self.runner.program, sum(len(chunk.tokens) for chunk in chunks)
        if states.shape != (count, self.hidden):
            raise EngineError(f"a stage got states of shape {states.shape} for {count} rows of {self.hidden} values")
        wanted = list(logit_rows(chunks))
        if len(wanted) > self.sizes.logits_rows:
            raise EngineError(f"a stage was asked for {len(wanted)} rows of logits, more than {self.sizes.logits_rows}")
        program.workspace.residual[0].floats(count, self.hidden)[:] = states
        self.runner.run(chunks)
        left = program.left.floats(count, self.hidden)
        return (left[wanted] if only_logits else left), self.runner.last_s

    def close(self) -> None:
        """Unmap the weights."""
        self.weights.close()
