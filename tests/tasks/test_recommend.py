"""Recommendation on small logs of our own: right items, at once, and clear errors for wrong rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from miaotui.errors import FieldError, ModelFormatError, ModelNotFoundError, RequestError
from miaotui.tasks.recommend import Recommender, collaborative, fusion
from miaotui.tasks.recommend.collaborative import EaseModel, matrix_of, neighbours_of, spectrum_of
from miaotui.tasks.recommend.file import load_recommender, save_recommender
from miaotui.tasks.recommend.log import checked_row, merged, read_events
from miaotui.tasks.recommend.parts import ItemVectors, standard

Rows = list[tuple[str, str, float, float]]


def made_log(users: int = 60, seed: int = 0) -> Rows:
    """Three tastes of twenty items each; a user takes ten of its own taste and two others."""
    numbers = np.random.default_rng(seed)
    rows: Rows = []
    for user in range(users):
        own = numbers.permutation(20)[:10] + 20 * (user % 3)
        others = numbers.integers(0, 60, 2)
        for item in numbers.permutation(np.union1d(own, others)).tolist():
            rows.append((f"u{user}", f"i{item}", float(len(rows)), 1.0 + user % 4))
    return rows


@pytest.fixture(scope="module")
def recommender() -> Recommender:
    return Recommender.fit(made_log(), {f"i{item}": f"film {item}" for item in range(60)})


def names(found: object) -> list[str]:
    return [each.item for each in found.items]  # type: ignore[attr-defined]


def test_items_of_the_users_own_taste_come_first(recommender: Recommender) -> None:
    taken = {item for user, item, *_ in made_log() if user == "u4"}
    found = recommender.recommend("u4", n=8)
    assert found.basis == "history"
    assert not taken & set(names(found))
    assert sum(20 <= int(name[1:]) < 40 for name in names(found)) >= 7
    best = found.items[0]
    assert best.text == f"film {best.item[1:]}"
    assert best.score == pytest.approx(sum(best.parts.values()), abs=1e-5)
    assert {item for item, _ in best.because_of} <= taken
    assert 0 < sum(share for _, share in best.because_of) <= 1.0001
    assert recommender.fitted.learned


def test_seen_items_come_again_only_if_asked(recommender: Recommender) -> None:
    taken = {item for user, item, *_ in made_log() if user == "u4"}
    assert taken & set(names(recommender.recommend("u4", n=60, seen=True)))
    everything = recommender.recommend("u4", n=60)
    assert set(names(everything)) == {f"i{item}" for item in range(60)} - taken


def test_new_users_get_what_is_popular(recommender: Recommender) -> None:
    counts: dict[str, int] = {}
    for _, item, *_ in made_log():
        counts[item] = counts.get(item, 0) + 1
    found = recommender.recommend("somebody new", n=5)
    assert found.basis == "popularity"
    assert counts[names(found)[0]] == max(counts.values())
    assert found.items[0].because_of == ()
    assert names(recommender.recommend(history=[], n=5)) == names(found)


def test_a_history_with_wrong_rows(recommender: Recommender) -> None:
    found = recommender.recommend(history=["i1", "nothing", ("i2", float("nan")), ("i3", 2.0), ("i4", -1), 7, ""], n=5)
    assert [(each.index, each.reason.partition(":")[0]) for each in found.errors] == [
        (1, "item"), (2, "weight"), (4, "weight"), (5, "item"), (6, "item"),
    ]  # fmt: skip
    assert sum(int(name[1:]) < 20 for name in names(found)) >= 4


def test_alike_items(recommender: Recommender) -> None:
    found = recommender.similar("i45", n=6)
    assert found.basis == "item"
    assert "i45" not in names(found)
    assert sum(int(name[1:]) >= 40 for name in names(found)) >= 5
    with pytest.raises(FieldError, match="no item 'i99'"):
        recommender.similar("i99")


def test_added_events_count_at_once() -> None:
    recommender = Recommender.fit(made_log())
    first = names(recommender.recommend("u4"))[0]
    assert recommender.add_events([("u4", first, 1e6), ("u99", "i1", 1e6), ("u99", "new", 1e6), ("u4", "", 1)]) == 3
    assert [each.reason.partition(":")[0] for each in recommender.errors] == ["item"]
    assert first not in names(recommender.recommend("u4", n=60))
    found = recommender.recommend("u99", n=60)
    assert found.basis == "history"
    assert "new" not in names(found)
    assert "new" in names(recommender.recommend("u5", n=60))
    assert recommender.similar("new").items == ()
    again = recommender.refitted()
    assert names(again.recommend("u99", n=3)) == names(
        Recommender.fit([*made_log(), ("u4", first, 1e6), ("u99", "i1", 1e6), ("u99", "new", 1e6)]).recommend(
            "u99", n=3
        )
    )


def test_popularity_and_diversity_are_adjustable(recommender: Recommender) -> None:
    rows = [*made_log(), *((f"x{n}", "i0", 0.0, 1.0) for n in range(40))]
    much = Recommender.fit(rows)
    user = next(user for user, *_ in rows if (user, "i0") not in {(u, i) for u, i, *_ in rows} and user == "u4")
    place = [names(much.recommend(user, n=60, popularity=value)).index("i0") for value in (-1.0, 0.0, 1.0)]
    assert place == sorted(place, reverse=True)
    assert place[0] > place[2]
    tastes = [
        len({int(name[1:]) // 20 for name in names(recommender.recommend("u4", n=6, diversity=d))}) for d in (0.0, 0.9)
    ]
    assert tastes[1] > tastes[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 0}, "n: must be a whole number from 1"),
        ({"n": True}, "n: must"),
        ({"popularity": 2}, "popularity: must be a number from -1 to 1"),
        ({"diversity": float("nan")}, "diversity: must be"),
        ({"intent": "a film about trains"}, "intent: needs texts of items and an encoder"),
        ({"history": ["i1"]}, "history: give a user or a history"),
    ],
)
def test_wrong_questions(recommender: Recommender, options: dict[str, object], message: str) -> None:
    with pytest.raises(FieldError, match=message):
        recommender.recommend("u1", **options)


def test_wrong_rows_of_a_log_are_named_and_the_others_used() -> None:
    nan = float("nan")
    rows = [("a", "x", 5, 1), ("a", "y", "soon"), ("a", "", 1), ("b", "x", 1, -1), ("b", "x", 1, nan), ("b",), "ab"]
    rows += [("a", "x", 5, 1), ("a", "x", 3, 2), (1, 2), ("c", "z", None, ""), ("d", "x", True), ("e" * 600, "x")]
    log = read_events(rows)
    assert {each.index: each.reason.partition(":")[0] for each in log.errors} == {
        1: "time", 2: "item", 3: "weight", 4: "weight", 5: "event", 6: "event", 7: "event", 11: "time", 12: "user",
    }  # fmt: skip
    assert (log.users, log.items) == (("a", "1", "c"), ("x", "2", "z"))
    assert log.time_s.tolist() == [0.0, 0.0, 5.0]
    assert log.weight.tolist() == [1.0, 1.0, 1.0]
    with pytest.raises(RequestError, match="no event that can be used: row 0: weight"):
        Recommender.fit([("a", "b", 0, 0)])


def test_one_user_is_enough_to_answer() -> None:
    recommender = Recommender.fit([("a", "x"), ("a", "y")], {"z": "never taken"})
    assert names(recommender.recommend("a")) == ["z"]
    assert not recommender.fitted.learned


def test_the_order_of_rows_changes_nothing() -> None:
    rows = made_log()
    turned = Recommender.fit(rows[::-1])
    for user in ("u1", "u2"):
        assert names(turned.recommend(user)) == names(Recommender.fit(rows).recommend(user))


@pytest.mark.parametrize(
    "written", ["2024-03-01 09:30", "2024/3/1 9:30:00", "2024年3月1日 09:30", "2024-03-01T09:30:00Z"]
)
def test_dates_of_spreadsheets_are_times(written: str) -> None:
    assert checked_row(("u", "i", written))[2] == 1_709_285_400


@pytest.mark.parametrize("written", ["2024-13-01", "yesterday", "2024-3"])
def test_what_is_no_date_is_named(written: str) -> None:
    with pytest.raises(FieldError, match=f"time.*'{written}'"):
        checked_row(("u", "i", written))


def test_ease_is_the_closed_form() -> None:
    """The spectrum gives Steck's solution, from users' side and from items' side."""
    log = read_events(made_log())
    matrix = matrix_of(log.user, log.item, log.weight, len(log.users), len(log.items))
    dense = matrix.toarray().astype(np.float64)
    inverse = np.linalg.inv(dense.T @ dense + 7.0 * np.eye(dense.shape[1]))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0.0)
    history = np.flatnonzero(dense[3]).astype(np.int32)
    unseen = np.setdiff1d(np.arange(dense.shape[1]), history)
    for spectrum in (spectrum_of(matrix), collaborative._whole_spectrum(matrix, by_users=False)):
        model = EaseModel.of(spectrum, 7.0)
        found = model.scores(history, dense[3][history].astype(np.float32))
        np.testing.assert_allclose(found[unseen], (dense[3] @ weights)[unseen], atol=2e-5)
        effects = model.effects(unseen, history, dense[3][history].astype(np.float32))
        np.testing.assert_allclose(effects.sum(axis=1), found[unseen], atol=1e-4)


