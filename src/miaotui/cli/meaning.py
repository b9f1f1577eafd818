"""Search by meaning at the command line: the encoders that are here, put beside an index.

Owns when vectors are made, and the hint how to turn meaning on, which is given once. Knows encoders and indexes by
their public calls. Invariant: nothing is downloaded; without the embedder a command works by words.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from miaotui.apps.qa_pipeline import Searchable
from miaotui.cli.output import messages
from miaotui.cli.output.progress import ProgressBars
from miaotui.config import Settings, make_folder
from miaotui.errors import CacheError, MiaotuiError
from miaotui.retrieval.index.index import Index
from miaotui.retrieval.meaning.protocols import Reranker

_HINTED = "meaning-hint"


@dataclass(frozen=True)
class MeaningSearch:
    """Index that questions are put to, by meaning too where that can be, and the reranker where there is one.

    ``load`` loads the encoders before the time of an answer begins; they are loaded on first use otherwise.
    """

    index: Searchable
    reranker: Reranker | None = None
    load: Callable[[], None] = lambda: None


@contextmanager
def by_meaning(index: Index, *, rerank: bool = False, threads: int | None = None) -> Iterator[MeaningSearch]:
    """Open the encoders that are here, bring the vectors up to date, and give what a question is put to."""
    from miaotui.apps.meaning.encoders import find_encoders

    encoders = find_encoders(rerank=rerank, threads=threads)
    if encoders is None:
        hint_once()
        yield MeaningSearch(index)
        return
    from miaotui.retrieval.meaning.bilingual import MeaningVectors
    from miaotui.retrieval.meaning.hybrid import HybridIndex

    with encoders:
        vectors = MeaningVectors(index, encoders.embedder, encoders.english)
        try:
            with ProgressBars() as progress:
                vectors.update(progress)
        except CacheError as error:  # a folder of someone else's, a full disk: what is there serves
            print(messages.WARNING(text=error), file=sys.stderr)
        yield MeaningSearch(HybridIndex(vectors), encoders.reranker, encoders.load)


def drop_deleted_vectors(index: Index) -> None:
    """Delete the vectors of passages that are gone from an index's files; all of them where no embedder is here."""
    from miaotui.apps.meaning.encoders import find_encoders
    from miaotui.retrieval.meaning.bilingual import MeaningVectors
    from miaotui.retrieval.meaning.vector_files import remove_vectors

    encoders = find_encoders(rerank=False)
    if encoders is None:
        remove_vectors(index.folder)
        return
    with encoders:
        MeaningVectors(index, encoders.embedder, encoders.english).purge()


def hint_once() -> None:
    """Print how search by meaning is turned on, unless it was printed before."""
    with suppress(OSError, MiaotuiError):
        folder = Settings.from_env().folder("hints")
        if not (folder / _HINTED).exists():
            make_folder(folder)
            (folder / _HINTED).touch()
            print(messages.MEANING_HINT(), file=sys.stderr)
