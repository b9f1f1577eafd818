"""Speed and memory of a model file, measured in a process of its own: ``python -m miaotui.optimize.speed FILE``.

Owns the measurement. Knows no method. Invariant: the process runs nothing else, so that its peak memory is the model's.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

from miaotui.config import Settings
from miaotui.errors import EngineError, MiaotuiError
from miaotui.hub.files import write_whole
from miaotui.hub.formats.untrusted_json import read_object
from miaotui.hub.store import PackedStore
from miaotui.kernels.platform.host import busy_ticks
from miaotui.model.packed import packed_key
from miaotui.optimize.cost import MachineRates, answer_cost, cost_scale
from miaotui.optimize.source import GgufSource

RUNS = 3
LIMIT_S = 600
BUSY = 0.15  # of the processors, used by others: then a measured speed is theirs as well
FORM = 2  # of a kept measurement; changes when the same file would be measured otherwise


@dataclass(frozen=True)
class MeasuredSpeed:
    """Medians of several answers; ``seconds`` is of a whole one, ``peak_bytes`` of the process (None: unknown)."""

    tokens_per_s: float
    seconds: float
    slowest_s: float
    peak_bytes: int | None
    weight_bytes: int
    prompt: int
    answer: int
    runs: int
    others: float | None = None  # share of the processors that other programs used meanwhile; None: unknown

    @property
    def warning(self) -> str:
        """Return in words that the machine was busy with other programs; "" if it was not, or that is unknown."""
        if self.others is None or self.others < BUSY:
            return ""
        return (
            f"other programs used {100 * self.others:.0f}% of the processors while the speed was measured, so that it "
            "is too low. On a quiet machine, run `miaotui doctor` and then this again"
        )


def measured_speed(file: Path, prompt: int, answer: int, kv: str = "f16") -> MeasuredSpeed:
    """Run ``file`` in a process of its own, with keys and values of one answer, stored as ``kv``.

    Another process packs its weights before, as the first start of a model does: that takes more memory than the later
    ones, which are measured. Weights that were not packed before are removed from the cache at the end: candidates are
    many, and their names and times are no final file's. Raises `EngineError` where it does not run.
    """
    begin = [sys.executable, "-m", "miaotui.optimize.speed", os.fspath(file), str(prompt)]
    store, key = PackedStore(Settings.from_env().folder("packed")), packed_key(file)
    known = store.holds(key)
    try:
        for lengths in (["0"], [str(answer)]):
            done = subprocess.run(  # noqa: S603  (our own)
                [*begin, *lengths, kv], capture_output=True, text=True, timeout=LIMIT_S, check=True
            )
        return MeasuredSpeed(**json.loads(done.stdout.splitlines()[-1]))
    except (OSError, subprocess.SubprocessError, ValueError, IndexError, TypeError) as error:
        said = getattr(error, "stderr", None) or str(error)
        raise EngineError(f"{file} does not run: {str(said).strip()[-300:]}") from error
    finally:
        if not known:
            store.remove(key)


def kept_speed(
    digest: str,
    rates: MachineRates,
    speed: Callable[[], MeasuredSpeed],
    lengths: tuple[int, int],
    kept: Path,
    kv: str = "f16",
) -> MeasuredSpeed:
    """Return the speed of the file with this ``digest``, with a prompt and an answer of these ``lengths``.

    ``speed`` measures it; what it found is kept in the folder ``kept``, so that the same model and target give the same
    plan and the same file, until the machine's ``rates`` are measured again.
    """
    about = [FORM, digest, *lengths, rates.read_gb_per_s, rates.int8_gmac_per_s, kv]
    path = kept / f"speed-{hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]}.json"
    try:
        found = MeasuredSpeed(**read_object(path))
    except (MiaotuiError, TypeError):
        found = speed()
        text = json.dumps(asdict(found)).encode()
        write_whole(path, "the model's speed", lambda file: file.write(text))
    return found


def scaled_rates(source: GgufSource, rates: MachineRates, found: MeasuredSpeed, kv: str = "f16") -> MachineRates:
    """Return the rates with the scale that the model's own speed shows."""
    lengths = found.prompt, found.answer
    kinds = {one.name: source.file.tensors[one.name].kind for one in source.matrices}
    predicted = answer_cost(source, kinds, rates, *lengths, kv=kv)
    scale = cost_scale(predicted, found.answer, found.tokens_per_s, found.seconds, found.peak_bytes)
    return replace(rates, scale=scale)


def _measure(file: str, prompt: int, answer: int, kv: str) -> MeasuredSpeed | None:
    """Measure; without an ``answer`` the weights are packed, and that is all."""
    from miaotui.bench.evaluation import peak_bytes  # noqa: PLC0415  (the measuring process alone)
    from miaotui.llm import load  # noqa: PLC0415  (the measuring process alone)

    rates, times = [], []
    context = prompt + answer + 16
    with load(file, context=context, kv_tokens=context, speculate=False, kv=kv) as llm:
        if not answer:
            return None
        vocabulary = llm.config.vocab_size
        before, own_s = busy_ticks(), time.process_time()
        for run in range(RUNS + 1):
            tokens = [(97 * i + 31 * run) % min(vocabulary, 20_000) for i in range(prompt)]
            began_s = time.perf_counter()
            done = llm.generate(tokens, max_tokens=answer, ignore_eos=True, temperature=1.0, seed=run)
            if run:  # the first one warms up
                times.append(time.perf_counter() - began_s)
                rates.append(done.timing.decode_tokens_per_s)
        others = others_share(before, busy_ticks(), time.process_time() - own_s)
        weight_bytes = llm.weight_bytes
    about = (peak_bytes(), weight_bytes, prompt, answer, RUNS, others)
    return MeasuredSpeed(median(rates), median(times), max(times), *about)


def others_share(before: tuple[int, int] | None, after: tuple[int, int] | None, own_s: float) -> float | None:
    """Return the share of the processors that others used between two readings of `busy_ticks`; None: unknown."""
    if before is None or after is None or after[1] <= before[1]:
        return None
    own = own_s * os.sysconf("SC_CLK_TCK")
    return min(1.0, max(0.0, (after[0] - before[0] - own) / (after[1] - before[1])))


if __name__ == "__main__":
    measured = _measure(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
    print(json.dumps(measured and asdict(measured)))
