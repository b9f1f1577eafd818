"""``miaotui serve``: a server of models.

Owns the order of a start: what can be wrong is checked first, then models load in a thread while the HTTP libraries are
imported. Prints when the server is ready, what it can promise and how to call it. Knows no route.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from miaotui.backends.build_seq2seq import Seq2SeqOptions
from miaotui.backends.options import EncoderOptions, EngineOptions
from miaotui.cli.advice.memory import memory_note
from miaotui.cli.options.parser import parse
from miaotui.cli.options.serve import option_names
from miaotui.cli.output import messages
from miaotui.cli.output.progress import ProgressBars
from miaotui.encoders.runtime import EncoderDescription, describe_encoder, run_encoder
from miaotui.engine.jobs.admission import QueueLimits
from miaotui.errors import RequestError
from miaotui.hub.catalog import DEFAULT_MODEL
from miaotui.hub.ensemble import is_ensemble
from miaotui.hub.resolve import resolve
from miaotui.kernels.linear.formats import WANTED, Format
from miaotui.libraries import need
from miaotui.llm import is_seq2seq_folder
from miaotui.model.seq2seq.opened import is_speech
from miaotui.runtime import ModelOptions, open_seq2seq_model, open_served_model, open_speech_model
from miaotui.serve.config_file import read_config
from miaotui.serve.http.listener import bind, url_of
from miaotui.serve.settings import ServeSettings

if TYPE_CHECKING:
    from miaotui.engine.model_loop import ModelLoop
    from miaotui.engine.seq2seq.loop import Seq2SeqLoop
    from miaotui.serve.encoders.registry import EncoderEntry
    from miaotui.serve.services import Services
    from miaotui.served_model import ServedModel
    from miaotui.speech.model import SpeechModel

_SERVER = "miaotui.serve.start"
COLLECTED_AFTER = 10_000  # objects more than before


def serve(parsed: argparse.Namespace) -> int:
    """Serve until a signal and return the exit status."""
    options = options_from(parsed).checked()
    listening = bind(options.host, options.port)
    with listening, ProgressBars() as progress:
        opened = _open_beside_imports(options, progress)
        progress.close()
        start = importlib.import_module(_SERVER)
        importlib.import_module("miaotui.serve.ops.logs").set_up_logs(options.log_format, options.log_level)
        url = url_of(listening, options.host, options.tls)

        def ready(services: Services) -> None:
            gc.freeze()  # what start-up made stays: collections need not look at it again
            gc.set_threshold(COLLECTED_AFTER)  # most of what a step makes is gone by its end
            others = [*services.seq2seq, *services.speech]
            text = opening(url, services.models, others, options, late=[*services.encoders])
            print(text, file=sys.stderr, flush=True)

        run = importlib.import_module("miaotui.serve.http.server").run
        models = opened.chats, opened.encoders
        run(start.serve(*models, options, listening, ready, seq2seq=opened.targets, speech=opened.speech))
    return 0


def options_from(parsed: argparse.Namespace) -> ServeSettings:
    """Return the settings of a command line and its configuration file; the command line goes first.

    Raises `RequestError` for a file that is wrong.
    """
    given = vars(parsed)
    if given.get("config") is not None:
        given = {**_from_file(Path(given["config"])), **_without_empty(given)}
    words = tuple(given.get("words") or (DEFAULT_MODEL,))
    names = {field.name for field in fields(ServeSettings)}
    values = {name: value for name, value in given.items() if name in names}
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    return replace(ServeSettings(**values), models=words)


def opening(
    url: str, models: Mapping[str, ServedModel], others: Iterable[str], options: ServeSettings, late: Sequence[str] = ()
) -> str:
    """Return what is printed when the server is ready: its address, its promise, how to call it.

    ``late`` are models that are loaded when they are first used.
    """
    names, served = list(models), [*models, *others, *late]
    if not names:
        note = messages.LOADED_LATE(models=", ".join(late)) if late else ""
        return messages.SERVING_ENCODERS(url=url, models=", ".join(served), late=note)
    promise = promised(models[names[0]])
    if len(names) > 1:
        promise = f"{names[0]}: {promise}"
    shown = "YOUR-KEY" if options.has_keys else "none"
    fields_ = {"url": url, "model": names[0], "key": shown, "promise": promise}
    header = '\n  -H "Authorization: Bearer YOUR-KEY" \\' if options.has_keys else ""
    notes = [memory_note(name, model.loop.engine.backend.stats().weight_bytes) for name, model in models.items()]
    lines = [
        *filter(None, notes),
        messages.SERVING(models=", ".join(served), **fields_),
        messages.HOW_TO_CALL(header=header, **fields_),
    ]
    return "\n".join(lines)


def promised(model: ServedModel) -> str:
    """Return what this machine can promise with that model, in the user's language."""
    if not model.loop.can_promise:
        return messages.NO_PROMISE()
    capacity = model.loop.capacity()
    text = messages.PROMISE(tokens=capacity.answer_tokens, seconds=f"{capacity.alone_s:.1f}")
    if capacity.people > 1:
        within = f"{capacity.within_s:g}"
        text += messages.PROMISE_PEOPLE(people=capacity.people, seconds=within)
    return text


