"""The one place where a model's parts are wired together: from a name to a running `EngineLoop`.

Owns the order: find the files, read what belongs to the text, pack the weights and compile the kernels, add the
speculation, start the loop. Everything that runs a model begins here: `LLM`, `AsyncLLM`, the server, the
applications. Knows no prompts. Invariant: either everything is open, or nothing is.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from miaotui.backends.build import build_backend, reference_sampling
from miaotui.backends.options import EngineOptions
from miaotui.config import Settings
from miaotui.engine.engine import Engine
from miaotui.engine.loaded_model import LoadedModel
from miaotui.engine.loop import EngineLoop
from miaotui.engine.speculator import Speculator
from miaotui.errors import UnsupportedModelError
from miaotui.hub.ensemble import is_ensemble
from miaotui.hub.resolve import resolve
from miaotui.model.reading import files
from miaotui.text.chat import ChatEncoder
from miaotui.text.load import load_chat_template, load_tokenizer
from miaotui.types import Progress

if TYPE_CHECKING:
    from miaotui.backends.build_seq2seq import Seq2SeqOptions
    from miaotui.engine.engine import RequestPreparation
    from miaotui.engine.jobs.admission import QueueLimits
    from miaotui.engine.model_loop import ModelLoop
    from miaotui.engine.remote.loop import RemoteModel
    from miaotui.engine.seq2seq.loop import Seq2SeqLoop
    from miaotui.engine.speech.loaded import SpeechLoop, SpeechText


@dataclass(frozen=True)
class ModelOptions:
    """Options of opening a model: the sizes and formats of its engine, and whether likely tokens are tried together."""

    engine: EngineOptions = field(default_factory=EngineOptions)
    speculate: bool = True


def open_model(
    model: str | os.PathLike[str],
    options: ModelOptions | None = None,
    *,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> EngineLoop:
    """Open a model by catalog name, GGUF file, folder of safetensors, or Hugging Face repository id, and start it.

    Close the loop to give the memory back. Raises a `MiaotuiError`.
    """
    options, settings = options or ModelOptions(), settings or Settings.from_env()
    path = resolve(model, progress=progress, settings=settings)
    return start(load_model(path, options.engine, settings, progress), options, settings, progress)


def open_served_model(
    model: str | os.PathLike[str],
    options: ModelOptions | None = None,
    *,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> ModelLoop:
    """Open a model as `open_model` does, or with the engine of another maker that the options name."""
    options, settings = options or ModelOptions(), settings or Settings.from_env()
    if options.engine.backend == "vllm":
        from miaotui.engines.vllm.build import open_vllm  # noqa: PLC0415  (only these models)

        return open_vllm(resolve(model, progress=progress, settings=settings), options.engine)
    if options.engine.backend != "openvino":
        return open_model(model, options, settings=settings, progress=progress)
    from miaotui.engines.openvino.build import open_openvino  # noqa: PLC0415  (only these models)

    return open_openvino(resolve(model, progress=progress, settings=settings), options.engine, settings)


def load_model(path: Path, options: EngineOptions, settings: Settings, progress: Progress | None = None) -> LoadedModel:
    """Load the model at ``path`` (see `resolve`) without running it. Raises a `MiaotuiError`."""
    if is_ensemble(path):
        return _load_ensemble(path, options, settings, progress)
    with files.open_model(path) as opened:
        config = opened.config.for_context(options.context)
        tokenizer = load_tokenizer(opened.metadata, opened.folder)
        template = load_chat_template(opened.metadata, opened.folder)
    chat = ChatEncoder(template, tokenizer)
    if config.masked is not None:
        from miaotui.dmlm.engine import masked_parts, sized_for  # noqa: PLC0415  (only these models)

        parts = build_backend(path, config, sized_for(config.masked, options), settings, progress)
        return LoadedModel(path, config, tokenizer, chat, masked_parts(parts, config.masked))
    return LoadedModel(path, config, tokenizer, chat, build_backend(path, config, options, settings, progress))


def _load_ensemble(path: Path, options: EngineOptions, settings: Settings, progress: Progress | None) -> LoadedModel:
    """Load the members of an ensemble; tokenizer and chat template are the first one's.

    Raises `UnsupportedModelError` for members that cannot share a vocabulary.
    """
    from miaotui.backends.build_ensemble import MemberFiles, build_ensemble  # noqa: PLC0415  (only these models)
    from miaotui.hub.ensemble import read_ensemble  # noqa: PLC0415  (only these models)
    from miaotui.text.tokenizers.comparison import same_tokens  # noqa: PLC0415  (only these models)

    members: list[MemberFiles] = []
    first: tuple[str, ChatEncoder] | None = None
    for member in read_ensemble(path):
        place = resolve(member.model, progress=progress, settings=settings)
        with files.open_model(place) as opened:
            tokenizer = load_tokenizer(opened.metadata, opened.folder)
            template = load_chat_template(opened.metadata, opened.folder)
        if opened.config.masked is not None:
            raise UnsupportedModelError(f"{member.model} restores masked tokens: leave it out of the ensemble")
        if first is None:
            first = member.model, ChatEncoder(template, tokenizer)
        elif not same_tokens(first[1].tokenizer, tokenizer):
            raise UnsupportedModelError(
                f"{member.model} has another tokenizer than {first[0]}, so that their probabilities are of other "
                "tokens: choose members of one tokenizer"
            )
        elif opened.config.vocab_size < members[0].config.vocab_size:
            raise UnsupportedModelError(f"{member.model} has fewer rows of tokens than {first[0]}: name it first")
        members.append(MemberFiles(place, opened.config, member.weight))
    assert first is not None, "an ensemble has members"
    built = build_ensemble(members, options, settings, progress)
    return LoadedModel(path, members[0].config, first[1].tokenizer, first[1], built)


def open_remote_model(path: Path, digest: str, context: int | None = None) -> tuple[RemoteModel, RequestPreparation]:
    """Read what belongs to the text of the model at ``path``, which engines in other processes compute.

    ``digest`` is that of its files; ``context`` is what the engines hold, in tokens (None: what the model holds).
    Raises a `MiaotuiError`.
    """
    from miaotui.engine.engine import RequestPreparation  # noqa: PLC0415  (only these models)
    from miaotui.engine.remote.loop import RemoteModel  # noqa: PLC0415  (only these models)

    with files.open_model(path) as opened:
        config = opened.config.for_context(context)
        tokenizer = load_tokenizer(opened.metadata, opened.folder)
        template = load_chat_template(opened.metadata, opened.folder)
    holds = min(context or config.context_length, config.context_length)
    preparation = RequestPreparation(holds, config.vocab_size, tokenizer, reference_sampling())
    return RemoteModel(path, digest, config, tokenizer, ChatEncoder(template, tokenizer), holds), preparation


def open_seq2seq_model(
    model: str | os.PathLike[str],
    options: Seq2SeqOptions | None = None,
    *,
    queue: QueueLimits | None = None,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> Seq2SeqLoop:
    """Open an encoder-decoder by folder or Hugging Face repository id. ``queue`` bounds what may wait for it.

    Close the loop to give the memory back. Raises a `MiaotuiError`.
    """
    from miaotui.backends.build_seq2seq import Seq2SeqOptions, build_seq2seq_backend  # noqa: PLC0415  (rarely needed)
    from miaotui.engine.seq2seq.loaded import LoadedSeq2Seq  # noqa: PLC0415  (only these models)
    from miaotui.engine.seq2seq.loop import Seq2SeqLoop  # noqa: PLC0415  (only these models)
    from miaotui.model.seq2seq.opened import open_seq2seq, task_prefixes  # noqa: PLC0415  (only these models)
    from miaotui.text.seq2seq.load import load_seq2seq_tokenizer  # noqa: PLC0415  (only these models)

    settings = settings or Settings.from_env()
    path = resolve(model, progress=progress, settings=settings)
    opened = open_seq2seq(path)
    config, generation = opened.config, opened.generation
    if config.mel_bins:
        raise UnsupportedModelError(f"{path} is a speech model: load it with miaotui.load_speech")
    tokenizer = load_seq2seq_tokenizer(path, config.architecture, generation.eos_ids, config.source_vocab_size)
    backend = build_seq2seq_backend(opened, options or Seq2SeqOptions(), settings, progress)
    try:
        prefixes = task_prefixes(opened.values)
        return Seq2SeqLoop(LoadedSeq2Seq(path, config, generation, tokenizer, backend, prefixes), queue)
    except BaseException:
        backend.close()
        raise


def open_speech_model(
    model: str | os.PathLike[str],
    options: Seq2SeqOptions | None = None,
    *,
    queue: QueueLimits | None = None,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> SpeechLoop:
    """Open a speech model by catalog name, folder or Hugging Face repository id. ``queue`` bounds what may wait for it.

    Close the loop to give the memory back. Raises a `MiaotuiError`.
    """
    from miaotui.backends.build_seq2seq import Seq2SeqOptions, build_seq2seq_backend  # noqa: PLC0415  (rarely needed)
    from miaotui.engine.speech.loaded import LoadedSpeech, SpeechLoop  # noqa: PLC0415  (only these models)
    from miaotui.model.seq2seq.opened import is_speech, open_seq2seq  # noqa: PLC0415  (only these models)
    from miaotui.text.speech.tokenizer import load_speech_tokenizer  # noqa: PLC0415  (only these models)

    settings = settings or Settings.from_env()
    path = resolve(model, progress=progress, settings=settings)
    if not is_speech(path):
        raise UnsupportedModelError(
            f"{path} holds no speech model: name one, such as whisper-base, or load this one with miaotui.load, "
            "miaotui.load_encoder or miaotui.load_seq2seq"
        )
    opened = open_seq2seq(path)
    config = opened.config
    tokenizer = load_speech_tokenizer(path, config.vocab_size, config.encoder.max_tokens)
    backend = build_seq2seq_backend(opened, options or Seq2SeqOptions(), settings, progress)
    try:
        name = os.path.basename(os.fspath(model).rstrip("/")) or path.name
        return SpeechLoop(LoadedSpeech(name, path, config, tokenizer, opened.alignment_heads, backend), queue)
    except BaseException:
        backend.close()
        raise


def open_speech_text(name: str, path: Path) -> SpeechText:
    """Read all of the speech model at ``path`` but its weights: its windows are computed in other processes.

    Raises a `MiaotuiError`.
    """
    from miaotui.engine.speech.loaded import SpeechText  # noqa: PLC0415  (only these models)
    from miaotui.model.seq2seq.opened import open_seq2seq  # noqa: PLC0415  (only these models)
    from miaotui.text.speech.tokenizer import load_speech_tokenizer  # noqa: PLC0415  (only these models)

    opened = open_seq2seq(path)
    tokenizer = load_speech_tokenizer(path, opened.config.vocab_size, opened.config.encoder.max_tokens)
    return SpeechText(name, path, opened.config, tokenizer, opened.alignment_heads)


def start(
    model: LoadedModel, options: ModelOptions, settings: Settings, progress: Progress | None = None
) -> EngineLoop:
    """Start a loaded model. Raises `ModelFormatError` for a draft head that cannot be read."""
    try:
        drafts = options.speculate and model.parts.backend.capabilities.drafts
        speculation = _speculation(model, settings, progress) if drafts else None
        if model.config.masked is not None:
            from miaotui.dmlm.engine import MaskedEngine  # noqa: PLC0415  (only these models)

            return EngineLoop(MaskedEngine(model.parts, model.tokenizer, model.config.masked), model)
        return EngineLoop(Engine(model.parts, model.tokenizer, speculation), model)
    except BaseException:
        model.close()
        raise


def _speculation(model: LoadedModel, settings: Settings, progress: Progress | None) -> Speculator:
    from miaotui.speculation.drafters.head import head_for  # noqa: PLC0415  (compiled code, that not all backends need)
    from miaotui.speculation.drafters.suffix import suffix_speculation  # noqa: PLC0415  (only with drafts)

    return suffix_speculation(progress, head_for(model.parts.backend, settings))
