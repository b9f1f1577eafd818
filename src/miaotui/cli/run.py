"""``miaotui run``: one prompt, its answer as it comes, and one line of numbers.

Owns reading the prompt and showing a stream. Knows no engine. Invariants: the answer alone goes to standard output,
so that it can be piped, and the numbers go to standard error; control characters of a model's text never reach a
terminal.
"""

from __future__ import annotations

import argparse
import gc
import math
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from miaotui.cli.advice.memory import memory_note
from miaotui.cli.options.parser import sampling_params
from miaotui.cli.output import messages
from miaotui.cli.output.progress import ProgressBars
from miaotui.config import format_size
from miaotui.errors import EngineError, RequestError
from miaotui.hub.catalog import DEFAULT_MODEL
from miaotui.types import Completion, Delta

if TYPE_CHECKING:
    from miaotui.llm import LLM

_MAX_STDIN_BYTES = 16 << 20  # far beyond any context, and small
_CONTROLS = dict.fromkeys([*range(32), *range(127, 160)], "\N{REPLACEMENT CHARACTER}")
_CONTROLS[ord("\n")] = "\n"
_CONTROLS[ord("\t")] = "\t"


def run(parsed: argparse.Namespace) -> int:
    """Answer the prompt of the command line; return the exit status."""
    params = sampling_params(parsed)
    model = parsed.words[0] if len(parsed.words) == 2 else DEFAULT_MODEL
    prompt = read_prompt(parsed.words[-1])
    if parsed.raw and parsed.system is not None:
        raise RequestError(messages.SYSTEM_WITH_RAW())
    if parsed.suffix is not None and (parsed.raw or parsed.system is not None):
        raise RequestError(messages.SUFFIX_ALONE())
    with load(model, parsed) as llm:
        if parsed.suffix is not None:
            deltas = llm.infill_stream(prompt, parsed.suffix, **params)
        elif parsed.raw:
            plain = llm.tokenizer.encode(prompt, special=False, whole=True) if parsed.no_special else prompt
            deltas = llm.stream(plain, **params)
        else:
            deltas = llm.chat_stream(opening(parsed.system, prompt), **params)
        completion = show(deltas)
        print(statistics(completion, llm.memory_share(completion)), file=sys.stderr)
    note_language("run", model, prompt)
    return 0


def load(model: str, parsed: argparse.Namespace) -> LLM:
    """Load a model as the command line says, with progress on stderr."""
    gc.disable()  # a start makes a hundred thousand objects and next to no garbage
    try:
        import miaotui

        with ProgressBars() as progress:
            llm = miaotui.load(
                model,
                format=parsed.format,
                threads=parsed.threads,
                kv=parsed.kv,
                speculate=parsed.speculate,
                backend=parsed.backend,
                progress=progress,
            )
        note = memory_note(model, llm.weight_bytes)
        if note is not None:
            print(note, file=sys.stderr)
        return llm
    finally:
        gc.freeze()
        gc.enable()


def note_language(command: str, model: str, prompt: str) -> bool:
    """Name on stderr a model that knows Chinese, where ``prompt`` needs it and ``model`` does not; return whether."""
    if prompt.isascii():
        return False
    from miaotui.cli.advice.choice import CHINESE, advised, lacks_chinese

    if not lacks_chinese(model, prompt):
        return False
    from miaotui.cli.advice.machine_speeds import known_speeds
    from miaotui.config import Settings
    from miaotui.kernels.platform.cpu import probe

    cpu = probe()
    other = advised(CHINESE, known_speeds(cpu, Settings.from_env()), cpu.memory_bytes).name
    print(messages.NO_CHINESE(model=model, other=other, command=command), file=sys.stderr)
    return True


def opening(system: str | None, prompt: str) -> list[dict[str, str]]:
    """Return the messages of a conversation's first turn."""
    first = [] if system is None else [{"role": "system", "content": system}]
    return [*first, {"role": "user", "content": prompt}]


def read_prompt(word: str) -> str:
    """Return the prompt that a word of the command line stands for; ``-`` is standard input.

    Raises `RequestError` for an empty prompt, one that is not UTF-8, or an endless standard input.
    """
    if word != "-":
        return checked(word)
    data = sys.stdin.buffer.read(_MAX_STDIN_BYTES + 1)
    if len(data) > _MAX_STDIN_BYTES:
        raise RequestError(messages.TOO_LONG(limit=format_size(_MAX_STDIN_BYTES)))
    return checked(data.decode("utf-8", errors="surrogateescape"))


def checked(text: str) -> str:
    """Return `text` if it can be a prompt.

    Raises `RequestError` if it is empty or was not UTF-8 (Python marks such bytes with surrogates).
    """
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise RequestError(messages.NOT_TEXT())
    if not text.strip():
        raise RequestError(messages.NO_PROMPT())
    return text


def show(deltas: Iterable[Delta]) -> Completion:
    """Write the pieces to stdout as they come, end the line, and return the whole answer."""
    completion = None
    last = "\n"
    try:
        for delta in deltas:
            if delta.text:
                write(delta.text)
                last = delta.text[-1]
            completion = delta.completion or completion
    finally:
        if last != "\n":
            write("\n")
    if completion is None:
        raise EngineError("the stream ended without a completion; this is a bug, please report it")
    return completion


def write(text: str) -> None:
    """Write to stdout at once; on a terminal without the control characters that could steer it."""
    sys.stdout.write(text.translate(_CONTROLS) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def statistics(completion: Completion, share: float) -> str:
    """Return the line of numbers: TTFT, decode speed, share of the memory limit (a fraction)."""
    timing = completion.timing
    rate, percent = timing.decode_tokens_per_s, 100 * share
    measured = len(completion.token_ids) > 1  # one token has no decode speed
    return messages.STATISTICS(
        ttft=f"{1000 * timing.ttft_s:.0f} ms",
        rate=f"{rate:.{0 if rate >= 10 else 1}f}" if measured and math.isfinite(rate) else "–",
        share=f"{percent:.0f}%" if measured and math.isfinite(percent) else "–",
    )
