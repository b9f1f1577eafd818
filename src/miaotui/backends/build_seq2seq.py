"""Choice of an encoder-decoder's backend by its name. Imports only the one that is chosen."""

from __future__ import annotations

from miaotui.backends.seq2seq_backend import Seq2SeqBackend
from miaotui.errors import RequestError
from miaotui.model.seq2seq.opened import OpenedSeq2Seq

BACKENDS = ("reference",)


def build_seq2seq_backend(opened: OpenedSeq2Seq, name: str) -> Seq2SeqBackend:
    """Build the backend ``name``. Raises `RequestError` for one that does not run encoder-decoders."""
    if name not in BACKENDS:
        raise RequestError(f"backend: encoder-decoders run on {', '.join(BACKENDS)}, not on {name[:40]!r}")
    from miaotui.backends.reference.seq2seq import ReferenceSeq2Seq  # noqa: PLC0415  (only the chosen one)

    return ReferenceSeq2Seq(opened.config, opened.weights)
