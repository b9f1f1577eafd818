"""Encrypted indexes, answers and conversations: the whole folder is searched for plain bytes; and real deletion."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest

from miaotui.apps.conversations import ConversationStore, State
from miaotui.cli import main
from miaotui.config import Settings
from miaotui.errors import EncryptionKeyError
from miaotui.retrieval import Document, Index
from miaotui.retrieval.answers.cache import AnswerCache, AnswerKey, CacheOptions
from miaotui.retrieval.answers.calibrate import NearRule
from miaotui.retrieval.index.encrypting import encrypt_index
from miaotui.retrieval.meaning.vectors import PassageVectors
from miaotui.sealing.master_keys import FILE_VARIABLE, KEY_VARIABLE, add_master_key
from miaotui.sealing.seal import Seal
from miaotui.serve.tenants import deletion
from miaotui.serve.tenants.tenant_file import read_tenants
from miaotui.types import SamplingParams

SECRET = "zanzibarqux"  # a word that no file may hold
TEXT = f"The {SECRET} password opens the vault of the bank, and nobody else knows it."


class Embedder:
    """Vectors that depend on the text alone."""

    identity = "made"

    def embed(self, texts: Any, prompt: Any) -> Any:
        rows = [np.random.default_rng(crc32(text.encode())).standard_normal(8) for text in texts]
        found = np.array(rows, np.float32).reshape(len(texts), 8)
        return found / np.linalg.norm(found, axis=1, keepdims=True)


def holding(folder: Path, word: str = SECRET) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file() and word.encode() in path.read_bytes()]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MIAOTUI_HOME", str(tmp_path / "home"))
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    monkeypatch.delenv(FILE_VARIABLE, raising=False)
    return tmp_path


@pytest.fixture
def key(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = home / "master.key"
    add_master_key(path)
    monkeypatch.setenv(FILE_VARIABLE, str(path))
    return path


def asking(question: str, index: str = "pets", owner: str = "acme") -> AnswerKey:
    messages = [{"role": "user", "content": question}]
    return AnswerKey("model", "template", owner, SamplingParams(), messages, indexes=((index, "1"),))


def test_an_encrypted_index_has_no_plain_byte_on_the_disk(home: Path, key: Path) -> None:
    with Index.create("notes") as index:
        index.add([Document("1", TEXT, title=SECRET), Document("2", "Cats sleep.")])
        vectors = PassageVectors(index, Embedder())
        vectors.update()
        assert len(index.search(SECRET)) == 1
    assert holding(home) == []
    assert holding(home, "Cats") == []
    with Index.open("notes") as again:
        assert [hit.id for hit in again.search(SECRET)] == ["1"]
        assert PassageVectors(again, Embedder()).is_current


def test_two_processes_see_the_same_encrypted_index(home: Path, key: Path) -> None:
    with Index.create("notes") as writer, Index.open("notes") as reader:
        for number in range(5):
            writer.add([Document(str(number), f"word{number} of many")])
            assert len(reader.search(f"word{number}")) == 1
        writer.delete(["0"])
        assert len(reader.search("word0")) == 0
        assert len(reader) == 4
        writer.close()
        reader.add([Document("9", "from the other side")])
        assert len(writer.search("other side")) == 1


def test_a_commit_that_is_not_finished_changes_nothing(home: Path, key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Index.create("notes") as index:
        index.add([Document("1", "first")])
        write = Seal.write

        def failing(self: Seal, path: Path, parts: Any) -> None:
            if path.name == "manifest":
                raise EncryptionKeyError("killed here")
            write(self, path, parts)

        monkeypatch.setattr(Seal, "write", failing)
        with pytest.raises(EncryptionKeyError, match="killed here"):
            index.add([Document("2", "second")])
        monkeypatch.undo()
        monkeypatch.setenv("MIAOTUI_HOME", str(home / "home"))
        monkeypatch.setenv(FILE_VARIABLE, str(key))
    with Index.open("notes") as again:
        assert len(again) == 1
        again.add([Document("3", "third")])
        assert len(again.search("third")) == 1


def test_the_wrong_key_and_no_key_are_clear_errors(home: Path, key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Index.create("notes").close()
    AnswerCache(CacheOptions(home / "answers.db")).close()
    ConversationStore(home / "support.db").close()
    openings = (
        lambda: Index.open("notes"),
        lambda: AnswerCache(CacheOptions(home / "answers.db")),
        lambda: ConversationStore(home / "support.db"),
    )
    monkeypatch.delenv(FILE_VARIABLE)
    for opening in openings:
        with pytest.raises(EncryptionKeyError, match=FILE_VARIABLE):
            opening()
    monkeypatch.setenv(KEY_VARIABLE, base64.b64encode(b"w" * 32).decode())
    for opening in openings:
        with pytest.raises(EncryptionKeyError, match="put that key"):
            opening()
    assert not (home / "answers.db.damaged").exists()


def test_a_plain_index_is_encrypted_in_place_and_its_master_key_changed(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Index.create("notes") as index:
        index.add([Document("1", TEXT)])
        PassageVectors(index, Embedder()).update()
        folder = index.folder
    assert holding(home)
    with pytest.raises(EncryptionKeyError, match="no master key"):
        encrypt_index(folder)
    path = home / "master.key"
    assert main(["encryption", "key", str(path)]) == 0
    monkeypatch.setenv(FILE_VARIABLE, str(path))
    assert main(["index", "encrypt", "notes"]) == 0
    assert main(["index", "encrypt", "notes"]) == 0
    assert holding(home) == []
    AnswerCache(CacheOptions(home / "answers.db")).close()
    assert main(["encryption", "key", str(path)]) == 0
    assert main(["encryption", "rotate", "--answer-cache", str(home / "answers.db")]) == 0
    path.write_text(path.read_text().splitlines()[0])  # the old key is destroyed
    with Index.open("notes") as index:
        assert len(index.search(SECRET)) == 1
    AnswerCache(CacheOptions(home / "answers.db")).close()


def test_encrypted_answers_are_found_again_and_similar_ones_too(home: Path, key: Path) -> None:
    cache = AnswerCache(CacheOptions(home / "answers.db", near=NearRule(0.5, 0.001, 1_000, 0)))
    question = f"What is the {SECRET} password of the vault in the bank?"
    cache.keep(asking(question), f"the answer is {SECRET}".encode())
    found = cache.find(asking(question))
    assert found is not None
    assert found.payload.decode() == f"the answer is {SECRET}"
    assert cache.find(asking(question, owner="beta")) is None
    near = cache.find(asking(f"What is the {SECRET} password of the vault in the banks?"))
    assert near is not None
    assert (near.how, near.payload) == ("near", found.payload)
    cache.close()
    assert holding(home) == []
    assert holding(home, "password") == []


def test_conversations_become_encrypted(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ConversationStore(home / "support.db")
    begun = store.begin("en", "acme")
    store.add(begun, [("user", TEXT, {"seen": SECRET})], State(slots={"name": SECRET}), "en")
    store.rate(store.get(begun.id, "acme"), 5, comment=f"good {SECRET}")
    store.close()
    assert holding(home)
    path = home / "master.key"
    add_master_key(path)
    monkeypatch.setenv(FILE_VARIABLE, str(path))
    for _ in range(2):
        store = ConversationStore(home / "support.db")
        again = store.get(begun.id, "acme")
        assert (again.state.slots["name"], store.transcript(again)[0].text) == (SECRET, TEXT)
        assert store.ratings(again) == [(None, 5, f"good {SECRET}")]
        store.add(again, [("person", f"hello {SECRET}", {})], again.state, "en")
        store.close()
        assert holding(home) == []


# deletion -----------------------------------------------------------------------------------------


def test_a_deleted_document_is_in_no_file(home: Path) -> None:
    with Index.create("notes") as index:
        index.add([Document(str(number), f"passage {number} about cats") for number in range(50)])
        index.add([Document("secret", TEXT, title=SECRET), Document("other", "zebras run")])
        vectors = PassageVectors(index, Embedder())
        vectors.update()
        before = len(vectors)
        assert index.delete(["secret"]) == 1
        vectors.purge()
        assert holding(home) == []
        assert holding(home, '"secret"') == [], "the note of the vectors names documents"
        assert len(vectors) == before - 1
        assert PassageVectors(index, Embedder()).has("other")
        assert len(index) == 51
        assert len(index.search("zebras")) == 1
        index.add([Document("3", f"passage 3 holds {SECRET} for a while")])
        index.add([Document("3", "passage 3 holds nothing")])
        index.purge()
        assert holding(home) == []
        assert len(index) == 51


def test_ids_that_look_like_passages_survive_a_purge(home: Path) -> None:
    with Index.create("notes") as index:
        index.add([Document("a#1", "lion"), Document("b", "tiger")])
        index.add([Document("a", "long text. " * 400), Document("gone", TEXT)])
        count = len(index)
        assert index.delete(["gone"]) == 1
        assert len(index) == count - 1
        assert len(index.search("lion")) == 1
    assert holding(home) == []


def test_deleted_answers_are_in_no_file(home: Path) -> None:
    cache = AnswerCache(CacheOptions(home / "answers.db"))
    (home / "answers.db.damaged").write_text(TEXT)
    answers = {"one": asking("one"), "two": asking("two", index="cars"), "three": asking("three", owner="beta")}
    for name, each in answers.items():
        cache.keep(each, f"{name}{SECRET}".encode())
    assert holding(home)
    assert cache.forget(answers["one"])
    assert cache.find(answers["one"]) is None
    assert not (home / "answers.db.damaged").exists()
    assert holding(home, f"one{SECRET}") == []
    assert cache.forget_index("acme", "cars") == 1
    assert holding(home, f"two{SECRET}") == []
    assert cache.find(answers["three"]) is not None
    assert cache.forget_namespace("beta") == 1
    assert holding(home) == []
    cache.keep_no_more("beta")
    assert not cache.keep(answers["three"], b"x")


def test_a_removed_tenant_leaves_no_byte(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deletion, "SEEN_AFTER_S", 0.0)
    file, answers, talks = (str(home / name) for name in ("tenants.yaml", "answers.db", "support.db"))
    for name in ("acme", "beta"):
        assert main(["tenant", "add", name, "--tenants", file]) == 0
    acme, beta = (each.caller() for each in read_tenants(Path(file)))
    for caller in (acme, beta):
        with Index.create(Settings.from_env().folder("indexes") / f"@{caller.name}" / "pets") as index:
            index.add([Document("1", f"{SECRET} of {caller.name}mark")])
        cache = AnswerCache(CacheOptions(Path(answers)))
        cache.keep(asking("one", owner=caller.owner), f"{caller.name}mark".encode())
        cache.close()
        store = ConversationStore(Path(talks))
        store.add(store.begin("en", caller.owner), [("user", f"I am {caller.name}mark", {})], State(), "en")
        store.close()
    assert main(["tenant", "add", "acme", "--tenants", file]) == 1
    options = ["--tenants", file, "--answer-cache", answers, "--support-store", talks]
    assert main(["tenant", "remove", "acme", *options[:-1], str(home / "none.db")]) == 1
    assert [each.name for each in read_tenants(Path(file))] == ["acme", "beta"]
    assert main(["tenant", "remove", "acme", *options]) == 0
    assert holding(home, "acmemark") == []
    assert not (home / "home" / "indexes" / "@acme").exists()
    assert len(holding(home, "betamark")) >= 3
    assert main(["tenant", "add", "acme", "--tenants", file]) == 0
    assert main(["tenant", "remove", "beta", "--tenants", file, "--keep-data"]) == 0
    assert main(["tenant", "add", "beta", "--tenants", file]) == 1, "data of an earlier beta is there"
    assert main(["tenant", "add", "beta", "--tenants", file, "--keep-data"]) == 0
