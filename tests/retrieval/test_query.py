"""The query language: what each form means, and that no string does harm."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from miaotui.errors import RequestError
from miaotui.retrieval import Document, Index, IndexSettings
from miaotui.retrieval.query.parser import MAX_QUERY_CHARS, ClauseGroup, Equal, Near, Phrase, Range, Words, parse

DOCUMENTS = [
    Document("1", "Cats sleep on the old red mat.", "Cats", tags=("pets", "zzz"), time_s=1_704_100_000),
    Document("2", "Dogs bark at the mail carrier, old friend.", "Dogs", language="en"),
    Document("3", "The red sun sets over mountains; kittens sleep.", "Evening", source="docs/a.md"),
    Document("4", "北京是中国的首都，故宫在北京市中心。", "北京", language="zh"),
    Document("5", "iPhone手机的价格", "", source="docs/b.md", time_s=1_735_700_000),
    Document("6:x y", "Naïve café owners, C++ and 5:30 trains", "", tags=("two words",)),
]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    made = Index.create(tmp_path_factory.mktemp("query") / "index", IndexSettings(partitions=2))
    made.add(DOCUMENTS)
    return made


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("", ClauseGroup()),
        ("cats", Words("cats")),
        ("cats dogs", Words("cats dogs")),
        ("+cats -dogs", ClauseGroup(must=(Words("cats"),), must_not=(Words("dogs"),))),
        ("a AND b", ClauseGroup(must=(Words("a"), Words("b")))),
        ("a OR b", ClauseGroup(should=(Words("a b"),))),
        ("a NOT b", ClauseGroup(should=(Words("a"),), must_not=(Words("b"),))),
        ('"a b"~3^2', Phrase("a b", 3, 2.0)),
        ("cat~1", Near("cat", 1)),
        ("cat~", Near("cat", 2)),
        ("cat*", Near("cat", 0, prefix=True)),
        ("cats^2.5", Words("cats", boost=2.5)),
        ("title:cats", Words("cats", "title")),
        ("tag:a", Equal("tags", "a")),
        ('TAG:"a b"', Equal("tags", "a b")),
        ("source:docs/*", Equal("source", "docs/", prefix=True)),
        ("time:[2024-01-01 TO *}", Range("2024-01-01", "", True, False)),
        ("time:2024-01-01", Range("2024-01-01", "2024-01-01")),
        ("(a b)^2", ClauseGroup(should=(Words("a b"),), boost=2.0)),
        ("http://x", Words("http://x")),
        ("5:30", Words("5:30")),
        ("well-known", Words("well-known")),
    ],
)
def test_forms(text: str, tree: object) -> None:
    assert parse(text) == tree


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("red", {"1", "3"}),
        ("+red +sleep", {"1", "3"}),
        ("red -mat", {"3"}),
        ("red AND mat", {"1"}),
        ("(mat OR carrier) AND old", {"1", "2"}),
        ('"old red"', {"1"}),
        ('"red old"', set()),
        ('"cats mat"', set()),
        ('"sleep mat"~3', {"1"}),
        ("kitten~1", {"3"}),
        ("moun*", {"3"}),
        ("title:red", set()),
        ("title:cats", {"1"}),
        ("tag:pets", {"1"}),
        ('tag:"two words"', {"6:x y"}),
        ("lang:zh", {"4"}),
        ("old lang:en", {"2"}),
        ("source:docs/*", {"3", "5"}),
        ("source:docs/a.md", {"3"}),
        ('id:"6:x y"', {"6:x y"}),
        ("time:[2024-01-01 TO 2024-12-31]", {"1"}),
        ("time:2024-01-01", {"1"}),
        ("time:{2024-01-01T09:06:40 TO *]", {"5"}),
        ("time:[* TO *]", {"1", "5"}),
        ("-red", {"2", "4", "5", "6:x y"}),
        ("北京", {"4"}),
        ('"京市中"', {"4"}),
        ('"中国的首都"', {"4"}),
        ('"手机的价"', {"5"}),
        ("IPHONE", {"5"}),
        ("ｃａｔｓ", {"1"}),
        ("cafe naive", {"6:x y"}),
        ("the", set()),
        ("NEAR nothing", set()),
    ],
)
def test_what_is_found(index: Index, query: str, expected: set[str]) -> None:
    assert {hit.id for hit in index.search(query)} == expected


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("(a", "never closed"),
        ("a)", "closing parenthesis"),
        ("a AND", "without a clause after it"),
        ("AND a", "without a clause before it"),
        ("a OR", "on both sides"),
        ("+", "without a clause after it"),
        ("a^1.2.3", "takes a number"),
        ("(" * 40 + "a" + ")" * 40, "deeper than"),
        ("+a " * 600, "more than"),
        ("a" * (MAX_QUERY_CHARS + 1), "at most"),
        ("time:yesterday", "is no time"),
        ("title:[a TO b]", "takes a word"),
    ],
)
def test_mistakes_say_where(index: Index, query: str, reason: str) -> None:
    with pytest.raises(RequestError, match=reason):
        index.search(query)


def test_filters_do_not_change_scores(index: Index) -> None:
    plain = {hit.id: hit.score for hit in index.search("red sleep")}
    filtered = {hit.id: hit.score for hit in index.search("red sleep tag:pets")}
    assert filtered == {"1": pytest.approx(plain["1"])}


def test_boosts_and_titles_count(index: Index) -> None:
    assert index.search("cats bark")[0].id == "1"  # in title and body
    assert index.search("cats bark^4")[0].id == "2"


SIGNS = st.sampled_from([*'()+-"~^*:[]{}\\/|&! \t\n\0', "AND", "OR", "NOT", "TO", "time:", "title:", "id:", "source:"])
PIECES = st.one_of(SIGNS, st.sampled_from(["red", "北京", "café", "~2", "^9", "[a TO b]"]), st.text())


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(PIECES, max_size=25).map("".join))
def test_hostile_strings_give_results_or_one_error(index: Index, query: str) -> None:
    try:
        results = index.search(query, 5)
    except RequestError:
        return
    assert len(results) <= 5
    assert all("<script" not in hit.snippet for hit in results)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.text(max_size=300))
def test_plain_text_is_always_searched(index: Index, query: str) -> None:
    assert len(index.search(query, 3, plain=True)) <= 3


def test_hostile_bodies_are_indexed(tmp_path: Path) -> None:
    made = Index.create(tmp_path / "index")
    bodies = ["\0\x01", "a" * 100_000, "(" * 9_999, "\u202e\ufeff", "𠀀𠀁" * 500, "<b>&" * 999, "e\u0301" * 200]
    made.add(Document(str(n), body) for n, body in enumerate(bodies))
    assert made.search("𠀀")[0].id == "4"
    assert "<b>&amp;" not in made.search("b").hits[0].snippet.replace("<b>b</b>", "")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"id": "", "body": "x"}, "id that is not empty"),
        ({"id": "x" * 600, "body": "x"}, "at most 512"),
        ({"id": "1", "body": "\ud800"}, "surrogate"),
        ({"id": "1", "body": 5}, "must be text"),
        ({"id": "1", "body": "x", "tags": ("a",) * 65}, "tags"),
        ({"id": "1", "body": "x", "time_s": 2**60}, "out of range"),
    ],
)
def test_documents_are_checked(values: dict[str, object], reason: str) -> None:
    with pytest.raises(RequestError, match=reason):
        Document(**values)  # type: ignore[arg-type]
