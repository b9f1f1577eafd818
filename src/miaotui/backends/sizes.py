"""Sizes of an engine, from the model, the machine and the options: context, pages, rows of a pass.

Knows no backend. Invariant: a request that fits the context fits the pages, when it runs alone.
"""

from __future__ import annotations

from typing import NamedTuple

from miaotui.backends.backend import BackendLimits
from miaotui.backends.options import EngineOptions
from miaotui.errors import RequestError
from miaotui.model.config import ModelConfig
from miaotui.schedule.plan import PAGE_SIZE, ScheduleConfig, pages_for

MAX_CONTEXT = 32_768  # by default; ask for more explicitly
KV_SHARE = 0.25  # of the machine's memory, at most, for keys and values
LEAST_KV_TOKENS = 16_384
LOGITS_BYTES = 32 << 20  # of logits of drafted tokens, about
LEAST_DRAFTS, MOST_DRAFTS = 8, 64  # drafted tokens that a pass can verify


class EngineSizes(NamedTuple):
    """The limits of a backend, and those of the scheduler that plans for it."""

    limits: BackendLimits
    schedule: ScheduleConfig

    def memory_error(self) -> RequestError:
        """Return the error to raise when there is no memory for these sizes."""
        limits = self.limits
        return RequestError(
            f"there is not enough memory for a context of {limits.context:,} tokens, {limits.pages * PAGE_SIZE:,} "
            f"tokens of keys and values and passes of {limits.rows:,} rows: lower context, kv_tokens, "
            "chunk_size or max_sequences, or keep keys and values as int8"
        )


def engine_sizes(
    config: ModelConfig,
    options: EngineOptions,
    kv_token_bytes: int,
    memory_bytes: int | None,
    layers: range | None = None,
    run_tokens: int = 1,
) -> EngineSizes:
    """Choose the sizes.

    ``kv_token_bytes`` are keys and values of one token, ``memory_bytes`` the machine's (None: unknown), ``layers``
    those that are computed (None: all).
    """
    context, n_pages = _context_and_pages(config, options, kv_token_bytes, memory_bytes or 8 << 30)
    chunk_size = min(options.chunk_size, context)
    rows = max(chunk_size, options.max_sequences)
    draft_rows = min(max(LOGITS_BYTES // (4 * config.vocab_size), LEAST_DRAFTS), MOST_DRAFTS)
    schedule = ScheduleConfig(
        n_pages=n_pages,
        context=context,
        max_rows=rows,
        max_sequences=options.max_sequences,
        chunk_size=chunk_size,
        reuse_prefix=options.reuse_prefix,
        scored_rows=draft_rows,
    )
    limits = BackendLimits(
        context=context,
        pages=n_pages,
        rows=rows,
        logits_rows=options.max_sequences + draft_rows,
        draft_rows=draft_rows,
        vocab_size=config.vocab_size,
        state_size=config.state_size,
        layers=range(config.n_layers) if layers is None else layers,
        passes=options.most_passes,
        run_tokens=run_tokens,
    )
    return EngineSizes(limits, schedule)


def _context_and_pages(
    config: ModelConfig, options: EngineOptions, kv_token_bytes: int, memory_bytes: int
) -> tuple[int, int]:
    """Context in tokens, and pages of keys and values.

    By default the pages hold four contexts, or 16,384 tokens if that is more, but take no more than
    a quarter of the memory; a context never exceeds them.
    """
    context = min(options.context or MAX_CONTEXT, config.context_length)
    tokens = options.kv_tokens
    if tokens is None:
        most = int(memory_bytes * KV_SHARE) // kv_token_bytes
        least = context if options.context else 1  # asked for: it is given
        tokens = max(min(max(4 * context, LEAST_KV_TOKENS), most), least)
    n_pages = pages_for(tokens)
    return min(context, n_pages * PAGE_SIZE), n_pages
