"""Dialogue state tracking on public dialogues: joint goal accuracy of the tracker and of the slots of a rules file.

    python -m benchmarks.apps.dialogue DATA        # the folder that holds sgd/ and crosswoz/; about a minute

Protocol. sgd: hotel dialogues of its test part, in file order: the first 25 are learned from, the others are tested;
the state after each message of a customer is the annotated one. crosswoz: the first 75 of the 150 dialogues are learned
from, the others tested; the state is what the customer's annotated "Inform" acts have said so far, the newest value of
a slot counts, a hotel's facilities are one slot of many values. Both are told which slots the reply before asked for.
A state is right if it has exactly the right slots, each with a value that has one of the right ones' forms. *rules*:
the slots of `apps.rules` as a rules file has them, asked for or found in any message by their kind. Prints a table and
one JSON line.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import describe
from miaotui.apps.dialogue import DialogueSchema, DialogueState, DialogueTracker, LabelledTurn, SlotSchema
from miaotui.apps.dialogue.schema import SlotKey
from miaotui.apps.dialogue.values import canonical
from miaotui.apps.rules import Said, Slot
from miaotui.bench.report import aligned

State = Mapping[SlotKey, Sequence[str]]
Labelled = list[tuple[LabelledTurn, State]]
Update = Callable[[Any, LabelledTurn], tuple[Any, State]]
HOTELS = DialogueSchema(
    (
        SlotSchema("where_to", "text", "hotel"),
        SlotSchema("number_of_adults", "number", "hotel"),
        SlotSchema("check_in_date", "date", "hotel"),
        SlotSchema("check_out_date", "date", "hotel"),
        SlotSchema("rating", "number", "hotel"),
        SlotSchema("has_laundry_service", "boolean", "hotel", cues=("laundry service", "laundry")),
    )
)
RANGES = ("评分", "人均消费", "价格", "门票", "游玩时间")
HOTEL_TYPES = ("经济型", "舒适型", "豪华型", "高档型")
FACILITY = "酒店设施"
_ASK = Said("?", "？")


def main(argv: Sequence[str] | None = None) -> None:
    """Learn and test both ways on both sets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with sgd/ and crosswoz/")
    args = parser.parse_args(argv)
    sets = {"sgd": (*read_sgd(args.data / "sgd"), 25), "crosswoz": (*read_crosswoz(args.data / "crosswoz"), 75)}
    rows = [["set", "way", "messages", "joint goal accuracy", "slots: precision", "recall", "learned in [s]"]]
    found: dict[str, Any] = {"machine": describe().as_dict()}
    for name, (schema, dialogues, half) in sets.items():
        begun_s = time.perf_counter()
        tracker = DialogueTracker.fit(schema, [[turn for turn, _ in each] for each in dialogues[:half]])
        took_s = time.perf_counter() - begun_s
        for way, update, start, seconds in (
            ("rules", rules_of(schema), {}, 0.0),
            ("tracker", tracked_by(tracker), DialogueState(), took_s),
        ):
            figures = measure(schema, dialogues[half:], update, start)
            found[f"{name} {way}"] = figures | {"learned_s": seconds}
            shares = [f"{100 * figures[each]:.1f}%" for each in ("joint", "precision", "recall")]
            rows.append([name, way, str(figures["messages"]), *shares, f"{seconds:.1f}"])
    print(aligned(rows))
    print(json.dumps(found, ensure_ascii=False))


def tracked_by(tracker: DialogueTracker) -> Update:
    """Return the way of a tracker."""

    def update(state: DialogueState, turn: LabelledTurn) -> tuple[DialogueState, State]:
        after = tracker.update(state, turn.message, turn.asked, turn.reply)
        return after, after.values

    return update


def rules_of(schema: DialogueSchema) -> Update:
    """Return the way of a rules file: kinds of slots that it has, and texts where they were asked for."""
    kinds = {"number": "number", "date": "date", "range": "number", "boolean": "choice", "choice": "choice"}
    slots = {
        slot.key: Slot(slot.name, kinds.get(slot.kind, "text"), _ASK, choices=slot.values or slot.cues)
        for slot in schema.slots
    }

    def update(state: dict[SlotKey, Sequence[str]], turn: LabelledTurn) -> tuple[dict[SlotKey, Sequence[str]], State]:
        after = dict(state)
        for key, slot in slots.items():
            value = slot.find(turn.message) if key in turn.asked or slot.kind != "text" else None
            if value is not None:
                after[key] = ["True"] if schema.by_key[key].kind == "boolean" else [value]
        return after, after

    return update


