"""The calls `classify`, `fit`, `sentiment` and `decide`: each opens the models that it needs and closes them after.

Owns the choice of engine and of model, which `explain` prints. Knows no arithmetic. Invariant: a model that a caller
gives stays open.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

from miaotui.backends.options import BackendName
from miaotui.encoder import Encoder, load_encoder
from miaotui.errors import FieldError
from miaotui.llm import LLM, load
from miaotui.tasks.classification import Classifier, Names
from miaotui.tasks.decisions.decider import Decider
from miaotui.tasks.decisions.decision import Decision, Questions
from miaotui.tasks.decisions.likeness import OTHER_SCRIPTS, OptionEncoder
from miaotui.tasks.decisions.questions import ChoiceQuestion
from miaotui.tasks.engine_table import ALLOWED_MS, EngineChoice, EngineName, choose_engine
from miaotui.tasks.heads.head import ClassifierHead
from miaotui.tasks.heads.head_file import load_head
from miaotui.tasks.result import LabelledText, Sentiment
from miaotui.tasks.sentiments import SentimentClassifier
from miaotui.tasks.vectors import listed
from miaotui.types import Progress

ENGLISH_ENCODER, OTHER_ENCODER = "all-minilm-l6-v2", "embedder"
SENTIMENT_ENCODER = "bge-small-en"  # for English; its embeddings tell opinions apart, `ENGLISH_ENCODER`'s topics
DECISION_MODEL = "qwen2.5-coder-0.5b"
SAMPLE = 200  # texts that are looked at for their script
Model = str | os.PathLike[str] | Encoder
Head = ClassifierHead | str | os.PathLike[str]


def classify(
    texts: str | Iterable[str],
    labels: Names | None = None,
    *,
    examples: Iterable[tuple[str, str]] | None = None,
    head: Head | None = None,
    model: Model | LLM | None = None,
    engine: EngineName | None = None,
    threshold: float = 0.0,
    deadline_ms: float | None = None,
) -> list[LabelledText]:
    """Return the label of each text, None where its probability is below ``threshold``.

    Give one of: ``labels``, names or names with descriptions, which need no examples; ``examples``, pairs of text and
    label; ``head``, one that `fit` made or its file. ``engine`` is ``head``, ``similarity`` or ``logits``; None: chosen
    by ``model``, an encoder or an `LLM`, or without one by a measured table (`engine_for`). Raises a `MiaotuiError`.
    """
    given = listed(texts)
    if sum(each is not None for each in (labels, examples, head)) != 1:
        raise FieldError("labels", "give one of labels, examples and head")
    pairs = None if examples is None else list(examples)
    names = labels if pairs is None else list(dict.fromkeys(label for _, label in pairs))
    ready = load_head(head) if isinstance(head, (str, os.PathLike)) else head
    if ready is None:
        engine = engine_for(given, names or (), pairs or (), model=model, engine=engine, deadline_ms=deadline_ms).engine
    if ready is None and engine == "logits":
        with opened_llm(model) as llm:
            return classify_by_logits(Decider(llm), given, names or (), threshold=threshold, deadline_ms=deadline_ms)
    if isinstance(model, LLM) or (ready is not None and engine not in (None, "head")):
        raise FieldError("model", "a chat model takes labels and logits: give an encoder for examples or a head")
    sample = [*given, *(text for text, _ in pairs or [])]
    with opened_encoder(model or (encoder_for(sample) if ready is None else ready.encoder)) as encoder:
        if ready is not None:
            classifier = Classifier(encoder, ready)
        elif engine == "head":
            classifier = Classifier.fit(encoder, [text for text, _ in pairs or []], [label for _, label in pairs or []])
        else:
            classifier = Classifier.from_names(encoder, names or ())
        return classifier.classify(given, threshold=threshold, deadline_ms=deadline_ms)


def engine_for(
    texts: Sequence[object],
    labels: Names,
    examples: Sequence[tuple[str, str]] = (),
    *,
    model: Model | LLM | None = None,
    engine: str | None = None,
    deadline_ms: float | None = None,
) -> EngineChoice:
    """Return the engine for these texts: the one that is named, or that ``model`` is for, or that the table says.

    A deadline for all texts allows each its share of it. Where there are examples likeness to names must be named: a
    head learns from names as well. Raises `FieldError`.
    """
    if engine is None and model is not None:
        engine = "logits" if isinstance(model, LLM) else "head" if examples else "similarity"
        if engine == "logits" and examples:
            raise FieldError("model", "a chat model takes labels: give an encoder for examples or a head")
    allowed_ms = ALLOWED_MS if deadline_ms is None else deadline_ms / max(len(texts), 1)
    is_latin = encoder_for([*texts, *(text for text, _ in examples)]) == ENGLISH_ENCODER
    kinds: tuple[EngineName, ...] = ("head", "logits") if examples else ("similarity", "logits")
    return choose_engine(
        len(labels), len(examples), is_latin=is_latin, allowed_ms=allowed_ms, engine=engine, engines=kinds
    )


@contextmanager
def opened_llm(model: Model | LLM | None) -> Iterator[LLM]:
    """Open a chat model for a block, or use the one that is given and leave it open. Raises `FieldError`."""
    if isinstance(model, LLM):
        yield model
    elif isinstance(model, Encoder):
        raise FieldError("model", "logits are a chat model's: give its name or an LLM, not an encoder")
    else:
        with load(model or DECISION_MODEL) as llm:
            yield llm


def classify_by_logits(
    decider: Decider,
    texts: Sequence[str],
    labels: Names,
    *,
    question: str = "Which of the options fits the text best?",
    threshold: float = 0.0,
    first: int = 0,
    deadline_ms: float | None = None,
) -> list[LabelledText]:
    """Return the label of each text by a chat model's logits; a text that cannot be taken has an error."""
    about: dict[str, str | None] = {}
    for name in labels:
        given = labels[name] if isinstance(labels, Mapping) else None
        about[name] = given if given is None or isinstance(given, str) else "; ".join(given)
    asked = ChoiceQuestion(question, about if len(about) == len(labels) else list(labels))
    found = []
    for index, text in enumerate(texts, first):
        try:
            (each,) = decider.decide(text, asked, threshold=threshold, deadline_ms=deadline_ms)
        except FieldError as error:
            found.append(LabelledText(index=index, error=f"texts[{index}]: {error}", model=decider.options.model))
            continue
        if each.error is not None:
            raise FieldError("labels", each.error)
        found.append(labelled_by(each, index))
    return found


