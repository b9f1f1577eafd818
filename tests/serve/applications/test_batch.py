"""Lines of a batch: read, refused one by one, answered by routes, continued by a later run."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from miaotui.errors import RequestError
from miaotui.serve.batch.answer import answer_lines
from miaotui.serve.batch.lines import BatchFault, BatchLine, BatchOutput, answered, failed, read_lines

GOOD = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"prompt": "x"}}
OTHER = {**GOOD, "custom_id": "w"}


def written(path: Path, *lines: Any) -> Path:
    texts = [each if isinstance(each, bytes) else json.dumps(each).encode() for each in lines]
    path.write_bytes(b"\n".join(texts) + b"\n")
    return path


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"\xff{}", "is not JSON"),
        (b"[]", "custom_id of 1 to"),
        ({**GOOD, "custom_id": ""}, "custom_id of 1 to"),
        ({**GOOD, "custom_id": "x" * 513}, "custom_id of 1 to"),
        ({**OTHER, "mehtod": "POST"}, "unknown field 'mehtod'"),
        ({**OTHER, "method": "GET"}, "expected POST"),
        ({**OTHER, "url": "/admin"}, "url: expected one of /v1/chat/completions"),
        ({**OTHER, "url": ["/v1/completions"]}, "url: expected one of"),
        ({**OTHER, "body": "x"}, "body: expected an object"),
        ({**OTHER, "body": {"stream": True}}, "come whole"),
        (b" " + b"x" * (20 << 20), "more than 8,388,608 bytes"),
    ],
)
def test_a_line_that_is_no_request_fails_alone(tmp_path: Path, line: Any, reason: str) -> None:
    other = {**GOOD, "custom_id": "b"}
    first, second, third = read_lines(written(tmp_path / "in.jsonl", GOOD, line, other))
    assert isinstance(first, BatchLine)
    assert isinstance(second, BatchFault)
    assert second.reason.startswith("line 2: ")
    assert reason in second.reason
    assert isinstance(third, BatchLine)
    assert (third.custom_id, third.url, third.body) == ("b", "/v1/completions", {"prompt": "x"})


def test_a_custom_id_stands_for_one_request(tmp_path: Path) -> None:
    first, second = read_lines(written(tmp_path / "in.jsonl", GOOD, b"", {**GOOD, "body": {}}))
    assert isinstance(first, BatchLine)
    assert isinstance(second, BatchFault)
    assert "was there before" in second.reason
    with pytest.raises(RequestError, match="cannot be read"):
        list(read_lines(tmp_path / "nowhere"))


def test_answers_that_are_there_are_kept_and_a_cut_one_is_removed(tmp_path: Path) -> None:
    lines = list(read_lines(written(tmp_path / "in.jsonl", GOOD, {**GOOD, "custom_id": "b"}, b"?")))
    one, two, fault = lines
    assert isinstance(one, BatchLine)
    assert isinstance(two, BatchLine)
    place = tmp_path / "out.jsonl"
    output = BatchOutput(place)
    output.write(answered(one, 200, {"text": "猫"}, "req-1"))
    output.write(failed(fault, "invalid_line", "no"))
    output.close()
    whole = place.read_bytes()
    with place.open("ab") as file:
        file.write(whole[:30])  # a run that was killed in the middle of a line
    output = BatchOutput(place)
    assert output.kept == 2
    assert [output.has(each) for each in lines] == [True, False, True]
    output.write(answered(two, 400, {"error": {}}, "req-2"))
    output.close()
    found = [json.loads(line) for line in place.read_text(encoding="utf-8").splitlines()]
    assert [each["custom_id"] for each in found] == ["a", None, "b"]
    assert found[0]["response"]["body"] == {"text": "猫"}
    output = BatchOutput(place)
    other = BatchLine("batch_req_0", "a", one.url, {"prompt": "other"})
    with pytest.raises(RequestError, match="another request 'a'"):
        output.has(other)
    output.close()
    for content in (b"{}\n", b"hello\n", b'{"id": 1, "custom_id": "a", "response": null, "error": 3}\n'):
        place.write_bytes(content)
        with pytest.raises(RequestError, match="holds no answers of a batch"):
            BatchOutput(place)
        assert place.read_bytes() == content
    with pytest.raises(RequestError, match="cannot be written"):
        BatchOutput(tmp_path / "no" / "folder.jsonl")


def test_lines_are_answered_by_routes_and_asked_again_where_it_is_busy() -> None:
    seen: list[str] = []
    most = running = 0

    async def route(http: HttpRequest) -> Response:
        nonlocal most, running
        running += 1
        most = max(most, running)
        prompt = (await http.json())["prompt"]
        await asyncio.sleep(0)
        running -= 1
        seen.append(prompt)
        if prompt == "busy" and seen.count("busy") < 3:
            return JSONResponse({"error": "busy"}, 503, {"retry-after": "0"})
        if prompt == "late":
            return JSONResponse({"error": "late"}, 429)
        if prompt == "wrong":
            return JSONResponse({"error": "wrong"}, 400)
        return PlainTextResponse("no json") if prompt == "plain" else JSONResponse({"text": prompt})

    app = Starlette(routes=[Route("/v1/completions", route, methods=["POST"])])
    prompts = ["one", "busy", "wrong", "plain", "two"]
    lines: list[Any] = [BatchLine(str(n), str(n), "/v1/completions", {"prompt": p}) for n, p in enumerate(prompts)]
    lines.append(BatchLine("5", "5", "/v1/completions", {"prompt": "late", "deadline_ms": 1}))
    lines.append(BatchFault("6", None, "line 7: wrong"))

    async def run() -> list[dict[str, Any]]:
        async with aclosing(answer_lines(app, iter(lines), 2)) as answers:
            return [each async for each in answers]

    found = {each["id"]: each for each in asyncio.run(run())}
    assert most == 2
    assert found["0"]["response"] == {"status_code": 200, "request_id": "", "body": {"text": "one"}}
    assert found["1"]["response"]["body"] == {"text": "busy"}
    assert seen.count("busy") == 3
    assert found["2"]["response"]["status_code"] == 400
    assert found["3"]["error"]["code"] == "no_json"
    assert found["5"]["response"]["status_code"] == 429
    assert seen.count("late") == 1, "its time is over"
    assert found["6"]["error"] == {"code": "invalid_line", "message": "line 7: wrong"}
    assert len(found) == 7
