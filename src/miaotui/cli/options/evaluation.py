"""The options of ``miaotui eval``.

Owns their names, meanings and forms. Knows no model.
"""

from __future__ import annotations

import argparse

from miaotui.cli.options.serve import whole


def eval_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``miaotui eval``."""
    parser.epilog = (
        "TASK is classify, sentiment, decide, extract, generate, summarize, translate or perplexity; FILE has texts "
        "with their right answers (.csv .tsv .jsonl, others by line). Prints a table and one JSON line."
    )
    add = parser.add_argument
    add("--model", metavar="MODEL", help="model of the task (default: the task's own)")
    add("--against", metavar="WAY", help="another model, or majority, tfidf (labels), lead (summaries)")
    add("--examples", metavar="FILE", help="labelled texts to learn from")
    add("--labels", metavar="A,B,...", help="names of labels (default: those of the file)")
    add("--schema", metavar="FILE", help="JSON schema of the values to extract")
    add("--to", metavar="LANGUAGE", help="language of the translations")
    add("--sentences", type=whole(1, 64), metavar="N", help="of a summary")
    add("--text-column", metavar="NAME", help="column of the texts (default: text)")
    add("--reference-column", metavar="NAME", help="column of the right answers (default: label, reference or values)")
    add("--count", type=whole(1), metavar="N", help="only the first N rows")
    add("--alone", type=whole(1, 10_000), metavar="N", default=50, help="rows that are timed alone (default: 50)")
    add("--seed", type=whole(0), metavar="N", default=0, help="of the intervals (default: 0)")
