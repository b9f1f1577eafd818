"""Speed of one model on this machine: prompts read, answers written by several streams, and the share of the limit.

Owns the workloads, their order and the arithmetic from moments to rates. Knows no command line. Invariants: no prompt
comes twice; ways that are compared take turns within a repetition; read bandwidth is measured beside each sample, since
a shared machine changes its speed from minute to minute.
"""

from __future__ import annotations

import random
import time
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from miaotui.bench.load.prompts import WORDS
from miaotui.errors import RequestError
from miaotui.kernels.platform.measure import int8_rate, read_bandwidth
from miaotui.llm import LLM
from miaotui.model.config import ModelConfig

Moments = Sequence[Sequence[float]]  # of each stream: when its tokens came, in seconds from the request
WITHOUT_DRAFTS, WITH_DRAFTS = "one token a pass", "drafts"
ATTEMPTS = 25  # at a sample whose answers were not seen as they were written


@dataclass(frozen=True)
class SpeedPlan:
    """Workloads of a run."""

    streams: tuple[int, ...] = (1, 2, 4, 8, 16)
    prompt_tokens: int = 512  # of prefill
    answer_tokens: int = 128
    repetitions: int = 3
    seed: int = 0


@dataclass
class SpeedSeries:
    """Samples of one workload in one way of running, in tokens per second; ``share`` is that of the read limit."""

    workload: str
    way: str
    streams: int
    rates: list[float] = field(default_factory=list)
    first_ms: list[float] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)
    tokens_per_pass: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Return the median of the samples."""
        return median(self.rates)

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON, with every sample."""
        return {**vars(self), "rate": self.rate, "share": median(self.shares) if self.shares else None}


@dataclass(frozen=True)
class RooflinePoint:
    """Workload in the roofline: multiply-adds per byte that is read, and 10**9 multiply-adds per second."""

    name: str
    macs_per_byte: float
    gmac_per_s: float


@dataclass(frozen=True)
class MachineLimits:
    """Measured limits: bytes read, and 8-bit multiply-adds, both in 10**9 per second."""

    threads: int
    read_gb_per_s: float
    int8_gmac_per_s: float


@dataclass
class SpeedReport:
    """Everything measured on one model. ``moments`` are those of one answer, for its time line."""

    limits: MachineLimits
    series: list[SpeedSeries]
    points: list[RooflinePoint]
    moments: list[float]
    is_whole: bool = True  # not interrupted


def decode_rate(times: Moments) -> float:
    """Return tokens per second while every stream is decoding: after the last first token, until the first end.

    A way of running thus does not pay for the order in which it takes prompts in. Tokens that come in one piece were
    made one after another since the piece before: what of them lies in that time counts, whenever the piece was read.
    Returns 0.0 if the streams were never decoded together.
    """
    start, end = max(moments[0] for moments in times), min(moments[-1] for moments in times)
    if end <= start:
        return 0.0
    return sum(_tokens_until(end, moments) - _tokens_until(start, moments) for moments in times) / (end - start)


def _tokens_until(moment: float, moments: Sequence[float]) -> float:
    """Return how many tokens of one stream were made until ``moment``, with the part of a piece that comes later."""
    known = bisect_right(moments, moment)
    if not 0 < known < len(moments):
        return known
    before, after = moments[known - 1], moments[known]
    piece = bisect_right(moments, after) - known
    return known + piece * (moment - before) / (after - before)


def macs_of(config: ModelConfig) -> tuple[int, int] | None:
    """Return multiply-adds of one token in all layers, and in the head; None for mixtures of experts."""
    if config.experts is not None:
        return None
    attention = 2 * config.hidden_size * config.head_dim * (config.n_heads + config.n_kv_heads)
    forward = (3 if config.gated else 2) * config.hidden_size * config.ffn_size
    return config.n_layers * (attention + forward), config.vocab_size * config.hidden_size


