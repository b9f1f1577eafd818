"""Deletion of what a tenant has left on disk: indexes, kept answers, conversations.

Owns the order: the tenant's keys are gone from the file first, and servers have seen that, so that nothing is written
behind the deletion. Knows no HTTP. Invariant: when it returns, no file of these holds a text of the tenant's; the audit
log, which has no texts, stays.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from miaotui.apps.conversations import ConversationStore
from miaotui.config import cache_error
from miaotui.errors import RequestError
from miaotui.retrieval.answers.cache import AnswerCache, CacheOptions
from miaotui.retrieval.index.settings import names_in, remove_index
from miaotui.serve.documents.index_registry import own_folder
from miaotui.serve.tenants.tenant_file import Tenant

SEEN_AFTER_S = 2.5  # servers look at their tenant file each second


@dataclass(frozen=True)
class TenantFiles:
    """Files in which tenants leave texts; None: there is no such file."""

    indexes: Path
    answer_cache: Path | None = None
    support_store: Path | None = None

    def check(self) -> None:
        """Raise `RequestError` for a file that is not there: its name may be mistyped."""
        for path in (self.answer_cache, self.support_store):
            if path is not None and not path.is_file():
                raise RequestError(f"there is no file {path}: correct its name, so that nothing is left behind")


@dataclass(frozen=True)
class DeletedData:
    """Counts of what was deleted."""

    indexes: int
    answers: int
    conversations: int


def delete_tenant_data(tenant: Tenant, files: TenantFiles, wait: Callable[[float], None] = time.sleep) -> DeletedData:
    """Delete the data of a tenant that is no longer in the tenant file. Raises `CacheError`."""
    wait(SEEN_AFTER_S)
    owner = tenant.caller().owner
    answers = conversations = 0
    if files.answer_cache is not None:
        cache = AnswerCache(CacheOptions(files.answer_cache))
        answers = cache.forget_namespace(owner)
        cache.close()
    if files.support_store is not None:
        store = ConversationStore(files.support_store)
        conversations = store.delete_all(owner)
        store.close()
    return DeletedData(_delete_indexes(own_folder(files.indexes, tenant.name)), answers, conversations)


def _delete_indexes(folder: Path) -> int:
    names = names_in(folder)
    for name in names:
        remove_index(folder / name)
    try:
        if folder.exists():
            shutil.rmtree(folder)
    except OSError as error:
        raise cache_error(error, folder) from error
    return len(names)
