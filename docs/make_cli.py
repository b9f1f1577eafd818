"""Writes ``cli.md`` and ``zh/cli.md``, the reference of the command line, from the parsers themselves.

Copies the examples of the English pages into the Chinese ones, too. Run ``make docs`` after a change to a command or an
example; the tests compare the results.
"""

from __future__ import annotations

import inspect
import os
import re
from pathlib import Path

from miaotui.cli.options.parser import COMMANDS, overview
from miaotui.config import Settings

HERE = Path(__file__).parent
PAGES = {"C": HERE / "cli.md", "zh_CN.UTF-8": HERE / "zh" / "cli.md"}  # by locale

INTRODUCTIONS = {
    "C": """\
# The command line

[中文](zh/cli.md)

`make docs` writes this page from the program's own help; do not edit it.

Answers go to standard output, everything else to standard error. The exit status is 0 after success, 1 after an error
(one line on standard error says what to do), 2 after a mistake in the command line, and 130 after Ctrl-C. Messages and
help are in Chinese when the locale (`LC_ALL`, `LC_MESSAGES` or `LANG`) is Chinese.
""",
    "zh_CN.UTF-8": """\
# 命令行

[English](../cli.md)

本页由 `make docs` 根据程序自身的帮助生成，请勿手工修改。

回答写到标准输出，其余内容写到标准错误。退出状态：成功为 0；出错为 1（标准错误中有一行说明该怎么办）；
命令行写错为 2；按 Ctrl-C 为 130。
语言环境（`LC_ALL`、`LC_MESSAGES` 或 `LANG`）为中文时，消息与帮助用中文。
""",
}
VARIABLES = {
    "C": """\
| `MIAOTUI_ISA` | instruction set: `avx512vnni`, `avxvnni`, `avx2`, `neon`, `plain` | the best there is |
| `MIAOTUI_TRACEBACK` | 1: show where an error arose | 0 |
""",
    "zh_CN.UTF-8": """\
| 变量 | 含义 | 默认值 |
|---|---|---|
| `MIAOTUI_HOME` | 把一切放进一个文件夹 | 系统惯用的文件夹 |
| `MIAOTUI_OFFLINE` | 1：从不联网（`HF_HUB_OFFLINE` 也算） | 0 |
| `MIAOTUI_TIMEOUT_S` | 下载停滞多少秒后放弃 | 30 |
| `MIAOTUI_PACKED_MAX_GB` | 打包权重缓存的上限，以 10**9 字节计 | 64 |
| `MIAOTUI_MEMORY_GB` | 模型可以使用的内存，以 10**9 字节计 | 本机或容器的内存 |
| `MIAOTUI_ENCRYPTION_KEY_FILE` | 加密索引与回答的主密钥文件 | 不加密 |
| `MIAOTUI_ENCRYPTION_KEY` | 主密钥本身，32 字节的 base64 | |
| `MIAOTUI_MEMORY_FOLDER` | 打开加密索引所用的内存文件系统 | `/dev/shm` |
| `MIAOTUI_HUB` | 没有 `hf:` 或 `ms:` 前缀的仓库名所属的中心：`huggingface` 或 `modelscope` | huggingface |
| `MIAOTUI_ISA` | 指令集：`avx512vnni`、`avxvnni`、`avx2`、`neon`、`plain` | 可用的最好的 |
| `MIAOTUI_TRACEBACK` | 1：显示出错位置 | 0 |
""",
}


def page(locale: str) -> str:
    """Return the text of the page in the language of a locale."""
    os.environ |= {"LC_ALL": locale, "NO_COLOR": "1"}
    parts = [INTRODUCTIONS[locale], _help("miaotui", overview())]
    parts += [_help(f"miaotui {c.name}", c.parser().format_help()) for c in COMMANDS]
    if locale == "C":
        parts.append("## Environment variables\n\n" + _settings() + VARIABLES[locale])
    else:
        parts.append("## 环境变量\n\n" + VARIABLES[locale])
    return "\n".join(parts)


def _help(title: str, text: str) -> str:
    return f"## {title}\n\n```text\n{text.strip()}\n```\n"


def _settings() -> str:
    """Return the table in the docstring of `Settings`."""
    lines = inspect.cleandoc(Settings.__doc__ or "").splitlines()
    return "".join(line.replace("``", "`") + "\n" for line in lines if re.match(r"\|.*\|$", line))


def with_examples_of(english: str, chinese: str) -> str:
    """Return a Chinese page with the examples of the English one, which has as many."""
    example = re.compile(r"^```(?!text$)\w+\n.*?^```$", re.MULTILINE | re.DOTALL)
    blocks = re.compile(r"^```\w+\n.*?^```$", re.MULTILINE | re.DOTALL)
    found = iter([block for block in blocks.findall(english) if example.match(block)])
    return blocks.sub(lambda block: next(found, block[0]) if example.match(block[0]) else block[0], chinese)


if __name__ == "__main__":
    for path in (HERE / "zh").glob("*.md"):
        english = (HERE / path.name).read_text(encoding="utf-8")
        path.write_text(with_examples_of(english, path.read_text(encoding="utf-8")), encoding="utf-8")
    for locale, path in PAGES.items():
        path.write_text(page(locale), encoding="utf-8")
