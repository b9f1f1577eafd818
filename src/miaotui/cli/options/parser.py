"""The command line's grammar: commands, their options and their help.

Owns the parsers. Knows nothing of models or engines. It uses argparse rather than a larger library, because the first
token should come within a second of the process's start: argparse adds 13 ms to Python's own start, Typer 140 ms
(same machine, one command with three options). Invariant: unknown options fail and name the nearest valid one;
nothing is abbreviated or ignored.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

from miaotui.cli.options.apps import ask_options, support_options
from miaotui.cli.options.bench import bench_options
from miaotui.cli.options.cluster import batch_options, cluster_options, stage_options
from miaotui.cli.options.dmlm import dmlm_options
from miaotui.cli.options.evaluation import eval_options
from miaotui.cli.options.index import index_options, search_options
from miaotui.cli.options.learned import graph_options, recommend_options
from miaotui.cli.options.learning import finetune_options, merge_options, train_options
from miaotui.cli.options.optimize import card_options, distil_options, optimize_options
from miaotui.cli.options.serve import key_options, serve_options
from miaotui.cli.options.speech import transcribe_options
from miaotui.cli.options.tasks import (
    classify_options,
    extract_options,
    generate_options,
    group_options,
    similar_options,
    summarize_options,
    translate_options,
)
from miaotui.cli.options.tenants import encryption_options, tenant_options
from miaotui.cli.output import messages
from miaotui.hub.catalog import DEFAULT_MODEL

DEFAULT_MAX_TOKENS = 512
_WIDTH = 88  # fixed, so that the help is the same in every terminal

_Parser = argparse.ArgumentParser


class Command(NamedTuple):
    """A command: its name, its purpose, the words it takes, and what adds its options to a parser.

    Words are split from options here rather than by argparse, which cannot have options between
    them and a prompt after ``--`` in all versions of Python.
    """

    name: str
    about: str
    words: str  # as the usage line shows them
    counts: range  # how many there may be
    add_options: Callable[[_Parser], None]
    folder: str = ""  # of its module, within the command line's

    @property
    def module(self) -> str:
        """Return the module that runs it, within the command line's."""
        return ".".join(filter(None, (self.folder, self.function)))

    @property
    def function(self) -> str:
        """Return the name of the function in it that runs the command."""
        return self.name.replace("-", "_")

    def parser(self) -> argparse.ArgumentParser:
        """Return a new parser of this command's options."""
        parser = _OneCommand(
            prog=f"miaotui {self.name}",
            usage=" ".join(filter(None, ("miaotui", self.name, "[options]", self.words))),
            description=f"{self.about[0].upper()}{self.about[1:]}.",
            allow_abbrev=False,
            formatter_class=_help_formatter,
        )
        self.add_options(parser)
        if messages.language() == "zh":
            from miaotui.cli.output.help_zh import translate

            translate(parser)
        return parser


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the parsed command line (default: this process's); its ``command`` says what to do.

    Leaves the process with status 2 after saying what is wrong, or with 0 after ``--help`` and
    ``--version``.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words:
        sys.stderr.write(overview())
        raise SystemExit(2)
    if words[0] in {"-h", "--help", "--version"}:
        sys.stdout.write(version_line() if words[0] == "--version" else overview())
        raise SystemExit(0)
    known = {command.name: command for command in COMMANDS}
    if words[0] not in known:
        _fail(messages.UNKNOWN_COMMAND_WORD(name=words[0], hint=_hint(words[0], list(known))))
    return _parse_command(known[words[0]], words[1:])


def _parse_command(command: Command, words: list[str]) -> argparse.Namespace:
    parser = command.parser()
    end = words.index("--") if "--" in words else len(words)  # what follows "--" is no option
    parsed, plain = parser.parse_known_args(words[:end])
    for word in plain:
        if word.startswith("-") and word != "-" and " " not in word:
            options = [name for action in parser._actions for name in action.option_strings]
            near = _hint(word.partition("=")[0], options)
            parser.error(messages.UNKNOWN_OPTION(name=word, hint=near))
    parsed.words = [*plain, *words[end + 1 :]]
    if len(parsed.words) not in command.counts:
        expected = command.words or messages.NO_WORDS()
        parser.error(messages.WRONG_WORDS(expected=expected, count=len(parsed.words)))
    parsed.command, parsed.module = command.function, command.module
    return parsed


def sampling_params(parsed: argparse.Namespace) -> dict[str, Any]:
    """Return the sampling parameters that the command line named, checked.

    Raises `RequestError` for values out of range.
    """
    from miaotui.types import SamplingParams

    given = {name: value for name, value in vars(parsed).items() if name in SamplingParams.__dataclass_fields__}
    if "stop" in given:
        given["stop"] = tuple(given["stop"])
    SamplingParams(**given)
    return given


def overview() -> str:
    """Return the text of ``miaotui --help`` in the user's language."""
    usage = "usage: miaotui COMMAND [options]"
    say: Callable[[str], str] = str
    if messages.language() == "zh":
        from miaotui.cli.output.help_zh import HELP

        usage, say = "用法：miaotui COMMAND [选项]", HELP.__getitem__
    lines = [
        usage,
        "",
        say("Language models that answer in under a second on the computer you already have."),
        "",
        f"{say('commands')}:",
        *(f"  {command.name:<14}{say(command.about)}" for command in COMMANDS),
        "",
        f"{say('options')}:",
        f"  {'--help':<14}{say('show this text, or with a command its options')}",
        f"  {'--version':<14}{say('show the version')}",
        "",
    ]
    return "\n".join(lines)


def version_line() -> str:
    """Return what ``miaotui --version`` prints."""
    from importlib.metadata import version

    return f"miaotui {version('miaotui')}\n"


class _OneCommand(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        _fail(message, self.format_usage())


def _fail(reason: str, usage: str = "") -> NoReturn:
    sys.stderr.write(f"miaotui: {messages.ERROR(reason=reason)}\n{usage}")
    raise SystemExit(2)


def _hint(name: str, known: list[str]) -> str:
    import difflib

    longer = [other for other in known if other.startswith(name) and len(name) > 2]
    near = longer[:1] or difflib.get_close_matches(name, known, n=1)
    return messages.DID_YOU_MEAN(name=near[0]) if near else ""


def _help_formatter(prog: str) -> argparse.HelpFormatter:
    if messages.language() == "zh":
        from miaotui.cli.output.help_zh import ChineseFormatter

        return ChineseFormatter(prog, max_help_position=32, width=_WIDTH)
    return argparse.HelpFormatter(prog, max_help_position=32, width=_WIDTH)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text!r}")
    return int(text)


# ---- the commands --------------------------------------------------------------------------------


def _run_options(parser: _Parser) -> None:
    parser.epilog = (
        f"MODEL is {DEFAULT_MODEL} unless named. The prompt - is read from standard input. "
        "Words after -- are never taken for options."
    )
    parser.add_argument("--raw", action="store_true", help="continue the prompt as it is, without a chat template")
    parser.add_argument(
        "--no-special", action="store_true", help="with --raw: control tokens written in the prompt are plain text"
    )
    parser.add_argument(
        "--suffix", metavar="TEXT", help="fill in between the prompt and this text, with a model trained for it"
    )
    _answer_options(parser)


def _chat_options(parser: _Parser) -> None:
    parser.epilog = f"MODEL is {DEFAULT_MODEL} unless named."
    _answer_options(parser)


def _pull_options(parser: _Parser) -> None:
    parser.epilog = (
        "NAME is one from `miaotui models`, or a repository: owner/name, hf:owner/name of Hugging Face, ms:owner/name "
        "of ModelScope; :Q4_K_M after it chooses a quantization, :FILE.gguf a file."
    )


def _models_options(parser: _Parser) -> None:
    parser.add_argument(
        "--local", action="store_true", help="models that other programs have stored here; run them by these names"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def _merge_options(parser: _Parser) -> None:
    parser.epilog = (
        "ADAPTER is a folder of PEFT's or a GGUF file; OUT is a new folder for a folder of safetensors, a new file for "
        "a GGUF file."
    )


def _doctor_options(parser: _Parser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    about = "run a small program through each backend, and print what was shown: executed, or lowered for a platform"
    parser.add_argument("--prove", action="store_true", help=about)


def _answer_options(parser: _Parser) -> None:
    parser.add_argument("--system", metavar="TEXT", help="instructions that precede the prompt")
    _model_options(parser.add_argument_group("the model"))
    _sampling_options(parser.add_argument_group("the answer"))


def _model_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--format",
        choices=("q4", "q5", "q6", "q8", "bf16"),
        metavar="q4|q5|q6|q8|bf16",
        help="bits per weight of a model that is not quantized yet (default: q8)",
    )
    group.add_argument(
        "--kv",
        choices=("f16", "int8"),
        default="f16",
        metavar="f16|int8",
        help="how keys and values are kept (default: f16)",
    )
    group.add_argument(
        "--no-speculate", action="store_false", dest="speculate", help="one token in each pass: slower, the same answer"
    )
    group.add_argument("--threads", type=_positive, metavar="N", help="default: one per usable physical core")
    group.add_argument(
        "--backend",
        choices=("cpu", "reference", "jax", "openvino", "vllm"),
        default="cpu",
        metavar="cpu|reference|jax|openvino|vllm",
        help="what computes: compiled kernels, NumPy alone, which is slow, XLA, OpenVINO or vLLM (default: cpu)",
    )


def _sampling_options(group: argparse._ArgumentGroup) -> None:
    def add(name: str, kind: Callable[[str], object], about: str, **more: Any) -> None:
        metavar = {int: "N", float: "X", str: "TEXT"}[kind]  # type: ignore[index]  # a type is a callable, and a key here
        more.setdefault("default", argparse.SUPPRESS)  # absent: the library's default holds
        group.add_argument(f"--{name}", type=kind, metavar=metavar, help=about, **more)

    limit = f"tokens at most (default: {DEFAULT_MAX_TOKENS})"
    add("max-tokens", int, limit, default=DEFAULT_MAX_TOKENS)
    add("min-tokens", int, "tokens before the answer may end by itself")
    add("temperature", float, "0 takes the likeliest token; 1 follows the model (default: 0)")
    add("top-p", float, "only the likeliest tokens that add up to this probability")
    add("top-k", int, "only this many likeliest tokens; 0: all")
    add("min-p", float, "only tokens at least this likely relative to the likeliest")
    add("seed", int, "the same seed gives the same answer (default: 0)")
    add("stop", str, "end before this text; may be repeated", action="append")
    add("repetition-penalty", float, "above 1: avoid tokens seen before")
    add("presence-penalty", float, "subtracted once from tokens already answered")
    add("frequency-penalty", float, "subtracted for each time a token was answered")
    group.add_argument(
        "--ignore-eos", action="store_true", default=argparse.SUPPRESS, help="go on when the model would end"
    )


COMMANDS = (
    Command("run", "answer one prompt and exit", "[MODEL] PROMPT", range(1, 3), _run_options),
    Command("chat", "talk with a model", "[MODEL]", range(2), _chat_options),
    Command("pull", "fetch a model", "NAME", range(1, 2), _pull_options),
    Command("models", "list the models that have a name", "", range(1), _models_options),
    Command(
        "merge-adapter", "write a model with an adapter merged in", "MODEL ADAPTER OUT", range(3, 4), _merge_options
    ),
    Command(
        "optimize",
        "make a model smaller, within a target, and say what it cost",
        "MODEL",
        range(1, 2),
        optimize_options,
        "optimize",
    ),
    Command("merge", "make one model of several", "[MODEL...]", range(17), merge_options, "optimize"),
    Command("finetune", "teach a model from examples", "MODEL DATA...", range(2, 100), finetune_options, "optimize"),
    Command("train", "train a small model from texts", "TEXT...", range(1, 100), train_options, "optimize"),
    Command("distill", "let a model learn what another one says", "STUDENT", range(1, 2), distil_options, "optimize"),
    Command("card", "show the report card of an optimized file", "FILE", range(1, 2), card_options, "optimize"),
    Command("serve", "serve models to many over HTTP", "[MODEL...]", range(17), serve_options),
    Command("batch", "answer a file of requests", "FILE [MODEL...]", range(1, 18), batch_options, "cluster"),
    Command("cluster", "serve models over several machines", "ACTION [...]", range(1, 100), cluster_options, "cluster"),
    Command(
        "stage",
        "compute a part of a model's layers for a server elsewhere",
        "MODEL",
        range(1, 2),
        stage_options,
        "cluster",
    ),
    Command("key", "make an API key for a server", "NAME", range(1, 2), key_options),
    Command("tenant", "share a server among tenants", "ACTION [...]", range(1, 4), tenant_options, "tenants"),
    Command("encryption", "make and change master keys", "ACTION [FILE]", range(1, 3), encryption_options, "tenants"),
    Command("index", "keep documents for search", "ACTION NAME [...]", range(1, 10_000), index_options),
    Command("search", "search an index", "NAME QUERY", range(2, 3), search_options),
    Command("ask", "answer a question from an index", "INDEX QUESTION", range(2, 3), ask_options),
    Command("support", "reply to customers, from questions and documents", "", range(1), support_options),
    Command("transcribe", "write recordings down", "FILE...", range(1, 10_000), transcribe_options),
    Command("classify", "label the texts of a file", "INPUT", range(1, 2), classify_options, "tasks"),
    Command("similar", "find which texts of a file are alike", "INPUT", range(1, 2), similar_options, "tasks"),
    Command("group", "put the texts of a file into groups", "INPUT", range(1, 2), group_options, "tasks"),
    Command("summarize", "summarise the texts of a file", "INPUT", range(1, 2), summarize_options, "tasks"),
    Command("translate", "translate the texts of a file", "INPUT", range(1, 2), translate_options, "tasks"),
    Command("extract", "extract values from the texts of a file", "INPUT", range(1, 2), extract_options, "tasks"),
    Command("generate", "write, rewrite or continue texts", "INPUT", range(1, 2), generate_options, "tasks"),
    Command(
        "recommend",
        "recommend items, from a log of events",
        "ACTION NAME [...]",
        range(2, 5),
        recommend_options,
        "tasks",
    ),
    Command(
        "graph",
        "answer questions from a graph of triples",
        "ACTION NAME [...]",
        range(2, 10_000),
        graph_options,
        "tasks",
    ),
    Command(
        "dmlm",
        "train masked language models, write with them, fill masks, correct texts",
        "ACTION [...]",
        range(1, 10_000),
        dmlm_options,
        "dmlm",
    ),
    Command("eval", "measure how well and how fast a task runs", "TASK FILE", range(2, 3), eval_options, "tasks"),
    Command(
        "bench", "measure speeds, of a model here or of a server", "[ACTION] [...]", range(4), bench_options, "bench"
    ),
    Command("doctor", "measure what this machine can do", "", range(1), _doctor_options),
)
