"""Prompts of a load: texts of random words, never one twice, or those of a file; and how long answers may be.

Owns what is asked. Knows neither arrivals nor servers. Invariants: a prompt is a function of the seed and its number;
each begins with words of its own, so that no cache of prefixes answers for free, unless repeating was asked for.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from miaotui.bench.load.arrivals import TracedRequest
from miaotui.errors import RequestError

WORDS = (
    "about above after again against all almost along also always among another answer around ask away back because "
    "become before begin behind below between big both bring build business call can carry change child city close "
    "cold color come common country course cut dark day deep different do door down draw drive each early earth east "
    "eat end enough even every example eye face fall family far farm fast father feel few field figure find fire first "
    "fish five floor fly follow food form four free friend full game garden gave get girl give glass gold good great "
    "green ground group grow half hand happen hard have head hear heart heat help here high hold home horse hot hour "
    "house hundred idea inch island keep kind king know land language large last late laugh learn leave left letter "
    "life light like line list listen little live long look lost love low machine make man many map mark may mean "
    "measure men might mile mind minute money month moon more morning most mother mountain move much music must name "
    "near need never new next night nine north note nothing notice now number ocean often old once only open order "
    "other our out over own page paper part past pattern people person picture place plain plan plane plant play point "
    "power press problem product pull put question quick rain ran reach read ready real record red remember rest right "
    "river road rock room round rule run sail sea second see seem sentence serve set several shape ship short should"
).split()
MAX_PROMPTS_BYTES = 256 << 20
OWN_WORDS = 3  # at the begin of a prompt; the shortest prompt has as many

Lengths = tuple[int | None, int | None]  # of prompt and answer, in tokens; None: drawn


@dataclass(frozen=True)
class PlannedRequest:
    """One request of a load: when it is due (seconds from the load's begin), its prompt, and its answer's limit."""

    at_s: float
    prompt: str
    max_tokens: int
    number: int


@dataclass(frozen=True)
class PromptPlan:
    """Prompts by number. Lengths are whole numbers from ``(least, most)``; a word is about one token.

    ``texts`` replace the random words, each used once; ``repeat`` uses them again, or one random prompt for all.
    """

    input_tokens: tuple[int, int] = (40, 400)
    output_tokens: tuple[int, int] = (16, 128)
    seed: int = 0
    repeat: bool = False
    texts: tuple[str, ...] = ()

    def planned(self, number: int, at_s: float = 0.0, lengths: Lengths = (None, None)) -> PlannedRequest:
        """Return request ``number`` of the load, due at ``at_s``; ``lengths`` replace those that are drawn.

        Raises `RequestError` where the file's prompts are used up and may not be repeated.
        """
        source = random.Random(f"prompt {self.seed} {0 if self.repeat else number}")  # noqa: S311  (no secret)
        words, answer = source.randint(*self.input_tokens), source.randint(*self.output_tokens)
        words, answer = lengths[0] or words, lengths[1] or answer
        return PlannedRequest(at_s, self._text(number, words, source), answer, number)

    def _text(self, number: int, words: int, source: random.Random) -> str:
        if not self.texts:
            own = () if self.repeat else own_words(number, self.seed)
            return " ".join([*own, *(source.choice(WORDS) for _ in range(words - len(own)))])
        if number >= len(self.texts) and not self.repeat:
            raise RequestError(
                f"the load needs more than the {len(self.texts):,} prompts of the file: give more, or --repeat-prompts"
            )
        return self.texts[number % len(self.texts)]


def own_words(number: int, seed: int) -> tuple[str, ...]:
    """Return the `OWN_WORDS` words that only this prompt of a load begins with."""
    count = len(WORDS) ** OWN_WORDS
    place = (number * 1_000_003 + random.Random(seed).randrange(count)) % count  # noqa: S311  (no secret)
    words = []
    for _ in range(OWN_WORDS):
        place, at = divmod(place, len(WORDS))
        words.append(WORDS[at])
    return tuple(words)


def read_prompts(path: Path) -> tuple[str, ...]:
    """Read prompts: lines of text, or JSON lines with ``prompt``. Raises `RequestError`."""
    try:
        if path.stat().st_size > MAX_PROMPTS_BYTES:
            raise RequestError(f"{path} is larger than {MAX_PROMPTS_BYTES >> 20} MiB: give fewer prompts")
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{path} cannot be read: {error}") from error
    if path.suffix == ".jsonl":
        lines = [_prompt_of(line, f"{path.name}, line {number}") for number, line in enumerate(lines, 1)]
    if not lines:
        raise RequestError(f"{path} has no prompts")
    return tuple(lines)


def _prompt_of(line: str, place: str) -> str:
    try:
        found = json.loads(line)["prompt"]
    except (ValueError, TypeError, KeyError, RecursionError):
        found = None
    if not isinstance(found, str) or not found.strip():
        raise RequestError(f"{place}: expected a JSON object with a text as its prompt")
    return found


def planned_at(
    times_s: Sequence[float], plan: PromptPlan, first: int, trace: Sequence[TracedRequest] = ()
) -> list[PlannedRequest]:
    """Return a request for each time, numbered from ``first`` on; a trace gives the lengths that it knows."""
    found = []
    for at, at_s in enumerate(times_s):
        lengths: Lengths = (None, None)
        if trace:  # its first line is time zero: requests come after its gaps
            line = trace[1 + at % (len(trace) - 1)]
            lengths = (line.input_tokens, line.output_tokens)
        found.append(plan.planned(first + at, at_s, lengths))
    return found
