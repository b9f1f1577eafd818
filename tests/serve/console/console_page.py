"""The console as a person uses it: opens, writes, waits; and what a page must never do is noted."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import BrowserContext, Locator, Page, Request, Route, expect

WAIT_MS = 30_000
ALL = bool(os.environ.get("MIAOTUI_CONSOLE_ALL"))  # every journey in every look, as `make test-console-all` asks
SCREENSHOTS = os.environ.get("MIAOTUI_SCREENSHOTS")  # a folder for pictures of what the journeys show
# Elements that the page itself never makes: each would load, run or send something.
FORBIDDEN = "iframe, object, embed, form[action], base, meta[http-equiv], img, video, audio"
FORBIDDEN += ", a:not([href^=http], [href^=mailto], [href^='#'])"
WATCH = """
window.hit = 0;
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => window.violations.push(event.violatedDirective));
"""


class ConsolePage:
    """One page of the console in a context of its own."""

    def __init__(self, context: BrowserContext, url: str, path: str = "/") -> None:
        self.context, self.url = context, url
        self.outside: list[str] = []  # requests to other hosts
        self.problems: list[str] = []  # of the page's own script
        self.dialogs: list[str] = []
        self.asked: list[Any] = []  # bodies of chat requests
        self._forced: dict[str, Any] = {}
        context.on("request", self._watch)
        context.add_init_script(WATCH)
        context.route("**/v1/chat/completions", self._force)
        self.page = self._open(path)

    def _open(self, path: str) -> Page:
        page = self.context.new_page()
        page.set_default_timeout(WAIT_MS)
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("dialog", lambda dialog: (self.dialogs.append(dialog.message), dialog.accept()))
        page.goto(f"{self.url}{path}")
        return page

    def _watch(self, request: Request) -> None:
        scheme, host = urlsplit(request.url).scheme, urlsplit(request.url).netloc
        if scheme not in ("blob", "data") and host != urlsplit(self.url).netloc:
            self.outside.append(request.url)

    def _force(self, route: Route) -> None:
        """Pass a chat request on, with what the next answer must be."""
        body = json.loads(route.request.post_data or "{}")
        self.asked.append(body)
        route.continue_(post_data=json.dumps({**body, **self._forced}))

    def force(self, text: str | None = None, **fields: Any) -> None:
        """Make every answer of the model this text, by a grammar; or change other fields of its requests."""
        self._forced = fields if text is None else {"structured_outputs": {"choice": [text]}, **fields}

    def send(self, text: str) -> None:
        """Write a message and send it."""
        area = self.page.get_by_role("textbox", name=self.name("Message", "消息"))
        area.fill(text)
        area.press("Enter")

    def ask(self, text: str) -> Locator:
        """Send a message and return its whole answer."""
        self.send(text)
        return self.whole_answer()

    def whole_answer(self) -> Locator:
        """Wait until the newest answer has ended."""
        last = self.page.locator("article.message.assistant").last
        expect(last).to_have_attribute("aria-busy", "false", timeout=WAIT_MS)
        return last

    def name(self, english: str, chinese: str) -> str:
        """Return the text of the language that the page shows."""
        return chinese if self.page.locator("html").get_attribute("lang") == "zh-CN" else english

    def press(self, english: str, chinese: str, within: Locator | None = None) -> None:
        """Press the button of that name."""
        place = self.page if within is None else within
        place.get_by_role("button", name=self.name(english, chinese), exact=True).click()

    def picture(self, name: str) -> None:
        """Keep a picture of the page, if a folder for pictures is named."""
        if SCREENSHOTS:
            size = self.page.viewport_size or {"width": 0}
            language = self.page.locator("html").get_attribute("lang")
            self.page.screenshot(path=f"{SCREENSHOTS}/{name}-{language}-{size['width']}.png")

    def check_safe(self) -> None:
        """Fail if a script ran that is not the page's, or if anything was asked of another machine."""
        state = self.page.evaluate(
            "[window.hit, window.violations, document.querySelectorAll(" + repr(FORBIDDEN) + ").length]"
        )
        assert state == [0, [], 0]
        assert not self.outside
        assert not self.dialogs
        assert not self.problems


PageMaker = Callable[..., ConsolePage]
