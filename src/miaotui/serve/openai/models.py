"""``GET /v1/models``, ``/v1/models/{id}``, ``/tokenizer_info``; ``POST /tokenize``, ``/detokenize``.

Owns what a server tells of its models and their tokenizers. Knows nothing of answers.
Invariant: the ids that ``/tokenize`` gives for a prompt are those that an answer would start from.
"""

from __future__ import annotations

from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from miaotui.serve.encoders.registry import EncoderEntry
from miaotui.serve.generation import chat_tokens, text_tokens
from miaotui.serve.http.bodies import ignored_fields, json_response, read_body, run
from miaotui.serve.http.errors import bad_value
from miaotui.serve.http.routing import Endpoint
from miaotui.serve.middleware.access import received, services_of
from miaotui.serve.openai.models_wire import (
    Detokenized,
    DetokenizeRequest,
    Model,
    ModelList,
    TokenizeAnswer,
    TokenizeRequest,
    TokenizerInfo,
)
from miaotui.serve.seq2seq.models import ServedSeq2Seq
from miaotui.serve.services import Services
from miaotui.serve.speech.jobs import TOKENS_A_SECOND
from miaotui.serve.speech.models import ServedSpeech
from miaotui.served_model import ServedModel
from miaotui.text.chat import DEFAULT

_NAMED = {"model": "The model's id; it may contain slashes."}


def routes() -> list[Endpoint]:
    """Return the routes of this module."""
    return [
        Endpoint("/v1/models", "GET", list_models, "List the models", answer=ModelList),
        Endpoint("/v1/models/{model:path}", "GET", show_model, "Describe a model", answer=Model, parameters=_NAMED),
        Endpoint(
            "/tokenize",
            "POST",
            tokenize,
            "Cut a text or a conversation into tokens",
            body=TokenizeRequest,
            answer=TokenizeAnswer,
        ),
        Endpoint("/tokenizer_info", "GET", tokenizer_info, "Describe the tokenizer", answer=TokenizerInfo),
        Endpoint(
            "/detokenize",
            "POST",
            detokenize,
            "Put tokens together to a text",
            body=DetokenizeRequest,
            answer=Detokenized,
        ),
    ]


async def list_models(http: HttpRequest) -> Response:
    """Answer with all models."""
    services = services_of(http)
    listed = [*map(_model, services.models.all()), *map(_seq2seq, services.seq2seq.values())]
    listed += [_speech(each, services) for each in services.speech.values()]
    listed += map(_encoder, services.encoders.values())
    return json_response({"object": "list", "data": listed})


async def show_model(http: HttpRequest) -> Response:
    """Answer with one model. Raises `ApiError` (404)."""
    name, services = http.path_params["model"], services_of(http)
    entry, target = services.encoders.get(name), services.seq2seq.get(name)
    if target is not None:
        return json_response(_seq2seq(target))
    if name in services.speech:
        return json_response(_speech(services.speech[name], services))
    return json_response(_encoder(entry) if entry is not None else _model(services.models.find(name)))


def _model(model: ServedModel) -> dict[str, Any]:
    return {
        "id": model.name,
        "object": "model",
        "created": model.created_s,
        "owned_by": "miaotui",
        "max_model_len": model.context,
        "kind": "chat",
        "loaded": True,
        "parent": model.parent,
        "abilities": model.loop.abilities.shown(),
    }


def _seq2seq(served: ServedSeq2Seq) -> dict[str, Any]:
    return {
        "id": served.name,
        "object": "model",
        "created": served.created_s,
        "owned_by": "miaotui",
        "max_model_len": served.max_tokens,
        "kind": "encoder-decoder",
        "loaded": True,
    }


def _speech(served: ServedSpeech, services: Services) -> dict[str, Any]:
    return {
        "id": served.name,
        "object": "model",
        "created": served.created_s,
        "owned_by": "miaotui",
        "max_model_len": int(3600 * services.settings.max_audio_hours) * TOKENS_A_SECOND,
        "kind": "speech",
        "loaded": True,
    }


