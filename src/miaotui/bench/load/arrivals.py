"""Arrival processes of an open load: Poisson, gamma, uniform, and traces of times that were recorded.

Owns when requests are due. Knows neither prompts nor servers. Invariant: times ascend, lie in ``[0, duration_s)`` and
are a function of rate, duration and seed. A gamma process with a coefficient of variation of 1 is a Poisson process;
above 1 requests come in bursts (as in ``vllm bench serve``, whose burstiness is ``1 / cv**2``).
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from miaotui.errors import RequestError

ArrivalKind = Literal["poisson", "gamma", "uniform", "trace"]
KINDS: tuple[ArrivalKind, ...] = get_args(ArrivalKind)
MAX_REQUESTS = 1_000_000
MAX_TRACE_BYTES = 256 << 20
MAX_LENGTH = 1 << 20  # tokens


@dataclass(frozen=True)
class TracedRequest:
    """One line of a trace: when it came, and its lengths in tokens where they are known."""

    at_s: float
    input_tokens: int | None = None
    output_tokens: int | None = None


@dataclass(frozen=True)
class Arrivals:
    """One arrival process. ``cv`` is the coefficient of variation of the gaps of ``gamma``."""

    kind: ArrivalKind = "poisson"
    cv: float = 2.0
    trace: tuple[TracedRequest, ...] = ()

    def times_s(self, rate_per_s: float, duration_s: float, seed: int) -> list[float]:
        """Return the moments in ``[0, duration_s)`` at which requests are due, at this mean rate.

        A trace is stretched to the rate, and repeated where it is too short. Raises `RequestError` for more than
        `MAX_REQUESTS`.
        """
        if not 0 < rate_per_s * duration_s <= MAX_REQUESTS:
            raise RequestError(
                f"{rate_per_s:g} requests/s for {duration_s:g} s are none or more than {MAX_REQUESTS:,}: "
                "change --rate or --duration"
            )
        now_s, times = 0.0, list[float]()
        for gap_s in self.gaps_s(rate_per_s, seed):
            now_s += gap_s
            if now_s >= duration_s:
                return times
            times.append(now_s)
        return times

    def gaps_s(self, rate_per_s: float, seed: int) -> Iterator[float]:
        """Yield the seconds between arrivals, without end; the first one comes after time zero."""
        if self.kind == "trace":
            yield from _trace_gaps_s(self.trace, rate_per_s)
        source = random.Random(f"arrivals {seed} {rate_per_s!r}")  # noqa: S311  (no secret)
        if self.kind == "uniform":
            yield source.random() / rate_per_s
        shape = 1 / self.cv**2
        while True:
            if self.kind == "poisson":
                yield source.expovariate(rate_per_s)
            elif self.kind == "gamma":
                yield source.gammavariate(shape, 1 / (shape * rate_per_s))
            else:
                yield 1 / rate_per_s


def _trace_gaps_s(trace: Sequence[TracedRequest], rate_per_s: float) -> Iterator[float]:
    """Yield the gaps of a trace, scaled to a mean of ``1 / rate_per_s``; after its end it begins anew."""
    if len(trace) < 2:
        raise RequestError("a trace needs two requests or more: name its file with --trace")
    gaps = [later.at_s - earlier.at_s for earlier, later in itertools.pairwise(trace)]
    total_s = sum(gaps)
    if total_s <= 0:
        raise RequestError("all requests of the trace came at one time: their rate cannot be scaled")
    scale = len(gaps) / total_s / rate_per_s
    while True:
        yield from (gap * scale for gap in gaps)


def read_trace(path: Path) -> tuple[TracedRequest, ...]:
    """Read a trace of JSON lines with ``at_s``, or ``timestamp`` in milliseconds, and lengths where they are known.

    Lengths are ``input_tokens`` and ``output_tokens``, or ``input_length`` and ``output_length`` (the form of the
    Mooncake traces). Raises `RequestError` for a file that cannot be read and for lines that are something else.
    """
    try:
        if path.stat().st_size > MAX_TRACE_BYTES:
            raise RequestError(f"{path} is larger than {MAX_TRACE_BYTES >> 20} MiB: cut the trace")
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{path} cannot be read: {error}") from error
    found = [_traced(line, f"{path.name}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    if len(found) > MAX_REQUESTS:
        raise RequestError(f"{path} has more than {MAX_REQUESTS:,} requests: cut the trace")
    return tuple(sorted(found, key=lambda each: each.at_s))


def _traced(line: str, place: str) -> TracedRequest:
    try:
        row: Any = json.loads(line)
        at_s = float(row["at_s"]) if "at_s" in row else float(row["timestamp"]) / 1e3
        lengths = [_length(row, f"{name}_tokens", f"{name}_length") for name in ("input", "output")]
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise RequestError(
            f"{place}: expected a JSON object with at_s (seconds) or timestamp (ms), and whole numbers as lengths"
        ) from error
    if not 0 <= at_s < 1e12:
        raise RequestError(f"{place}: the time must be a number of seconds from 0 on, not {at_s:g}")
    for length in lengths:
        if length is not None and not 0 <= length <= MAX_LENGTH:
            raise RequestError(f"{place}: a length must be a whole number from 0 to {MAX_LENGTH:,}, not {length}")
    return TracedRequest(at_s, *(length if length is None else max(length, 1) for length in lengths))


def _length(row: dict[str, Any], *names: str) -> int | None:
    for name in names:
        if row.get(name) is not None:
            return int(row[name])
    return None
