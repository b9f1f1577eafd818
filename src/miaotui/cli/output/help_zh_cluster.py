"""Help of ``miaotui cluster``, ``miaotui batch`` and of stages in Chinese, a part of `help_zh`.

Owns these texts. Knows no parser. Invariant: every key is a text of `cli.options.cluster`, or of the stages in
`cli.options.serve`.
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
    # stages
    "compute a part of a model's layers for a server elsewhere": "为别处的服务器计算模型的一部分层",
    "The server names this process by --stage-at HOST:PORT, and says which layers it computes. Rows and states "
    "cross the network as they are: use a network of your own, or a tunnel.": (
        "服务器用 --stage-at HOST:PORT 指定本进程，并告知它计算哪些层。行与状态以原样经过网络：请使用自己的网络或隧道。"
    ),
    "default: 8100": "默认：8100",
    "a secret of at least 16 bytes, the same at both ends": "至少 16 字节的密钥文件，两端相同",
    "processes that share a model's layers, each with a part of its weights (default: 1)": (
        "分担模型各层的进程数，每个进程只有一部分权重（默认：1）"
    ),
    "a process elsewhere that computes a part of the layers (miaotui stage); repeatable, in their order": (
        "别处计算一部分层的进程（miaotui stage）；可重复，按顺序"
    ),
    "the secret that stages elsewhere ask for": "别处的阶段所要求的密钥文件",
    "answer a file of requests": "回答一个文件中的请求",
    "FILE holds a request in each line, as OpenAI's batches do: custom_id, method, url, body. MODEL is as for "
    "miaotui serve. Run it again after an interruption: answers that are there are kept. See docs/cluster.md.": (
        "FILE 的每一行是一个请求，与 OpenAI 的批处理相同：custom_id、method、url、body。MODEL 同 miaotui serve。"
        "中断之后再次运行即可：已有的回答会保留。见 docs/zh/cluster.md。"
    ),
    "of answers, in lines of JSON (default: beside FILE, as .answers.jsonl)": (
        "回答的文件，每行一个 JSON（默认：在 FILE 旁边，以 .answers.jsonl 结尾）"
    ),
    "lines that are answered together (default: 32)": "同时回答的行数（默认：32）",
    "that compute (default: as many as help)": "计算所用的线程数（默认：有多少帮助就用多少）",
    "answer in actors of a Ray, that at ADDRESS or one that is started here; needs 'miaotui[cluster]'": (
        "在 Ray 的执行体中回答：位于 ADDRESS 的 Ray，或在此启动的 Ray；需要 'miaotui[cluster]'"
    ),
    "actors with --cluster, each with the models (default: 2)": "使用 --cluster 时执行体的个数，每个都有这些模型（默认：2）",
    "processors of each actor (default: 1)": "每个执行体的处理器数（默认：1）",
}
