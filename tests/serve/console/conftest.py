"""A headless Chromium, a real server over a tiny model, and pages that note whatever they must not do."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from serving import Serving, serving

from miaotui.retrieval import Document, Index
from miaotui.serve.documents.index_registry import IndexRegistry
from miaotui.serve.models import ServedModels
from miaotui.serve.speech.models import SpeechModels
from miaotui.speech.transcript import SAMPLE_RATE
from scripted_speech import ScriptedRecogniser, bursts
from sound_files import wav
from tiny_encoder_models import make_encoder_folder
from tiny_engine import settings_in
from tiny_models import make_tiny_folder

collect_ignore_glob = [] if find_spec("playwright") else ["test_*.py"]  # `pip install 'miaotui[browser]'` brings it
CHROMIUM = os.environ.get("MIAOTUI_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
BRIDGE = Document(
    "bridge.txt", "The old bridge of Tarn was built in 1731 by Odo Hale. It has seven arches.", title="Tarn"
)
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--use-fake-device-for-media-stream")
SPOKEN = "..ss.."  # what the microphone hears, again and again


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep these tests out of the fast set, and skip them where there is no browser."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)
            if CHROMIUM is None:
                item.add_marker(pytest.mark.skip(reason="needs Chromium: apt install chromium"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each journey in one language at one width; in both of both where all are asked for."""
    if "look" in metafunc.fixturenames:
        looks = [(locale, width) for width in (1280, 360) for locale in ("en-US", "zh-CN")]
        number = sum(map(ord, metafunc.function.__name__)) % len(looks)
        chosen = looks if os.environ.get("MIAOTUI_CONSOLE_ALL") else [looks[number]]
        metafunc.parametrize("look", chosen, ids=lambda look: f"{look[0]}-{look[1]}")


@pytest.fixture
def console(open_page: Any, look: tuple[str, int]) -> Any:
    """The console in the look of this run."""
    return open_page(locale=look[0], width=look[1])


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("console")
    models = {"tiny": make_tiny_folder(folder, "llama", max_position_embeddings=1 << 15)}
    with Index.create(folder / "indexes" / "bridges") as index:
        index.add([BRIDGE])

    def parts(models: ServedModels) -> dict[str, object]:
        speech = SpeechModels({"speech": ScriptedRecogniser()})
        return {"indexes": IndexRegistry(folder / "indexes"), "speech": speech}

    encoders = {"embed": make_encoder_folder(folder, "embed")}
    with serving(models, settings_in(folder), encoders=encoders, parts=parts) as running:
        yield running


@pytest.fixture(scope="module")  # its loop runs until it ends, and other tests cannot run theirs
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright  # noqa: PLC0415  (it may not be here)

    spoken = tmp_path_factory.mktemp("microphone") / "spoken.wav"
    spoken.write_bytes(wav(bursts(SPOKEN), SAMPLE_RATE))
    flags = [*FLAGS, f"--use-file-for-fake-audio-capture={spoken}"]
    with sync_playwright() as started:
        launched = started.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield launched
        launched.close()


@pytest.fixture
def open_page(browser: Any, server: Serving) -> Iterator[Any]:
    """A maker of pages, each with a history of its own."""
    from console_page import ConsolePage  # noqa: PLC0415  (likewise)

    contexts = []

    def make(path: str = "/", *, width: int = 1280, locale: str = "en-US", url: str = "") -> Any:
        context = browser.new_context(
            locale=locale, viewport={"width": width, "height": 800}, accept_downloads=True, service_workers="block"
        )
        contexts.append(context)
        return ConsolePage(context, url or server.url, path)

    yield make
    for context in contexts:
        context.close()
