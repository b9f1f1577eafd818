from __future__ import annotations

import json
import math

import pytest

from miaotui.cli.advice.machine_speeds import Speeds
from miaotui.cli.advice.model_estimates import CONTEXT_TOKENS, OVERHEAD_BYTES, SHAPES, forecast
from miaotui.cli.doctor import as_json, forecasts, print_report, shown_rate
from miaotui.hub.catalog import CATALOG, DEFAULT_MODEL
from miaotui.kernels.linear.formats import Format
from miaotui.kernels.platform.cgroup import CgroupLimits
from miaotui.kernels.platform.cpu import Cpu, combine
from miaotui.kernels.platform.host import Caches, Host

GB = 10**9
SMALL = SHAPES[0]
MODEL = CATALOG[DEFAULT_MODEL]


def machine(quota: float | None = None, memory: int | None = 8 * GB) -> Cpu:
    host = Host("Test [cpu]", 4, 2, Caches(32768, 1 << 20, None), memory)
    return combine(host, CgroupLimits(quota, None), "x86_64", frozenset({"avx2", "fma", "f16c"}), "")


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("135M", 0.1345),
        ("360M", 0.3618),
        ("0.6B", 0.596),
        ("1B", 1.236),
        ("1.7B", 1.72),
        ("3B", 3.21),
        ("4B", 4.02),
        ("8B", 8.19),
    ],
)
def test_shapes_have_the_published_number_of_weights(name: str, billions: float) -> None:
    shape = next(shape for shape in SHAPES if shape.name == name)
    weights = shape.layer_weights + shape.head_weights * (1 if shape.tied else 2)
    assert weights / 1e9 == pytest.approx(billions, rel=0.005)


def test_decode_is_bandwidth_over_bytes() -> None:
    row = forecast(SMALL, Format.Q4, 20 * GB, 1e15, 8 * GB)
    assert row.weight_bytes == pytest.approx(134.5e6 * 4.5 / 8, rel=0.005)
    assert row.tokens_per_s == pytest.approx(20 * GB / row.weight_bytes, rel=0.02)
    assert row.tokens_per_s < 20 * GB / row.weight_bytes  # keys and values are read too


def test_slow_multiplication_leaves_no_time_to_answer() -> None:
    assert 0 < forecast(SMALL, Format.Q4, 20 * GB, 1e9, None).tokens_in_one_s < 1


@pytest.mark.parametrize(
    ("rate", "shown"), [(0.04, "0.0"), (0.37, "0.3"), (1.0, "1.0"), (9.99, "9.9"), (10.0, "10"), (123.9, "123")]
)
def test_small_rates_have_a_decimal(rate: float, shown: str) -> None:
    assert shown_rate(rate) == shown


def test_fast_multiplication_leaves_nearly_the_whole_second() -> None:
    row = forecast(SMALL, Format.Q4, 20 * GB, 1e15, None)
    assert math.floor(row.tokens_per_s) - 1 <= row.tokens_in_one_s <= row.tokens_per_s + 1


def test_fits_counts_context_and_overhead() -> None:
    needed = (
        forecast(SMALL, Format.Q8, GB, GB, None).weight_bytes
        + CONTEXT_TOKENS * SMALL.kv_bytes_per_token
        + OVERHEAD_BYTES
    )
    assert forecast(SMALL, Format.Q8, GB, GB, needed).fits is True
    assert forecast(SMALL, Format.Q8, GB, GB, needed - 1).fits is False
    assert forecast(SMALL, Format.Q8, GB, GB, None).fits is None


def test_report_names_every_fact(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    speeds = (Speeds(1, 11.26, 90.0), Speeds(2, 20.5, 180.0))
    print_report(machine(quota=2.5), speeds, forecasts(speeds[-1], 8 * GB))
    text = capsys.readouterr().out
    for fact in (
        "Test [cpu] (x86_64)",
        "avx2 (in use), plain",
        "2 usable (4 allowed, 2 physical, quota 2.5); 2 threads",
        "L1d 32 KiB, L2 1 MiB",
        "8.0 GB",
        "11.3 GB/s with 1, 20.5 GB/s with 2",
        "180 GMAC/s with 2",
    ):
        assert fact in text
    rows = [line.split() for line in text.splitlines() if line.strip().startswith(("135M", "8B"))]
    assert [row[:2] for row in rows] == [["135M", "q4"], ["135M", "q8"], ["8B", "q4"], ["8B", "q8"]]
    assert rows[0][4] == "yes"
    assert rows[-1][4] == "no"


def test_report_in_chinese(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    speeds = (Speeds(1, 10.0, 90.0),)
    print_report(machine(memory=None), speeds, forecasts(speeds[0], None))
    text = capsys.readouterr().out
    assert "处理器" in text
    assert "未知" in text


def test_json_is_complete_and_plain() -> None:
    speeds = (Speeds(1, 10.0, 90.0),)
    found = json.loads(json.dumps(as_json(machine(), speeds, forecasts(speeds[0], 8 * GB), {"en": MODEL})))
    assert found["cpu"]["isa"] == "avx2"
    assert found["cpu"]["team_size"] == 2
    assert found["speeds"] == [{"threads": 1, "read_gb_per_s": 10.0, "int8_gmac_per_s": 90.0}]
    assert len(found["models"]) == 2 * len(SHAPES)
    assert found["advised"] == {"en": "smollm2-135m"}
