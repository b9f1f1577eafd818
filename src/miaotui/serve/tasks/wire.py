"""Requests and answers of ``/v1/tasks/...``.

Owns their names and bounds; meanings are in `miaotui.tasks`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from miaotui.serve.encoders.fields import EncoderFields
from miaotui.serve.wire.fields import Name, Wire

MAX_TASK_TEXTS = 2048
MAX_TASK_LABELS = 512
MAX_DESCRIPTIONS = 16
MAX_TASK_EXAMPLES = 1024
MAX_CARRIERS = 64

TaskTexts = Annotated[list[JsonValue], Field(min_length=1, max_length=MAX_TASK_TEXTS, fail_fast=True)]
LabelNames = Annotated[list[str], Field(max_length=MAX_TASK_LABELS, fail_fast=True)]
Descriptions = Annotated[list[str], Field(max_length=MAX_DESCRIPTIONS)]
DescribedLabels = Annotated[dict[str, str | Descriptions | None], Field(max_length=MAX_TASK_LABELS)]


class LabelledExample(Wire):
    """A text with its label."""

    text: str
    label: str


Examples = Annotated[list[LabelledExample], Field(max_length=MAX_TASK_EXAMPLES, fail_fast=True)]


class TaskFields(EncoderFields):
    """Fields of every task over texts."""

    texts: TaskTexts = Field(description="A text that cannot be taken has an error, and the others are answered.")
    examples: Examples | None = Field(None, description="Texts with labels that a head is fitted to.")
    head: Name | None = Field(None, description="A head that the server was started with (--head NAME=FILE).")
    words: int | None = Field(
        None,
        ge=0,
        le=MAX_CARRIERS,
        description="How many words that carry the likeliest label are given with each text.",
    )


class LabelRequest(TaskFields):
    """Texts to label: by names of labels, each perhaps with descriptions, or by examples."""

    labels: LabelNames | DescribedLabels | None = None
    template: str | None = Field(None, max_length=512, description="Sentence that holds a label at `{}`.")
    threshold: float | None = Field(None, ge=0, le=1, description="No label below this probability.")


class SentimentRequest(TaskFields):
    """Texts whose sentiment is asked for; without examples they are compared with praise and complaint."""

    neutral_below: float | None = Field(
        None, ge=0, le=1, description="Probability of the likelier sentiment below which a text is neutral."
    )


class CarryingWord(Wire):
    """Word of a text, and by how much it raises the log-odds of the likeliest label; without it they are lower."""

    word: str
    start: int
    end: int
    effect: float


class TaskResultBody(Wire):
    """Result of one text."""

    index: int
    label: str | None
    best: str | None
    probability: float
    scores: dict[str, float]
    source: str | None
    model: str
    calibrated: bool
    took_ms: float
    words: list[CarryingWord] | None = None
    error: str | None = None


class TaskAnswer(Wire):
    """Results in the order of the texts."""

    object: Literal["list"]
    model: str
    data: list[TaskResultBody]
    usage: dict[str, int]
    deadline: dict[str, JsonValue]
