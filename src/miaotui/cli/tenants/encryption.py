"""``miaotui encryption``: master keys made, and data keys wrapped under a new one.

Owns what is printed; a key is never. Knows sealed files by their public calls. Invariant: `rotate` may be interrupted
and done again, and everything opens with the old and the new key in the file meanwhile.
"""

from __future__ import annotations

import argparse
import sqlite3
import sys
from pathlib import Path

from miaotui.apps import conversations
from miaotui.cli.output import messages
from miaotui.config import Settings
from miaotui.errors import RequestError
from miaotui.retrieval.answers import store
from miaotui.retrieval.index.index import Index
from miaotui.retrieval.index.settings import INDEX_FILE, read_plan
from miaotui.sealing.cells import rewrap_cells
from miaotui.sealing.master_keys import FILE_VARIABLE, MasterKeys, add_master_key
from miaotui.sealing.seal import Seal


def encryption(parsed: argparse.Namespace) -> int:
    """Do one action and return the exit status."""
    action, *words = parsed.words
    if action == "key" and len(words) == 1:
        made = add_master_key(Path(words[0]))
        print(messages.MASTER_KEY_MADE(id=made.id.hex(), path=words[0], variable=FILE_VARIABLE), file=sys.stderr)
        return 0
    if action != "rotate" or words:
        raise RequestError(f"expected miaotui encryption key FILE, or rotate, not {' '.join(parsed.words)!r}")
    keys = MasterKeys.required("what is to be wrapped anew")
    files = sum(_rewrap_index(path.parent, keys) for path in sorted(_indexes()))
    for path, context in ((parsed.answer_cache, store.CONTEXT), (parsed.support_store, conversations.CONTEXT)):
        if path is not None:
            files += _rewrap_database(Path(path), keys, context)
    print(messages.REWRAPPED(count=files, id=keys.current.id.hex()), file=sys.stderr)
    return 0


def _indexes() -> list[Path]:
    root = Settings.from_env().folder("indexes")
    return [*root.glob(f"*/{INDEX_FILE}"), *root.glob(f"@*/*/{INDEX_FILE}")]


def _rewrap_index(folder: Path, keys: MasterKeys) -> int:
    plan = read_plan(folder)
    if not plan.sealed:
        return 0
    with Index.open(folder) as index, index.writing():
        return Seal(folder, plan.uid, keys).rewrap_all()


def _rewrap_database(path: Path, keys: MasterKeys, context: str) -> int:
    if not path.is_file():
        raise RequestError(f"there is no file {path}: correct its name")
    db = sqlite3.connect(path, 5.0)
    try:
        return int(rewrap_cells(db, keys, context, str(path)))
    finally:
        db.close()
