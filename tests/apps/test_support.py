"""Customer service: rules, slots, questions, documents, hand-over, ratings, transcripts."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_library import open_library

from miaotui.apps.conversations import MAX_MESSAGE_CHARS, ConversationStore, State
from miaotui.apps.faq import Faq, FaqEntry
from miaotui.apps.intents import IntentClassifier
from miaotui.apps.qa_pipeline import QaPipeline
from miaotui.apps.rules import Rules, Slot, parse_rules, read_rules
from miaotui.apps.support import Support
from miaotui.errors import CacheError, DocumentIndexError, RequestError
from miaotui.retrieval import Index

RULES = """
greeting: {en: "Hello from the shop.", zh: "小店欢迎您。"}
intents:
  order_status: [where is my order, when will my order arrive, track my parcel, 我的订单到哪了, 什么时候发货]
  cancel_order: [cancel my order, i do not want it any more, stop my order, 取消订单, 我不要了]
  opening_hours: [when are you open, what are your opening hours, 营业时间是几点, 几点开门]
slots:
  order: {kind: code, form: AA-9999, ask: {en: "Which order? (like AB-1234)", zh: "请问订单号？"}}
  email: {kind: email, ask: "Your e-mail?"}
rules:
  - name: swearing
    when: {contains: [damn]}
    say: Please stay polite.
  - name: status
    when: {intent: order_status, confidence: 0.2}
    need: [order]
    say: {en: "Order {order} is on its way.", zh: "订单{order}正在路上。"}
  - name: cancel
    when: {intent: cancel_order, confidence: 0.2}
    need: [order, email]
    say: "Cancelled {order}; we wrote to {email}."
  - name: hours
    when: {intent: opening_hours, confidence: 0.2}
    answer: true
