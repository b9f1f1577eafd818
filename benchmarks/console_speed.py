"""The work of the console's page in a browser: its longest tasks while an answer streams, and opening a long history.

A server of this file shows the built console and streams an answer of so many tokens, prose with tables, lists and
code; no model runs. Chromium's own trace gives each task of the page's thread, in time and in processor time. The
second part imports a conversation of 1,000 messages (2 MB), loads the page anew, and takes the time from the start of
the navigation to the frame that shows the last message. Prints one JSON line. Needs Chromium, and
`pip install 'miaotui[browser]'`.

    python benchmarks/console_speed.py [--tokens 2000] [--rate 100] [--times 5] [--trace FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, sync_playwright

from miaotui.serve.console.routes import BUILT, POLICY

TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
MODELS = {"data": [{"id": "made", "kind": "chat", "max_model_len": 32768, "loaded": True}]}
CATEGORIES = ["toplevel", "devtools.timeline", "disabled-by-default-devtools.timeline", "v8"]
PARAGRAPH = (
    "A **sorted** list lets a search halve its range with `O(log n)` steps, as [this page](https://example.org) "
)
PARAGRAPH += "shows; each comparison drops one half, so that twenty of them are enough for a million entries. "
TABLE = "| structure | search | insert | note |\n|---|---:|---:|---|\n"
ROWS = "| list {0} | $O(n)$ | `O(1)` | **simple**, and {0} rows long |\n"
CODE = "    for index_{0}, value in enumerate(values[{0}:]):  # look at each\n"
CODE += '        total += value * {0} if value > 0 else len("text {0}")\n'
LAST_SHOWN = """(wanted) => new Promise((resolve) => {
  const look = () => {
    const last = [...document.querySelectorAll("article")].pop();
    if (last?.dataset.id === wanted && last.textContent.length > 500) setTimeout(() => resolve(performance.now()));
    else requestAnimationFrame(look);
  };
  requestAnimationFrame(look);
})"""


def answer_text(tokens: int) -> str:
    """Return a text of about so many tokens: prose, a table, a list and code, by turns."""
    parts: list[str] = []
    number = 0
    while sum(map(len, parts)) < 4 * tokens:
        number += 1
        parts.append(f"## Part {number}\n\n{PARAGRAPH * 2}\n\n")
        parts.append(TABLE + "".join(ROWS.format(row) for row in range(1, 13)) + "\n")
        parts.append("".join(f"{row}. {PARAGRAPH[:90]}\n" for row in range(1, 9)) + "\n")
        parts.append(
            "```python\ndef total_of(values):\n" + "".join(CODE.format(row) for row in range(1, 16)) + "```\n\n"
        )
    return "".join(parts)[: 4 * tokens]


def events_of(text: str) -> Iterator[str]:
    """Yield the events of a stream that writes a text in tokens of four characters."""
    for place in range(0, len(text), 4):
        piece = text[place : place + 4]
        note = {"id": place, "text": piece, "source": ("model", "text")[place // 4 % 2]}
        yield json.dumps({"choices": [{"delta": {"content": piece}, "tokens": [note], "finish_reason": None}]})
    yield json.dumps({"choices": [{"delta": {}, "finish_reason": "stop"}]})
    yield "[DONE]"


def long_history(count: int) -> str:
    """Return a file of one conversation with so many messages of 2 KB."""
    text = "Lorem **ipsum** dolor `sit` amet. " * 60
    messages = [
        {"id": f"m{n}", "parent": f"m{n - 1}" if n else None, "role": ("user", "assistant")[n % 2], "content": text}
        | {"created": n + 1}
        for n in range(count)
    ]
    chat = {"id": "long", "title": "long", "created": 1, "updated": 1, "leaf": f"m{count - 1}", "messages": messages}
    return json.dumps({"format": "miaotui-conversations", "version": 1, "conversations": [chat]})


@contextmanager
def made_server(tokens: int, rate: float) -> Iterator[str]:
    """A server of the console that streams a made answer at so many tokens a second; gives its address."""
    text = answer_text(tokens)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            """Log nothing."""

        def do_GET(self) -> None:
            name = "index.html" if self.path == "/" else self.path.removeprefix("/console/")
            path = BUILT / name
            content = path.read_bytes() if path.is_file() else json.dumps(MODELS).encode()
            self._begin(TYPES.get(path.suffix, "application/json"), len(content))
            self.wfile.write(content)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            if not self.path.endswith("chat/completions"):
                self.send_error(404)
                return
            self._begin("text/event-stream")
            begun_s = time.perf_counter()
            for number, each in enumerate(events_of(text)):
                time.sleep(max(0.0, begun_s + number / rate - time.perf_counter()))
                self.wfile.write(f"data: {each}\n\n".encode())

        def _begin(self, media_type: str, length: int | None = None) -> None:
            self.send_response(200)
            self.send_header("content-type", media_type)
            self.send_header("content-security-policy", POLICY)
            if length is not None:
                self.send_header("content-length", str(length))
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def tasks_of(trace: list[dict[str, Any]]) -> list[tuple[float, float]]:
    """Return the tasks of the page's thread: milliseconds, and those of the processor; the longest first."""
    mains = {(e["pid"], e["tid"]) for e in trace if e.get("args", {}).get("name") == "CrRendererMain"}
    tasks = [e for e in trace if e.get("ph") == "X" and e["name"] == "RunTask" and (e["pid"], e["tid"]) in mains]
    return sorted(((e["dur"] / 1000, e.get("tdur", 0) / 1000) for e in tasks), reverse=True)


