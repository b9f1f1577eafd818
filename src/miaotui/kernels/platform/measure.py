"""Measured limits of the machine: read bandwidth, and rate of 8-bit products.

Both run on the thread pool, as passes of one operation. Each figure is the best of several short runs, because other
load can only lower it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from miaotui.kernels.linear import fields as lin
from miaotui.kernels.linear.formats import GROUP, TILE_ROWS, Format, tile_stride
from miaotui.kernels.platform.reading_fields import BYTES, BYTES_PER_UNIT, SOURCE
from miaotui.kernels.runtime import compiled, ops
from miaotui.kernels.runtime.thread_pool import ThreadPool, address_of, aligned_bytes, aligned_int64, shared_pool

BUFFER_BYTES = 256 << 20  # several times any last-level cache
_REPEATS = 6


def read_bandwidth(threads: int | None = None, size_bytes: int = BUFFER_BYTES) -> float:
    """Measure how many bytes per second (in 10**9) the thread pool reads from memory."""
    buffer = aligned_bytes(size_bytes, 4096)
    buffer[::4096] = 1  # pages must exist to be read
    operation = {SOURCE: address_of(buffer), BYTES: size_bytes}
    seconds = _best(shared_pool(threads), "platform.reading:read_memory", operation, ops.RUN_ROWS, rows=1)
    return size_bytes // BYTES_PER_UNIT * BYTES_PER_UNIT / seconds / 1e9


def int8_rate(threads: int | None = None, rows: int = 48, form: Format = Format.Q4) -> float:
    """Measure multiply-adds per second (in 10**9) of weights in the cache, of 4 bits by default, with 8-bit inputs."""
    units, inputs = 32, 1024
    stride = tile_stride(form, inputs)
    weights = aligned_bytes(units * 2 * stride)
    x, headers = (aligned_bytes(rows * inputs), aligned_bytes(rows * inputs // GROUP * ops.HEADER_BYTES))
    out = aligned_bytes(rows * units * 2 * TILE_ROWS * 4)
    operation = {
        lin.WEIGHTS: address_of(weights),
        lin.TILE_STRIDE: stride,
        lin.GROUPS: inputs // GROUP,
        lin.UNITS: units,
        lin.X: address_of(x),
        lin.X_STRIDE: inputs,
        lin.HEADERS: address_of(headers),
        lin.HEADER_STRIDE: inputs // GROUP * ops.HEADER_BYTES,
        lin.MODE: lin.STORE,
        lin.OUT: address_of(out),
        lin.OUT_STRIDE: units * 2 * TILE_ROWS * 4,
    }
    seconds = _best(
        shared_pool(threads), f"linear.matmul:linear_{form.value}", operation, ops.RUN_ROWS, rows, repeats=10 * _REPEATS
    )
    return rows * inputs * units * 2 * TILE_ROWS / seconds / 1e9


def _best(
    team: ThreadPool, kernel: str, fields: dict[int, int], rows_field: int, rows: int, repeats: int = _REPEATS
) -> float:
    """Return the seconds of the fastest of several passes of one operation."""
    operation = aligned_int64(ops.OP_FIELDS)
    operation[ops.FUNCTION], operation[ops.ROWS] = compiled.address(kernel), rows_field
    for field, value in fields.items():
        operation[field] = value
    run = aligned_int64(ops.RUN_FIELDS)
    run[rows_field] = rows

    def once() -> None:
        team.run(address_of(operation), 1, run)

    once()
    return min(_timed(once) for _ in range(repeats))


def _timed(action: Callable[[], None]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start
