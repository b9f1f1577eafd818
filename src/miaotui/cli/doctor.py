"""``miaotui doctor``: a report on this machine: its processor, its measured speeds, and what they allow.

Owns the report. The probe, the measurements and the arithmetic are in `kernels.platform` and `cli.advice`.
Invariant: all speeds are measured when asked, none is looked up. ``--json`` prints the same facts for programs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from miaotui.cli.advice.backends import BackendChoice, backend_choices
from miaotui.cli.advice.choice import ANSWER_TOKENS, CHINESE, ENGLISH, advised, best_estimate
from miaotui.cli.advice.choice import PROMPT_TOKENS as ADVICE_PROMPT
from miaotui.cli.advice.machine_speeds import Speeds, keep_speeds
from miaotui.cli.advice.model_estimates import CONTEXT_TOKENS, OVERHEAD_BYTES, PROMPT_TOKENS, SHAPES, Forecast, forecast
from miaotui.cli.output import messages
from miaotui.cli.output.progress import ProgressBars
from miaotui.cli.output.tables import show_tables
from miaotui.config import Settings, format_size
from miaotui.hub.catalog import CatalogModel
from miaotui.kernels.linear.formats import Format
from miaotui.kernels.platform.accelerators import Accelerator, read_accelerators
from miaotui.kernels.platform.cpu import Cpu, probe

if TYPE_CHECKING:
    from rich.table import Table


def doctor(parsed: argparse.Namespace) -> int:
    """Print the report; return the exit status."""
    cpu = probe()
    speeds = measure(cpu.team_size)
    keep_speeds(speeds[-1], cpu, Settings.from_env())
    table = forecasts(speeds[-1], cpu.memory_bytes)
    choices, devices = backend_choices(prove=parsed.prove), read_accelerators()
    named = {code: advised(code, speeds[-1], cpu.memory_bytes) for code in (ENGLISH, CHINESE)}
    if parsed.json:
        report = as_json(cpu, speeds, table, named)
        found = {"accelerators": list(map(asdict, devices)), "backends": list(map(asdict, choices))}
        print(json.dumps(report | found, indent=2))
    else:
        print_report(cpu, speeds, table)
        print_backends(devices, choices)
        print_advice(named, speeds[-1], cpu.memory_bytes)
    return 0


def measure(team_size: int) -> tuple[Speeds, ...]:
    """Measure with one thread and, where there are more, with the whole team."""
    from miaotui.kernels.platform.measure import int8_rate, read_bandwidth

    counts = sorted({1, team_size})
    speeds = []
    with ProgressBars() as progress:
        for done, threads in enumerate(counts):
            progress("measuring", done, len(counts))
            speeds.append(Speeds(threads, read_bandwidth(threads), int8_rate(threads)))
    return tuple(speeds)


def forecasts(speeds: Speeds, memory_bytes: int | None) -> tuple[Forecast, ...]:
    """Return what each common model size can do at these speeds."""
    rates = (speeds.read_gb_per_s * 1e9, speeds.int8_gmac_per_s * 1e9)
    return tuple(forecast(shape, form, *rates, memory_bytes) for shape in SHAPES for form in (Format.Q4, Format.Q8))


def as_json(
    cpu: Cpu, speeds: tuple[Speeds, ...], table: tuple[Forecast, ...], named: Mapping[str, CatalogModel]
) -> dict[str, object]:
    """Return the report as JSON values."""
    facts = asdict(cpu) | {
        "features": sorted(cpu.features),
        "isas": [isa.value for isa in cpu.isas],
        "isa": cpu.isa.value,
        "team_size": cpu.team_size,
    }
    return {
        "cpu": facts,
        "speeds": [asdict(speed) for speed in speeds],
        "prompt_tokens": PROMPT_TOKENS,
        "models": [asdict(row) for row in table],
        "advised": {code: model.name for code, model in named.items()},
    }


def print_report(cpu: Cpu, speeds: tuple[Speeds, ...], table: tuple[Forecast, ...]) -> None:
    """Print the report as two tables and a note."""
    note = messages.DOCTOR_NOTE(prompt=PROMPT_TOKENS, context=CONTEXT_TOKENS, overhead=format_size(OVERHEAD_BYTES))
    show_tables(_facts(cpu, speeds), _models(table), note)


def print_backends(devices: Sequence[Accelerator], choices: Sequence[BackendChoice]) -> None:
    """Print the devices besides the processor, and the backends with what was shown for them."""
    listed = ", ".join(f"{each.vendor} {each.kind} ({each.identifier})" for each in devices) or messages.NONE()
    print(messages.ACCELERATORS(devices=listed))
    for each in choices:
        proof = "; ".join(f"{platform}: {level}" for platform, level in each.levels.items())
        note = each.remedy or proof
        name = messages.IN_USE(name=each.name) if each.is_default else f"--backend {each.name}"
        if not each.runs_models:
            name = messages.ONE_BLOCK(name=each.name)
        print(messages.BACKEND(name=name) + (f"  {note}" if note else ""))


def print_advice(named: Mapping[str, CatalogModel], speeds: Speeds, memory_bytes: int | None) -> None:
    """Print the model to use for each language, and the time of its answer."""
    for code, message in ((ENGLISH, messages.ADVISED_ENGLISH), (CHINESE, messages.ADVISED_CHINESE)):
        found = best_estimate(named[code], speeds, memory_bytes)
        if found is not None:
            fields = {"name": named[code].name, "seconds": f"{found.seconds:.1f}", "format": found.format.value}
            print(message(prompt=ADVICE_PROMPT, tokens=ANSWER_TOKENS, **fields))


def _facts(cpu: Cpu, speeds: tuple[Speeds, ...]) -> Table:
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    rows = {
        messages.PROCESSOR: f"{cpu.model_name} ({cpu.architecture})",
        messages.INSTRUCTION_SETS: ", ".join(
            messages.IN_USE(name=isa.value) if isa is cpu.isa else isa.value for isa in cpu.isas
        ),
        messages.CORES: messages.CORES_TEXT(
            cores=cpu.cores,
            allowed=cpu.allowed_cpus,
            physical=cpu.physical_cores,
            quota=messages.NONE() if cpu.cpu_quota is None else f"{cpu.cpu_quota:g}",
            team=cpu.team_size,
        ),
        messages.CACHES: _caches(cpu),
        messages.MEMORY: _size(cpu.memory_bytes),
        messages.BANDWIDTH: _rates([(s.threads, f"{s.read_gb_per_s:.1f} GB/s") for s in speeds]),
        messages.INT8_RATE: _rates([(s.threads, f"{shown_rate(s.int8_gmac_per_s)} GMAC/s") for s in speeds]),
    }
    for title, text in rows.items():
        table.add_row(title(), text)
    return table


def _models(forecasts: tuple[Forecast, ...]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for title in (messages.MODEL, messages.FORMAT):
        table.add_column(title())
    for title in (messages.SIZE, messages.FITS, messages.LIMIT_RATE, messages.IN_ONE_SECOND):
        table.add_column(title(), justify="right")
    for row in forecasts:
        fits = {True: messages.YES, False: messages.NO, None: messages.UNKNOWN}[row.fits]()
        size, rate = format_size(row.weight_bytes), shown_rate(row.tokens_per_s)
        table.add_row(row.model, row.format, size, fits, rate, shown_rate(row.tokens_in_one_s))
    return table


def shown_rate(value: float) -> str:
    """Return the number with one decimal below 10 and without above, rounded down: it is a limit."""
    tenths = int(value * 10)
    return f"{tenths / 10:.1f}" if tenths < 100 else str(int(value))


def _caches(cpu: Cpu) -> str:
    caches = cpu.caches
    sizes = (("L1d", caches.l1d_bytes), ("L2", caches.l2_bytes), ("L3", caches.l3_bytes))
    known = [f"{name} {_binary(size)}" for name, size in sizes if size is not None]
    return ", ".join(known) or messages.UNKNOWN()


def _binary(size_bytes: int) -> str:
    """Caches are labelled in powers of two, unlike memory and disks here."""
    mebi = size_bytes / (1 << 20)
    return f"{mebi:g} MiB" if mebi >= 1 else f"{size_bytes / (1 << 10):g} KiB"


def _size(size_bytes: int | None) -> str:
    return messages.UNKNOWN() if size_bytes is None else format_size(size_bytes)


def _rates(rates: list[tuple[int, str]]) -> str:
    return ", ".join(messages.THREADS_TEXT(rate=rate, threads=threads) for threads, rate in rates)
