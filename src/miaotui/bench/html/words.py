"""Words of reports in Chinese: whole texts, and patterns of texts with numbers and names in them.

Owns the translation. Knows no charts. Invariant: a text without a translation stays as it is, so that names of models,
servers and failures are never changed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

Say = Callable[[str], str]

_TEXTS: Mapping[str, str] = {
    "Numbers": "数据",
    "Speed over streams": "速度随并发数的变化",
    "Roofline": "屋顶线",
    "Time line of one answer": "一个回答的时间线",
    "Answers over load": "回答数随负载的变化",
    "Latency over load": "延迟随负载的变化",
    "Distribution of latencies": "延迟的分布",
    "Time line of a typical request": "一个典型请求的时间线",
    "Ratio of each pair": "每一对的比值",
    "the line that programs read": "供程序读取的一行",
    "no values": "没有数据",
    "streams": "并发数",
    "tokens/s, all streams": "词元/秒（全部）",
    "tokens/s": "词元/秒",
    "prompt": "提示",
    "answer": "回答",
    "limit": "上限",
    "this run": "本次测量",
    "multiply-adds for each byte read": "每读一个字节的乘加次数",
    "10^9 multiply-adds/s": "10^9 次乘加/秒",
    "requests/s": "请求/秒",
    "answers/s": "回答/秒",
    "offered": "请求",
    "answered": "已回答",
    "goodput": "按时的回答",
    "goodput [1/s]": "按时的回答 [1/秒]",
    "E2E, ms": "端到端，毫秒",
    "share of answers": "回答的比例",
    "until sent": "发出之前",
    "until the first text": "到第一段文字",
    "pair": "对",
    "equal": "相等",
    "way": "方式",
    "range": "范围",
    "each stream": "每路",
    "of the read limit": "占读带宽上限",
    "tokens a pass": "每遍词元",
    "one token a pass": "每遍一个词元",
    "drafts": "投机解码",
    "asked": "请求数",
    "refused": "拒绝",
    "failed": "失败",
    "promises kept": "兑现的承诺",
    "saturated": "饱和",
    "load": "负载",
    "all at once": "同时全部",
    "95% interval": "95% 区间",
    "pairs": "对数",
    "no difference shown": "看不出差别",
    "B is higher": "B 更高",
    "B is lower": "B 更低",
    "interrupted: the numbers are of what was measured until then": "已中断：数字只包括此前测量的部分",
    "goodput: whole answers, without a target": "按时的回答：完整的回答，没有时限",
    "quality not measured: there is no base of these weights; miaotui bench base MODEL makes one": (
        "未测量质量：这些权重没有基准；miaotui bench base MODEL 可以建立"
    ),
    "quality not measured: a server does not show its weights; run miaotui bench MODEL beside it": (
        "未测量质量：服务器不提供权重；请另外运行 miaotui bench MODEL"
    ),
}
_PATTERNS = tuple(
    (re.compile(pattern), text)
    for pattern, text in (
        (r"decode, (\d+) streams?", r"解码，\1 路"),
        (r"prefill, (\d+) tokens", r"读提示，\1 个词元"),
        (r"(\d+) at a time", r"同时 \1 个"),
        (r"([0-9.e+-]+)/s", r"每秒 \1 个"),
        (r"(\S+) to (\S+)", r"\1 至 \2"),
        (r"(\d+) of (\d+)", r"\2 个中 \1 个"),
        (r"(\w+) \[ms, p50 / p99\]", r"\1 [毫秒，p50 / p99]"),
        (r"(.+) on (.+), (\d+) threads, seed (\d+)", r"\1，\2，\3 个线程，种子 \4"),
        (r"read limit (\S+) GB/s, 8-bit products (\S+) GMAC/s", r"读带宽上限 \1 GB/s，8 位乘积 \2 GMAC/s"),
        (
            r"quality: KL from float32 (\S+) nats \(99% of places below (\S+)\), same best token (\S+), (\d+) places",
            r"质量：与 float32 的 KL 散度 \1 nats（99% 的位置低于 \2），最优词元相同 \3，\4 个位置",
        ),
        (
            r"(.+): answers came until (\S+) s after the load: a line grew \(if one answer alone takes that long, .+\)",
            r"\1：负载结束 \2 秒后仍有回答：队列在增长（若单个回答就要这么久，请加长 --duration）",
        ),
        (
            r"(.+): this client sent late, p99 (\S+) ms: run it on another machine",
            r"\1：客户端发送迟了，p99 \2 毫秒：请在另一台机器上运行",
        ),
        (r"sustained: (\S+) requests/s", r"可持续：每秒 \1 个请求"),
        (r"goodput: whole answers within (.+)", r"按时的回答：完整且不超过 \1"),
        (r"(.+); poisson arrivals, (\S+) s each, seed (\d+)", r"\1；泊松到达，各 \2 秒，种子 \3"),
        (
            r"(.+); gamma arrivals \(cv (\S+)\), (\S+) s each, seed (\d+)",
            r"\1；伽马到达（变异系数 \2），各 \3 秒，种子 \4",
        ),
        (r"(.+); uniform arrivals, (\S+) s each, seed (\d+)", r"\1；等间隔到达，各 \2 秒，种子 \3"),
        (r"(.+); trace arrivals, (\S+) s each, seed (\d+)", r"\1；按记录的轨迹到达，各 \2 秒，种子 \3"),
        (r"(.+); closed load, (\S+) s each, seed (\d+)", r"\1；闭环负载，各 \2 秒，种子 \3"),
        (r"(.+); single-stream, (\S+) s each, seed (\d+)", r"\1；场景 single-stream（单路），\2 秒，种子 \3"),
        (r"(.+); offline, (\S+) s each, seed (\d+)", r"\1；场景 offline（同时全部），种子 \3"),
        (r"(.+): no request was due within (\S+) s: lengthen --duration", r"\1：\2 秒内没有请求：请加长 --duration"),
        (
            r"(.+): (\d+) answers whose usage cannot be right; their pieces were counted",
            r"\1：\2 个回答的 usage 不可能正确，改为数文字段数",
        ),
        (r"(.+): refused within (.+) ms \(p50 / p99\)", r"\1：在 \2 毫秒内拒绝（p50 / p99）"),
        (r"([^:]+): (\d+) x refused (\d+) ?(.*)", r"\1：\2 次被拒绝（\3 \4）"),
        (r"([^:]+): (\d+) x (unauthorised|rejected|server error) (\d+) ?(.*)", r"\1：\2 次 \3（\4 \5）"),
        (
            r"(.+) at (\S+)/s: p(\d+) latency, at most (.+), (\d+) requests: valid",
            r"\1，每秒 \2 个：p\3 延迟至多 \4，\5 个请求：有效",
        ),
        (r"(.+): p(\d+) latency, at most (.+), (\d+) requests: valid", r"\1：p\2 延迟至多 \3，\4 个请求：有效"),
        (r"(.+): all at once, (.+), (\d+) requests: valid", r"\1：同时全部，\2，\3 个请求：有效"),
        (
            r"(.+): p(\d+) latency, at most (.+), (\d+) requests: INVALID \((.+)\)",
            r"\1：p\2 延迟至多 \3，\4 个请求：无效（\5）",
        ),
        (r"(.+): all at once, (.+), (\d+) requests: INVALID \((.+)\)", r"\1：同时全部，\2，\3 个请求：无效（\4）"),
        (r"(\d+) pairs of (\d+) together, (\d+) failed, seed (\d+)", r"\1 对，每次同时 \2 个，\3 对失败，种子 \4"),
    )
)
NO_HTTP = ", without HTTP"
_SIDE = re.compile(r"([AB]): (.+); (quality.+)")  # of a comparison


def words(language: str) -> Say:
    """Return what puts an English text of a report into a language, ``en`` or ``zh``."""
    return _chinese if language == "zh" else str


def _chinese(text: str) -> str:
    if text in _TEXTS:
        return _TEXTS[text]
    if side := _SIDE.fullmatch(text):
        return f"{side[1]}：{side[2]}；{_chinese(side[3])}"
    if NO_HTTP in text:
        return _chinese(text.replace(NO_HTTP, "（不经 HTTP）"))
    for pattern, replacement in _PATTERNS:
        if pattern.fullmatch(text):
            return pattern.sub(replacement, text)
    return text