class SpeedBench:
    """Measures ways of running one model: the same weights, with and without drafts."""

    def __init__(self, ways: Mapping[str, LLM], plan: SpeedPlan, note: Callable[[str], None]) -> None:
        self._ways, self._plan, self._note = dict(ways), plan, note
        self._any = next(iter(self._ways.values()))
        self._stats = self._any.loop.engine.backend.stats()
        self._source = random.Random(f"speed {plan.seed}")  # noqa: S311  (no secret)
        self._bandwidths: list[float] = []
        self._moments: list[float] = []  # of the last answer of a single stream

    def run(self) -> SpeedReport:
        """Measure all workloads; warm up first. After an interrupt the report is of what was measured until then."""
        threads = self._stats.threads
        for llm in self._ways.values():
            self._answer(llm, [self._question()], 8)
        found, is_whole = [SpeedSeries(*key) for key in self._keys()], True
        try:
            for repetition in range(self._plan.repetitions):
                for each in found:
                    self._sample(each, self._ways[each.way])
                    told = f"{each.workload}, {each.way}: {each.rates[-1]:.1f} tok/s"
                    self._note(f"{repetition + 1}/{self._plan.repetitions} {told}")
        except KeyboardInterrupt:
            is_whole = False
            if not self._bandwidths:
                raise
        sampled = [each for each in found if each.rates]
        limits = MachineLimits(threads, median(self._bandwidths), int8_rate(threads))
        return SpeedReport(limits, sampled, self._points(sampled), self._moments, is_whole)

    def _keys(self) -> list[tuple[str, str, int]]:
        plan, first = self._plan, next(iter(self._ways))
        keys = [(f"prefill, {plan.prompt_tokens} tokens", first, 0)]
        for streams in plan.streams:
            name = f"decode, {streams} stream{'s' if streams > 1 else ''}"
            keys += [(name, way, streams) for way in self._ways]
        return keys

    def _sample(self, series: SpeedSeries, llm: LLM) -> None:
        """Take one sample."""
        before = read_bandwidth(self._stats.threads)
        if not series.streams:
            times, _ = self._answer(llm, [self._tokens(self._plan.prompt_tokens)], 1)
            series.rates.append(self._plan.prompt_tokens / times[0][0])
            series.first_ms.append(1e3 * times[0][0])
            return
        rate, times, done = self._decoded_together(llm, series.streams)
        bandwidth = (before + read_bandwidth(self._stats.threads)) / 2
        per_pass = sum(each.timing.tokens_per_pass for each in done) / len(done)
        self._bandwidths.append(bandwidth)
        series.rates.append(rate)
        series.first_ms.append(1e3 * median(moments[0] for moments in times))
        series.tokens_per_pass.append(per_pass)
        length = sum(each.prompt_tokens + len(each.token_ids) / 2 for each in done) / len(done)
        passes_per_s = rate / (series.streams * per_pass)
        series.shares.append(passes_per_s * self._pass_bytes(series.streams, length) / 1e9 / bandwidth)
        if series.streams == 1:
            self._moments = list(times[0])

    def _decoded_together(self, llm: LLM, streams: int) -> tuple[float, Moments, list[Any]]:
        """Return the rate, the moments and the completions of so many answers. Raises `RequestError`.

        A reader that waits for a core gets short answers in one piece; it is asked again then.
        """
        for _ in range(ATTEMPTS):
            prompts = [self._question() for _ in range(streams)]
            times, done = self._answer(llm, prompts, self._plan.answer_tokens)
            rate = decode_rate(times)
            if rate:
                return rate, times, done
        short = f"{self._plan.answer_tokens} tokens are too few for {streams} streams to be decoded together"
        raise RequestError(f"{short}: give more --answer-tokens")

    def _pass_bytes(self, streams: int, length: float) -> float:
        return self._stats.weight_bytes + streams * length * self._stats.kv_token_bytes

    def _answer(self, llm: LLM, prompts: Sequence[Sequence[int]], new_tokens: int) -> tuple[Moments, list[Any]]:
        """Answer prompts together, greedily; return the moments of all tokens, and the completions."""
        began_s = time.perf_counter()
        streams = [llm.stream(prompt, max_tokens=new_tokens, ignore_eos=True) for prompt in prompts]
        times: list[list[float]] = [[] for _ in prompts]
        done: list[Any] = []
        running = list(zip(streams, times, strict=True))
        while running:
            for stream, moments in tuple(running):
                delta = next(stream)
                moments.extend([time.perf_counter() - began_s] * len(delta.token_ids))
                if delta.completion is not None:
                    done.append(delta.completion)
                    running.remove((stream, moments))
        return times, done

    def _question(self) -> list[int]:
        """Return the tokens of a question of its own, as people ask."""
        one, two, three, four = (self._source.choice(WORDS) for _ in range(4))
        text = (
            f"{one.capitalize()}, {two}, {three}, {four}: explain in plain words what they have to do with each other."
        )
        messages = [{"role": "user", "content": text}]
        return self._any.chat_tokens(messages) if self._any.template.available else self._any.tokenizer.encode(text)

    def _tokens(self, count: int) -> list[int]:
        """Return so many tokens of random words, which no prompt before began with."""
        tokens: list[int] = []
        while len(tokens) < count:
            tokens += self._any.tokenizer.encode(" ".join(self._source.choice(WORDS) for _ in range(count)))
        return tokens[:count]

    def _points(self, series: Sequence[SpeedSeries]) -> list[RooflinePoint]:
        """Return the roofline's points of the ways without drafts."""
        macs = macs_of(self._any.config)
        if macs is None:
            return []
        layers, head = macs
        points = []
        for each in series:
            if each.way != WITHOUT_DRAFTS:
                continue
            if not each.streams:
                count, one = self._plan.prompt_tokens, layers
                x = count * layers / self._stats.weight_bytes
            else:
                one = layers + head
                x = each.streams * one / self._pass_bytes(each.streams, self._plan.answer_tokens / 2 + 40)
            points.append(RooflinePoint(each.workload, x, each.rate * one / 1e9))
        return points