def streamed(browser: Browser, url: str, trace_file: Path) -> dict[str, Any]:
    """Return the figures of the page's tasks while an answer streams."""
    page = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
    page.goto(url)
    area = page.locator(".composer textarea")
    area.fill("Write for long.")
    browser.start_tracing(page=page, path=trace_file, categories=CATEGORIES)
    page.wait_for_timeout(1000)
    begun_s = time.perf_counter()
    area.press("Enter")
    page.wait_for_selector("article.assistant[aria-busy=false]", timeout=240_000)
    page.wait_for_timeout(500)
    took_s = time.perf_counter() - begun_s
    browser.stop_tracing()
    tasks = tasks_of(json.loads(trace_file.read_text(encoding="utf-8"))["traceEvents"])
    return {
        "longest_ms": [round(took, 1) for took, _ in tasks[:5]],
        "longest_cpu_ms": sorted((round(cpu, 1) for _, cpu in tasks), reverse=True)[:5],
        "busy": round(sum(cpu for _, cpu in tasks) / 1000 / took_s, 4),
    }


def opened(browser: Browser, url: str, count: int, times: int, trace_file: Path) -> dict[str, Any]:
    """Return the times from a navigation to the frame that shows the last of so many messages, and the work of one."""
    page = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
    page.goto(url)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "long.json"
        path.write_text(long_history(count), encoding="utf-8")
        page.locator(".history input[type=file]").set_input_files(path)
        page.evaluate(LAST_SHOWN, f"m{count - 1}")
    found = []
    for number in range(times + 1):
        page.wait_for_timeout(800)
        if number == times:  # once more, traced
            browser.start_tracing(page=page, path=trace_file, categories=CATEGORIES)
            page.wait_for_timeout(1000)
        page.reload(wait_until="commit")
        found.append(round(page.evaluate(LAST_SHOWN, f"m{count - 1}"), 1))
    browser.stop_tracing()
    tasks = tasks_of(json.loads(trace_file.read_text(encoding="utf-8"))["traceEvents"])
    work = {"opened_cpu_ms": round(sum(cpu for _, cpu in tasks), 1), "opened_longest_cpu_ms": max(c for _, c in tasks)}
    return {"opened_ms": found[:-1], "opened_median_ms": round(statistics.median(found[:-1]), 1), **work}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=2000, help="of the answer; 0: none is streamed")
    parser.add_argument("--rate", type=float, default=100.0, help="tokens a second")
    parser.add_argument("--messages", type=int, default=1000)
    parser.add_argument("--times", type=int, default=5, help="the long history is opened; 0: not at all")
    parser.add_argument("--trace", type=Path, help="keep Chromium's trace here")
    options = parser.parse_args()
    chromium = os.environ.get("MIAOTUI_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    with (
        tempfile.TemporaryDirectory() as folder,
        made_server(options.tokens, options.rate) as url,
        sync_playwright() as started,
    ):
        browser = started.chromium.launch(executable_path=chromium, args=flags)
        trace_file = options.trace or Path(folder) / "trace.json"
        figures = streamed(browser, url, trace_file) if options.tokens else {}
        if options.times:
            figures |= opened(browser, url, options.messages, options.times, trace_file)
        browser.close()
    print(json.dumps({**figures, "load": os.getloadavg()[0]}))


if __name__ == "__main__":
    main()
