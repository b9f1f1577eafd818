"""Dialogue state tracking: the values that a customer has named so far, learned from a few labelled conversations."""

from __future__ import annotations

from miaotui.apps.dialogue.files import load_tracker, read_dialogues, save_tracker
from miaotui.apps.dialogue.schema import DialogueSchema, SlotSchema
from miaotui.apps.dialogue.tracker import DialogueState, DialogueTracker, LabelledTurn, SlotValue

__all__ = [
    "DialogueSchema",
    "DialogueState",
    "DialogueTracker",
    "LabelledTurn",
    "SlotSchema",
    "SlotValue",
    "load_tracker",
    "read_dialogues",
    "save_tracker",
]
