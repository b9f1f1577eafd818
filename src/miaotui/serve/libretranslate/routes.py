"""LibreTranslate's routes: ``/translate``, ``/detect`` and ``/languages``.

Owns the shapes of their requests (JSON or a form) and answers, and the words of their errors. Knows translations by
`translation_steps`. Invariants: one text gives one value, a list gives lists in its order; errors on these routes are
``{"error": text}``. Source: LibreTranslate's API documentation and its tests of the API.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any
from urllib.parse import parse_qsl

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from miaotui.errors import RequestError
from miaotui.serve.http.bodies import json_response, read_object
from miaotui.serve.http.errors import ApiError
from miaotui.serve.http.routing import Endpoint
from miaotui.serve.libretranslate.wire import DetectRequest, LibreFields, TranslateRequest
from miaotui.serve.middleware.access import received, services_of
from miaotui.serve.seq2seq.requests import options_for, translate_texts
from miaotui.serve.tasks.written import TextTasks
from miaotui.tasks.translation.translator import translation_steps
from miaotui.translation.languages import AUTO, LANGUAGES, detect, language_code
from miaotui.translation.markup import TextFormat
from miaotui.translation.result import MAX_ALTERNATIVES, Translation, TranslationOptions

MAX_FORM_FIELDS = 64
MAX_TRANSLATED_TEXTS = 512


def routes() -> list[Endpoint]:
    """Return the routes of this module."""
    return [
        Endpoint("/translate", "POST", translate, "Translate texts (LibreTranslate)", body=TranslateRequest),
        Endpoint("/detect", "POST", detect_language, "Detect a text's language (LibreTranslate)", body=DetectRequest),
        Endpoint("/languages", "GET", languages, "List languages (LibreTranslate)"),
    ]


async def translate(http: HttpRequest) -> Response:
    """Answer with the translation of a text, or of each of several."""
    body = TranslateRequest.model_construct(**_fields(http, ("q", "source", "target")))
    texts = _texts(body.q)
    form = body.format or "text"
    if form not in ("text", "html"):
        raise _refused(f"{form} format is not supported")
    tasks = TextTasks(http, body)
    served = services_of(http).seq2seq.translator(body.model)
    if served is not None:
        kind: TextFormat = "html" if form == "html" else "text"
        plain = options_for(served, body.target, body.source, kind, None, _alternatives(body.alternatives))
        found = await translate_texts(http, served, tasks.deadline, texts, plain)
        return json_response(_answer(found, texts, body, isinstance(body.q, list)))
    options = TranslationOptions(
        _language(body.target),
        AUTO if body.source == AUTO else _language(body.source),
        "html" if form == "html" else "text",
        alternatives=_alternatives(body.alternatives),
    )  # fmt: skip
    model = tasks.model()
    steps = [partial(translation_steps, text, options, index=index) for index, text in enumerate(texts)]
    found = await tasks.run(model, steps)
    return json_response(_answer(found, texts, body, isinstance(body.q, list)))


async def detect_language(http: HttpRequest) -> Response:
    """Answer with the language of a text and how sure that is, in per cent."""
    body = DetectRequest.model_construct(**_fields(http, ("q",)))
    (text, *_) = _texts(body.q)
    found = detect(text)
    return json_response([_language_body(found.code, found.confidence)])


async def languages(_http: HttpRequest) -> Response:
    """Answer with all languages, each of which can be translated into all."""
    return json_response([{"code": code, "name": name, "targets": list(LANGUAGES)} for code, name in LANGUAGES.items()])


def _answer(found: Sequence[Translation], texts: Sequence[str], body: TranslateRequest, several: bool) -> Any:
    """Return the body of an answer. Raises `ApiError` where no text could be translated."""
    failed = [each.error for each in found if each.error is not None]
    if failed and len(failed) == len(found) and any(text.strip() for text in texts):
        raise ApiError(500, f"Cannot translate text: {failed[0]}")
    translated = [text if each.text is None else each.text for each, text in zip(found, texts, strict=True)]
    answer: dict[str, Any] = {"translatedText": translated if several else translated[0]}
    if body.source == AUTO:
        detected = [
            {"confidence": round(100.0 * (each.confidence or 0.0), 1), "language": each.source or "en"}
            for each in found
        ]
        answer["detectedLanguage"] = detected if several else detected[0]
    if _alternatives(body.alternatives):
        others = [list(each.alternatives) for each in found]
        answer["alternatives"] = others if several else others[0]
    return answer


def _language_body(code: str, confidence: float) -> dict[str, Any]:
    return {"confidence": round(100.0 * confidence, 1), "language": code}


def _fields(http: HttpRequest, needed: Sequence[str]) -> dict[str, Any]:
    """Return the fields of a request, which comes as JSON or as a form, with defaults of the others."""
    raw = received(http).body
    kind = http.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/x-www-form-urlencoded":
        try:
            given: dict[str, Any] = dict(
                parse_qsl(raw.decode(), keep_blank_values=True, max_num_fields=MAX_FORM_FIELDS, errors="strict")
            )
        except ValueError:
            raise _refused("Invalid request: the form cannot be read") from None
    else:
        try:
            given = read_object(raw)
        except ApiError:
            raise _refused("Invalid JSON format") from None
    for name in needed:
        if given.get(name) in (None, "", []):
            raise _refused(f"Invalid request: missing {name} parameter")
    try:
        LibreFields.model_validate({name: given.get(name) for name in LibreFields.model_fields})
    except ValueError:
        raise _refused("Invalid request: model must be a name and deadline_ms a number of milliseconds") from None
    return {**dict.fromkeys(TranslateRequest.model_fields), **given}


def _texts(q: Any) -> list[str]:
    texts = q if isinstance(q, list) else [q]
    if not all(isinstance(text, str) for text in texts):
        raise _refused("Invalid request: q must be a text or a list of texts")
    if len(texts) > MAX_TRANSLATED_TEXTS:
        raise _refused(f"Invalid request: request ({len(texts)}) exceeds batch limit ({MAX_TRANSLATED_TEXTS})")
    return texts


def _language(name: Any) -> str:
    try:
        return language_code(name, "language")
    except RequestError:
        raise _refused(f"{str(name)[:40]} is not supported") from None


def _alternatives(value: Any) -> int:
    try:
        return min(max(int(value or 0), 0), MAX_ALTERNATIVES)
    except (TypeError, ValueError):
        raise _refused("Invalid request: alternatives parameter is not a number") from None


def _refused(message: str) -> ApiError:
    return ApiError(400, message)
