"""The options of commands that run a task over the rows of a file.

Owns their names, meanings and forms. Knows no model.
"""

from __future__ import annotations

import argparse
import datetime as dt

from miaotui.cli.options.serve import duration, whole


def classify_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``miaotui classify``."""
    parser.epilog = (
        "INPUT is a file (.csv .tsv .jsonl, others by line), - for standard input, or a text. Give one of "
        "--labels, --examples and --head; --sentiment needs none."
    )
    how = parser.add_argument_group("labels")
    how.add_argument("--labels", metavar="A,B=TEXT,...", help="names of labels, each perhaps with a description")
    how.add_argument("--examples", metavar="FILE", help="texts with their labels (.csv .tsv .jsonl) to learn from")
    how.add_argument("--head", metavar="FILE", help="a head that --save has written")
    how.add_argument("--save", metavar="FILE", help="write the head to a file")
    how.add_argument("--sentiment", action="store_true", help="positive, negative or neutral")
    how.add_argument(
        "--words", type=whole(0, 64), metavar="N", default=0, dest="word_count", help="words that carry the sentiment"
    )
    how.add_argument(
        "--engine",
        choices=("head", "similarity", "logits"),
        metavar="head|similarity|logits",
        help="learned from examples, likeness to names, or a chat model (default: by a measured table)",
    )
    how.add_argument("--template", metavar="TEXT", default="{}", help="sentence that holds a label at {}")
    how.add_argument("--threshold", type=_share, metavar="P", default=0.0, help="no label below this probability")
    how.add_argument(
        "--model",
        metavar="MODEL",
        help="encoder, or chat model for logits (default: by the engine, the task or the head)",
    )
    _backend_option(how)
    rows = row_options(parser)
    rows.add_argument("--label-column", metavar="NAME", default="label", help="of the examples (default: label)")
    rows.add_argument("--explain", action="store_true", help="say how labels are found, and how sure they are")


def row_options(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add the options of every command over the rows of a file, and return their group."""
    rows = parser.add_argument_group("rows")
    _input_options(rows)
    rows.add_argument("--resume", action="store_true", help="continue an output that was broken off")
    rows.add_argument("--limit-s", type=duration, metavar="T", help="answer what fits in this time, and say so")
    rows.add_argument("--json", action="store_true", help="write JSON lines")
    return rows


def group_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``miaotui group``."""
    parser.epilog = "INPUT is a file (.csv .tsv .jsonl, others by line), or - for standard input."
    how = parser.add_argument_group("groups")
    how.add_argument("--groups", type=whole(1, 1024), metavar="N", help="how many (default: as many as fit the texts)")
    how.add_argument("--duplicates", action="store_true", help="only texts that say nearly the same")
    how.add_argument(
        "--least", type=_share, metavar="S", default=0.9, help="similarity of duplicates, up to 1 (default: 0.9)"
    )
    how.add_argument("--model", metavar="MODEL", help="the encoder (default: chosen by the texts' script)")
    _backend_option(how)
    whole_file_options(parser)


def similar_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``miaotui similar``."""
    parser.epilog = (
        "INPUT is a file (.csv .tsv .jsonl, others by line), or - for standard input. Without --query each text is "
        "compared with the others."
    )
    how = parser.add_argument_group("likeness")
    how.add_argument("--query", metavar="TEXT", help="text that all are compared with")
    how.add_argument("--model", metavar="MODEL", help="the encoder (default: chosen by the texts' script)")
    _backend_option(how)
    whole_file_options(parser)


def _backend_option(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--backend",
        choices=("cpu", "reference"),
        default="cpu",
        metavar="cpu|reference",
        help="what computes: compiled kernels, or NumPy alone, which is slow (default: cpu)",
    )


def whole_file_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of commands that need all rows of a file at once."""
    rows = parser.add_argument_group("rows")
    _input_options(rows)
    rows.add_argument("--json", action="store_true", help="write JSON lines")
    parser.set_defaults(resume=False, limit_s=None)


def _input_options(rows: argparse._ArgumentGroup) -> None:
    rows.add_argument("--text-column", metavar="NAME", help="column of the texts (default: text, or the only one)")
    rows.add_argument(
        "--format", choices=("csv", "tsv", "jsonl", "lines"), metavar="csv|tsv|jsonl|lines", help="of the input"
    )
    rows.add_argument("--output", metavar="FILE", help="default: standard output")


def summarize_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``miaotui summarize``."""
    parser.epilog = "INPUT is a file (.csv .tsv .jsonl, others by line), - for standard input, or a text."
    how = parser.add_argument_group("summaries")
    how.add_argument("--sentences", type=whole(1, 1000), metavar="N", help="at most so many (default: 3)")
    about = "at most so many; Chinese characters count"
    how.add_argument("--words", type=whole(1, 100_000), metavar="N", dest="word_count", help=about)
    how.add_argument("--seconds", type=duration, metavar="T", help="at most so long to read aloud")
    how.add_argument("--clauses", action="store_true", help="choose clauses, not sentences: something like a title")
    how.add_argument("--write", action="store_true", help="a chat model writes; unsupported sentences are dropped")
    how.add_argument(
        "--model", metavar="MODEL", help="a chat model or an encoder-decoder (default: qwen2.5-coder-0.5b)"
    )
    row_options(parser)


