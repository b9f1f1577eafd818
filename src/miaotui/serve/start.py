"""A whole server, made from its settings: keys, models, parts, application.

Owns the order in which a server is put together; every part of `Services` is made here, once. Knows neither the
command line nor any route. Invariants: layers go around everything from outside in (access, body, route); similar
questions share an answer only under a rule that was calibrated here to the operator's bound, and the log says why there
is none.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from starlette.middleware import Middleware

from miaotui.apps.conversations import ConversationStore
from miaotui.apps.dialogue.files import load_tracker
from miaotui.apps.faq import Faq, read_faq
from miaotui.apps.meaning.encoders import find_encoders
from miaotui.apps.qa_pipeline import QaPipeline
from miaotui.apps.rules import DEFAULT_RULES, read_rules
from miaotui.apps.support import Support
from miaotui.config import Settings
from miaotui.engine.model_loop import ModelLoop
from miaotui.engine.seq2seq.loop import Seq2SeqLoop
from miaotui.kernels.platform.bandwidth import remembered_bandwidth
from miaotui.llm import LLM
from miaotui.retrieval.answers.cache import AnswerCache, CacheOptions
from miaotui.retrieval.answers.calibrate import NearRule, calibrate, read_pairs
from miaotui.retrieval.answers.pairs import make_pairs, sample_questions
from miaotui.retrieval.index.index import Index
from miaotui.schedule.promises.admission import AdmissionLimits
from miaotui.sealing.master_keys import MasterKeys
from miaotui.serve import LOG
from miaotui.serve.adapters import load_adapters
from miaotui.serve.app import create_app
from miaotui.serve.console.routes import open_paths
from miaotui.serve.documents.meaning import MeaningService
from miaotui.serve.encoders.registry import EncoderEntry, EncoderRegistry
from miaotui.serve.http.server import run_server
from miaotui.serve.middleware.access import Access, AccessPolicy
from miaotui.serve.middleware.keys import Keyring, read_callers
from miaotui.serve.models import ObservedModel, ServedModels
from miaotui.serve.ops.audit import AuditLog
from miaotui.serve.ops.machine import memory_limit_bytes
from miaotui.serve.ops.operations import Operations
from miaotui.serve.ops.traces import open_traces
from miaotui.serve.seq2seq.models import Seq2SeqModels
from miaotui.serve.services import Services
from miaotui.serve.settings import ServeSettings
from miaotui.serve.speech.models import RunningRecogniser, SpeechModels
from miaotui.serve.tasks.heads import open_heads
from miaotui.serve.tenants.tenant_file import read_callers as read_tenant_callers

ENCODER_SHARE = 0.5  # of the memory that this process may hold, for weights of encoders
MADE_PAIRS = "made"  # instead of a file of labelled pairs


async def serve(
    loops: Mapping[str, ModelLoop],
    encoders: Iterable[EncoderEntry],
    settings: ServeSettings,
    listening: socket.socket,
    on_ready: Callable[[Services], None] = lambda services: None,
    *,
    seq2seq: Mapping[str, Seq2SeqLoop] | None = None,
    speech: Mapping[str, RunningRecogniser] | None = None,
) -> None:
    """Serve these models until a signal, then finish and close. Raises a `MiaotuiError`."""
    services = open_services(loops, settings, encoders, seq2seq, speech)
    try:
        await run_server(
            create_app(services, layers_for(settings, services.operations)),
            services.operations,
            listening,
            drain_timeout_s=settings.drain_timeout_s,
            tls=settings.tls,
            on_ready=lambda: on_ready(services),
        )
    finally:
        services.close()


def open_services(
    loops: Mapping[str, ModelLoop],
    settings: ServeSettings,
    encoders: Iterable[EncoderEntry] = (),
    seq2seq: Mapping[str, Seq2SeqLoop] | None = None,
    speech: Mapping[str, RunningRecogniser] | None = None,
) -> Services:
    """Make all parts of a server. Call it in the event loop. Raises a `MiaotuiError` for unusable files."""
    MasterKeys.from_env()  # a wrong one is known now, not when an index is opened
    registry = EncoderRegistry(encoders, encoder_budget_bytes(settings), chat_names=loops.keys)
    targets, recognisers = Seq2SeqModels(seq2seq), SpeechModels(speech)
    models = ServedModels(encoder_names=registry.keys, seq2seq_names=targets.keys, speech_names=recognisers.keys)
    audit = None
    if settings.audit_log is not None:
        audit = AuditLog(Path(settings.audit_log), settings.audit_log_mb << 20, settings.audit_log_files)
    operations = Operations(
        models, encoders=registry, seq2seq=targets, speech=recognisers, audit=audit, traces=open_traces()
    )
    limits = AdmissionLimits(settings.max_requests, settings.max_tokens)
    for name, loop in loops.items():
        models.add(ObservedModel(name, loop, operations.running, limits))
    if settings.adapter:
        load_adapters(models.find(None), settings.adapter, {*models, *registry})
    if settings.tiers:
        from miaotui.serve.tiers import read_tiers  # noqa: PLC0415  (reads report cards; few servers have tiers)

        models.add_groups(read_tiers(settings.tiers, models, _taken(registry, targets, recognisers, models)))
    if settings.route:
        from miaotui.serve.prompt_router import read_routes  # noqa: PLC0415  (knows languages; few servers route)

        models.add_groups(read_routes(settings.route, models, _taken(registry, targets, recognisers, models)))
    response_cache = open_response_cache(settings)
    operations.gauges.answers = response_cache
    operations.gauges.read_limit_bytes_per_s = _read_limit_bytes_per_s(loops.values())
    running: list[ModelLoop | Seq2SeqLoop] = [*loops.values(), *(seq2seq or {}).values()]
    meaning = open_meaning(settings, lambda: any(loop.in_flight for loop in running))
    services = Services(
        models=models,
        settings=settings,
        operations=operations,
        encoders=registry,
        seq2seq=targets,
        speech=recognisers,
        response_cache=response_cache,
        heads=open_heads(settings.head),
        support=open_support(settings, models, response_cache, meaning),
        meaning=meaning,
    )
    operations.gone_listeners.append(services.forget)
    return services


def _taken(*others: Iterable[str] | ServedModels) -> list[str]:
    """Return the names that are served already, adapters and groups included."""
    names = [name for each in others for name in each]
    return names + [model.name for each in others if isinstance(each, ServedModels) for model in each.all()]


def _read_limit_bytes_per_s(loops: Iterable[ModelLoop]) -> float | None:
    """Return what memory gives the compiled kernels' threads, measured once on a machine; None where none run."""
    stats = [loop.engine.backend.stats() for loop in loops if loop.engine.backend.identity.name == "cpu"]
    return 1e9 * remembered_bandwidth(max(each.threads for each in stats)) if stats else None