"""
FAQ = [FaqEntry(("What are your opening hours?", "营业时间"), "Nine to five.")]


def rules(tmp_path: Path) -> Rules:
    path = tmp_path / "rules.yaml"
    path.write_text(RULES, encoding="utf-8")
    return read_rules(path)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Support]:
    with open_library(tmp_path) as index:
        store = ConversationStore(tmp_path / "talk.db")
        desk = QaPipeline(index)
        yield Support(store, rules=rules(tmp_path), faq=Faq(FAQ), desk=desk, index="library")
        store.close()


def test_rules_go_before_what_is_learned(service: Support) -> None:
    talk, greeting = service.begin()
    assert (greeting.text, greeting.how) == ("Hello from the shop.", "greeting")
    reply = service.say(talk.id, "Damn, where is my order")
    assert (reply.text, reply.rule) == ("Please stay polite.", "swearing")


def test_slots_are_asked_for_and_filled(service: Support) -> None:
    talk, _ = service.begin()
    asked = service.say(talk.id, "when will my order arrive?")
    assert (asked.how, asked.intent, asked.rule) == ("slot", "order_status", "status")
    done = service.say(talk.id, "it is AB-1234, thank you")
    assert done.text == "Order AB-1234 is on its way."
    assert service.transcript(talk.id)["slots"] == {}
    at_once = service.say(talk.id, "where is my order CD-5678")
    assert at_once.text == "Order CD-5678 is on its way."
    service.say(talk.id, "cancel my order EF-0001")
    assert service.say(talk.id, "me@example.org").text == ("Cancelled EF-0001; we wrote to me@example.org.")


def test_an_open_question_gives_way_to_another_one(service: Support) -> None:
    talk, _ = service.begin()
    assert service.say(talk.id, "where is my order").how == "slot"
    other = service.say(talk.id, "When was the lighthouse of Arden Point built?")
    assert other.how == "documents"
    assert "1874" in other.text
    assert other.citations[0]["source"] == "arden.md"


def test_chinese_is_answered_in_chinese(service: Support) -> None:
    talk, greeting = service.begin("zh")
    assert greeting.text == "小店欢迎您。"
    assert service.say(talk.id, "我的订单到哪了").text == "请问订单号？"
    assert service.say(talk.id, "XY-9999").text == "Order XY-9999 is on its way."
    assert service.say(talk.id, "青石桥在哪一年建成？").how == "documents"
    assert service.say(talk.id, "海王星上有企鹅吗").how == "fallback"


def test_answered_questions_go_before_documents(service: Support) -> None:
    talk, _ = service.begin()
    reply = service.say(talk.id, "what are your opening hours?")
    assert (reply.how, reply.text) == ("faq", "Nine to five.")
    assert reply.took_ms < 2_000


def test_three_failures_or_a_wish_hand_over_to_a_person(service: Support) -> None:
    talk, _ = service.begin()
    hows = [service.say(talk.id, f"zxcv qwrt plok {n}").how for n in range(3)]
    assert hows == ["fallback", "fallback", "handed_over"]
    silent = service.say(talk.id, "still there?")
    assert (silent.text, silent.handed_over) == ("", True)
    turn = service.person_says(talk.id, "Yes, Ada here.")
    assert turn.role == "person"
    other, _ = service.begin()
    assert service.say(other.id, "let me talk to a human").handed_over
    third, _ = service.begin("zh")
    assert "人工" in service.hand_over(third.id).text
    with pytest.raises(RequestError, match="hand it over"):
        service.person_says(service.begin()[0].id, "hello")


def test_transcripts_and_ratings(service: Support) -> None:
    talk, _ = service.begin()
    reply = service.say(talk.id, "what are your opening hours")
    service.rate(talk.id, 5, reply.turn, "good")
    service.rate(talk.id, 2)
    told = service.transcript(talk.id)
    assert [turn["role"] for turn in told["turns"]] == ["assistant", "user", "assistant"]
    assert [turn["number"] for turn in told["turns"]] == [1, 2, 3]
    assert told["turns"][2]["detail"]["how"] == "faq"
    assert told["ratings"] == [{"turn": 3, "score": 5, "comment": "good"}, {"turn": None, "score": 2, "comment": ""}]
    for wrong in ({"score": 6}, {"score": True}, {"score": 3, "turn": 9}, {"score": 3, "comment": "x" * 9999}):
        with pytest.raises(RequestError):
            service.rate(talk.id, **wrong)  # type: ignore[arg-type]


def test_a_conversation_outlives_its_documents(service: Support, tmp_path: Path) -> None:
    class Broken:
        version = "1"

        def search(self, *_: object, **__: object) -> Any:
            raise DocumentIndexError("the index is damaged")

    service.desk = QaPipeline(Broken())
    talk, _ = service.begin()
    assert service.say(talk.id, "When was the lighthouse of Arden Point built?").how == "fallback"


def test_callers_see_their_own_conversations_only(service: Support) -> None:
    talk, _ = service.begin(namespace="a")
    for namespace in ("", "b"):
        with pytest.raises(RequestError, match="no such conversation"):
            service.say(talk.id, "hello", namespace)
    assert service.transcript(talk.id, "a")["id"] == talk.id


@pytest.mark.parametrize("message", ["", "  ", "x" * (MAX_MESSAGE_CHARS + 1), "\udc00", None, 7])
def test_bad_messages_are_refused(service: Support, message: Any) -> None:
    talk, _ = service.begin()
    with pytest.raises(RequestError):
        service.say(talk.id, message)
    with pytest.raises(RequestError):
        service.begin("klingon")


def test_conversations_run_side_by_side(service: Support) -> None:
    talks = [service.begin()[0].id for _ in range(4)]

    def speak(talk: str, number: int) -> None:
        for n in range(5):
            service.say(talk, f"where is my order AB-{number}{n}00")

    threads = [threading.Thread(target=speak, args=(t, n)) for n, t in enumerate(talks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, talk in enumerate(talks):
        said = [t["text"] for t in service.transcript(talk)["turns"] if t["role"] == "assistant"]
        assert said[1:] == [f"Order AB-{number}{n}00 is on its way." for n in range(5)]


def test_a_service_without_documents_or_questions() -> None:
    service = Support(ConversationStore())
    talk, _ = service.begin()
    assert service.say(talk.id, "hello").how == "fallback"
    assert service.say(talk.id, "转人工").handed_over


# ---- rules ---------------------------------------------------------------------------------------

SAY = {"say": "x"}


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ([], "mapping"),
        ({"rulez": []}, "rulez"),
        ({"rules": {}}, "rules"),
        ({"rules": [7]}, "rule 1"),
        ({"rules": [{"when": {"intent": "x"}, **SAY}]}, "intent 'x'"),
        ({"rules": [{"when": {"code": "1"}, **SAY}]}, "code"),
        ({"rules": [{"when": {"confidence": 2}, **SAY}]}, "confidence"),
        ({"rules": [{"when": {"contains": "x"}, **SAY}]}, "list of texts"),
        ({"rules": [{"need": ["x"], **SAY}]}, "need"),
        ({"rules": [{"say": "{x}"}]}, "{x}"),
        ({"rules": [{}]}, "say"),
        ({"rules": [{"hand_over": "yes"}]}, "hand_over"),
        ({"slots": {"X": {"ask": "?"}}}, "slot name"),
        ({"slots": {"x": {"kind": "regex", "ask": "?"}}}, "kind"),
        ({"slots": {"x": {"kind": "choice", "ask": "?"}}}, "choices"),
        ({"slots": {"x": {"kind": "code", "ask": "?"}}}, "form"),
        ({"slots": {"x": {"kind": "text"}}}, "ask"),
        ({"greeting": {"fr": "Bonjour"}}, "fr"),
        ({"greeting": 7}, "greeting"),
        ({"intents": {"a": "text"}}, "intents.a"),
    ],
)
def test_wrong_rules_name_what_is_wrong(value: Any, names: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_rules(value)
    assert names in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "message", "value"),
    [
        ("number", "I want 3 of them", "3"),
        ("email", "write to a.b@example.co.uk!", "a.b@example.co.uk"),
        ("phone", "call +44 20 7946 0958 now", "+44 20 7946 0958"),
        ("date", "on 2026-03-01 please", "2026-03-01"),
        ("date", "3月1日到", "3月1日"),
        ("choice", "the RED one", "red"),
        ("code", "it is AB-1234.", "AB-1234"),
        ("code", "XAB-1234", None),
        ("email", "no address", None),
    ],
)
def test_slots_find_their_values(kind: str, message: str, value: str | None) -> None:
    form = "AA-9999" if kind == "code" else ""
    choices = ("red", "blue") if kind == "choice" else ()
    said = parse_rules({"greeting": "x"}).greeting
    assert Slot("s", kind, said, choices, form).find(message) == value


def test_what_users_say_never_becomes_a_template(tmp_path: Path) -> None:
    service = Support(
        ConversationStore(),
        rules=parse_rules(
            {
                "slots": {"name": {"kind": "text", "ask": "Who?"}, "n": {"kind": "number", "ask": "#"}},
                "rules": [{"when": {"contains": ["go"]}, "need": ["name"], "say": "Hi {name}"}],
            }
        ),
    )
    talk, _ = service.begin()
    service.say(talk.id, "go")
    assert service.say(talk.id, "{n}{__class__}").text == "Hi {n}{__class__}"


def test_intents_need_examples_and_know_their_doubt() -> None:
    with pytest.raises(RequestError):
        IntentClassifier({"only": ["one"]})
    known = parse_rules_of_file()
    classifier = IntentClassifier(known)
    clear = classifier.classify("where is my order")
    vague = classifier.classify("zzz")
    assert clear.name == "order_status"
    assert 0 <= vague.confidence < clear.confidence <= 1
    assert classifier.classify("取消订单").name == "cancel_order"
    three = classifier.classify_all(["cancel my order", "几点开门", "track my parcel"])
    assert [each.name for each in three] == ["cancel_order", "opening_hours", "order_status"]


def parse_rules_of_file() -> dict[str, tuple[str, ...]]:
    import yaml  # noqa: PLC0415

    return dict(parse_rules(yaml.safe_load(RULES)).intents)


# ---- the store -----------------------------------------------------------------------------------

TALKER = """
import sys
from pathlib import Path
from miaotui.apps.conversations import ConversationStore, State
store = ConversationStore(Path(sys.argv[1]))
talk = store.begin("en")
print(talk.id, flush=True)
while True:
    for turn in store.add(talk, [("user", "a", {}), ("assistant", "b", {})], State(), "en"):
        pass
    print(turn.number, flush=True)