def translate_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``miaotui translate``."""
    parser.epilog = "INPUT is a file (.csv .tsv .jsonl, others by line), - for standard input, or a text."
    how = parser.add_argument_group("translations")
    how.add_argument("--to", metavar="LANGUAGE", default="en", help="code or English name (default: en)")
    how.add_argument("--from", metavar="LANGUAGE", default="auto", dest="source", help="default: detected in each text")
    how.add_argument(
        "--markup",
        choices=("text", "html", "markdown"),
        default="text",
        metavar="text|html|markdown",
        help="markup that is kept (default: text)",
    )
    how.add_argument("--glossary", metavar="FILE", help="terms and their translations (.csv .tsv)")
    how.add_argument(
        "--model", metavar="MODEL", help="a chat model or an encoder-decoder (default: qwen2.5-coder-0.5b)"
    )
    row_options(parser)


def extract_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``miaotui extract``."""
    parser.epilog = "INPUT is a file (.csv .tsv .jsonl, others by line), - for standard input, or a text."
    how = parser.add_argument_group("values")
    how.add_argument("--schema", metavar="FILE", help="JSON schema of a flat object: a column for each property")
    how.add_argument("--entities", metavar="A,B,...", help="names of types of entities: a column for each")
    how.add_argument("--keywords", type=whole(0, 100), metavar="N", default=0, help="so many keywords; no model needed")
    how.add_argument("--verbatim", action="store_true", help="every value is a span of the text")
    how.add_argument("--threshold", type=_share, metavar="P", default=0.0, help="no value below this probability")
    how.add_argument("--today", type=_day, metavar="YYYY-MM-DD", help="day that dates are counted from")
    how.add_argument("--day-order", choices=("dmy", "mdy"), metavar="dmy|mdy", help="order of dates such as 03/04/2025")
    how.add_argument("--model", metavar="MODEL", help="the chat model (default: qwen2.5-coder-0.5b)")
    row_options(parser)


def generate_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``miaotui generate``."""
    parser.epilog = "INPUT is a file (.csv .tsv .jsonl, others by line), - for standard input, or a text."
    how = parser.add_argument_group("texts")
    how.add_argument("--rewrite", action="store_true", help="rewrite the texts instead of answering them as prompts")
    how.add_argument("--continue", action="store_true", dest="go_on", help="go on with the texts")
    how.add_argument("--style", metavar="TEXT", help="style to write in")
    how.add_argument("--instruction", metavar="TEXT", help="further instruction")
    how.add_argument("--words", metavar="N-M", dest="word_count", help="bounds of words: 100, 50-100 or 50-")
    how.add_argument("--sentences", metavar="N-M", help="bounds of sentences")
    how.add_argument("--paragraphs", type=whole(1, 100), metavar="N", help="so many paragraphs")
    how.add_argument("--bullets", type=whole(1, 100), metavar="N", help="so many bullet points")
    how.add_argument("--include", metavar="A,B,...", help="words that must be there")
    how.add_argument("--avoid", metavar="A,B,...", help="words that must not be there")
    how.add_argument("--case", choices=("lower", "upper"), metavar="lower|upper", help="case of all letters")
    how.add_argument("--no-commas", action="store_true", help="no commas")
    how.add_argument("--end", metavar="TEXT", help="words at the end")
    how.add_argument("--schema", metavar="FILE", help="JSON schema that the answer has the form of")
    how.add_argument("--max-tokens", type=whole(1, 8192), metavar="N", default=512, help="of one answer (default: 512)")
    how.add_argument("--model", metavar="MODEL", help="the chat model (default: qwen2.5-coder-0.5b)")
    row_options(parser)


def _day(text: str) -> str:
    try:
        return dt.date.fromisoformat(text).isoformat()
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a day such as 2025-03-05, not {text!r}") from None


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 1.0:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 1, not {text!r}")
    return value
