"""Tiers: the best one that keeps a deadline answers, never one below the floor, and the answer says which."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from serving import Serving, serving

from miaotui.config import Settings
from miaotui.errors import DeadlineUnattainableError, OverloadedError, RequestError
from miaotui.optimize.card import FORM, SUFFIX
from miaotui.optimize.folder_copy import as_gguf
from miaotui.optimize.optimizer import about_file
from miaotui.retrieval.answers.cache import AnswerCache
from miaotui.serve.middleware.access import CURRENT, Account
from miaotui.serve.models import ObservedModel, Running, ServedModels
from miaotui.serve.ops.operations import Operations
from miaotui.serve.prompt_router import PromptRouter, read_routes
from miaotui.serve.tiers import NEAR_KL, TierGroup, probing, read_tiers
from miaotui.served_model import ServedModel
from tiny_models import make_tiny_folder, make_tiny_gguf


class Slow:
    """A served model that can keep no deadline below a time, and takes on nothing while it is full."""

    def __init__(self, model: ServedModel, least_ms: float) -> None:
        self._model, self._least_ms, self.is_full = model, least_ms, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def submit_all(self, submissions: Any) -> Any:
        wanted = list(submissions)
        if self.is_full:
            full = OverloadedError("the queue is full", 1.0)
            if self._model.loop.observer is not None:
                self._model.loop.observer.refused(full)
            raise full
        for _, _, options in wanted:
            deadline = options.deadline
            late = deadline is not None and deadline.on_late == "refuse" and (deadline.total_ms or 1e9) < self._least_ms
            if late:
                error = DeadlineUnattainableError("too slow", 1.0, self._least_ms)
                if self._model.loop.observer is not None:
                    self._model.loop.observer.refused(error)  # as the loop does
                raise error
        return self._model.submit_all(wanted)


def _parts(models: Mapping[str, ServedModel]) -> Mapping[str, Any]:
    least_ms = {"best": 50_000.0, "middle": 20_000.0, "small": 0.0}
    served = ServedModels(cast("ServedModel", Slow(models[name], least_ms[name])) for name in least_ms)
    group = TierGroup("chat", [served[name] for name in least_ms])
    group.tiers = tuple(
        type(tier)(tier.model, loss) for tier, loss in zip(group.tiers, (0.0, NEAR_KL, 0.4), strict=True)
    )
    served.add_groups([group])
    served.add_groups(read_routes(["routed=zh:best,code:middle,<30:middle,small"], served, []))
    operations = Operations(served)
    for model in models.values():
        cast("ObservedModel", model).observe(operations.running)
    return {"models": served, "operations": operations, "response_cache": AnswerCache()}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("tiers")
    places = {}
    for seed, name in enumerate(("best", "middle", "small")):
        places[name] = make_tiny_folder(folder, "llama", seed=seed)
    with serving(places, Settings.from_env(), parts=_parts) as running:
        yield running


def _ask(server: Serving, fresh: bool = True, **more: Any) -> httpx.Response:
    body = {"model": "chat", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4, "seed": 1, **more}
    headers = {"cache-control": "no-store"} if fresh else {}
    return httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60, headers=headers)


@contextmanager
def _full(server: Serving, *names: str) -> Iterator[None]:
    for name in names:
        cast("Slow", server.hosts[name]).is_full = True
    try:
        yield
    finally:
        for name in names:
            cast("Slow", server.hosts[name]).is_full = False


def _asked_and_kept(server: Serving, **more: Any) -> dict[str, Any]:
    """The answer; one that was not kept before is now."""
    cache = server.services.response_cache
    assert cache is not None
    before = cache.counts().kept
    answer: dict[str, Any] = _ask(server, fresh=False, **more).json()
    while answer["cache"] == "miss" and cache.counts().kept == before:
        time.sleep(0.002)
    return answer


def _count(server: Serving, name: str, *labels: str) -> float:
    lines = httpx.get(f"{server.url}/metrics").text.splitlines()
    found = [x for x in lines if x.startswith(name) and all(f'"{label}"' in x for label in labels)]
    return sum(float(line.rpartition(" ")[2]) for line in found)


@pytest.mark.parametrize(
    ("more", "tier"),
    [
        ({}, "best"),
        ({"deadline_ms": 55_000}, "best"),
        ({"deadline_ms": 40_000}, "middle"),
        ({"deadline_ms": 15_000}, "small"),
        ({"deadline_ms": 15_000, "quality": "any"}, "small"),
        ({"deadline_ms": 40_000, "quality": "near"}, "middle"),
        ({"deadline_ms": 15_000, "quality": "near", "on_late": "best_effort"}, "middle"),
        ({"deadline_ms": 15_000, "quality": "exact", "on_late": "best_effort"}, "best"),
    ],
)
def test_the_best_tier_that_keeps_the_deadline_answers(server: Serving, more: dict[str, Any], tier: str) -> None:
    answer = _ask(server, **more).json()
    assert (answer["deadline"]["tier"], answer["model"]) == (tier, "chat")
    own = _ask(server, model=tier, **{name: more[name] for name in more if name != "deadline_ms"}).json()
    assert own["choices"][0]["message"] == answer["choices"][0]["message"], "the tier's own answer"
    assert "tier" not in own["deadline"]


@pytest.mark.parametrize("quality", ["exact", "near"])
def test_no_tier_below_the_floor_answers(server: Serving, quality: str) -> None:
    refused = _ask(server, deadline_ms=15_000, quality=quality)
    assert refused.status_code == 429
    assert _ask(server, quality="best").status_code == 400


def test_streams_and_the_list_know_tiers(server: Serving) -> None:
    told = _ask(server, deadline_ms=15_000, stream=True).text
    assert '"tier":"small"' in told.replace(" ", "")
    listed = httpx.get(f"{server.url}/v1/models").json()["data"]
    assert [each["id"] for each in listed] == ["best", "middle", "small", "chat", "routed"]


def test_each_answer_and_refusal_is_counted_once(server: Serving) -> None:
    def counts() -> tuple[float, float]:
        return _count(server, "vllm:request_success_total", "small"), _count(server, "miaotui_refused_total")

    before = counts()
    _ask(server, deadline_ms=15_000)
    assert counts() == (before[0] + 1, before[1])
    _ask(server, deadline_ms=15_000, quality="near")
    assert counts()[1] == before[1] + 1
    with _full(server, "small"):
        assert _ask(server, deadline_ms=15_000).status_code == 503
        assert counts()[1] == before[1] + 2
        assert _ask(server, deadline_ms=15_000, on_late="best_effort").json()["deadline"]["tier"] == "middle"
    with _full(server, "small", "middle", "best"):
        assert _ask(server, deadline_ms=15_000, on_late="best_effort").status_code == 503
    assert counts()[1] == before[1] + 3


@pytest.mark.parametrize(
    ("full", "more", "tier"),
    [
        (["best"], {}, "middle"),
        (["best"], {"quality": "near", "deadline_ms": 40_000}, "middle"),
        (["best", "middle"], {}, "small"),
        (["small"], {"deadline_ms": 15_000, "on_late": "best_effort"}, "middle"),
        (["small"], {"deadline_ms": 15_000, "on_late": "shorten"}, "middle"),
        (["small", "middle"], {"deadline_ms": 15_000, "on_late": "best_effort"}, "best"),
    ],
)
def test_a_tier_that_takes_nothing_on_is_passed_by(
    server: Serving, full: list[str], more: dict[str, Any], tier: str
) -> None:
    with _full(server, *full):
        assert _ask(server, **more).json()["deadline"]["tier"] == tier


def test_a_kept_answer_of_a_lower_tier_stands_for_none_of_a_better_one(server: Serving) -> None:
    own = {name: _ask(server, model=name).json()["choices"][0]["message"] for name in ("best", "small")}
    assert own["best"] != own["small"]
    said = [{"role": "user", "content": "hello"}]
    for more, tier, state in (
        ({"deadline_ms": 15_000}, "small", "miss"),
        ({}, "best", "miss"),
        ({}, "best", "hit"),
        ({"deadline_ms": 15_000}, "best", "hit"),  # an answer of the best tier that is there is in time
        ({"model": "best"}, None, "hit"),
        ({"model": "small"}, None, "hit"),
    ):
        answer = _asked_and_kept(server, messages=said, **more)
        assert (answer["cache"], answer["deadline"].get("tier")) == (state, tier)
        assert answer["choices"][0]["message"] == own[tier or more["model"]]


def test_a_kept_answer_names_the_model_that_a_rule_chose(server: Serving) -> None:
    said = [{"role": "user", "content": "hi"}]
    first, again = (_asked_and_kept(server, model="routed", messages=said) for _ in range(2))
    assert (first["deadline"]["tier"], again["deadline"]["tier"], again["cache"]) == ("middle", "middle", "hit")
    assert _ask(server, model="routed", messages=said, quality="exact").status_code == 400, "rules have no floor"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "hello"}),
        ("/v1/responses", {"input": "hello"}),
        ("/v1/messages", {"messages": [{"role": "user", "content": "hello"}]}),
        ("/api/chat", {"messages": [{"role": "user", "content": "hello"}], "options": {"num_predict": 4}}),
        ("/api/generate", {"prompt": "hello", "raw": True, "options": {"num_predict": 4}}),
        ("/v1/tasks/generate", {"texts": ["hello"]}),
    ],
)
def test_every_route_has_the_floor_and_names_the_tier(server: Serving, path: str, body: dict[str, Any]) -> None:
    limits = {"/api": {}, "/v1/responses": {"max_output_tokens": 4}}
    limit = next((limits[each] for each in limits if path.startswith(each)), {"max_tokens": 4})

    def ask(**more: Any) -> httpx.Response:
        asked = {"model": "chat", "stream": False, **limit, **body, **more}
        return httpx.post(f"{server.url}{path}", json=asked, timeout=60)

    assert ask(deadline_ms=15_000).json()["deadline"]["tier"] == "small"
    assert ask(deadline_ms=40_000, quality="near").json()["deadline"]["tier"] == "middle"
    assert ask(deadline_ms=15_000, quality="exact").status_code == 429
    assert ask(quality="good").status_code == 400
    if "tasks" not in path:
        told = [line for line in ask(deadline_ms=15_000, stream=True).text.splitlines() if '"tier"' in line]
        assert len(told) == 1
        assert '"tier":"small"' in told[0].replace(" ", "")


def test_words_that_are_wrong(server: Serving) -> None:
    models = {name: server.hosts[name] for name in ("best", "small")}
    for word, message in {
        "chat": "expected NAME",
        "chat=best": "2 to 8",
        "chat=best,none": "no served model",
        "best=best,small": "served here already",
        "chat=best,": "expected NAME",
    }.items():
        with pytest.raises(RequestError, match=message):
            read_tiers([word], models, [])
    (group,) = read_tiers(["chat=best,small"], models, [])
    assert [tier.loss for tier in group.tiers] == [0.0, None], "without a report card nothing is near"


@pytest.mark.parametrize(
    ("said", "model"),
    [
        ("秒推让任何模型在一秒之内回答，今天的天气很好，我们去散步吧。", "best"),
        ("What does this do?\n```\nx = 1\n```\nPlease explain it to me in a few words, if you can.", "middle"),
        ("hi", "middle"),
        ("The people of the small town lend books, maps and tools to each other every day.", "small"),
    ],
)
def test_the_prompt_chooses_the_model(server: Serving, said: str, model: str) -> None:
    messages = [{"role": "user", "content": said}]
    answer = _ask(server, model="routed", messages=messages).json()
    assert answer["deadline"]["tier"] == model
    assert answer["choices"] == _ask(server, model=model, messages=messages).json()["choices"]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("x=best", "need a rule"),
        ("x=zh:best,code:small", "the last none"),
        ("x=best,small", "need a rule"),
        ("x=<0:best,small", "no served model"),
        ("x=zh:,small", "no served model"),
        ("x=zh:best,,small", "expected NAME"),
        ("best=zh:best,small", "served here already"),
        ("x=zh:none,small", "no served model"),
    ],
)
def test_rules_that_are_wrong(server: Serving, word: str, message: str) -> None:
    models = {name: server.hosts[name] for name in ("best", "small")}
    with pytest.raises(RequestError, match=message):
        read_routes([word], models, [])
    (router,) = read_routes(["x=zh:best,<9:small,best"], models, [])
    assert isinstance(router, PromptRouter)
    assert [rule.tokens for rule in router.rules] == [None, 9, None]


def test_a_report_card_says_how_near_a_tier_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a card about this very file counts, made from the first tier's, or from the copy of its folder."""
    monkeypatch.setenv("MIAOTUI_HOME", str(tmp_path / "home"))
    first, small, other, third = (make_tiny_gguf(tmp_path, "llama", seed=seed) for seed in range(4))
    folder = make_tiny_folder(tmp_path, "llama")
    copy = as_gguf(folder, Settings.from_env())
    about = {path: about_file(path) for path in (first, small, other, third, copy)}
    for path, source in ((small, first), (other, small), (third, copy)):
        card = {
            "file": about[path],
            "source": about[source],
            "quality": {"mean_kl": 0.04},
            "notes": [],
            "form": FORM,
            **{key: {} for key in ("wanted", "texts", "predicted", "seconds", "choices", "front")},
            "speed": None,
            "measured_candidates": 1,
        }
        path.with_name(path.name + SUFFIX).write_text(json.dumps(card))
    places = {"first": first, "small": small, "other": other, "folder": folder, "third": third}
    losses: list[float | None] = []

    def parts(models: Mapping[str, ServedModel]) -> Mapping[str, Any]:
        for names in (("first", "small", "other"), ("folder", "third", "small")):
            losses.extend(tier.loss for tier in TierGroup("x", [models[name] for name in names]).tiers)
        return {}

    with serving(places, Settings.from_env(), parts=parts):
        assert losses == [0.0, 0.04, None, 0.0, 0.04, None]


def test_a_part_that_is_taken_back_is_not_charged() -> None:
    """Of two prompts a tier takes one and refuses the other: the next tier's prompts are the ones that count."""
    charged: list[int] = []
    account = Account(charge=charged.append)
    running = Running({})
    taken = cast("Any", SimpleNamespace(number=1, prompt_tokens=7, token_ids=(), cached_tokens=0, finish_reason="stop"))
    token = CURRENT.set(account)
    try:
        with probing():
            running.submitted("best", taken)
            running.left("best", taken)
    finally:
        CURRENT.reset(token)
    assert (account.prompt_tokens, sum(charged), running.take_ended(), len(running)) == (0, 0, [], 0)
