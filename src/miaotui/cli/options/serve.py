"""The options of ``miaotui serve`` and ``miaotui key``.

Owns their names, meanings and forms. Knows no server. Invariant: an option that was not given is
absent from the parsed values, so that a configuration file can set it instead; the defaults are in
`ServeSettings`.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable

from miaotui.hub.catalog import DEFAULT_MODEL

_UNITS_S = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0}


def serve_options(parser: argparse.ArgumentParser) -> None:
    """Add the server's options."""
    parser.argument_default = argparse.SUPPRESS
    parser.epilog = (
        f"MODEL is {DEFAULT_MODEL} unless named; NAME=MODEL serves it under another name. "
        "Durations are numbers with ms, s or m."
    )
    _network(parser.add_argument_group("network"))
    _access(parser.add_argument_group("access"))
    _limits(parser.add_argument_group("deadlines and limits"))
    _model(parser.add_argument_group("models"))
    _cache(parser.add_argument_group("cache of answers"))
    _support(parser.add_argument_group("customer service"))
    _logs(parser.add_argument_group("logs"))


def key_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a new API key."""
    add = parser.add_argument
    parser.epilog = "The key is printed once; the file gets its hash alone."
    add("--api-key-file", metavar="FILE", default="keys.txt", help="default: keys.txt")
    add("--admin", action="store_true", help="the key may drain the server, and change its log level and limits")
    add("--rpm", type=whole(1), metavar="N", help="requests per minute at most")
    add("--tpm", type=whole(1), metavar="N", help="tokens per minute at most")
    add("--concurrent", type=whole(1), metavar="N", help="requests at once at most")


def option_names() -> tuple[set[str], set[str]]:
    """Return the long names that a configuration file may use: of options without and with a value."""
    parser = argparse.ArgumentParser(add_help=False)
    serve_options(parser)
    names = {action.option_strings[-1].removeprefix("--"): action for action in parser._actions}
    del names["config"]
    flags = {name for name, action in names.items() if action.nargs == 0}
    return flags, names.keys() - flags


def _network(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--host", metavar="HOST", help="address to listen on (default: 127.0.0.1)")
    add("--port", type=whole(0, 65535), metavar="N", help="default: 8000; 0: any free one")
    add("--tls-cert", metavar="FILE", help="PEM certificate chain; serves HTTPS")
    add("--tls-key", metavar="FILE", help="PEM key of that certificate")
    add(
        "--drain-timeout",
        dest="drain_timeout_s",
        type=duration,
        metavar="T",
        help="what running answers get to finish after SIGTERM or Ctrl-C (default: 30s)",
    )
    add("--no-console", dest="console", action="store_false", help="no page at /")
    add("--no-docs", dest="docs", action="store_false", help="no pages /docs and /openapi.json")
    add("--config", metavar="FILE", help="TOML file with any of these options")


def _access(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--api-key-file", metavar="FILE", help="let in keys of this file; see miaotui key")
    add("--tenants", metavar="FILE", help="let in keys of the tenants of this file; see miaotui tenant")
    add("--insecure", action="store_true", help="let in other machines without keys")
    about = "let clients load and unload adapters of this computer (/v1/load_lora_adapter)"
    add("--allow-adapters", action="store_true", help=about)
    add("--allow-pull", action="store_true", help="let clients fetch models into the cache (/api/pull)")
    add("--share-prefix", action="store_true", help="reuse prompt prefixes across keys")
    add("--allowed-host", action="append", metavar="NAME", help="host name to answer to; repeatable")
    add("--cors-origin", action="append", metavar="URL", help="origin to let in; repeatable")


def _limits(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--deadline", dest="deadline_s", type=duration, metavar="T", help="for requests that name none")
    add("--max-requests", type=whole(1), metavar="N", help="requests in line at most (default: 256)")
    add("--max-tokens", type=whole(1), metavar="N", help="tokens in line at most (default: 262144)")
    add("--max-running", type=whole(1), metavar="N", help="answers at once at most (default: 16)")
    add("--max-body-bytes", type=whole(1024, 1 << 30), metavar="N", help="of one request (default: 4194304)")
    about = "of a request with a recording (default: 26214400)"
    add("--max-audio-bytes", type=whole(1024, 1 << 32), metavar="N", help=about)
    add("--max-audio-hours", type=whole(1, 24), metavar="N", help="of one recording (default: 4)")
    about = "for a request's body to arrive in (default: 30s)"
    add("--body-timeout", dest="body_timeout_s", type=duration, metavar="T", help=about)
    about = "a silent stream sends a comment this often (default: 5s)"
    add("--ping", dest="ping_s", type=duration, metavar="T", help=about)


def _model(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    about = "bits per weight of models that are not quantized yet (default: q8)"
    add("--format", choices=("q4", "q5", "q6", "q8", "bf16"), metavar="q4|q5|q6|q8|bf16", help=about)
    about = "how keys and values are kept (default: f16)"
    add("--kv", choices=("f16", "int8"), metavar="f16|int8", help=about)
    add("--threads", type=whole(1), metavar="N", help="default: one per usable physical core")
    about = "what computes: compiled kernels, NumPy alone, which is slow, XLA, OpenVINO or vLLM (default: cpu)"
    backends = ("cpu", "reference", "jax", "openvino", "vllm")
    add("--backend", choices=backends, metavar="cpu|reference|jax|openvino|vllm", help=about)
    add("--context", type=whole(1), metavar="N", help="longest prompt plus answer, in tokens")
    about = "one token in each pass: slower, the same answers"
    add("--no-speculate", action="store_true", help=about)
    about = "processes that share a model's layers, each with a part of its weights (default: 1)"
    add("--stages", type=whole(1, 64), metavar="N", help=about)
    about = "a process elsewhere that computes a part of the layers (miaotui stage); repeatable, in their order"
    add("--stage-at", action="append", metavar="HOST:PORT", help=about)
    add("--stage-key-file", metavar="FILE", help="the secret that stages elsewhere ask for")
    about = "a low-rank adapter of the first model, served under its name; repeatable"
    add("--adapter", action="append", metavar="NAME=PATH", help=about)
    about = "served models behind one name, the best first: the best that keeps a deadline answers; repeatable"
    add("--tiers", action="append", metavar="NAME=A,B,...", help=about)
    about = "served models behind one name, of which the prompt chooses one: by language, code or length; repeatable"
    add("--route", action="append", metavar="NAME=zh:A,code:B,<200:C,D", help=about)
    about = "weights of encoders in memory at most; the least used is put away (default: half of the memory)"
    add("--encoder-memory-mb", type=whole(1, 1 << 24), metavar="N", help=about)
    about = "how an encoder's states become an embedding, where its files do not say it"
    add("--pooling", choices=("mean", "cls", "last", "max"), metavar="mean|cls|last|max", help=about)
    about = "a classifier's head for /v1/tasks/classify and /v1/tasks/sentiment; repeatable"
    add("--head", action="append", metavar="NAME=FILE", help=about)


def _cache(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--answer-cache", metavar="FILE", help="give the same question the same answer again")
    add("--answer-cache-mb", type=whole(1, 1 << 20), metavar="N", help="its size (default: 256)")
    add("--answer-cache-hours", type=whole(1, 87_600), metavar="N", help="default: 168")
    about = "let similar questions share an answer: labelled pairs to calibrate with, or made"
    add("--near-answers", metavar="FILE|made", help=about)
    about = "false hits at most, as a share (default: 0.001)"
    add("--near-bound", type=share, metavar="X", help=about)


def _support(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--support-faq", metavar="FILE", help="answered questions: .csv, .jsonl or .yaml")
    add("--support-docs", metavar="INDEX", help="documents to answer from")
    add("--support-rules", metavar="FILE", help="YAML file of intents, slots and rules")
    add("--support-tracker", metavar="FILE", help="finds values of slots in every message; see miaotui support")
    add("--support-store", metavar="FILE", help="where conversations are kept")


def _logs(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--audit-log", metavar="FILE", help="append one JSON line per request, without its text")
    add(
        "--audit-log-mb", type=whole(1, 1 << 20), metavar="N", help="of one file, which is then put aside (default: 64)"
    )
    add("--audit-log-files", type=whole(0, 999), metavar="N", help="that were put aside and are kept (default: 9)")
    add("--log-format", choices=("text", "json"), metavar="text|json", help="default: text")
    levels = ("debug", "info", "warning", "error")
    add("--log-level", choices=levels, metavar="LEVEL", help=f"{', '.join(levels)} (default: info)")


def duration(text: str) -> float:
    """Parse ``800ms``, ``1s``, ``1.5`` or ``2m`` to seconds."""
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?) ?(ms|s|m|)", text.strip())
    seconds = float(match[1]) * _UNITS_S[match[2]] if match else 0.0
    if not 0 < seconds <= 86_400:
        raise argparse.ArgumentTypeError(f"must be a time such as 800ms, 1s or 2m, up to a day, not {text!r}")
    return seconds


def share(text: str) -> float:
    """Parse a number in (0, 0.5)."""
    try:
        value = float(text) if len(text) < 32 else -1.0
    except ValueError:
        value = -1.0
    if not 0 < value < 0.5:
        raise argparse.ArgumentTypeError(f"must be a share in (0, 0.5), such as 0.001, not {text!r}")
    return value


def whole(low: int, high: int = 1 << 27) -> Callable[[str], int]:
    """Return a parser of whole numbers in ``[low, high]``."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,10}", text) or not low <= int(text) <= high:
            expected = f"a whole number from {low:,} to {high:,}"
            raise argparse.ArgumentTypeError(f"must be {expected}, not {text!r}")
        return int(text)

    return parse
