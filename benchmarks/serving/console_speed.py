"""The work of the console's page in a browser: its tasks while an answer streams, a long paste, and a long history.

A server of this file shows the built console and streams an answer of so many tokens, prose with tables, lists and
code; no model runs. With `--url` a running server answers instead, so many tokens as fast as it can. Chromium's own
trace gives each task of the page's thread, in time and in processor time, and the share of one core that its scripts
and its whole thread take. The second part pastes 20,000 lines; the third imports a conversation of 1,000 messages
(2 MB), loads the page anew, and takes the time from the start of the navigation to the frame that shows the last
message. Prints one JSON line. Needs Chromium, and `pip install 'miaotui[browser]'`.

    python -m benchmarks.serving.console_speed [--tokens 2000] [--rate 100] [--times 5] [--trace FILE] [--url URL]
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

from playwright.sync_api import Browser, Route, sync_playwright

from miaotui.serve.console.routes import BUILT, POLICY

TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
MODELS = {"data": [{"id": "made", "kind": "chat", "max_model_len": 32768, "loaded": True}]}
CATEGORIES = ["toplevel", "devtools.timeline", "disabled-by-default-devtools.timeline", "v8"]
# Events of a trace in which the page's own script runs, and those in which its memory is collected.
SCRIPTS = {"EvaluateScript", "FunctionCall", "FireAnimationFrame", "RunMicrotasks", "TimerFire", "EventDispatch"}
SCRIPTS |= {"v8.run", "v8.compile", "v8.callFunction", "MinorGC", "MajorGC", "V8.GC_TIME_TO_SAFEPOINT"}
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

PASTED = """async () => {
  const area = document.querySelector(".composer textarea");
  const data = new DataTransfer();
  data.setData("text/plain", "a line of a long log that was pasted\\n".repeat(20000));
  const begun = performance.now();
  area.dispatchEvent(new ClipboardEvent("paste", {clipboardData: data, cancelable: true, bubbles: true}));
  await new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
  return performance.now() - begun;
}"""


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


def of_pages(trace: list[dict[str, Any]], names: set[str]) -> list[dict[str, Any]]:
    """Return the complete events of these names on threads that run pages."""
    mains = {(e["pid"], e["tid"]) for e in trace if e.get("args", {}).get("name") == "CrRendererMain"}
    return [e for e in trace if e.get("ph") == "X" and e["name"] in names and (e["pid"], e["tid"]) in mains]


def tasks_of(trace: list[dict[str, Any]]) -> list[tuple[float, float]]:
    """Return the tasks of the page's thread: milliseconds, and those of the processor; the longest first."""
    tasks = of_pages(trace, {"RunTask"})
    return sorted(((e["dur"] / 1000, e.get("tdur", 0) / 1000) for e in tasks), reverse=True)


def scripts_s(trace: list[dict[str, Any]]) -> float:
    """Return the processor seconds of the page's scripts; an event within another one counts once."""
    total_us, ends = 0.0, dict[tuple[int, int], float]()
    for event in sorted(of_pages(trace, SCRIPTS), key=lambda each: (each["ts"], -each.get("dur", 0))):
        thread = (event["pid"], event["tid"])
        if event["ts"] < ends.get(thread, 0.0):
            continue
        ends[thread] = event["ts"] + event.get("dur", 0)
        total_us += event.get("tdur", 0)
    return total_us / 1e6


def streamed(browser: Browser, url: str, tokens: int, trace_file: Path) -> dict[str, Any]:
    """Return the figures of the page's tasks while an answer streams."""

    def limited(route: Route) -> None:
        body = {**json.loads(route.request.post_data or "{}"), "max_tokens": tokens, "ignore_eos": True}
        route.continue_(post_data=json.dumps(body))

    page = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
    page.route("**/v1/chat/completions", limited)
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
    trace = json.loads(trace_file.read_text(encoding="utf-8"))["traceEvents"]
    tasks = tasks_of(trace)
    return {
        "streamed_s": round(took_s, 2),
        "longest_ms": [round(took, 1) for took, _ in tasks[:5]],
        "longest_cpu_ms": sorted((round(cpu, 1) for _, cpu in tasks), reverse=True)[:5],
        "scripts": round(scripts_s(trace) / took_s, 4),
        "busy": round(sum(cpu for _, cpu in tasks) / 1000 / took_s, 4),
    }


def pasted(browser: Browser, url: str, times: int) -> dict[str, Any]:
    """Return the milliseconds for which a paste of 20,000 lines blocks the page, until the frame after it."""
    found = []
    for _ in range(times):
        page = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
        page.goto(url)
        page.wait_for_timeout(500)
        found.append(round(page.evaluate(PASTED), 1))
    return {"pasted_ms": found}


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
    parser.add_argument("--url", help="of a running server, which answers in place of the made one")
    parser.add_argument("--trace", type=Path, help="keep Chromium's trace here")
    options = parser.parse_args()
    chromium = os.environ.get("MIAOTUI_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    with (
        tempfile.TemporaryDirectory() as folder,
        made_server(options.tokens, options.rate) as made,
        sync_playwright() as started,
    ):
        browser = started.chromium.launch(executable_path=chromium, args=flags)
        trace_file = options.trace or Path(folder) / "trace.json"
        url = options.url or made
        figures = streamed(browser, url, options.tokens, trace_file) if options.tokens else {}
        if options.times:
            figures |= pasted(browser, url, options.times)
            figures |= opened(browser, url, options.messages, options.times, trace_file)
        browser.close()
    print(json.dumps({**figures, "load": os.getloadavg()[0]}))


if __name__ == "__main__":
    main()
