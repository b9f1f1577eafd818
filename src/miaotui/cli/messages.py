"""What the command line says, in English and in Chinese.

Owns the wording and the choice of language (Chinese when the locale is ``zh``, English otherwise);
knows no command. Errors raised elsewhere stay in English: they name files, fields and limits that
people search for. Both texts of a message take the same fields.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Message:
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

ERROR = Message("error: {reason}", "错误：{reason}")
INTERNAL = Message(
    "internal error: {reason}. Set MIAOTUI_TRACEBACK=1 to see where, and please report it",
    "内部错误：{reason}。设置 MIAOTUI_TRACEBACK=1 可查看出错位置，欢迎反馈",
)
DID_YOU_MEAN = Message(" (did you mean {name}?)", "（是否想用 {name}？）")
UNKNOWN_COMMAND_WORD = Message(
    "unknown command {name}{hint}. miaotui --help lists the commands",
    "未知命令 {name}{hint}。miaotui --help 列出全部命令",
)
UNKNOWN_OPTION = Message("unexpected argument {name}{hint}", "多余的参数 {name}{hint}")
WRONG_WORDS = Message(
    "expected {expected}, got {count} words (a prompt of several words goes in quotes)",
    "应为 {expected}，却有 {count} 个词（多个词的问题请加引号）",
)
NO_WORDS = Message("no words", "没有参数")
NO_PROMPT = Message("the prompt is empty; say what to answer", "问题是空的；请写明问题")
NOT_TEXT = Message(
    "the prompt is not valid UTF-8; convert it first", "问题不是有效的 UTF-8 文本；请先转换编码"
)
TOO_LONG = Message(
    "standard input is larger than {limit}; give a shorter prompt",
    "标准输入超过 {limit}；请缩短问题",
)
SYSTEM_WITH_RAW = Message(
    "--system needs the chat template that --raw leaves out; use one of them",
    "--system 依赖对话模板，而 --raw 不用模板；请只用其一",
)

# ---- answers -------------------------------------------------------------------------------------

STATISTICS = Message(
    "TTFT {ttft} · {rate} tokens/s · {share} of the memory limit",
    "首字 {ttft} · 每秒 {rate} 词元 · 达到内存带宽上限的 {share}",
)
WELCOME = Message(
    "{model} is ready. /exit ends, /reset forgets the conversation, /help lists all commands.",
    "{model} 已就绪。/exit 退出，/reset 忘掉对话，/help 列出全部命令。",
)
CHAT_HELP = Message(
    "/exit     end (so does Ctrl-D)\n"
    "/reset    forget the conversation\n"
    "/history  show the conversation\n"
    "/help     this list\n"
    "Ctrl-C    stop the answer that is being written",
    "/exit     退出（Ctrl-D 亦可）\n"
    "/reset    忘掉对话\n"
    "/history  显示对话\n"
    "/help     本列表\n"
    "Ctrl-C    停止正在写的回答",
)
UNKNOWN_COMMAND = Message(
    "no command {name}; /help lists them", "没有命令 {name}；/help 列出全部命令"
)
FORGOTTEN = Message("The conversation is forgotten.", "对话已忘掉。")
NO_HISTORY = Message("Nothing has been said yet.", "还没有对话。")
SHORTENED = Message(
    "(the conversation no longer fits the model's context; its oldest part is forgotten)",
    "（对话已超出模型的上下文长度，最早的部分已忘掉）",
)

# ---- work that takes a while ---------------------------------------------------------------------

# By the first word of what the work calls itself; what follows that word is kept.
STAGES = {
    "downloading": Message("Downloading{rest}", "下载{rest}"),
    "unpacking": Message("Unpacking{rest}", "解包{rest}"),
    "compiling": Message("Compiling for this processor (once){rest}", "为本机编译（仅一次）{rest}"),
    "packing": Message("Packing weights (once){rest}", "整理权重（仅一次）{rest}"),
    "index": Message("Indexing{rest}", "建立索引{rest}"),
    "measuring": Message("Measuring this machine{rest}", "测量本机{rest}"),
}

# ---- the server ----------------------------------------------------------------------------------

SERVING = Message("{models} ready at {url} · {promise}", "{models} 已就绪：{url} · {promise}")
PROMISE = Message(
    "answers of {tokens} tokens in {seconds} s", "{tokens} 词元的回答只需 {seconds} 秒"
)
PROMISE_PEOPLE = Message(
    ", {people} people at a time within {seconds} s", "，{seconds} 秒内可同时回答 {people} 人"
)
HOW_TO_CALL = Message(
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
KEY_MADE = Message(
    "The key of {name}, shown only now; {path} keeps its hash.",
    "这是 {name} 的密钥，仅显示这一次；{path} 只保存其哈希。",
)

# ---- documents -----------------------------------------------------------------------------------

ADDED = Message(
    "{passages} passages from {files} files; {skipped} left out, {duplicates} of them repetitions",
    "已从 {files} 个文件加入 {passages} 段；略过 {skipped} 项，其中重复 {duplicates} 项",
)
AND_MORE = Message("  ... and {count} more", "  …… 另有 {count} 项")
DELETED = Message("{count} passages deleted", "已删除 {count} 段")
NOTHING_FOUND = Message("nothing was found", "没有找到")
WARNING = Message("warning: {text}", "警告：{text}")

# ---- questions and customer service ------------------------------------------------------------

ANSWERED = Message("{took} · {how} · cache: {cache}", "{took} · {how} · 缓存：{cache}")
UNSUPPORTED = Message(
    "Not everything in this answer is supported by the passages.",
    "回答中有内容没有得到段落的支持。",
)
REPLIED = Message("({how}, {took})", "（{how}，{took}）")
RATED = Message("Thank you.", "谢谢。")
NOTHING_TO_SAY = Message(
    "there is nothing to answer from; give --faq FILE, --docs INDEX or --rules FILE",
    "没有可以据以回答的内容；请给出 --faq 文件、--docs 索引或 --rules 文件",
)
SUPPORT_HELP = Message(
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

MODEL = Message("Model", "模型")
SIZE = Message("Size", "大小")
LICENSE = Message("License", "许可")
HERE = Message("Here", "本机")
SOURCE = Message("From", "来源")
YES = Message("yes", "是")
NO = Message("no", "否")

# ---- doctor --------------------------------------------------------------------------------------

PROCESSOR = Message("Processor", "处理器")
INSTRUCTION_SETS = Message("Instruction sets", "指令集")
IN_USE = Message("{name} (in use)", "{name}（使用中）")
CORES = Message("Cores", "核心")
CORES_TEXT = Message(
    "{cores} usable ({allowed} allowed, {physical} physical, quota {quota}); {team} threads",
    "{cores} 个可用（允许 {allowed}，物理 {physical}，配额 {quota}）；{team} 个线程",
)
NONE = Message("none", "无")
UNKNOWN = Message("unknown", "未知")
CACHES = Message("Caches", "缓存")
MEMORY = Message("Memory", "内存")
BANDWIDTH = Message("Read bandwidth", "读带宽")
INT8_RATE = Message("int8 rate", "int8 算力")
THREADS_TEXT = Message("{rate} with {threads}", "{rate}（{threads} 线程）")
FORMAT = Message("Format", "格式")
FITS = Message("Fits", "放得下")
LIMIT_RATE = Message("Tokens/s at the limit", "上限词元/秒")
IN_ONE_SECOND = Message("Tokens in 1 s", "1 秒内词元")
DOCTOR_NOTE = Message(
    "At the limit: weights read once per token at the measured bandwidth. In 1 s: tokens after a "
    "prompt of {prompt}, at the measured rates. Fits: weights, {context} tokens of context and "
    "{overhead} beside them.",
    "上限：按测得的带宽，每个词元读一遍权重。1 秒内：{prompt} 词元的提示之后、按测得的速率。"
    "放得下：权重、{context} 词元的上下文，另加 {overhead}。",
)
