"""``miaotui key``: an API key for a server.

Owns what is printed: the key on standard output, everything else on standard error. Knows no server. Invariant: the key
is shown once, and only its hash is kept.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from miaotui.cli.output import messages
from miaotui.serve.middleware.keys import KeyLimits, add_key


def key(parsed: argparse.Namespace) -> int:
    """Make an API key, print it, keep its hash and return the exit status."""
    name, path = parsed.words[0], Path(parsed.api_key_file)
    made = add_key(path, name, KeyLimits(parsed.rpm, parsed.tpm, parsed.concurrent), is_admin=parsed.admin)
    print(made)
    print(messages.KEY_MADE(name=name, path=path), file=sys.stderr)
    return 0
