"""Messages of the command line, in English and in Chinese.

Owns the wording and the choice of language (Chinese when the locale is ``zh``, English otherwise). Knows no command.
Errors raised elsewhere stay in English: they name files, fields and limits that people search for. Invariant: both
texts of a message take the same fields.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import NamedTuple


class CliMessage(NamedTuple):
    """One message in both languages; call it with its fields to get the text."""

    en: str
    zh: str

    def __call__(self, **fields: object) -> str:
        """Return the text in the language of this process."""
        return (self.zh if language() == "zh" else self.en).format(**fields)


def language(env: Mapping[str, str] | None = None, platform: str = sys.platform) -> str:
    """Return ``"zh"`` or ``"en"``, as the first of ``LC_ALL``, ``LC_MESSAGES``, ``LANG`` says."""
    env = os.environ if env is None else env
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        if env.get(name):
            return "zh" if env[name].lower().startswith("zh") else "en"
    return "zh" if platform == "win32" and _windows_speaks_chinese() else "en"


def _windows_speaks_chinese() -> bool:
    if sys.platform != "win32":
        return False
    import ctypes

    return ctypes.windll.kernel32.GetUserDefaultUILanguage() & 0x3FF == 0x04


# ---- errors --------------------------------------------------------------------------------------

ERROR = CliMessage("error: {reason}", "错误：{reason}")
INTERNAL = CliMessage(
    "internal error: {reason}. Set MIAOTUI_TRACEBACK=1 to see where, and please report it",
    "内部错误：{reason}。设置 MIAOTUI_TRACEBACK=1 可查看出错位置，欢迎反馈",
)
DID_YOU_MEAN = CliMessage(" (did you mean {name}?)", "（是否想用 {name}？）")
UNKNOWN_COMMAND_WORD = CliMessage(
    "unknown command {name}{hint}. miaotui --help lists the commands",
    "未知命令 {name}{hint}。miaotui --help 列出全部命令",
)
UNKNOWN_OPTION = CliMessage("unexpected argument {name}{hint}", "多余的参数 {name}{hint}")
WRONG_WORDS = CliMessage(
    "expected {expected}, got {count} words (a prompt of several words goes in quotes)",
    "应为 {expected}，却有 {count} 个词（多个词的问题请加引号）",
)
NO_WORDS = CliMessage("no words", "没有参数")
NO_PROMPT = CliMessage("the prompt is empty; give a question or a text", "问题是空的；请写明问题")
NOT_TEXT = CliMessage("the prompt is not valid UTF-8; convert it first", "问题不是有效的 UTF-8 文本；请先转换编码")
TOO_LONG = CliMessage(
    "standard input is larger than {limit}; give a shorter prompt", "标准输入超过 {limit}；请缩短问题"
)
SYSTEM_WITH_RAW = CliMessage(
    "--system needs the chat template that --raw leaves out; use one of them",
    "--system 依赖对话模板，而 --raw 不用模板；请只用其一",
)

# ---- answers -------------------------------------------------------------------------------------

STATISTICS = CliMessage(
    "TTFT {ttft} · {rate} tokens/s · {share} of the memory limit",
    "首字 {ttft} · 每秒 {rate} 词元 · 达到内存带宽上限的 {share}",
)
WELCOME = CliMessage(
    "{model} is ready. /exit ends, /reset clears the conversation, /help lists all commands.",
    "{model} 已就绪。/exit 退出，/reset 清空对话，/help 列出全部命令。",
)
CHAT_HELP = CliMessage(
    "/exit     end (so does Ctrl-D)\n"
    "/reset    clear the conversation\n"
    "/history  show the conversation\n"
    "/help     this list\n"
    "Ctrl-C    stop the answer that is being written",
    "/exit     退出（Ctrl-D 亦可）\n"
    "/reset    清空对话\n"
    "/history  显示对话\n"
    "/help     本列表\n"
    "Ctrl-C    停止正在写的回答",
)
UNKNOWN_COMMAND = CliMessage("no command {name}; /help lists them", "没有命令 {name}；/help 列出全部命令")
FORGOTTEN = CliMessage("The conversation is empty again.", "对话已清空。")
NO_HISTORY = CliMessage("The conversation is empty.", "还没有对话。")
SHORTENED = CliMessage(
    "(the conversation no longer fits the model's context; its oldest messages are left out)",
    "（对话已超出模型的上下文长度，最早的消息已略去）",
)

# ---- work that takes a while ---------------------------------------------------------------------

# By the first word of what the work calls itself; what follows that word is kept.
STAGES = {
    "downloading": CliMessage("Downloading{rest}", "下载{rest}"),
    "unpacking": CliMessage("Unpacking{rest}", "解包{rest}"),
    "compiling": CliMessage("Compiling for this processor (once){rest}", "为本机编译（仅一次）{rest}"),
    "packing": CliMessage("Packing weights (once){rest}", "整理权重（仅一次）{rest}"),
    "repacking": CliMessage(
        "Packing weights again: this version keeps them in another layout{rest}",
        "重新整理权重：此版本使用另一种布局{rest}",
    ),
    "index": CliMessage("Indexing{rest}", "建立索引{rest}"),
    "transcribing": CliMessage("Transcribing{rest}", "转写{rest}"),
    "measuring": CliMessage("Measuring this machine{rest}", "测量本机{rest}"),
}

# ---- the server ----------------------------------------------------------------------------------

SERVING = CliMessage("{models} ready at {url} · {promise}", "{models} 已就绪：{url} · {promise}")
SERVING_ENCODERS = CliMessage(
    """{models} ready at {url}{late}

  curl {url}/v1/models