def _encoder(entry: EncoderEntry) -> dict[str, Any]:
    return {
        "id": entry.name,
        "object": "model",
        "created": entry.created_s,
        "owned_by": "miaotui",
        "max_model_len": entry.max_tokens,
        "kind": entry.kind,
        "loaded": entry.running is not None,
    }


async def tokenizer_info(http: HttpRequest) -> Response:
    """Describe the first model's tokenizer, in the names of transformers' ``tokenizer_config.json``."""
    model = services_of(http).models.find(None)
    tokenizer = model.tokenizer
    bos, eos = (
        None if token is None else tokenizer.token_text(token) for token in (tokenizer.bos_id, tokenizer.eos_id)
    )
    return json_response(
        {
            "tokenizer_class": type(tokenizer).__name__,
            "bos_token": bos,
            "eos_token": eos,
            "chat_template": model.chat.template.sources.get(DEFAULT),
            "model_max_length": model.context,
            "vocab_size": tokenizer.vocab_size,
            "add_bos_token": bool(tokenizer.roles.prefix),
        }
    )


async def tokenize(http: HttpRequest) -> Response:
    """Answer with the token ids of a prompt. Raises what tokenizing raises, and `ApiError` (400)."""
    body = await read_body(received(http).body, TokenizeRequest)
    entry = services_of(http).encoders.get(body.model or "")
    if entry is not None:
        return await _tokenize_for_encoder(http, entry, body)
    model = services_of(http).models.find(body.model)
    if (body.prompt is None) == (body.messages is None):
        raise bad_value("prompt", "give either a prompt or messages")
    if body.prompt is not None:
        tokens = await text_tokens(model, body.prompt, body.parse_special, whole=body.add_special_tokens)
    else:
        messages = [message.model_dump(exclude_unset=True) for message in body.messages or ()]
        options, add_prompt = body.chat_template_kwargs, body.add_generation_prompt
        tokens = await chat_tokens(model, messages, body.tools or None, options, add_prompt)
    answer: dict[str, Any] = {
        "count": len(tokens),
        "max_model_len": model.context,
        "tokens": tokens,
        "token_strs": None,
    }
    if body.return_token_strs:
        spelled = map(model.tokenizer.token_bytes, tokens)
        answer["token_strs"] = [each.decode("utf-8", "replace") for each in spelled]
    return json_response(answer, headers=ignored_fields(body))


async def _tokenize_for_encoder(http: HttpRequest, entry: EncoderEntry, body: TokenizeRequest) -> Response:
    """Answer with the rows that the encoder's routes make of a text, which holds no control tokens."""
    text = body.prompt
    if text is None or body.messages is not None:
        raise bad_value("prompt", f"{entry.name} is an encoder: give a prompt, not messages")
    async with services_of(http).encoders.use(entry) as encoder:
        tokenizer = encoder.model.tokenizer
        encoded = await run(len(text), lambda: tokenizer.encode_text(text))
        rows = zip(encoded.tokens, encoded.special, strict=True)
        tokens = [token for token, special in rows if body.add_special_tokens or not special]
        strings = [tokenizer.token_text(token) for token in tokens] if body.return_token_strs else None
    answer = {"count": len(tokens), "max_model_len": entry.max_tokens, "tokens": tokens, "token_strs": strings}
    return json_response(answer, headers=ignored_fields(body))


async def detokenize(http: HttpRequest) -> Response:
    """Answer with the text of token ids. Raises `ApiError` (400) for ids that the model does not have."""
    body = await read_body(received(http).body, DetokenizeRequest)
    model = services_of(http).models.find(body.model)
    size = model.tokenizer.vocab_size
    if max(body.tokens, default=0) >= size:
        raise bad_value("tokens", f"this model's token ids are in [0, {size})")

    def work() -> str:
        return model.tokenizer.decode(body.tokens, skip_special=False)

    text = await run(len(body.tokens), work)
    return json_response({"prompt": text}, headers=ignored_fields(body))
