"""What a server has beside its models: a cache of answers, a customer service.

Owns how they are made from the server's options. Knows no route. Invariant: near matching is on only
with a rule that was calibrated here to the operator's bound; the log says why it is not.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from miaotui.config import Settings
from miaotui.retrieval.answers.cache import AnswerCache, CacheOptions
from miaotui.retrieval.answers.calibrate import NearRule, calibrate, read_pairs
from miaotui.retrieval.answers.pairs import make_pairs, sample_questions
from miaotui.serve.documents.support import KEY as SUPPORT
from miaotui.serve.options import ServeOptions
from miaotui.serve.response_cache import KEY as ANSWERS
from miaotui.serve.response_cache import model_digest
from miaotui.serve.served_model import ServedModel
from miaotui.serve.text_model import ServedTextModel

MADE_PAIRS = "made"  # instead of a file of pairs
_LOG = logging.getLogger("miaotui.serve")


def applications(options: ServeOptions, hosts: Mapping[str, ServedModel]) -> dict[str, Any]:
    """The state's extras that these options ask for. Call it in the event loop.

    Raises a `MiaotuiError` for files that cannot be used.
    """
    extras: dict[str, Any] = {}
    if options.answer_cache is not None:
        extras[ANSWERS] = open_answers(options)
    if options.support_faq or options.support_docs or options.support_rules:
        extras[SUPPORT] = open_support(options, hosts, extras.get(ANSWERS))
    return extras


def open_answers(options: ServeOptions) -> AnswerCache:
    """The cache of answers."""
    near = None
    if options.near_answers is not None:
        near = near_rule(options.near_answers, options.near_bound)
    kept = CacheOptions(
        Path(options.answer_cache or ""), options.answer_cache_mb << 20, 3600.0 * options.answer_cache_hours, near
    )
    return AnswerCache(kept)


def near_rule(pairs: str, bound: float) -> NearRule | None:
    """The rule that labelled pairs (a file's, or made ones) allow; None, and a warning, if none."""
    made = pairs == MADE_PAIRS
    labelled = make_pairs(sample_questions()) if made else read_pairs(Path(pairs))
    outcome = calibrate(labelled, bound)
    (_LOG.info if outcome.rule is not None else _LOG.warning)("answer cache: %s", outcome.reason)
    return outcome.rule


def open_support(options: ServeOptions, hosts: Mapping[str, ServedModel], cache: AnswerCache | None) -> Any:
    """The customer service, answering with the first model."""
    from miaotui.apps.conversations import ConversationStore  # noqa: PLC0415  (few servers have one)
    from miaotui.apps.faq import Faq, read_faq  # noqa: PLC0415
    from miaotui.apps.qa_pipeline import QaPipeline  # noqa: PLC0415
    from miaotui.apps.rules import DEFAULT_RULES, read_rules  # noqa: PLC0415
    from miaotui.apps.support import Support  # noqa: PLC0415
    from miaotui.retrieval.index.index import Index  # noqa: PLC0415

    faq = Faq(read_faq(Path(options.support_faq))) if options.support_faq else None
    rules = read_rules(Path(options.support_rules)) if options.support_rules else DEFAULT_RULES
    desk = None
    if options.support_docs:
        hosted = next(iter(hosts.values()))
        index = Index.open(options.support_docs)
        desk = QaPipeline(index, ServedTextModel(hosted), cache or AnswerCache(), model_digest(hosted))
    place = options.support_store
    path = Path(place) if place else Settings.from_env().folder("support") / "server.db"
    store = ConversationStore(path)
    return Support(store, rules=rules, faq=faq, desk=desk, index=options.support_docs or "")
