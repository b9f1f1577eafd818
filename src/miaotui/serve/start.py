"""A whole server, made from its options: keys, models, parts, application.

Owns the order in which a server is put together; every part of `Services` is made here, once. Knows neither the
command line nor any route. Invariants: layers go around everything from outside in (account, key, body, route); similar
questions share an answer only under a rule that was calibrated here to the operator's bound, and the log says why there
is none.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Mapping
from pathlib import Path

from starlette.middleware import Middleware

from miaotui.apps.conversations import ConversationStore
from miaotui.apps.faq import Faq, read_faq
from miaotui.apps.qa_pipeline import QaPipeline
from miaotui.apps.rules import DEFAULT_RULES, read_rules
from miaotui.apps.support import Support
from miaotui.config import Settings
from miaotui.engine.loaded import Loaded
from miaotui.retrieval.answers.cache import AnswerCache, CacheOptions
from miaotui.retrieval.answers.calibrate import NearRule, calibrate, read_pairs
from miaotui.retrieval.answers.pairs import make_pairs, sample_questions
from miaotui.retrieval.index.index import Index
from miaotui.schedule.promises.admission import AdmissionLimits
from miaotui.serve.app import create_app
from miaotui.serve.http.lifecycle import run_server
from miaotui.serve.middleware.accounting import Accounting
from miaotui.serve.middleware.auth import AccessPolicy, Auth
from miaotui.serve.middleware.keys import Keyring
from miaotui.serve.models import ServedModels
from miaotui.serve.ops.audit import AuditLog
from miaotui.serve.ops.operations import Operations
from miaotui.serve.ops.traces import open_traces
from miaotui.serve.options import ServeOptions
from miaotui.serve.response_cache import model_digest
from miaotui.serve.served_model import ServedModel
from miaotui.serve.services import Services
from miaotui.serve.settings import ServeSettings
from miaotui.serve.text_model import ServedTextModel

MADE_PAIRS = "made"  # instead of a file of labelled pairs
_LOG = logging.getLogger("miaotui.serve")


async def serve(
    loaded: Mapping[str, Loaded],
    options: ServeOptions,
    listening: socket.socket,
    on_ready: Callable[[ServedModels], None] = lambda models: None,
) -> None:
    """Serve these models until a signal, then finish and close. Raises a `MiaotuiError`."""
    services = open_services(loaded, options)
    try:
        await run_server(
            create_app(services, layers_for(options, services.operations)),
            services.operations,
            listening,
            drain_timeout_s=options.drain_timeout,
            tls=options.tls,
            on_ready=lambda: on_ready(services.models),
        )
    finally:
        services.close()


def open_services(loaded: Mapping[str, Loaded], options: ServeOptions) -> Services:
    """Make all parts of a server. Call it in the event loop. Raises a `MiaotuiError` for unusable files."""
    models = ServedModels()
    audit = None if options.audit_log is None else AuditLog(Path(options.audit_log))
    operations = Operations(models, audit=audit, traces=open_traces())
    for name, model in loaded.items():
        served = ServedModel(name, model, operations.watch, not options.no_speculate)
        served.loop.admission.limits = AdmissionLimits(options.max_requests, options.max_tokens)
        models.add(served)
    response_cache = open_response_cache(options)
    operations.gauges.answers = response_cache
    return Services(
        models=models,
        settings=ServeSettings(deadline_ms=_milliseconds(options.deadline)),
        operations=operations,
        response_cache=response_cache,
        support=open_support(options, models, response_cache),
    )


def layers_for(options: ServeOptions, operations: Operations) -> list[Middleware]:
    """Return the layers around the routes, outermost first."""
    keyring = None
    if options.api_key_file is not None:
        keyring = Keyring(Path(options.api_key_file), share_prefix=options.share_prefix, on_error=_LOG.error)
    hosts = {host.lower().rstrip(".") for host in (options.host, *options.allowed_host)}
    policy = AccessPolicy(frozenset(hosts), frozenset(origin.lower() for origin in options.cors_origin))
    return [
        Middleware(Accounting, listeners=operations.listeners),
        Middleware(Auth, policy=policy, keyring=keyring, is_draining=lambda: operations.is_draining),
    ]


def open_response_cache(options: ServeOptions) -> AnswerCache | None:
    """Open the cache of answers; None unless the options name its file."""
    if options.answer_cache is None:
        return None
    rule = None
    if options.near_answers is not None:
        rule = near_rule(options.near_answers, options.near_bound)
    max_bytes, max_age_s = options.answer_cache_mb << 20, 3600.0 * options.answer_cache_hours
    return AnswerCache(CacheOptions(Path(options.answer_cache), max_bytes, max_age_s, rule))


def near_rule(pairs: str, bound: float) -> NearRule | None:
    """Return the rule that labelled pairs (a file's, or made ones) allow; None, with a warning, if they allow none."""
    made = pairs == MADE_PAIRS
    labelled = make_pairs(sample_questions()) if made else read_pairs(Path(pairs))
    outcome = calibrate(labelled, bound)
    (_LOG.info if outcome.rule is not None else _LOG.warning)("answer cache: %s", outcome.reason)
    return outcome.rule


def open_support(options: ServeOptions, models: ServedModels, cache: AnswerCache | None) -> Support | None:
    """Open the customer service, which answers with the first model; None unless the options describe one."""
    if not (options.support_faq or options.support_docs or options.support_rules):
        return None
    faq = Faq(read_faq(Path(options.support_faq))) if options.support_faq else None
    rules = read_rules(Path(options.support_rules)) if options.support_rules else DEFAULT_RULES
    pipeline = None
    if options.support_docs:
        model = models.find(None)
        index = Index.open(options.support_docs)
        pipeline = QaPipeline(index, ServedTextModel(model), cache or AnswerCache(), model_digest(model))
    place = options.support_store
    path = Path(place) if place else Settings.from_env().folder("support") / "server.db"
    return Support(ConversationStore(path), rules=rules, faq=faq, desk=pipeline, index=options.support_docs or "")


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000
