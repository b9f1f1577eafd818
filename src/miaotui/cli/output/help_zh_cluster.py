"""Help of ``miaotui cluster`` in Chinese, a part of `help_zh`.

Owns these texts. Knows no parser. Invariant: every key is a text of `cli.options.cluster`.
"""

from __future__ import annotations

CLUSTER_HELP = {
    "serve models over several machines": "用多台机器提供模型",
    "ACTION is up FILE, check FILE, status, scale NAME=COUNT..., drain or down. FILE is YAML; see docs/cluster.md. "
    "Needs Ray: pip install 'miaotui[cluster]'.": (
        "ACTION 为 up FILE、check FILE、status、scale NAME=COUNT…、drain 或 down。FILE 为 YAML，见 docs/zh/cluster.md。"
        "需要 Ray：pip install 'miaotui[cluster]'。"
    ),
    "of a running Ray (default: the one on this machine)": "已在运行的 Ray 的地址（默认：本机的）",
    "that running answers get to end (default: 30s)": "留给正在进行的回答结束的时间（默认：30s）",
    "print the state as JSON": "以 JSON 输出状态",
}
