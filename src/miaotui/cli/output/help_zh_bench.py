"""Help of ``miaotui bench`` in Chinese, a part of `help_zh`.

Owns these texts. Knows no parser. Invariant: every key is a text of `cli.options.bench`.
"""

from __future__ import annotations

BENCH_HELP = {
    "measure speeds, of a model here or of a server": "测量速度：本机的模型，或一台服务器",
    "the load": "负载",
    "prompts and answers": "提示与回答",
    "the run": "运行",
    "requests per second (default: rates swept to saturation)": "每秒请求数（默认：由低到高，直到饱和）",
    "process of arrivals (default: poisson)": "到达过程（默认：poisson）",
    "of gamma: coefficient of variation of the gaps (default: 2)": "gamma 的间隔变异系数（默认：2）",
    "arrivals, as JSON lines with at_s or timestamp (ms), and lengths": "到达时刻：含 at_s 或 timestamp（毫秒）及长度的 JSON 行",
    "seconds of each load (default: 10)": "每个负载的秒数（默认：10）",
    "requests of the scenario offline (default: 64)": "offline 场景的请求数（默认：64）",
    "answers at a time: of a model 1,2,4,8,16; of a load closed in place of open": (
        "同时进行的回答数：模型默认 1,2,4,8,16；用于负载时，开放式变为封闭式"
    ),
    "load and number of MLPerf Inference": "MLPerf Inference 的负载与指标",
    "an answer counts as good within this time": "在此时间内完成的回答才算达标",
    "and with its first text within this time": "且首段文本在此时间内到达",
    "and with this time for each further token": "且此后每个词元不超过此时间",
    "deadline sent with each request, and the target of goodput": "随每个请求发送的期限，也是有效吞吐的目标",
    "words of prompts, about a token each (default: 40-400)": "提示的词数，每词约一个词元（默认：40-400）",
    "limits of answers (default: 16-128)": "回答的上限（默认：16-128）",
    "prompts, by line or as JSON lines with prompt; each is used once": "提示：每行一个，或含 prompt 的 JSON 行；每个只用一次",
    "prompts may come again, which caches answer": "提示可以重复，此时缓存会作答",
    "answers go on to their limit": "回答一直写到上限",
    "0 takes the likeliest token (default: 0)": "0 取最可能的词元（默认：0）",
    "seconds for a whole answer (default: 60)": "整个回答的秒数（默认：60）",
    "seconds between two pieces of an answer (default: 30)": "回答的两段之间的秒数（默认：30）",
    "of the prompt whose reading is timed (default: 512)": "计时读取的提示的词元数（默认：512）",
    "of the answers of a model (default: 128)": "模型回答的词元数（默认：128）",
    "model of the server (default: the first that it lists)": "服务器的模型（默认：它列出的第一个）",
    "route of servers (default: chat)": "服务器的路由（默认：chat）",
    "samples of each speed (default: 3)": "每个速度的样本数（默认：3）",
    "of a comparison (default: 12)": "比较的对数（默认：12）",
    "bits per weight, as in run": "每个权重的位数，同 run",
    "one token in each pass": "每次前向只写一个词元",
    "of prompts and arrivals (default: drawn, and printed)": "提示与到达的随机种子（默认：随机选取并印出）",
    "write a report with charts, in one file": "写出带图表的报告，单个文件",
    "bench [MODEL]: its speed here. bench serve URL: load on a server with OpenAI's routes. bench load [MODEL]: "
    "load on the engine, without HTTP. bench compare A B: two models or servers in pairs; NAME,drafts=off,"
    "threads=1,format=q8,kv=int8 chooses how a model runs. bench base MODEL: the float32 base of its quality. "
    "Prints a table and one JSON line.": (
        "bench [MODEL]：模型在本机的速度。bench serve URL：对提供 OpenAI 路由的服务器施加负载。"
        "bench load [MODEL]：对引擎施加负载，不经 HTTP。bench compare A B：成对比较两个模型或服务器；"
        "NAME,drafts=off,threads=1,format=q8,kv=int8 选择模型的运行方式。bench base MODEL：生成其质量的 float32 基准。"
        "输出一张表和一行 JSON。"
    ),
}
