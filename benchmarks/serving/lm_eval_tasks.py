"""Questions, texts and task files for `lm_eval_scores`, written into a folder; nothing is downloaded.

Owns small tables of facts that are common knowledge and the sums and sequences made from rules. Knows no server.
Invariant: a seed gives equal files everywhere.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

CAPITALS = (
    "Austria:Vienna Belgium:Brussels Brazil:Brasilia Bulgaria:Sofia Canada:Ottawa Chile:Santiago China:Beijing "
    "Colombia:Bogota Cuba:Havana Denmark:Copenhagen Egypt:Cairo Ethiopia:Addis_Ababa Finland:Helsinki France:Paris "
    "Germany:Berlin Greece:Athens Hungary:Budapest Iceland:Reykjavik India:New_Delhi Indonesia:Jakarta Iran:Tehran "
    "Iraq:Baghdad Ireland:Dublin Italy:Rome Japan:Tokyo Kenya:Nairobi Lebanon:Beirut Mexico:Mexico_City Morocco:Rabat "
    "Nepal:Kathmandu Norway:Oslo Pakistan:Islamabad Peru:Lima Philippines:Manila Poland:Warsaw Portugal:Lisbon "
    "Romania:Bucharest Russia:Moscow Senegal:Dakar Serbia:Belgrade Spain:Madrid Sweden:Stockholm Syria:Damascus "
    "Thailand:Bangkok Turkey:Ankara Ukraine:Kyiv Uruguay:Montevideo Venezuela:Caracas Vietnam:Hanoi Zimbabwe:Harare"
)
OPPOSITES = (
    "hot:cold big:small fast:slow light:dark happy:sad open:closed high:low old:young rich:poor hard:soft early:late "
    "full:empty strong:weak wet:dry loud:quiet clean:dirty near:far long:short thick:thin true:false alive:dead "
    "brave:cowardly cheap:expensive deep:shallow easy:difficult first:last front:back inside:outside left:right "
    "love:hate more:less noisy:silent north:south push:pull question:answer remember:forget rough:smooth sharp:blunt "
    "start:finish sweet:sour top:bottom victory:defeat win:lose winter:summer"
)
YOUNG = (
    "dog:puppy cat:kitten cow:calf horse:foal sheep:lamb pig:piglet goat:kid hen:chick duck:duckling goose:gosling "
    "lion:cub frog:tadpole kangaroo:joey swan:cygnet owl:owlet"
)
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]
CHOICES = 4

Question = dict[str, Any]  # question, choices, answer (an index)


def questions(count: int, seed: int = 1) -> list[Question]:
    """The first ``count`` of all questions, shuffled."""
    chance = random.Random(seed)
    found = [*_facts(chance), *_sequences(chance), *_sums(chance)]
    chance.shuffle(found)
    if count > len(found):
        raise SystemExit(f"there are {len(found)} questions, not {count}: ask for fewer")
    return found[:count]


def _facts(chance: random.Random) -> Iterator[Question]:
    tables = (
        (
            CAPITALS,
            ("The capital of {} is", "Question: What is the capital of {}?\nAnswer:", "In {}, the capital city is"),
        ),
        (
            OPPOSITES,
            ("The opposite of {} is", "Question: What is the opposite of {}?\nAnswer:", "If it is not {}, it is"),
        ),
        (YOUNG, ("A young {} is called a", "Question: What is a baby {} called?\nAnswer: a")),
    )
    for table, forms in tables:
        pairs = [pair.replace("_", " ").split(":") for pair in table.split()]
        answers = [answer for _, answer in pairs]
        for form in forms:
            for thing, answer in pairs:
                yield _question(chance, form.format(thing), answer, answers)


def _sequences(chance: random.Random) -> Iterator[Question]:
    for names in (DAYS, MONTHS):
        for index, name in enumerate(names):
            after, before = names[(index + 1) % len(names)], names[index - 1]
            yield _question(chance, f"The day or month after {name} is", after, names)
            yield _question(chance, f"The day or month before {name} is", before, names)
            yield _question(chance, f"{names[index - 2]}, {before}, {name},", after, names)


def _sums(chance: random.Random) -> Iterator[Question]:
    for first in range(2, 15):
        for second in range(2, 15):
            total = first + second
            near = [str(total + step) for step in (-10, -3, -2, -1, 1, 2, 3, 10) if total + step > 0]
            yield _question(chance, f"Question: What is {first} plus {second}?\nAnswer:", str(total), near)


def _question(chance: random.Random, text: str, answer: str, others: Sequence[str]) -> Question:
    wrong = chance.sample([other for other in others if other != answer], CHOICES - 1)
    choices = [answer, *wrong]
    chance.shuffle(choices)
    return {"question": text, "choices": choices, "answer": choices.index(answer)}


_CHOICE = """task: local_choice
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list:
  - {metric: acc}
  - {metric: acc_norm}
"""
_PERPLEXITY = """task: local_perplexity
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list:
  - {metric: word_perplexity}
  - {metric: byte_perplexity}
  - {metric: bits_per_byte}
"""
_GENERATION = """task: local_generation
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{target}}"
generation_kwargs: {until: ["\\n\\n"], max_gen_toks: 16, do_sample: false, temperature: 0}
metric_list:
  - {metric: exact_match}
"""
TASKS = ("local_choice", "local_perplexity", "local_generation")


def write_tasks(folder: Path, asked: Sequence[Question], texts: Sequence[str]) -> None:
    """Write the three tasks and their data."""
    folder.mkdir(parents=True, exist_ok=True)
    targets = [{**question, "target": question["choices"][question["answer"]]} for question in asked]
    for name, head, rows in (
        ("choice", _CHOICE, asked),
        ("perplexity", _PERPLEXITY, [{"text": text} for text in texts]),
        ("generation", _GENERATION, targets),
    ):
        data = folder / f"{name}.jsonl"
        data.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        where = f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {json.dumps(str(data))}}}}}\n"
        (folder / f"{name}.yaml").write_text(head + where + "test_split: test\nnum_fewshot: 0\n", encoding="utf-8")