def measure(schema: DialogueSchema, dialogues: Sequence[Labelled], update: Update, start: Any) -> dict[str, Any]:
    """Compare states after every message."""
    right = messages = hits = wrong = missed = 0
    for dialogue in dialogues:
        state: Any = start
        before: State = {}
        for turn, gold in dialogue:
            state, values = update(state, turn)
            changed = {key for key in values if values[key] != before.get(key)}
            before = dict(values)
            messages += 1
            right += is_equal(schema, gold, values)
            hits += len(changed & set(turn.values))
            wrong += len(changed - set(turn.values))
            missed += len(set(turn.values) - changed)
    shares = {"precision": hits / max(hits + wrong, 1), "recall": hits / max(hits + missed, 1)}
    return {"messages": messages, "joint": right / messages, **shares}


def is_equal(schema: DialogueSchema, gold: State, found: State) -> bool:
    """Return whether a state is right."""
    if set(gold) != set(found):
        return False
    for key, values in gold.items():
        slot = schema.by_key[key]
        wanted = {canonical(slot.kind, value) for value in values}
        got = {canonical(slot.kind, value) for value in found[key]}
        if wanted != got if slot.many else not wanted & got:
            return False
    return True


def read_sgd(folder: Path) -> tuple[DialogueSchema, list[Labelled]]:
    """Read the hotel dialogues of the schema-guided set."""
    dialogues = []
    for row in json.loads((folder / "dialogues_011.json").read_text(encoding="utf-8")):
        turns: Labelled = []
        state, asked, reply = dict[SlotKey, list[str]](), tuple[SlotKey, ...](), ""
        for turn in row["turns"]:
            frame = turn["frames"][0]
            if turn["speaker"] == "SYSTEM":
                reply = turn["utterance"]
                asked = tuple(("hotel", each["slot"]) for each in frame["actions"] if each["act"] == "REQUEST")
                continue
            after = {("hotel", name): values for name, values in frame["state"]["slot_values"].items()}
            news = {key: values for key, values in after.items() if not _folded(values) & _folded(state.get(key, []))}
            turns.append((LabelledTurn(turn["utterance"], news, asked, reply), after))
            state = after
        dialogues.append(turns)
    return HOTELS, dialogues


def _folded(values: Sequence[str]) -> set[str]:
    return {value.casefold() for value in values}


def read_crosswoz(folder: Path) -> tuple[DialogueSchema, list[Labelled]]:
    """Read the Chinese dialogues over five domains."""
    dialogues, facilities, keys = [], Counter[str](), Counter[SlotKey]()
    for line in (folder / "test_first150.jsonl").read_text(encoding="utf-8").splitlines():
        turns: Labelled = []
        state, asked, reply = dict[SlotKey, list[str]](), tuple[SlotKey, ...](), ""
        for message in json.loads(line)["messages"]:
            acts = message["dialog_act"]
            if message["role"] == "sys":
                reply = message["content"]
                asked = tuple((domain, slot) for act, domain, slot, _ in acts if act == "Request")
                continue
            said = dict[SlotKey, list[str]]()
            for act, domain, slot, value in acts:
                if act == "Inform" and slot.startswith(FACILITY + "-"):
                    if value == "是":
                        said.setdefault((domain, FACILITY), []).append(slot[len(FACILITY) + 1 :])
                elif act == "Inform":
                    said[domain, slot] = [value]
            facilities.update(said.get(("酒店", FACILITY), []))
            keys.update(list(said))
            many = {key: list(dict.fromkeys(state.get(key, []) + said[key])) for key in said if key[1] == FACILITY}
            state = state | said | many
            turns.append((LabelledTurn(message["content"], said, asked, reply), state))
        dialogues.append(turns)
    return DialogueSchema(tuple(_slot(key, sorted(facilities)) for key in sorted(keys))), dialogues


def _slot(key: SlotKey, facilities: Sequence[str]) -> SlotSchema:
    domain, name = key
    if name == FACILITY:
        return SlotSchema(name, "choice", domain, values=tuple(facilities), many=True)
    if name == "酒店类型":
        return SlotSchema(name, "choice", domain, values=HOTEL_TYPES)
    return SlotSchema(name, "range" if name in RANGES else "text", domain)


if __name__ == "__main__":
    main()