def encoder_budget_bytes(settings: ServeSettings) -> int | None:
    """Return the bytes of weights that loaded encoders may have together; None: as many as there are."""
    if settings.encoder_memory_mb is not None:
        return settings.encoder_memory_mb << 20
    limit = memory_limit_bytes()
    return None if limit is None else int(ENCODER_SHARE * limit)


def layers_for(settings: ServeSettings, operations: Operations) -> list[Middleware]:
    """Return the layers around the routes, outermost first."""
    keyring = open_keyring(settings, operations)
    hosts = {host.lower().rstrip(".") for host in (settings.host, *settings.allowed_host)}
    origins = frozenset(origin.lower() for origin in settings.cors_origin)
    policy = AccessPolicy(frozenset(hosts), origins, open_paths() if settings.console else frozenset())
    access = Middleware(
        Access,
        policy=policy,
        keyring=keyring,
        draining=operations,
        listeners=operations.listeners,
        closed=operations.closed,
    )
    return [access]


def open_keyring(settings: ServeSettings, operations: Operations) -> Keyring | None:
    """Open the file of keys or of tenants; None where no keys are needed. Raises `RequestError`."""
    path = settings.tenants or settings.api_key_file
    if path is None:
        return None
    operations.keyring = Keyring(
        Path(path),
        read=read_tenant_callers if settings.tenants else read_callers,
        share_prefix=settings.share_prefix,
        on_error=LOG.error,
        on_gone=operations.caller_gone,
    )
    return operations.keyring


def open_response_cache(settings: ServeSettings) -> AnswerCache | None:
    """Open the cache of answers; None unless the settings name its file."""
    if settings.answer_cache is None:
        return None
    rule = None
    if settings.near_answers is not None:
        rule = near_rule(settings.near_answers, settings.near_bound)
    max_bytes, max_age_s = settings.answer_cache_mb << 20, 3600.0 * settings.answer_cache_hours
    return AnswerCache(CacheOptions(Path(settings.answer_cache), max_bytes, max_age_s, rule))


def near_rule(pairs: str, bound: float) -> NearRule | None:
    """Return the rule that labelled pairs (a file's, or made ones) allow; None, with a warning, if they allow none."""
    made = pairs == MADE_PAIRS
    labelled = make_pairs(sample_questions()) if made else read_pairs(Path(pairs))
    outcome = calibrate(labelled, bound)
    (LOG.info if outcome.rule is not None else LOG.warning)("answer cache: %s", outcome.reason)
    return outcome.rule


def open_meaning(settings: ServeSettings, is_busy: Callable[[], bool]) -> MeaningService | None:
    """Open search by meaning; None where the embedder is not here, which is logged."""
    encoders = find_encoders(threads=settings.threads)
    if encoders is None:
        LOG.info("documents are searched by words alone. To search by meaning too: miaotui pull embedder")
        return None
    return MeaningService(encoders, is_busy)


def open_support(
    settings: ServeSettings, models: ServedModels, cache: AnswerCache | None, meaning: MeaningService | None = None
) -> Support | None:
    """Open the customer service, which answers with the first model; None unless the settings describe one."""
    if not (settings.support_faq or settings.support_docs or settings.support_rules):
        return None
    faq = Faq(read_faq(Path(settings.support_faq))) if settings.support_faq else None
    rules = read_rules(Path(settings.support_rules)) if settings.support_rules else DEFAULT_RULES
    pipeline = None
    if settings.support_docs:
        model = models.find(None)
        index = Index.open(settings.support_docs)
        if meaning is not None:
            meaning.load()
        searched = index if meaning is None else meaning.searchable(index)
        reranker = None if meaning is None else meaning.reranker
        pipeline = QaPipeline(searched, LLM(model.loop), cache or AnswerCache(), model.identity, reranker)
    place = settings.support_store
    path = Path(place) if place else Settings.from_env().folder("support") / "server.db"
    tracker = load_tracker(Path(settings.support_tracker)) if settings.support_tracker else None
    store, docs = ConversationStore(path), settings.support_docs or ""
    return Support(store, rules=rules, faq=faq, desk=pipeline, index=docs, tracker=tracker)
