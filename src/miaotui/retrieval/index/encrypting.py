"""Encryption of an index that is plain.

Owns the order: sealed copies first, then the index's settings, then the plain files go. Invariant: killed at any moment
it leaves an index that opens, and done again it ends with no plain file.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from miaotui.errors import EncryptionKeyError
from miaotui.retrieval.index.index import Index, seal_of
from miaotui.retrieval.index.sealed_partition import remove_plain, seal_files
from miaotui.retrieval.index.settings import read_plan, write_settings
from miaotui.retrieval.meaning.vector_files import remove_vectors
from miaotui.sealing.master_keys import FILE_VARIABLE, MasterKeys


def encrypt_index(folder: Path) -> None:
    """Encrypt an index in place; its vectors are made anew. Raises `EncryptionKeyError` where there is no key.

    One that is encrypted already loses plain files that an interrupted call has left.
    """
    if MasterKeys.from_env() is None:
        raise EncryptionKeyError(
            f"there is no master key: make one with `miaotui encryption key`, and set {FILE_VARIABLE}"
        )
    plan = read_plan(folder)
    if not plan.sealed:
        sealed = replace(plan, sealed=True)
        seal = seal_of(folder, sealed)
        with Index.open(folder) as index, index.writing():
            for path in plan.folders(folder):
                seal_files(path, path, seal, frozenset(), keep_plain=True)
            remove_vectors(folder)
            write_settings(folder, sealed)
    for path in plan.folders(folder):
        remove_plain(path)
