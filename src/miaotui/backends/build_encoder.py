"""Choice of an encoder's backend by its name in the options, also for a decoder that is used as an encoder.

Imports only the one that is chosen. Lies apart from `backends.build`, so that a start without an encoder imports none
of this.
"""

from __future__ import annotations

from pathlib import Path

from miaotui.backends.decoder_states import DecoderStates
from miaotui.backends.encoder_backend import EncoderBackend, EncoderLimits
from miaotui.backends.options import EncoderOptions, EngineOptions
from miaotui.config import Settings
from miaotui.kernels.linear.formats import Format
from miaotui.libraries import missing
from miaotui.model.encoder.container import OpenedEncoder
from miaotui.model.reading.files import ModelFiles
from miaotui.schedule.plan import PAGE_SIZE
from miaotui.types import Progress

DECODER_ROWS = 512  # of a pass of a decoder that is used as an encoder
SHORT_TEXTS = 64  # for which such a decoder has pages beside a long one
PASS_ROWS = 1024  # of an encoder's pass, where its options lower or raise what a text may have


def build_encoder_backend(
    path: Path, opened: OpenedEncoder, options: EncoderOptions, settings: Settings, progress: Progress | None = None
) -> EncoderBackend:
    """Build the backend that ``options`` name for the encoder at ``path``. Raises a `MiaotuiError`."""
    tokens = min(options.max_tokens or opened.config.max_tokens, opened.config.max_tokens)
    limits = None
    if options.max_tokens is not None or options.rows is not None:
        limits = EncoderLimits(max(options.rows or PASS_ROWS, tokens), tokens)
    if options.backend == "reference":
        from miaotui.backends.reference.encoder import ReferenceEncoder  # noqa: PLC0415  (only the chosen one)

        return ReferenceEncoder(opened.config, opened.weights, limits)
    try:
        from miaotui.backends.cpu.encoder.build import build_encoder  # noqa: PLC0415  (as above)
    except ModuleNotFoundError as error:
        raise missing(error.name or "") from error
    form = options.format or Format.Q8
    return build_encoder(
        path,
        opened,
        settings,
        form=form,
        threads=options.threads,
        limits=limits,
        progress=progress,
        wide=options.activations == "int16",
    )


def build_decoder_states(
    path: Path,
    files: ModelFiles,
    tokens: int,
    options: EncoderOptions,
    settings: Settings,
    progress: Progress | None = None,
) -> EncoderBackend:
    """Build the backend of a decoder at ``path`` that is used as an encoder, for texts of ``tokens``.

    Raises a `MiaotuiError`.
    """
    rows = min(options.rows or DECODER_ROWS, tokens)
    engine = EngineOptions(
        format=options.format,
        threads=options.threads,
        context=tokens,
        kv_tokens=tokens + PAGE_SIZE * SHORT_TEXTS,
        max_sequences=1,
        chunk_size=rows,
        most_passes=1,
        backend=options.backend,
    )
    if options.backend == "reference":
        from miaotui.backends.reference.build import assemble as assemble_reference  # noqa: PLC0415  (rare)

        backend = assemble_reference(files.config, files.tensors, engine).backend
    else:
        from miaotui.backends.cpu.build import build_from_files  # noqa: PLC0415  (imports the compiler)

        backend = build_from_files(path, files, engine, settings, progress).backend
    bias = files.tensors.get("final_norm_bias")
    norm = files.tensors["final_norm"].float32().reshape(-1)
    return DecoderStates(backend, files.config, tokens, norm, None if bias is None else bias.float32().reshape(-1))
