"""Requests and answers of ``/v1/decisions`` (OpenAI's form) and ``/v1/systemone`` (System One's form).

Owns both forms and what each means in ours. Sources: openai-python ``decision_create_params`` as of October 2026;
SGLang's and vLLM's pages on decision models. Ours is a superset: deadlines, thresholds, and the labels' whole
probability in each answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue

from miaotui.serve.wire.fields import Name, PromiseFields, Wire
from miaotui.tasks.decisions.decision import Decision
from miaotui.tasks.decisions.questions import (
    MAX_LEVELS,
    MAX_OPTIONS,
    MAX_QUESTIONS,
    NO,
    YES,
    ChoiceQuestion,
    ScoreQuestion,
    TypedQuestion,
    YesNoQuestion,
)

MAX_INSTRUCTIONS = 1 << 16
Instructions = Annotated[str, Field(min_length=1, max_length=MAX_INSTRUCTIONS)]


class DecisionFields(PromiseFields):
    """Fields of both forms."""

    model: Name | None = Field(None, description="A chat model that /v1/models lists.")
    encoder: Name | None = Field(
        None, description="An encoder that /v1/models lists: likeness of input and options counts too."
    )
    threshold: float | None = Field(None, ge=0, le=1, description="Abstain below this probability.")


class OfferedChoice(Wire):
    """An option of a choice: a name or a truth value, perhaps with a description."""

    value: str | bool
    description: str | None = None


class OfferedLevel(Wire):
    """A level of a scale."""

    label: str
    description: str | None = None


class DecisionQuestion(Wire):
    """A question in OpenAI's form."""

    type: Literal["predicate", "choice", "score"]
    instructions: Instructions
    name: Name | None = None
    choices: Annotated[list[OfferedChoice], Field(max_length=MAX_OPTIONS)] | None = None
    levels: Annotated[list[OfferedLevel], Field(max_length=MAX_LEVELS)] | None = None


class InputPart(Wire):
    """A part of a message; only texts are read."""

    type: Literal["input_text"]
    text: str


class InputMessage(Wire):
    """A message of the input."""

    role: Literal["user"]
    content: str | Annotated[list[InputPart], Field(max_length=256)]


class DecisionsRequest(DecisionFields):
    """An input and typed questions about it (OpenAI)."""

    input: str | Annotated[list[InputMessage], Field(min_length=1, max_length=256)]
    questions: Annotated[list[DecisionQuestion], Field(min_length=1, max_length=MAX_QUESTIONS)]


class SystemOneQuestion(Wire):
    """A question in System One's form: ``noul`` is answered by the probability of yes."""

    type: Literal["noul", "choice", "score"]
    instructions: Instructions
    criteria: dict[str, JsonValue] | Annotated[list[str], Field(max_length=MAX_LEVELS)] | None = None


class SystemOneRequest(DecisionFields):
    """A state and typed questions by id (System One)."""

    state: JsonValue
    questions: Annotated[dict[str, SystemOneQuestion], Field(min_length=1, max_length=MAX_QUESTIONS)]


class DecisionsAnswer(Wire):
    """Answers in the order of the questions, or by id."""

    object: Literal["decision"]
    model: str
    answers: list[dict[str, JsonValue]] | dict[str, dict[str, JsonValue]]
    usage: dict[str, JsonValue]
    deadline: dict[str, JsonValue]


def text_of(request: DecisionsRequest) -> str:
    """Return the input as one text."""
    if isinstance(request.input, str):
        return request.input
    parts = []
    for message in request.input:
        content = message.content
        parts.append(content if isinstance(content, str) else "\n".join(part.text for part in content))
    return "\n\n".join(parts)


def typed_question(question: DecisionQuestion) -> TypedQuestion:
    """Return a question of OpenAI's form in ours."""
    if question.type == "predicate":
        return YesNoQuestion(question.instructions)
    if question.type == "score":
        levels = question.levels or []
        return ScoreQuestion(question.instructions, _unique([(each.label, each.description) for each in levels]))
    choices = question.choices or []
    return ChoiceQuestion(question.instructions, _unique([(_name(each.value), each.description) for each in choices]))


def system_one_question(question: SystemOneQuestion) -> TypedQuestion:
    """Return a question of System One's form in ours."""
    criteria = question.criteria
    if question.type == "noul":
        about = criteria if isinstance(criteria, Mapping) else {}
        return YesNoQuestion(question.instructions, _text(about.get("true")), _text(about.get("false")))
    kind = ScoreQuestion if question.type == "score" else ChoiceQuestion
    if isinstance(criteria, Mapping):
        return kind(question.instructions, {name: _text(about) for name, about in criteria.items()})
    return kind(question.instructions, list(criteria or []))


def openai_answer(question: DecisionQuestion, found: Decision) -> dict[str, Any]:
    """Return an answer in OpenAI's form; a question that could not be asked is a refusal with its error."""
    shared = {"name": question.name, "label_mass": found.label_mass, "abstained": found.answer is None}
    if found.error is not None:
        return {"type": "refusal", "name": question.name, "error": found.error}
    if question.type == "predicate":
        return {"type": "predicate", **shared, "probability": found.probabilities[YES]}
    if question.type == "score":
        rows = [
            {"value": level, "label": label, "probability": each}
            for level, (label, each) in enumerate(found.probabilities.items())
        ]
        return {"type": "score", **shared, "score": found.score, "confidence": found.confidence, "probabilities": rows}
    values = {_name(each.value): each.value for each in question.choices or []}
    return {
        "type": "choice",
        **shared,
        "choice": values[found.best or ""],
        "confidence": found.confidence,
        "probabilities": [{"value": values[name], "probability": each} for name, each in found.probabilities.items()],
    }


def system_one_answer(found: Decision) -> dict[str, Any]:
    """Return an answer in System One's form."""
    if found.error is not None:
        return {"type": "error", "error": found.error}
    shared = {"label_mass": found.label_mass, "abstained": found.answer is None}
    if found.kind == "yes_no":
        return {"type": "noul", **shared, "noul": found.probabilities[YES]}
    rest = {"confidence": found.confidence}
    if found.kind == "score":
        levels = {str(level): each for level, each in enumerate(found.probabilities.values())}
        legend = {str(level): name for level, name in enumerate(found.probabilities)}
        return {"type": "score", **shared, "score": found.score, "probabilities": levels, "legend": legend, **rest}
    return {"type": "choice", **shared, "choice": found.best, "probabilities": dict(found.probabilities), **rest}


def _name(value: str | bool) -> str:
    return value if isinstance(value, str) else (YES if value else NO)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _unique(pairs: list[tuple[str, str | None]]) -> Mapping[str, str | None] | list[str]:
    """Return names with descriptions; names that are there twice stay a list, in which they are found."""
    names = [name for name, _ in pairs]
    return dict(pairs) if len(set(names)) == len(names) else names