Ctrl-C finishes what runs and ends; a second one ends at once.""",
    """{models} 已就绪：{url}{late}

  curl {url}/v1/models

按 Ctrl-C 会先完成正在处理的请求再退出；再按一次立即退出。""",
)
LOADED_LATE = CliMessage("; loaded when first used: {models}", "；首次使用时加载：{models}")
PROMISE = CliMessage("answers of {tokens} tokens in {seconds} s", "{tokens} 词元的回答只需 {seconds} 秒")
PROMISE_PEOPLE = CliMessage(", {people} people at a time within {seconds} s", "，{seconds} 秒内可同时回答 {people} 人")
SUFFIX_ALONE = CliMessage(
    "--suffix goes with neither --raw nor --system: leave them out",
    "--suffix 不能与 --raw 或 --system 同用：请去掉它们",
)
STAGE_READY = CliMessage("a stage of {model} waits at {place}", "{model} 的一个阶段在 {place} 等待")
NO_PROMISE = CliMessage("no promises of time with this model", "此模型不作时间承诺")
HOW_TO_CALL = CliMessage(
    """
  curl {url}/v1/chat/completions -H "Content-Type: application/json" \\{header}
    -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "Hello!"}}]}}'

  from openai import OpenAI
  client = OpenAI(base_url="{url}/v1", api_key="{key}")

Ctrl-C finishes what runs and ends; a second one ends at once.""",
    """
  curl {url}/v1/chat/completions -H "Content-Type: application/json" \\{header}
    -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "你好！"}}]}}'

  from openai import OpenAI
  client = OpenAI(base_url="{url}/v1", api_key="{key}")