def test_a_large_log_gets_its_leading_directions(monkeypatch: pytest.MonkeyPatch) -> None:
    log = read_events(made_log())
    matrix = matrix_of(log.user, log.item, log.weight, len(log.users), len(log.items))
    whole = spectrum_of(matrix)
    monkeypatch.setattr(collaborative, "EXACT", 8)
    monkeypatch.setattr(collaborative, "RANK", 5)
    leading = spectrum_of(matrix)
    np.testing.assert_allclose(leading.squares, np.sort(whole.squares)[::-1][:5], rtol=1e-4)


def test_neighbours_are_the_nearest_by_shrunk_cosine() -> None:
    matrix = matrix_of([0, 0, 1, 1, 2], [0, 1, 0, 1, 2], [1, 1, 1, 1, 1], 3, 3)
    found = neighbours_of(matrix, 2, shrinkage=1.0)
    assert found.places[0, 0] == 1
    assert found.cosines[0, 0] == pytest.approx(2 / 3)
    assert found.cosines[2].tolist() == [0, 0]


def test_texts_answer_for_items_that_nobody_took() -> None:
    recommender = Recommender.fit(made_log(), {f"i{item}": str(item) for item in range(61)})
    vectors = np.eye(4, dtype=np.float32)[[item // 20 for item in range(60)] + [1]]
    order = [int(name[1:]) for name in recommender.fitted.log.items]
    known = ItemVectors.of(vectors[order], np.ones(61, bool))
    fitted = replace(recommender.fitted, parts=replace(recommender.fitted.parts, vectors=known))
    assert "i60" in names(replace(recommender, fitted=fitted).similar("i25", n=60))
    assert "i60" not in names(replace(recommender, fitted=fitted).similar("i5", n=60))


def test_a_file_gives_the_same_answers(recommender: Recommender, tmp_path: Path) -> None:
    save_recommender(recommender, tmp_path / "films.npz")
    again = load_recommender(tmp_path / "films.npz")
    for user in ("u1", "u7"):
        assert again.recommend(user).items == recommender.recommend(user).items
    again.add_events([("u1", "i59", 9e9)])
    with pytest.raises(ModelNotFoundError, match="cannot be read"):
        load_recommender(tmp_path / "none.npz")


def test_files_that_do_not_fit_are_refused(recommender: Recommender, tmp_path: Path) -> None:
    path = tmp_path / "films.npz"
    save_recommender(recommender, path)
    with np.load(path) as read:
        arrays = dict(read)
    about = arrays["about"].tobytes()

    def refused(**changed: object) -> str:
        np.savez(path, **{**arrays, **changed})  # type: ignore[arg-type]
        with pytest.raises(ModelFormatError) as error:
            load_recommender(path)
        return str(error.value)

    newer = np.frombuffer(about.replace(b'"version": 1', b'"version": 2'), np.uint8)
    assert "expected format miaotui-recommender of version 1, found 2" in refused(about=newer)
    assert "do not fit each other: popular" in refused(popular=arrays["popular"][1:])
    assert "do not fit each other: item" in refused(item=arrays["item"] + 60)
    assert "not finite" in refused(gains=arrays["gains"] * np.float32("nan"))
    assert "numbers of type" in refused(user=arrays["user"].astype(np.int64))
    assert "arrays of a recommender" in refused(more=arrays["user"])
    assert "Object arrays" in refused(user=np.array([object()] * len(arrays["user"])))
    path.write_bytes(b"no archive")
    with pytest.raises(ModelFormatError, match="is no recommender"):
        load_recommender(path)


def test_weights_are_learned_from_the_last_events() -> None:
    log = read_events(made_log())
    trial = fusion.hold_out(log)
    assert trial is not None
    held = {(log.users[u], i) for u, wanted in enumerate(trial.wanted) for i in wanted.tolist()}
    assert len(held) == sum(len(wanted) for wanted in trial.wanted)
    assert len(trial.before) + len(held) == len(log)
    assert fusion.hold_out(read_events(made_log(users=10))) is None


def test_a_gain_is_that_of_the_definition() -> None:
    assert fusion.gain_of([True, True], 2) == pytest.approx(1.0)
    assert fusion.gain_of([False, True], 1) == pytest.approx(1 / np.log2(3))
    assert fusion.gain_of([False] * 10, 3) == 0.0


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 9), st.integers(1, 3)), max_size=30),
    st.integers(0, 30),
)
@settings(max_examples=60, deadline=None)
def test_merging_is_reading_all_at_once(rows: list[tuple[int, int, int, int]], cut: int) -> None:
    first = read_events(rows[:cut])
    both = merged(first, read_events(rows[cut:], first.users, first.items))
    whole = read_events(rows)

    def events(log: object) -> dict[tuple[str, str], float]:
        return {(log.users[u], log.items[i]): t for u, i, t in zip(log.user, log.item, log.time_s, strict=True)}  # type: ignore[attr-defined]

    assert events(both) == events(whole)
    assert np.all(np.diff(both.time_s) >= 0)


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=50), st.integers(1, 60))
@settings(max_examples=60, deadline=None)
def test_the_top_is_a_sorted_head(values: list[float], count: int) -> None:
    scores = np.array(values, np.float32)
    assert fusion.top_of(scores, count).tolist() == np.argsort(-scores, kind="stable")[:count].tolist()


def test_standard_scores_leave_constant_rows_at_zero() -> None:
    found = standard(np.array([[1, 2, 3, 9], [4, 4, 4, 4]], np.float32), [3])
    assert found[0, :3].mean() == pytest.approx(0, abs=1e-6)
    assert not found[1].any()
