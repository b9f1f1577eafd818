"""Typed questions about an input, and the prompts in which a chat model reads them.

Owns the three kinds of question, their bounds and their wording. Knows no model. Invariants: the input comes before
the question, so that all questions share its rows; options are listed in an order of their own, so that the order in
which a caller gives them changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from miaotui.errors import FieldError
from miaotui.tasks.heads.head import MAX_LABEL_CHARACTERS

MAX_OPTIONS = 256
MAX_LEVELS = 16
MAX_QUESTIONS = 64
NO_INPUT = "N/A"  # content-free: how likely the options are before anything is read
Kind = Literal["choice", "score", "yes_no"]
YES, NO = "yes", "no"


@dataclass(frozen=True)
class ChoiceQuestion:
    """Question that is answered by one of several options: names, or names with descriptions."""

    text: str
    options: Sequence[str] | Mapping[str, str | None]


@dataclass(frozen=True)
class ScoreQuestion:
    """Question that is answered by a level of a scale: names, lowest first, or names with descriptions."""

    text: str
    levels: Sequence[str] | Mapping[str, str | None]


@dataclass(frozen=True)
class YesNoQuestion:
    """Question that is answered by yes or no, or a statement that holds or not; each may have a description."""

    text: str
    yes: str | None = None
    no: str | None = None


TypedQuestion = ChoiceQuestion | ScoreQuestion | YesNoQuestion


@dataclass(frozen=True)
class ReadQuestion:
    """A question whose options are checked: names in the caller's order, and descriptions."""

    name: str
    kind: Kind
    text: str
    options: tuple[str, ...]
    descriptions: tuple[str | None, ...]

    @property
    def orders(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the two orders in which the options are listed, one the reverse of the other.

        A scale keeps its own order, other options are sorted: so the order of a request does not matter.
        """
        places = range(len(self.options))
        first = tuple(places) if self.kind == "score" else tuple(sorted(places, key=self.options.__getitem__))
        return first, first[::-1]


def read_question(name: str, question: TypedQuestion) -> ReadQuestion:
    """Return a question with its options checked. Raises `FieldError`, which names the question."""
    where = f"questions[{name!r}]"
    if isinstance(question, YesNoQuestion):
        kind: Kind = "yes_no"
        given: Sequence[str] | Mapping[str, str | None] = {YES: question.yes, NO: question.no}
        most = 2
    elif isinstance(question, ScoreQuestion):
        kind, given, most = "score", question.levels, MAX_LEVELS
    elif isinstance(question, ChoiceQuestion):
        kind, given, most = "choice", question.options, MAX_OPTIONS
    else:
        raise FieldError(where, f"must be a ChoiceQuestion, ScoreQuestion or YesNoQuestion, not {type(question)}")
    if not isinstance(question.text, str) or not question.text.strip():
        raise FieldError(where, "its text must not be empty")
    return ReadQuestion(name, kind, question.text.strip(), *_options(where, given, most))


def _options(
    where: str, given: Sequence[str] | Mapping[str, str | None], most: int
) -> tuple[tuple[str, ...], tuple[str | None, ...]]:
    """Return names and descriptions. Raises `FieldError` for names that are missing or twice."""
    if isinstance(given, str) or not isinstance(given, (Sequence, Mapping)):
        raise FieldError(where, "its options must be a list of names, or names with descriptions")
    names = list(given)
    if not 2 <= len(names) <= most:
        raise FieldError(where, f"must have 2 to {most} options, not {len(names)}")
    seen: set[str] = set()
    for each in names:
        if not isinstance(each, str) or not each.strip() or len(each) > MAX_LABEL_CHARACTERS:
            raise FieldError(where, f"an option must be a text of 1 to {MAX_LABEL_CHARACTERS} characters")
        spoken_name = spoken(each)
        if spoken_name in seen:
            raise FieldError(where, f"the option {each!r} is there twice")
        seen.add(spoken_name)
    about = [given[name] if isinstance(given, Mapping) else None for name in names]
    if not all(each is None or isinstance(each, str) for each in about):
        raise FieldError(where, "a description must be a text, or left out")
    return tuple(names), tuple(about)


def spoken(option: str) -> str:
    """Return an option's name as the prompt has it: words instead of an identifier."""
    return " ".join(option.replace("_", " ").split())


def messages_of(text: str, question: ReadQuestion, order: Sequence[int]) -> list[dict[str, str]]:
    """Return the conversation in which the model is to answer with an option's name.

    The wording is short: with a list and an instruction a model of 0.5 B was right less often, and took longer.
    """
    options = [spoken(question.options[place]) for place in order]
    about = [
        f"{name}: {question.descriptions[place]}\n"
        for name, place in zip(options, order, strict=True)
        if question.descriptions[place]
    ]
    lines = "".join(about)
    body = f"{text}\n\n{lines}{question.text} ({', '.join(options)})"
    return [{"role": "user", "content": body}]
