"""Choice of an encoder-decoder's backend by its name. Imports only the one that is chosen."""

from __future__ import annotations

from dataclasses import dataclass

from miaotui.backends.seq2seq_backend import Seq2SeqBackend
from miaotui.config import Settings
from miaotui.errors import RequestError
from miaotui.model.seq2seq.opened import OpenedSeq2Seq
from miaotui.types import Progress

BACKENDS = ("cpu", "reference")
FORMATS = ("q8", "q4", "f32")


@dataclass(frozen=True, kw_only=True)
class Seq2SeqOptions:
    """Options of an encoder-decoder: its backend, the format of weights stored as floats, and threads.

    Raises `RequestError` for values that there are not.
    """

    backend: str = "cpu"
    format: str = "q8"
    threads: int | None = None

    def __post_init__(self) -> None:
        for name, known in (("backend", BACKENDS), ("format", FORMATS)):
            value = getattr(self, name)
            if value not in known:
                raise RequestError(f"{name}: encoder-decoders have {', '.join(known)}, not {str(value)[:40]!r}")
        if self.threads is not None and (type(self.threads) is not int or self.threads < 1):
            raise RequestError(f"threads: it must be at least 1, not {str(self.threads)[:40]}")


def build_seq2seq_backend(
    opened: OpenedSeq2Seq, options: Seq2SeqOptions, settings: Settings, progress: Progress | None = None
) -> Seq2SeqBackend:
    """Build the backend that ``options`` name. Raises a `MiaotuiError`."""
    if options.backend == "reference":
        from miaotui.backends.reference.seq2seq import ReferenceSeq2Seq  # noqa: PLC0415  (only the chosen one)

        return ReferenceSeq2Seq(opened.config, opened.weights)
    from miaotui.backends.cpu.seq2seq.build import build_seq2seq  # noqa: PLC0415  (imports the compiler)
    from miaotui.kernels.linear.formats import Format  # noqa: PLC0415  (only the compiled one has formats)

    form = Format(options.format)
    return build_seq2seq(opened, settings, form=form, threads=options.threads, progress=progress)