def labelled_by(decision: Decision, index: int) -> LabelledText:
    """Return a decision as the label of a text."""
    return LabelledText(
        index=index,
        label=decision.answer,
        best=decision.best,
        probability=decision.confidence,
        scores=decision.probabilities,
        source="logits",
        model=decision.model,
        calibrated=decision.calibrated,
        took_ms=decision.took_ms,
    )


def fit(
    texts: Iterable[str],
    labels: Iterable[str],
    *,
    model: Model | None = None,
    save: str | os.PathLike[str] | None = None,
) -> ClassifierHead:
    """Fit a head to examples over a frozen encoder and return it; ``save`` names a file that it is written to.

    Rows without a text or a label are left out (`Classifier.fit` tells which). Raises a `MiaotuiError`.
    """
    given = listed(texts)
    with opened_encoder(model or encoder_for(given)) as encoder:
        classifier = Classifier.fit(encoder, given, labels)
    if save is not None:
        classifier.save(save)
    return classifier.head


def sentiment(
    texts: str | Iterable[str],
    *,
    examples: Iterable[tuple[str, str]] | None = None,
    head: Head | None = None,
    model: Model | None = None,
    neutral_below: float | None = None,
    words: int = 0,
    deadline_ms: float | None = None,
) -> list[Sentiment]:
    """Return each text's sentiment: positive, negative or neutral, with the ``words`` that carry it most.

    Without ``examples`` (pairs of text and sentiment) and without a ``head`` texts are compared with phrases of praise
    and of complaint. See `SentimentClassifier.sentiments`. Raises a `MiaotuiError`.
    """
    given = listed(texts)
    if examples is not None and head is not None:
        raise FieldError("examples", "give examples or a head, not both")
    ready = load_head(head) if isinstance(head, (str, os.PathLike)) else head
    pairs = None if examples is None else list(examples)
    sample = [*given, *(text for text, _ in pairs or [])]
    usual = encoder_for(sample, SENTIMENT_ENCODER) if ready is None else ready.encoder
    with opened_encoder(model or usual) as encoder:
        if ready is not None:
            classifier = SentimentClassifier(encoder, ready)
        elif pairs is not None:
            classifier = SentimentClassifier.fit(encoder, [text for text, _ in pairs], [label for _, label in pairs])
        else:
            classifier = SentimentClassifier.untrained(encoder)
        return classifier.sentiments(given, neutral_below=neutral_below, words=words, deadline_ms=deadline_ms)


def decide(
    text: str,
    questions: Questions,
    *,
    model: str | os.PathLike[str] | LLM = DECISION_MODEL,
    encoder: Model | OptionEncoder | None = None,
    threshold: float = 0.0,
    deadline_ms: float | None = None,
) -> list[Decision]:
    """Return a chat model's decisions on typed questions about a text, see `Decider.decide`.

    With an ``encoder`` likeness of the text and the options counts too.
    """
    with ExitStack() as stack:
        llm = model if isinstance(model, LLM) else stack.enter_context(load(model))
        if encoder is not None and not isinstance(encoder, OptionEncoder):
            encoder = OptionEncoder(stack.enter_context(opened_encoder(encoder)))
        decider = Decider(llm, encoder=encoder)
        return decider.decide(text, questions, threshold=threshold, deadline_ms=deadline_ms)


def encoder_for(texts: Sequence[object], english: str = ENGLISH_ENCODER) -> str:
    """Return the name of the encoder for texts: the ``english`` one unless some are in another script."""
    sample = (text for text in texts[:SAMPLE] if isinstance(text, str))
    return OTHER_ENCODER if any(OTHER_SCRIPTS.search(text) for text in sample) else english


@contextmanager
def opened_encoder(model: Model, progress: Progress | None = None, backend: BackendName = "cpu") -> Iterator[Encoder]:
    """Open an encoder for a block, or use the one that is given and leave it open."""
    if isinstance(model, Encoder):
        yield model
        return
    with load_encoder(model, progress=progress, backend=backend) as encoder:
        yield encoder
