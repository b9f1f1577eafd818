"""Reports as HTML: sound, closed in themselves, and without what texts of servers could smuggle in."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from miaotui.bench.compare import Comparison
from miaotui.bench.html.charts import EMPTY, ChartAxis, ChartSeries, chart, time_line
from miaotui.bench.html.page import compare_sections, load_sections, page, speed_sections, table_section, write_page
from miaotui.bench.html.words import words
from miaotui.bench.load import outcome as ends
from miaotui.bench.load.outcome import RequestOutcome
from miaotui.bench.load.report import load_table
from miaotui.bench.load.summary import LatencyTargets, summarised
from miaotui.bench.report import aligned
from miaotui.bench.speed import MachineLimits, RooflinePoint, SpeedReport, SpeedSeries
from miaotui.cli.bench.model import speed_table
from miaotui.errors import CacheError

HOSTILE = '</pre><script>alert(1)</script><img src="http://example.org/x">&"\''
numbers = st.floats(allow_nan=True, allow_infinity=True)


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}


def tags_of(text: str) -> _Tags:
    found = _Tags()
    found.feed(text)
    return found


def requests() -> list[RequestOutcome]:
    found = []
    for at in range(20):
        outcome = RequestOutcome(at, at / 10, 8)
        outcome.sent_s = at / 10
        outcome.piece(at / 10 + 0.05, 1)
        outcome.piece(at / 10 + 0.09, 1)
        outcome.ended(ends.ANSWERED if at % 5 else ends.SERVER_ERROR, at / 10 + 0.1, HOSTILE)
        found.append(outcome)
    return found


@settings(max_examples=40)
@example([(0.0, 5e-324)], False, False, "")
@given(st.lists(st.tuples(numbers, numbers), max_size=8), st.booleans(), st.booleans(), st.text(max_size=8))
def test_charts_are_sound_whatever_the_values(
    points: list[tuple[float, float]], log_x: bool, log_y: bool, name: str
) -> None:
    drawn = chart([ChartSeries(name, points, (name,))], ChartAxis("x", log_x), ChartAxis(name, log_y))
    if drawn == EMPTY:
        return
    tags = tags_of(drawn)
    assert tags.tags <= {"figure", "svg", "line", "text", "polyline", "circle", "title", "figcaption", "span", "i"}
    assert "nan" not in re.sub(r"<(title|text|span)[^>]*>[^<]*", "", drawn)


def test_a_chart_draws_its_points_in_order() -> None:
    drawn = chart([ChartSeries("a", [(0, 0), (5, 10), (10, 5)])], ChartAxis("x"), ChartAxis("y"))
    svg = ElementTree.fromstring(drawn[drawn.index("<svg") : drawn.index("</svg>") + 6])
    circles = [(float(each.attrib["cx"]), float(each.attrib["cy"])) for each in svg.iter("circle")]
    assert [x for x, _ in circles] == sorted(x for x, _ in circles)
    assert circles[1][1] < circles[2][1] < circles[0][1]  # up is less


def test_texts_beside_points_do_not_cover_each_other() -> None:
    close = [(5.0, 5.0), (5.1, 5.05), (5.2, 4.95), (9.0, 5.0)]
    drawn = chart(
        [ChartSeries("a", close, ("decode, 1", "decode, 2", "decode, 4", "far"))], ChartAxis("x"), ChartAxis("y")
    )
    svg = ElementTree.fromstring(drawn[drawn.index("<svg") : drawn.index("</svg>") + 6])
    texts = [each.attrib for each in svg.iter("text") if (each.text or "").startswith("decode")]
    assert len({(each["text-anchor"], round(float(each["y"]))) for each in texts}) == 3


def test_a_chart_without_values_says_so() -> None:
    assert chart([ChartSeries("a", [(math.nan, 1.0)])], ChartAxis("x"), ChartAxis("y")) == EMPTY
    assert chart([ChartSeries("a", [(0.0, 1.0)])], ChartAxis("x", log=True), ChartAxis("y")) == EMPTY
    assert time_line([], []) == EMPTY


def test_a_report_of_loads_asks_for_nothing_and_runs_nothing() -> None:
    outcomes = requests()
    summaries = [summarised(outcomes, 2.0, LatencyTargets(), rate) for rate in (1.0, 2.0)]
    text = page(
        HOSTILE,
        [HOSTILE],
        [table_section(aligned([[HOSTILE], [HOSTILE]])), *load_sections([(each, outcomes) for each in summaries])],
        HOSTILE,
    )
    tags = tags_of(text)
    assert not tags.tags & {"script", "img", "link", "iframe", "object"}
    assert not tags.attributes & {"src", "href", "onload", "srcset"}
    assert "default-src 'none'" in text
    for heading in ("Answers over load", "Latency over load", "Distribution of latencies", "Time line of a typical"):
        assert heading in text


def test_a_report_of_a_model_has_its_roofline() -> None:
    report = SpeedReport(
        MachineLimits(2, 20.0, 100.0),
        [SpeedSeries("decode, 1 stream", "drafts", 1, [50.0], [20.0], [0.8], [1.5])],
        [RooflinePoint("decode, 1 stream", 1.8, 30.0)],
        [0.05, 0.06, 0.07],
    )
    text = page("t", [], speed_sections(report), "{}")
    assert "multiply-adds for each byte read" in text
    assert "decode, 1 stream" in text
    assert text.count("<svg") == 3


def test_a_report_in_chinese_keeps_names_and_numbers() -> None:
    rows = aligned(
        [["", "way", "tokens/s", "range"], ["decode, 8 streams", "drafts", "50.0", "40 to 60"], [HOSTILE] * 4]
    )
    found = Comparison(("a", "b"), {"tokens/s": [(1.0, 2.0), (2.0, 3.0)]})
    say = words("zh")
    about = ["m on x86, 2 threads, seed 7", "4/s: 3 x stalled"]
    text = page("t", about, [table_section(rows, say), *compare_sections(found, say)], "{}", "zh")
    for part in (
        'lang="zh-CN"',
        "数据",
        "解码，8 路",
        "投机解码",
        "40 至 60",
        "50.0",
        "m，x86，2 个线程，种子 7",
        "3 x stalled",
    ):
        assert part in text, part
    assert text.count("<tr>") == 3
    assert "script" not in tags_of(text).tags
    assert all(words("en")(each) == each for each in ("Numbers", "drafts"))


def test_every_heading_and_label_has_chinese_words() -> None:
    outcomes, say = requests(), words("zh")
    summaries = [summarised(outcomes, 2.0, LatencyTargets(), rate) for rate in (1.0, 2.0)]
    series = SpeedSeries("decode, 1 stream", "drafts", 1, [50.0], [20.0], [0.8], [1.5])
    points = [RooflinePoint("decode, 1 stream", 1.8, 30.0)]
    report = SpeedReport(MachineLimits(2, 20.0, 100.0), [series], points, [0.05, 0.06, 0.07])
    loads = [table_section(load_table(summaries), say), *load_sections([(each, outcomes) for each in summaries], say)]
    speeds = [table_section(speed_table(report), say), *speed_sections(report, say)]
    text = page("t", [], [*loads, *speeds], "{}", "zh")
    shown = re.findall(r"<(?:h2|th scope=\"col\"[^>]*|summary|text class=\"label\"[^>]*)>([^<]+)<", text)
    named = {"JSON", "ms"}
    assert len(shown) > 30
    assert not [each for each in shown if not re.search("[\u4e00-\u9fff]", each) and each not in named]


def test_a_report_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="cannot write"):
        write_page(tmp_path / "missing" / "report.html", "x")


@pytest.mark.parametrize(
    "line",
    [
        *(
            f"tiny at http://127.0.0.1:8000; {kind}, 10 s each, seed 7"
            for kind in (
                "poisson arrivals",
                "gamma arrivals (cv 2)",
                "uniform arrivals",
                "trace arrivals",
                "closed load",
                "single-stream",
                "offline",
            )
        ),
        "A: m,drafts=off; quality not measured: there is no base of these weights; miaotui bench base MODEL makes one",
        "m, without HTTP; closed load, 10 s each, seed 7",
        "0.5/s: no request was due within 1 s: lengthen --duration",
        "2 at a time: 3 answers whose usage cannot be right; their pieces were counted",
        "4/s: 2 x refused 429 deadline_unattainable",
        "4/s: refused within 3.1 / 12 ms (p50 / p99)",
        "single-stream: p90 latency, at most 12.5 ms, 44 requests: valid",
        "server at 2/s: p99 latency, at most no number, 8 requests: INVALID (8 answers are too few: 459 are needed)",
        "offline: all at once, 71.3 tokens/s, 64 requests: valid",
    ],
)
def test_lines_above_the_table_are_said_in_chinese(line: str) -> None:
    told = words("zh")(line)
    assert told != line
    numbers = re.compile(r"\d+(?:\.\d+)?")
    assert set(numbers.findall(told)) <= set(numbers.findall(line))


def test_closed_loads_have_names_of_their_own_and_a_chart() -> None:
    outcomes = requests()
    loads = [(summarised(outcomes, 2.0, LatencyTargets(), streams=streams), outcomes) for streams in (1, 4, 4)]
    rows = load_table([each for each, _ in loads]).splitlines()
    assert [row.split("|")[1].strip() for row in rows[2:]] == ["1 at a time", "4 at a time", "4 at a time"]
    text = page("t", [], load_sections(loads), "{}")
    assert "Speed over streams" in text
    assert text.count("4 at a time") == 2 * text.count("1 at a time")
