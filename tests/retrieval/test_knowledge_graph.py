"""Knowledge graphs of our own: reading, names, words, paths with their proof, missing edges, bounds, files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miaotui.errors import FieldError, ModelFormatError, ModelNotFoundError, RequestError
from miaotui.retrieval.graph import GraphReader, KnowledgeGraph, Triple, paths, read_triples
from miaotui.retrieval.graph.answers import log_unmet
from miaotui.retrieval.graph.lexicon import Lexicon, WordReader, mean_cosine
from miaotui.retrieval.graph.links import LinkOptions, LinkPredictor
from miaotui.retrieval.graph.names import EntityNames, numbers_of, words_of
from miaotui.retrieval.graph.paths import follow, log_likelihood, outward
from miaotui.retrieval.graph.triples import checked_triples, short_name

FAMILY = [
    ("anna_lind", "spouse", "Bo Berg"),
    ("Bo Berg", "profession", "carpenter"),
    ("anna_lind", "children", "Cleo Berg"),
    ("anna_lind", "children", "Dan Berg"),
    ("Cleo Berg", "profession", "nurse"),
    ("Dan Berg", "profession", "baker"),
    ("Dan Berg", "place_of_birth", "Oslo"),
    ("Oslo", "country", "Norway"),
    ("anna_lind", "profession", "judge"),
    ("anna_lind", "likes", "anna_lind"),
]


@pytest.fixture
def reader() -> GraphReader:
    return GraphReader(KnowledgeGraph(FAMILY))


def test_one_hop_with_its_proof(reader: GraphReader) -> None:
    found = reader.ask("What is the profession of Anna Lind?")
    assert found.found
    assert found.entities == ("judge",)
    assert found.reading == ("profession",)
    assert found.paths == ((Triple("anna_lind", "profession", "judge"),),)
    assert found.text == "judge"
    assert 0 < found.probability <= 1


def test_two_hops_in_either_order_of_words(reader: GraphReader) -> None:
    for question in ("the profession of the children of Anna Lind", "Anna Lind's children's profession?"):
        found = reader.ask(question)
        assert found.entities == ("nurse", "baker"), question
        assert found.reading == ("children", "profession")
        assert [path[-1].object for path in found.paths] == ["nurse", "baker"]
    assert reader.ask("Anna Lind's spouse's profession?").entities == ("carpenter",)


def test_three_hops(reader: GraphReader) -> None:
    found = reader.ask("In which country is the place of birth of the children of Anna Lind?")
    assert found.entities == ("Norway",)
    assert [each.relation for each in found.paths[0]] == ["children", "place_of_birth", "country"]
    two = reader.ask("In which country is the place of birth of the children of Anna Lind?", hops=2)
    assert len(two.reading) <= 2


def test_a_missing_edge_is_told(reader: GraphReader) -> None:
    reader.graph.remove(("Bo Berg", "profession", "carpenter"))
    found = reader.ask("Anna Lind's spouse's profession?")
    assert not found.found
    assert found.text == "Not in the graph: it has no profession of spouse of anna_lind."
    reader.graph.add([("Bo Berg", "profession", "carpenter")])
    assert reader.ask("Anna Lind's spouse's profession?").found
    assert reader.ask("the profession of nobody at all").reason == "the question names none of its entities"


def test_misspelt_names_and_other_names(reader: GraphReader) -> None:
    assert reader.ask("the profession of Cleo Bergg").entities == ("nurse",)
    assert reader.graph.add([("Dan Berg", "alias", "Danny the Baker")]) == 0
    assert reader.ask("where is the place of birth of danny the baker").entities == ("Oslo",)
    assert reader.ask("the profession of Zorro Quux").reason == "the question names none of its entities"


def test_a_name_with_another_number_is_another_name() -> None:
    reader = GraphReader(KnowledgeGraph([("charles_x_of_france", "spouse", "Maria Theresa")]))
    assert reader.ask("the spouse of Charles X of Frannce").found
    assert not reader.ask("the spouse of Charles IX of Frannce").found
    assert numbers_of("henry v") == numbers_of("henry the fifth") == numbers_of("henry 5th") == [5]
    assert numbers_of("henry xxxix of 1998") == [39, 1998]
    assert numbers_of("henry") == numbers_of("vix") == []


class FixedEmbedder:
    """Texts on axes of their own, but for those that mean one thing."""

    identity = "fixed"

    def __init__(self, *meanings: Sequence[str]) -> None:
        self._axes = {text: number for number, texts in enumerate(meanings) for text in texts}

    def embed(self, texts: Sequence[str], prompt: Any) -> Any:
        places = [self._axes.get(text, 64 + crc32(text.encode()) % 8128) for text in texts]
        return np.eye(8192, dtype=np.float32)[places]


def test_names_in_other_words() -> None:
    graph = KnowledgeGraph([("United States", "capital", "Washington"), ("Sweden", "capital", "Stockholm")])
    reader = GraphReader(graph, FixedEmbedder(["united states", "usa", "yankee land"]))
    found = reader.ask("What is the capital of the USA?")
    assert (found.entities, found.subject) == (("Washington",), "United States")
    assert found.likeness < 1
    assert reader.ask("the capital of Sweden").likeness == 1
    assert reader.ask("the capital of Yankee Land").subject == "United States"
    assert reader.ask("the capital of Atlantis").reason == "the question names none of its entities"
    assert GraphReader(graph).ask("the capital of the USA").reason == "the question names none of its entities"


def test_vectors_are_kept_while_a_graph_changes() -> None:
    asked: list[str] = []

    class Counting(FixedEmbedder):
        def embed(self, texts: Sequence[str], prompt: Any) -> Any:
            asked.extend(texts)
            return super().embed(texts, prompt)

    embedder = Counting(["united states", "usa"])
    reader = GraphReader(KnowledgeGraph([("United States", "capital", "Washington")]), embedder)
    for number in range(3):
        assert reader.ask("What is the capital of the USA?").found
        reader.graph.add([("United States", "river", f"river {number}")])
    assert len(asked) == len(set(asked))


def test_a_name_that_could_be_two_entities_is_none() -> None:
    graph = KnowledgeGraph([("United States", "capital", "Washington"), ("America", "capital", "none")])
    reader = GraphReader(graph, FixedEmbedder(["united states", "america", "usa"]))
    assert not reader.ask("the capital of the USA").found
    with_alias = KnowledgeGraph([("United States", "capital", "Washington"), ("United States", "alias", "America")])
    reader = GraphReader(with_alias, FixedEmbedder(["united states", "america", "usa"]))
    assert reader.ask("the capital of the USA").entities == ("Washington",)


def test_relations_that_never_meet_are_read_last() -> None:
    met, counts = KnowledgeGraph(FAMILY).meetings()
    names = KnowledgeGraph(FAMILY).relations
    assert met[names.index("children"), names.index("profession")]
    assert not met[names.index("profession"), names.index("profession")]
    assert counts[names.index("profession")] == 4
    odds = log_unmet(met, counts)
    assert odds[met].max() == odds[met].min() == 0
    assert odds[~met].max() < 0


@given(st.lists(st.lists(st.floats(-1, 1), min_size=3, max_size=3), min_size=2, max_size=8))
def test_the_mean_cosine_is_that_of_all_pairs(rows: list[list[float]]) -> None:
    vectors = np.array(rows, np.float32) + np.array([0, 0, 2], np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    pairs = (vectors @ vectors.T)[~np.eye(len(vectors), dtype=bool)]
    assert mean_cosine(vectors) == pytest.approx(min(float(pairs.mean()), 0.99), abs=1e-4)


def test_chinese_names_and_relations() -> None:
    reader = GraphReader(KnowledgeGraph([("鲁迅", "妻子", "许广平"), ("许广平", "籍贯", "广东番禺")]))
    assert reader.ask("鲁迅的妻子是谁？").entities == ("许广平",)
    assert reader.ask("鲁迅的妻子的籍贯是什么？").entities == ("广东番禺",)
    assert reader.ask("许广平的妻子是谁？").text == "图谱中没有：许广平的妻子。"
    assert reader.ask("王小二的妻子是谁？").text == "图谱中没有：问题没有提到其中的实体。"


def test_words_are_learned_from_questions(reader: GraphReader) -> None:
    assert not reader.ask("What does the hubby of Anna Lind do for a crust?").found
    examples = [
        ("What does the hubby of Anna Lind do for a crust?", "anna_lind", ("spouse", "profession")),
        ("Anna Lind's hubby?", "anna_lind", ("spouse",)),
        ("Which crust has Cleo Berg?", "Cleo Berg", ("profession",)),
        ("What is the crust of Dan Berg?", "Dan Berg", ("profession",)),
        ("nobody's crust", "nobody", ("profession",)),
        ("the crust of Dan Berg", "Dan Berg", ("no such relation",)),
    ]
    assert reader.learn(examples * 5) == 20
    assert reader.ask("The crust of the hubby of Anna Lind?").entities == ("carpenter",)


def test_words_near_a_known_word_speak_of_its_relation() -> None:
    class Embedder:
        identity = "two words"

        def embed(self, texts: Sequence[str], prompt: Any) -> Any:
            near = {"profession": 0, "job": 0, "spouse": 1, "wife": 1, "pass away": 2, "die": 2}
            places = [near.get(text, 3 + crc32(text.encode()) % 8189) for text in texts]
            return np.eye(8192, dtype=np.float32)[places]

    reader = GraphReader(KnowledgeGraph(FAMILY), Embedder())
    assert reader.ask("the job of the wife of Anna Lind").entities == ("carpenter",)
    words = WordReader(Lexicon.from_names(["die", "spouse"]), Embedder())
    assert words.log_odds(["pass", "away"])[0].argmax() == 1


def test_relations_may_be_followed_backward_where_allowed() -> None:
    graph = KnowledgeGraph([("Astrid", "wrote", "Pippi")])
    assert not GraphReader(graph).ask("Who wrote Pippi?").found
    assert GraphReader(graph, backward=["wrote"]).ask("Who wrote Pippi?").entities == ("Astrid",)


def test_cycles_loops_and_duplicates_end() -> None:
    graph = KnowledgeGraph([("a", "next", "b"), ("b", "next", "a"), ("a", "next", "a"), ("a", "next", "b")])
    assert len(graph) == 3
    found = follow(graph, [0], [0, 0, 0])
    assert set(found.entities) == {0, 1}
    assert found.complete


def test_explosions_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "MAX_NODES", 50)
    rows = [(f"n{a}", "knows", f"n{b}") for a in range(100) for b in range(0, 100, 3)]
    graph = KnowledgeGraph(rows)
    found = follow(graph, [0], [0, 0, 0])
    assert len(found.entities) <= 50
    assert len(found.paths) <= paths.MAX_PATHS
    answer = GraphReader(graph).ask("whom do those know whom n0 knows")
    assert answer.found


@pytest.mark.parametrize("question", ["", "  ", "x" * 3000, None])
def test_wrong_questions(reader: GraphReader, question: Any) -> None:
    with pytest.raises(FieldError, match="question"):
        reader.ask(question)


def test_wrong_parameters(reader: GraphReader) -> None:
    with pytest.raises(FieldError, match="hops: must be 1 to 3"):
        reader.ask("anna", hops=4)
    with pytest.raises(FieldError, match="threshold"):
        reader.ask("anna", threshold=float("nan"))


# ---- files ---------------------------------------------------------------------------------------


def test_rows_of_files(tmp_path: Path) -> None:
    csv_file, tsv_file = tmp_path / "a.csv", tmp_path / "a.tsv"
    csv_file.write_text('subject,relation,object\n"Berg, Bo",knows,"Anna\nLind"\nx,y\n,b,c\n\n', encoding="utf-8")
    wrong = b"\xff\xfe\tknows\tb\n" + b"a" * 600 + b"\tknows\tb\n"
    tsv_file.write_bytes('a\t"knows\tb\né\tknows\tb\n'.encode() + wrong)
    found, errors = read_triples(csv_file)
    assert found == [("Berg, Bo", "knows", "Anna\nLind")]
    assert [(each.row, each.reason.partition(":")[0]) for each in errors] == [(3, "triple"), (4, "subject")]
    found, errors = read_triples(tsv_file)
    assert found == [("a", '"knows', "b"), ("é", "knows", "b")]
    assert ["UTF-8" in errors[0].reason, "600 characters" in errors[1].reason] == [True, True]
    with pytest.raises(RequestError, match="cannot be read"):
        read_triples(tmp_path / "none.tsv")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "gb18030", "utf-16"])
def test_tables_of_spreadsheets_are_triples(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "graph.csv"
    path.write_bytes("主语,关系,宾语\r\n安溪镇,位于,蓝河\r\n陈立,建造,老桥\r\n".encode(encoding))
    found, errors = read_triples(path)
    assert [tuple(each) for each in found] == [("安溪镇", "位于", "蓝河"), ("陈立", "建造", "老桥")]
    assert not errors


def test_rdf(tmp_path: Path) -> None:
    pytest.importorskip("rdflib")
    path = tmp_path / "a.nt"
    path.write_text(
        '<http://x.org/e/Q1> <http://www.w3.org/2000/01/rdf-schema#label> "Anna Lind" .\n'
        '<http://x.org/e/Q1> <http://x.org/p/also#altLabel> "Annie" .\n'
        "<http://x.org/e/Q1> <http://x.org/p/lives_in> <http://x.org/e/Oslo%20City> .\n"
    )
    found, errors = read_triples(path)
    assert not errors
    assert set(found) == {("Anna Lind", "alias", "Annie"), ("Anna Lind", "lives_in", "Oslo City")}
    path.write_text("no triples at all")
    with pytest.raises(RequestError, match="is no valid RDF"):
        read_triples(path)
    assert short_name("http://x.org/a#b") == "b"


def test_a_file_gives_the_same_answers(reader: GraphReader, tmp_path: Path) -> None:
    reader.graph.add([("Dan Berg", "alias", "Danny")])
    reader.learn([("Anna Lind's hubby?", "anna_lind", ("spouse",))])
    reader.graph.save(tmp_path / "family.json")
    again = GraphReader(KnowledgeGraph.load(tmp_path / "family.json"))
    assert list(again.graph) == list(reader.graph)
    for question in ("Anna Lind's hubby?", "the profession of Danny"):
        assert again.ask(question).entities == reader.ask(question).entities
        assert again.ask(question).found
    with pytest.raises(ModelNotFoundError, match="cannot be read"):
        KnowledgeGraph.load(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("old", "new"),
    [('"version": 1', '"version": 9'), ('"likes"', '""'), ('"triples": "', '"triples": "AAAA'), ("{", "[")],
)
def test_files_that_do_not_fit_are_refused(reader: GraphReader, tmp_path: Path, old: str, new: str) -> None:
    path = tmp_path / "family.json"
    reader.graph.save(path)
    path.write_text(path.read_text(encoding="utf-8").replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ModelFormatError, match=r"family\.json"):
        KnowledgeGraph.load(path)


# ---- properties ----------------------------------------------------------------------------------

small_triples = st.lists(
    st.tuples(st.sampled_from("abcd"), st.sampled_from("rs"), st.sampled_from("abcd")), max_size=20
)


@given(small_triples, small_triples)
@settings(max_examples=50, deadline=None)
def test_a_graph_is_the_set_of_its_triples(added: list[Any], removed: list[Any]) -> None:
    graph = KnowledgeGraph(added)
    left = set(added)
    for each in removed:
        assert graph.remove(each) == (each in left)
        left.discard(each)
    assert set(graph) == left
    assert len(graph) == len(left)


@given(small_triples, st.lists(st.integers(0, 1), min_size=1, max_size=3))
@settings(max_examples=50, deadline=None)
def test_paths_are_made_of_triples(rows: list[Any], relations: list[int]) -> None:
    graph = KnowledgeGraph([("a", "r", "a"), ("a", "s", "a"), *rows])
    found = follow(graph, [0], relations)
    ends = {"a"}
    for number in relations:
        ends = {o for s, r, o in graph if s in ends and r == graph.relations[number]}
    assert {graph.entities[each] for each in found.entities} == ends
    for path in found.paths:
        for at in range(0, len(path) - 2, 2):
            triple = graph.entities[path[at]], graph.relations[path[at + 1]], graph.entities[path[at + 2]]
            assert triple in graph


@given(st.text(max_size=200))
@settings(max_examples=80, deadline=None)
def test_any_text_can_be_asked(question: str) -> None:
    reader = GraphReader(KnowledgeGraph(FAMILY))
    if question.strip():
        reader.ask(question)
    assert EntityNames([(question, 0)]).mentions(words_of(question)[:16]) or not words_of(question)


@given(st.lists(st.lists(st.one_of(st.text(max_size=5), st.none(), st.integers()), max_size=4), max_size=8))
def test_each_row_is_a_triple_or_an_error(rows: list[list[Any]]) -> None:
    found, errors = checked_triples(rows)
    assert len(found) + len(errors) in (len(rows), len(rows) - 1)


def test_likelihoods_are_sums_over_all_ways() -> None:
    odds = np.log(np.array([[0.5, 0.4, 0.1], [0.2, 0.3, 0.5]], np.float32))
    found = np.exp(log_likelihood(odds, np.array([[1, 2], [2, 1]])))
    np.testing.assert_allclose(found, [0.4 * 0.5, 0.1 * 0.3], rtol=1e-5)
    (one,) = np.exp(log_likelihood(odds, np.array([[1]])))
    assert one == pytest.approx(0.4 * 0.2 + 0.5 * 0.3 + 0.4 * 0.3)


def test_words_count_outward() -> None:
    words = words_of("the son of X's wife")
    assert [words[at] for at in outward(words, 3, 4)] == ["'s", "wife", "of", "son", "the"]
    words = words_of("where did the son of X die")
    assert [words[at] for at in outward(words, 5, 6)] == ["of", "son", "the", "did", "where", "die"]


# ---- predicted links -----------------------------------------------------------------------------


def test_links_that_were_left_out_are_predicted() -> None:
    """A relation and its inverse: what one lacks the other has."""
    rows = [Triple(f"p{n}", "parent", f"c{n}") for n in range(20)]
    rows += [Triple(f"c{n}", "child", f"p{n}") for n in range(18)]
    left_out = [Triple(f"c{n}", "child", f"p{n}") for n in (18, 19)]
    predictor = LinkPredictor.fit(rows, LinkOptions(rank=16, epochs=80, batch=32))
    quality = predictor.evaluate(left_out, known=[*rows, *left_out])
    assert quality["mrr"] > 0.5
    assert quality["triples"] == 2
    assert predictor.predict("p3", "parent", 1)[0][0] == "c3"
    again = LinkPredictor.fit(rows, LinkOptions(rank=16, epochs=80, batch=32))
    assert np.array_equal(again.vectors, predictor.vectors)
    with pytest.raises(FieldError, match="no entity 'zz'"):
        predictor.predict("zz", "parent")
    with pytest.raises(FieldError, match="no relation 'zz'"):
        predictor.predict("p3", "zz")
    with pytest.raises(RequestError, match="1 to 50,000 entities, not 0"):
        LinkPredictor.fit([])