def _from_file(path: Path) -> dict[str, Any]:
    flags, others = option_names()
    words = read_config(path, flags, others)
    try:
        return vars(parse(["serve", *words]))
    except SystemExit as error:  # the reason was printed as for a command line
        raise RequestError(f"the configuration is {path}; correct it there") from error


def _without_empty(given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name != "words" or value}


@dataclass
class _Opened:
    """Models of a server: those that run; encoders are only looked at."""

    chats: dict[str, ModelLoop] = field(default_factory=dict)
    targets: dict[str, Seq2SeqLoop] = field(default_factory=dict)
    speech: dict[str, SpeechModel] = field(default_factory=dict)
    encoders: list[EncoderEntry] = field(default_factory=list)


def _open_beside_imports(options: ServeSettings, progress: ProgressBars) -> _Opened:
    """Open all models in a thread while this one imports the HTTP libraries."""
    opened = _Opened()
    encoders: dict[str, EncoderDescription] = {}
    failures: list[BaseException] = []

    def load() -> None:
        try:
            for name, model in options.named_models.items():
                path = resolve(model, progress=progress)
                if is_speech(path):  # first: CTranslate2's folders say too little for the other questions
                    opened.speech[name] = _open_speech(path, options, progress)
                    continue
                found = None if is_ensemble(path) else describe_encoder(path, _encoder_options(options))
                if found is not None:
                    encoders[name] = found
                elif is_seq2seq_folder(path):
                    opened.targets[name] = _open_targets(path, options, progress)
                else:
                    opened.chats[name] = open_served_model(path, _model_options(options), progress=progress)
        except BaseException as error:  # raised again in the thread that waits
            failures.append(error)

    thread = threading.Thread(target=load, name="miaotui-load", daemon=True)
    thread.start()
    importlib.import_module(_SERVER)
    thread.join()
    if failures:
        raise failures[0]
    opened.encoders += [_entry(name, found, options) for name, found in encoders.items()]
    return opened


def _open_targets(path: Path, options: ServeSettings, progress: ProgressBars) -> Seq2SeqLoop:
    """Open an encoder-decoder."""
    return open_seq2seq_model(path, _seq2seq_options(options), queue=_queue_limits(options), progress=progress)


def _open_speech(path: Path, options: ServeSettings, progress: ProgressBars) -> SpeechModel:
    """Open a speech model, and what reads recordings: it is not to be missed at the first request."""
    from miaotui.speech.model import SpeechModel

    for library in ("av", "python_multipart", "websockets"):
        need(library)
    loop = open_speech_model(path, _seq2seq_options(options), queue=_queue_limits(options), progress=progress)
    return SpeechModel(loop, owns_loop=True)


def _seq2seq_options(options: ServeSettings) -> Seq2SeqOptions:
    form = "q4" if options.format == "q4" else "q8"
    backend = "reference" if options.backend == "reference" else "cpu"
    return Seq2SeqOptions(backend=backend, format=form, threads=options.threads)


def _queue_limits(options: ServeSettings) -> QueueLimits:
    return QueueLimits(options.max_requests, 4 * options.max_tokens)


def _entry(name: str, found: EncoderDescription, options: ServeSettings) -> EncoderEntry:
    """Return an encoder that the server loads when it is first used."""
    from miaotui.serve.encoders.registry import EncoderEntry

    chosen, queue = _encoder_options(options), _queue_limits(options)
    return EncoderEntry(
        name, found.abilities, found.max_tokens, found.size_bytes, lambda: run_encoder(found.path, chosen, queue=queue)
    )


def _encoder_options(options: ServeSettings) -> EncoderOptions:
    return EncoderOptions(
        format=None if options.format is None else Format.Q4 if options.format == "q4" else Format.Q8,
        threads=options.threads,
        pooling=options.pooling,  # type: ignore[arg-type]  # `EncoderOptions` refuses other words
        backend="reference" if options.backend == "reference" else "cpu",
    )


def _model_options(options: ServeSettings) -> ModelOptions:
    engine = EngineOptions(
        format=None if options.format is None else WANTED[options.format],
        kv="int8" if options.kv == "int8" else "f16",
        threads=options.threads,
        context=options.context,
        max_sequences=options.max_running,
        backend=options.backend,  # type: ignore[arg-type]  # `EngineOptions` refuses other words
        stages=options.stages,
        stage_at=options.stage_at,
        stage_key_file=options.stage_key_file,
    )
    return ModelOptions(engine, not options.no_speculate)
