"""Takes the pictures of the console that README and the pages show, into ``docs/pictures``.

Starts a server of the default model and an index of one document, and does in Chromium what the pictures show, in
English and in Chinese (``…-zh.png``). Needs the extra ``browser`` and Chromium. Invariant: a picture larger than
`MAX_BYTES` is refused.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

from miaotui.config import Settings

PICTURES = Path(__file__).parent / "pictures"
MODEL = "smollm2-135m"
MAX_BYTES = 150_000
WAIT_MS = 120_000  # on a machine that does other things
SIZE = {"width": 1080, "height": 720}
CHROMIUM = os.environ.get("MIAOTUI_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")
LANGUAGES = {"en-US": "", "zh-CN": "-zh"}  # the end of a picture's name
QUESTION = "Why is the sky blue? Answer in two sentences."
LOAD = """() => {
  for (const content of ["Write a long letter.", "Write a long story.", "Write a long poem."]) {
    const body = {messages: [{role: "user", content}], max_tokens: 3000, ignore_eos: true, temperature: 1};
    void fetch("v1/chat/completions", {method: "POST", body: JSON.stringify(body)});
  }
}"""
DOCUMENT = "The lighthouse of Arden was built in 1874 by Clara Voss. It is 31 metres high and has 142 steps."


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Yield the address of a server until the block ends. ``folder`` is its home; models and kernels are the user's."""
    for known in Settings.from_env().cache_dir.iterdir():
        if known.name != "indexes":
            (folder / known.name).symlink_to(known)
    words = [sys.executable, "-m", "miaotui", "serve", MODEL, "--port", "0"]
    env = {**os.environ, "LC_ALL": "C.UTF-8", "MIAOTUI_HOME": str(folder)}
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=env)  # noqa: S603  (our own program)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            found = re.search(r"ready at (\S+)", line)
            if found:
                yield found[1]
                return
        raise SystemExit("the server did not start")
    finally:
        process.kill()
        process.wait(30)


def take(page: Page, name: str) -> None:
    """Keep a picture of the page, under a name with the language that it is in."""
    ending = LANGUAGES["zh-CN" if page.locator("html").get_attribute("lang") == "zh-CN" else "en-US"]
    path = PICTURES / f"{name}{ending}.png"
    page.screenshot(path=path, animations="disabled")
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise SystemExit(f"{path.name} has {size:,} bytes; at most {MAX_BYTES:,} are wanted")
    print(f"{path.name}: {size:,} bytes")


def chat(page: Page, url: str) -> None:
    """Ask a question, and open the time line of its answer."""
    page.goto(f"{url}/")
    area = page.locator(".composer textarea")
    area.fill(QUESTION)
    area.press("Enter")
    page.locator("article.message.assistant[aria-busy=false]").last.wait_for()
    page.locator("article.message.assistant summary").last.click()
    page.wait_for_timeout(500)
    take(page, "chat")


def documents(page: Page, url: str, folder: Path) -> None:
    """Put a document in, and search it."""
    path = folder / "arden.txt"
    path.write_text(DOCUMENT, encoding="utf-8")
    page.goto(f"{url}/#documents")
    page.locator("input[type=file]").set_input_files([path])
    page.locator(".uploads .hint").wait_for()
    page.locator(".panel form input").last.fill("lighthouse of Arden, built")
    page.locator(".panel form button[type=button]").last.click()
    page.locator(".shares li").first.wait_for()
    take(page, "documents")


def monitor(page: Page, url: str) -> None:
    """Watch the live page for some seconds, while answers are written."""
    page.goto(f"{url}/monitor")
    page.evaluate(LOAD)
    page.locator(".plot").first.wait_for()
    page.wait_for_timeout(8000)
    take(page, "monitor")


def main() -> None:
    """Take all pictures."""
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary, served(Path(temporary)) as url, sync_playwright() as tool:
        options: dict[str, Any] = {"executable_path": CHROMIUM, "args": FLAGS}
        browser = tool.chromium.launch(**options)
        for language in LANGUAGES:
            context = browser.new_context(viewport=SIZE, locale=language, color_scheme="light")  # type: ignore[arg-type]
            page = context.new_page()
            page.set_default_timeout(WAIT_MS)
            chat(page, url)
            documents(page, url, Path(temporary))
            monitor(page, url)
            context.close()
        browser.close()


if __name__ == "__main__":
    main()
