"""Translation of one text by a chat model: the prompts of its pieces, and what each attempt asks for.

Owns the prompts. Knows models by `WriteSteps`; the order of attempts and the result are `translation.pieces`'.
Invariant: a later attempt is never a repetition of an earlier one.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace

from miaotui.engine.grammar.source import Grammar, from_pattern
from miaotui.errors import RequestError
from miaotui.tasks.checks import require_text
from miaotui.tasks.writing.steps import WriteRequest, WrittenAnswer
from miaotui.translation.guards import names_of, weight
from miaotui.translation.languages import AUTO, LANGUAGES, detect
from miaotui.translation.markup import joined_pieces, pieces_of
from miaotui.translation.pieces import PieceJob
from miaotui.translation.result import MAX_CHARACTERS, Translation, TranslationOptions
from miaotui.types import SamplingParams

ATTEMPTS = 4
MAX_NAMES = 64  # of a piece that a translation may keep
_NO_CJK = r"[^\u{3040}-\u{30ff}\u{3400}-\u{9fff}\u{ac00}-\u{d7af}]+"
_SHOTS: Mapping[str, str] = {  # a sentence whose translation is known, by language
    "en": "How was your day today?",
    "zh": "你今天过得怎么样？",
    "de": "Wie war dein Tag heute?",
    "fr": "Comment s'est passée ta journée ?",
    "es": "¿Qué tal tu día hoy?",
}


TranslationSteps = Generator[Sequence[WriteRequest], Sequence[WrittenAnswer], Translation]


def translation_steps(text: str, options: TranslationOptions, *, index: int = 0) -> TranslationSteps:
    """Ask for the translation of a text; a text that cannot be taken gives a result with an error."""
    blank = Translation(index=index, target=options.target, model=options.model)
    try:
        require_text(text, index, MAX_CHARACTERS)
        pieces = pieces_of(text, options.form)
        found = detect(joined_pieces([piece for piece in pieces if piece.translated]))
        source = found.code if options.source == AUTO else options.source
        blank = replace(blank, source=source, confidence=found.confidence if options.source == AUTO else None)
        places = [n for n, piece in enumerate(pieces) if piece.translated and source != options.target]
        if not places:
            return replace(blank, text=text, probability=1.0, alternatives=())
        job: PieceJob[WriteRequest, WrittenAnswer] = PieceJob(blank, pieces, places, options, ChatPieces())
        return (yield from job.steps())
    except RequestError as error:
        reason = str(error)
        return replace(blank, error=reason if reason.startswith("texts[") else f"texts[{index}]: {reason}")


class ChatPieces:
    """A `PieceModel` of chat models: plainly, then with an example, a grammar and less repetition, then by sampling."""

    attempts = ATTEMPTS

    def request(self, text: str, source: str, target: str, terms: Mapping[str, str], attempt: int) -> WriteRequest:
        """Return the request for a piece."""
        messages = messages_for(text, source, target, terms, with_example=attempt > 0)
        limit = weight(text) // 2 + 64
        if attempt == 0:
            return WriteRequest(messages, SamplingParams(max_tokens=limit, logprobs=0))
        grammar = None if attempt >= ATTEMPTS else grammar_for(target, terms, text)
        if attempt == 1:
            params = SamplingParams(max_tokens=limit, logprobs=0, repetition_penalty=1.1)
        else:
            params = SamplingParams(max_tokens=limit, logprobs=0, temperature=0.7, top_p=0.9, seed=attempt)
        return WriteRequest(messages, params, grammar)


def messages_for(
    text: str, source: str, target: str, terms: Mapping[str, str], *, with_example: bool = False
) -> list[dict[str, str]]:
    """Return the conversation that asks for the translation of a piece."""
    system = (
        f"You are a professional translator. Translate {LANGUAGES[source]} to {LANGUAGES[target]}. "
        "Reply with the translation only."
    )
    if terms:
        system += " Use these terms: " + "; ".join(f"{term} = {wanted}" for term, wanted in terms.items()) + "."
    messages = [{"role": "system", "content": system}]
    if with_example and source in _SHOTS and target in _SHOTS:
        messages += [{"role": "user", "content": _SHOTS[source]}, {"role": "assistant", "content": _SHOTS[target]}]
    return [*messages, {"role": "user", "content": text}]


def grammar_for(target: str, terms: Mapping[str, str], source: str) -> Grammar | None:
    """Return a grammar that later attempts are held to: the target's script, and the glossary's term if it is one.

    A Chinese or Japanese translation may have Latin letters in the names of the ``source`` alone.
    """
    if len(terms) == 1:
        (wanted,) = terms.values()
        return from_pattern(f"(?s:.*){escaped(wanted)}(?s:.*)")
    if target in ("zh", "ja") and not terms:
        names = "".join(f"|{name}" for name in names_of(source)[:MAX_NAMES])
        return from_pattern(f"(?:[^A-Za-z]{names})+")
    if target not in ("zh", "ja", "ko"):
        return from_pattern(_NO_CJK.replace("\\u{", "\\x{"))
    return None


def escaped(text: str) -> str:
    """Return a pattern that matches a text, by code points."""
    return "".join(letter if letter.isalnum() else f"\\x{{{ord(letter):x}}}" for letter in text)