"""


def test_a_killed_process_loses_no_turn(tmp_path: Path) -> None:
    path = tmp_path / "talk.db"
    child = subprocess.Popen([sys.executable, "-c", TALKER, str(path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    name = child.stdout.readline().strip()
    last = [int(child.stdout.readline()) for _ in range(30)][-1]
    child.send_signal(signal.SIGKILL)
    child.communicate()
    store = ConversationStore(path)
    turns = store.transcript(store.get(name))
    assert len(turns) >= last
    assert len(turns) % 2 == 0
    assert [turn.number for turn in turns] == list(range(1, len(turns) + 1))


def test_old_conversations_leave_and_long_ones_end(tmp_path: Path) -> None:
    now = [1e9]
    path = tmp_path / "talk.db"
    store = ConversationStore(path, lambda: now[0])
    talk = store.begin("en")
    many = [("user", "a", {}) for _ in range(1_000)]
    store.add(talk, many, State(), "en")  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="begin another"):
        store.add(talk, many[:1], State(), "en")  # type: ignore[arg-type]
    store.close()
    now[0] += 91 * 86_400
    with pytest.raises(RequestError):
        ConversationStore(path, lambda: now[0]).get(talk.id)
    with pytest.raises(CacheError):
        ConversationStore(tmp_path)


def test_the_library_is_there(service: Support) -> None:
    assert service.desk is not None
    assert isinstance(service.desk.index, Index)
