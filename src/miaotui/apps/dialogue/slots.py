"""Slots of a customer service, filled by a tracker.

Owns the names under which a tracker's slots stand in a conversation's state. Knows no replies. Invariant: a slot that
the rules declare keeps their name, so that a rule does not ask for what a message has said.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from miaotui.apps.conversations import State
from miaotui.apps.dialogue.schema import SlotKey
from miaotui.apps.dialogue.tracker import DialogueTracker
from miaotui.apps.rules import Rules

JOIN = "; "  # between values of a slot that may have several


class TrackedSlots:
    """Values that a tracker finds, in the slots of conversations."""

    def __init__(self, tracker: DialogueTracker, rules: Rules) -> None:
        self._tracker = tracker
        count = Counter(slot.name for slot in tracker.schema.slots)
        self._names: dict[SlotKey, str] = {}
        for slot in tracker.schema.slots:
            is_plain = slot.name in rules.slots or count[slot.name] == 1
            self._names[slot.key] = slot.name if is_plain else f"{slot.domain}_{slot.name}"
        self._many = {slot.key for slot in tracker.schema.slots if slot.many}

    def after(self, state: State, message: str) -> State:
        """Return the state with the values that a message names."""
        asked = [key for key, name in self._names.items() if name == state.waiting_for]
        slots = dict(state.slots)
        focus = state.focus
        for found in self._tracker.found(message, asked, focus):
            name = self._names[found.key]
            before = slots.get(name, "").split(JOIN) if found.key in self._many else []
            slots[name] = JOIN.join(dict.fromkeys(filter(None, (*before, found.value))))
            focus = found.key[0] or focus
        return replace(state, slots=slots, focus=focus)