按 Ctrl-C：完成正在进行的回答后退出；再按一次立即退出。""",
)
KEY_MADE = CliMessage(
    "This is the key of {name}. It is shown only now; {path} keeps its hash.",
    "这是 {name} 的密钥，仅显示这一次；{path} 只保存其哈希。",
)

TENANT_REMOVED = CliMessage(
    "{name} is removed, with {indexes} indexes, {answers} kept answers and {conversations} conversations",
    "已删除 {name}，及其 {indexes} 个索引、{answers} 条缓存的回答和 {conversations} 段对话",
)
TENANT_ANSWERS_LEFT = CliMessage(
    "If its server keeps answers, name their file with --answer-cache: they are not deleted otherwise",
    "如果服务器缓存回答，请用 --answer-cache 指明其文件，否则那些回答不会被删除",
)

MASTER_KEY_MADE = CliMessage(
    "{path} begins with the new master key {id}. Keep a copy elsewhere: without it what is encrypted is lost. Name the "
    "file: {variable}={path}",
    "{path} 的第一行是新的主密钥 {id}。请另存一份：没有它，加密的内容将无法恢复。请设置 {variable}={path}",
)
REWRAPPED = CliMessage("the keys of {count} files are wrapped under {id} now", "{count} 个文件的密钥已用 {id} 重新封装")

# ---- recordings ----------------------------------------------------------------------------------

TRANSCRIBED = CliMessage(
    "{name}: {minutes} of sound ({language}) in {took}, {factor} times as fast as it is said",
    "{name}：{minutes} 的录音（{language}），用时 {took}，为说话速度的 {factor} 倍",
)
WORDS_NEED_FORM = CliMessage(
    "--words needs --form verbose_json, which has a place for them",
    "--words 需要 --form verbose_json，其他格式不含词的时间",
)
RECORDING_TWICE = CliMessage("a recording is named twice; name each once", "同一录音给出了两次；请各写一次")
SAME_OUTPUT = CliMessage(
    "two recordings would be written to one file in {folder}; give them other names or folders",
    "{folder} 中会有两段录音写入同一文件；请改名或换文件夹",
)

# ---- documents -----------------------------------------------------------------------------------

ADDED = CliMessage(
    "passages: {passages}; files: {files}; left out: {skipped}, duplicates among them: {duplicates}",
    "已从 {files} 个文件加入 {passages} 段；略过 {skipped} 项，其中重复 {duplicates} 项",
)
TABLE = CliMessage(
    "{name}: a table, {sign} between columns, {encoding}; columns: {columns}",
    "{name}：表格，列间为{sign}，编码 {encoding}；列：{columns}",
)
DELIMITER = {
    ",": CliMessage("commas", "逗号"),
    ";": CliMessage("semicolons", "分号"),
    "\t": CliMessage("tabs", "制表符"),
    "|": CliMessage("pipes", "竖线"),
}
AND_MORE = CliMessage("  ... and {count} more", "  …… 另有 {count} 项")
DELETED = CliMessage("{count} passages deleted", "已删除 {count} 段")
MEANING_HINT = CliMessage(
    "documents are found by their words alone. To find them by meaning too: miaotui pull embedder",
    "目前只按词语查找文档。如需同时按语义查找：miaotui pull embedder",
)
NOTHING_FOUND = CliMessage("nothing was found", "没有找到")
WARNING = CliMessage("warning: {text}", "警告：{text}")

# ---- tasks ---------------------------------------------------------------------------------------

ONE_WAY = CliMessage(
    "give one of --labels, --examples and --head (or --sentiment alone)",
    "请给出 --labels、--examples、--head 之一（或只用 --sentiment）",
)
NO_ENGINE = CliMessage(
    "--engine is for labels: leave it out for --sentiment and for a saved --head",
    "--engine 只用于标签：使用 --sentiment 或已保存的 --head 时请去掉",
)
NO_HEAD = CliMessage(
    "--save writes a head, and logits have none: choose --engine head or similarity",
    "--save 保存分类头，而 logits 没有：请选择 --engine head 或 similarity",
)
ROWS_DONE = CliMessage(
    "{rows} rows in {took} s ({rate} a second), {errors} with errors",
    "{rows} 行，用时 {took} 秒（每秒 {rate} 行），其中 {errors} 行有误",
)
ROWS_LEFT = CliMessage(
    "the time of {limit} s is over and rows are left: --resume with --output goes on",
    "{limit} 秒已到，还有未处理的行：用 --output 与 --resume 可继续",
)

EVENTS = CliMessage(
    "{events} events of {users} users and {items} items; rows left out: {errors}",
    "{users} 个用户、{items} 个物品的 {events} 个事件；略过 {errors} 行",
)
TRIPLES = CliMessage(
    "{new} new triples, {total} in all; rows left out: {errors}", "新增 {new} 条三元组，共 {total} 条；略过 {errors} 行"
)
QUESTIONS_LEARNED = CliMessage("learned from {used} of {rows} questions", "已从 {rows} 个问题中的 {used} 个学习")

# ---- questions and customer service ------------------------------------------------------------

ANSWERED = CliMessage("{took} · {how} · cache: {cache}", "{took} · {how} · 缓存：{cache}")
NO_TIME_FOR = CliMessage("The deadline left no time for: {left_out}.", "时限内没有做：{left_out}。")
LEFT_OUT: Mapping[str, CliMessage] = {
    "reranker": CliMessage("the reranker", "重排"),
    "passages": CliMessage("whole passages", "完整的段落"),
    "examples": CliMessage("examples in the prompt", "提示词中的示例"),
    "model": CliMessage("the model's answer", "模型的回答"),
}
UNSUPPORTED = CliMessage(
    "Not everything in this answer is supported by the passages.", "回答中有内容没有得到段落的支持。"
)
REPLIED = CliMessage("({how}, {took})", "（{how}，{took}）")
RATED = CliMessage("Thank you.", "谢谢。")
NOTHING_TO_SAY = CliMessage(
    "no source of answers was named; give --faq FILE, --docs INDEX or --rules FILE",
    "没有指定回答的依据；请给出 --faq 文件、--docs 索引或 --rules 文件",
)
NO_TRACKER_FILE = CliMessage(
    "--dialogues needs --tracker FILE, where the tracker is written", "--dialogues 需要 --tracker 指定写入的文件"
)
SUPPORT_HELP = CliMessage(
    "/exit        end (so does Ctrl-D)\n"
    "/rate N      rate the conversation, 1 to 5\n"
    "/person      pass it on to a person\n"
    "/transcript  show it as JSON\n"
    "/help        this list",
    "/exit        退出（Ctrl-D 亦可）\n"
    "/rate N      为对话打分，1 至 5\n"
    "/person      转接人工\n"
    "/transcript  以 JSON 显示对话\n"
    "/help        本列表",
)

# ---- models --------------------------------------------------------------------------------------

MODEL = CliMessage("Model", "模型")
SIZE = CliMessage("Size", "大小")
LICENSE = CliMessage("License", "许可")
HERE = CliMessage("Here", "本机")
SOURCE = CliMessage("From", "来源")
LANGUAGES = CliMessage("Languages", "语言")
WITHIN_A_SECOND = CliMessage("Within 1 s", "1 秒内")
SECONDS = CliMessage("{seconds} s", "{seconds} 秒")
WITHIN_NOTE = CliMessage(
    "Within 1 s: {tokens} tokens after a prompt of {prompt}, estimated from this machine's measured speeds.",
    "1 秒内：{prompt} 词元的提示之后回答 {tokens} 个词元，按本机测得的速度估计。",
)
MEASURE_FIRST = CliMessage(
    "Run miaotui doctor once, to see here which of them answer within a second on this machine.",
    "先运行一次 miaotui doctor，此处就会显示哪些模型能在本机一秒内作答。",
)
ADVISED_ENGLISH = CliMessage(
    "For English: {name} ({tokens} tokens after a prompt of {prompt} in about {seconds} s, {format}).",
    "英文：{name}（{prompt} 词元的提示之后回答 {tokens} 个词元，约 {seconds} 秒，{format}）。",
)
ADVISED_CHINESE = CliMessage(
    "For Chinese: {name} ({tokens} tokens after a prompt of {prompt} in about {seconds} s, {format}).",
    "中文：{name}（{prompt} 词元的提示之后回答 {tokens} 个词元，约 {seconds} 秒，{format}）。",
)
NO_CHINESE = CliMessage(
    "{model} knows no Chinese; {other} does: miaotui {command} {other}",
    "{model} 不会中文；{other} 会：miaotui {command} {other}",
)
QUANTISATION = CliMessage("Quantization", "量化")
RUNS_HERE = CliMessage("Runs here", "可在此运行")
NO_BECAUSE = CliMessage("no: {problem}", "否：{problem}")
NOTHING_STORED = CliMessage(
    "No other program has stored a model here (looked for: Ollama, LM Studio, llama.cpp, Hugging Face, ModelScope).",
    "本机没有其他程序存放的模型（查找过：Ollama、LM Studio、llama.cpp、Hugging Face、ModelScope）。",
)
YES = CliMessage("yes", "是")
NO = CliMessage("no", "否")

LARGER_THAN_MEMORY = CliMessage(
    "note: the weights of {name} take {weights}, more than the {memory} of memory here: they are read from the disk "
    "again for each token, which is slow. A smaller model or --format q4 may fit.",
    "注意：{name} 的权重有 {weights}，超过此处 {memory} 的内存：每个词元都要重新从磁盘读取，因此很慢。"
    "换更小的模型，或用 --format q4，也许放得下。",
)

# ---- cluster -------------------------------------------------------------------------------------

BATCH_DONE = CliMessage(
    "{answered} requests answered, {failed} without an answer, {kept} were there before: {place}",
    "已回答 {answered} 条请求，{failed} 条未得到回答，此前已有 {kept} 条：{place}",
)
CLUSTER_READY = CliMessage("cluster ready at {url}: {models}", "集群就绪：{url}（{models}）")
CLUSTER_ENDED = CliMessage("all requests have ended", "所有请求均已结束")
CLUSTER_LEFT = CliMessage("{count} requests did not end in time", "{count} 个请求未能按时结束")
RUNNING = CliMessage("running", "进行中")

# ---- doctor --------------------------------------------------------------------------------------

PROCESSOR = CliMessage("Processor", "处理器")
INSTRUCTION_SETS = CliMessage("Instruction sets", "指令集")
ACCELERATORS = CliMessage("Other devices: {devices}", "其他设备：{devices}")
BACKEND = CliMessage("Backend: {name}", "后端：{name}")
IN_USE = CliMessage("{name} (in use)", "{name}（使用中）")
ONE_BLOCK = CliMessage("{name} (one block of a model, as a circuit)", "{name}（模型的一个块，作为电路）")
CORES = CliMessage("Cores", "核心")
CORES_TEXT = CliMessage(
    "{cores} usable ({allowed} allowed, {physical} physical, quota {quota}); {team} threads",
    "{cores} 个可用（允许 {allowed}，物理 {physical}，配额 {quota}）；{team} 个线程",
)
NONE = CliMessage("none", "无")
UNKNOWN = CliMessage("unknown", "未知")
CACHES = CliMessage("Caches", "缓存")
MEMORY = CliMessage("Memory", "内存")
BANDWIDTH = CliMessage("Read bandwidth", "读带宽")
INT8_RATE = CliMessage("int8 rate", "int8 算力")
THREADS_TEXT = CliMessage("{rate} with {threads}", "{rate}（{threads} 线程）")
FORMAT = CliMessage("Format", "格式")
FITS = CliMessage("Fits", "放得下")
LIMIT_RATE = CliMessage("Tokens/s at the limit", "上限词元/秒")
IN_ONE_SECOND = CliMessage("Tokens in 1 s", "1 秒内词元")
DOCTOR_NOTE = CliMessage(
    "At the limit: weights read once per token at the measured bandwidth. In 1 s: tokens after a "
    "prompt of {prompt}, at the measured rates. Fits: weights, {context} tokens of context and "
    "{overhead} beside them. What does not fit runs from the disk, far below the limit.",
    "上限：按测得的带宽，每个词元读一遍权重。1 秒内：{prompt} 词元的提示之后、按测得的速率。"
    "放得下：权重、{context} 词元的上下文，另加 {overhead}。放不下的模型从磁盘运行，远低于上限。",
)
