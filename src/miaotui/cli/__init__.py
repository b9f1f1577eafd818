"""The command line: ``miaotui COMMAND``; `options/parser.py` has the list of commands.

Owns which module runs a command and how a failure ends: one line on stderr and status 1, status 130 after Ctrl-C,
no message when the reader of a pipe has gone. A traceback appears only with ``MIAOTUI_TRACEBACK=1``. Knows no
model. Invariant: a command's module is imported when that command runs, so that every start is fast.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
from collections.abc import Sequence

from miaotui.cli.options.parser import parse
from miaotui.cli.output import messages
from miaotui.errors import MiaotuiError

FAILED = 1
INTERRUPTED = 130  # 128 + SIGINT, as shells say it
PIPE_CLOSED = 141  # 128 + SIGPIPE


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (default: this process's) and return the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that lacks a character shows "?"
            stream.reconfigure(errors="replace")
    try:
        parsed = parse(arguments)
        module = importlib.import_module(f"miaotui.cli.{parsed.module}")
        status: int = getattr(module, parsed.command)(parsed)
        sys.stdout.flush()
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # What is still buffered cannot be written; the interpreter would try, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except Exception as error:
        return _report(_reason(error))
    return status


def _reason(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name and not error.name.startswith("miaotui"):
        from miaotui.libraries import missing

        error = missing(error.name)
    if isinstance(error, MiaotuiError):
        return messages.ERROR(reason=error)
    return messages.INTERNAL(reason=f"{type(error).__name__}: {error}")


def _report(text: str) -> int:
    if os.environ.get("MIAOTUI_TRACEBACK") == "1":
        import traceback

        traceback.print_exc()
    line = " ".join(text.split())  # one line, whatever the message was made of
    print(f"miaotui: {line}", file=sys.stderr)
    return FAILED
