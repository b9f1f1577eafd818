"""Recognising and opening decoders that are used as encoders.

Knows the signs: pooling beside a decoder (sentence-transformers folder, or `pooling_type` in GGUF), a `LogitScore`
module, a classifier with one output, or Qwen3-Reranker's name. Invariant: a decoder that shows none of these is left to
those who generate; attention that is not causal is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from miaotui.errors import ModelFormatError, UnsupportedModelError
from miaotui.hub.formats.gguf import read_gguf
from miaotui.hub.formats.safetensors import read_safetensors
from miaotui.hub.formats.tensors import StoredTensor
from miaotui.hub.formats.untrusted_json import MAX_JSON_BYTES, parse_object, read_object
from miaotui.model.config import ModelConfig
from miaotui.model.encoder.containers.find import begins_with
from miaotui.model.encoder.containers.sentence_transformers import MODULES, read_sentence_folder
from miaotui.model.encoder.decoder import DecoderEncoder
from miaotui.model.encoder.heads import PoolingConfig
from miaotui.model.encoder.reading.families import is_encoder_type
from miaotui.model.encoder.reading.gguf_heads import POOLINGS, RANK
from miaotui.model.reading.checks import require, require_count
from miaotui.model.reading.fields import Fields
from miaotui.model.reading.files import ModelFiles
from miaotui.model.reading.from_gguf import config_from_gguf, tensors_from_gguf
from miaotui.model.reading.from_hf import OUTER_NAMES, config_from_hf, tensors_from_hf
from miaotui.text.encoders.rerank_prompt import QWEN3_RERANK_PROMPT

LOGIT_SCORE = "LogitScore"
CLASSIFIER = "score.weight"  # of transformers' sequence classification
RANKER = "cls.output.weight"  # of GGUF rerankers: the rows of "yes" and "no"
BARE = ("embed_tokens.", "layers.", "norm.")  # bodies that were saved without their "model." prefix
QWEN3_RERANKER = ("qwen3-reranker", "qwen3_reranker")  # in the folder's name; its files say nothing
QWEN3_ANSWERS = (9693, 2152)  # "yes" and "no"
QWEN3_MARK = "Judge whether the Document meets the requirements"  # of its prompt


def is_decoder_encoder(path: str | Path) -> bool:
    """Return whether a folder or GGUF file holds a decoder that embeds or ranks; raises `ModelError` if damaged."""
    path = Path(path)
    if path.is_file():
        return begins_with(path, b"GGUF") and _gguf_use(path)  # files of other programs have no suffix
    if not (path / "config.json").is_file():
        return False
    values = read_object(path / "config.json")
    if is_encoder_type(values.get("model_type")):
        return False
    return (path / MODULES).is_file() or _classifies(values) or _named_reranker(path)


def open_decoder_encoder(path: str | Path) -> DecoderEncoder:
    """Open such a folder or GGUF file; raises `ModelNotFoundError`, `ModelFormatError` or `UnsupportedModelError`."""
    path = Path(path)
    if path.is_file():
        return _from_gguf(path)
    values = read_object(path / "config.json")
    if values.get("is_causal") is False:
        raise UnsupportedModelError(
            "the model is a decoder whose attention is not causal (is_causal in config.json), which is not supported: "
            "choose another model"
        )
    stored = {_with_prefix(name): tensor for name, tensor in read_safetensors(path).items()}
    classifier = stored.pop(CLASSIFIER, None)
    if f"{OUTER_NAMES['head']}.weight" not in stored:
        values = values | {"tie_word_embeddings": True}  # nothing is generated, so no output matrix is needed
    config = config_from_hf(values)
    files = ModelFiles(config, tensors_from_hf(config, values, stored), folder=path)
    if classifier is not None:
        return _ranking(files, _score_matrix(config, classifier), path)
    answers = _answers(path)
    if answers is not None:
        return _ranking(files, _answer_rows(files, answers), path)
    return _embedding(files, path)


def _ranking(files: ModelFiles, score: StoredTensor, source: Path) -> DecoderEncoder:
    """Return a reranker, whose prompt must be known: what it was not trained with would give scores without meaning."""
    if not (_named_reranker(source) or any(QWEN3_MARK in text for text in _templates(files))):
        raise UnsupportedModelError(
            f"{source} is a reranker whose prompt is not known here; only Qwen3-Reranker's is: choose another model"
        )
    return DecoderEncoder(
        files=files, score=score, rerank_prompt=QWEN3_RERANK_PROMPT, max_tokens=files.config.context_length
    )


def _templates(files: ModelFiles) -> list[str]:
    """Return the chat templates, which hold a reranker's prompt."""
    if files.folder is None:
        metadata = files.metadata or {}
        return [str(metadata[key]) for key in metadata if key.startswith("tokenizer.chat_template")]
    file = files.folder / "chat_template.jinja"
    if file.is_file() and file.stat().st_size <= MAX_JSON_BYTES:
        return [file.read_text(encoding="utf-8", errors="replace")]
    settings = files.folder / "tokenizer_config.json"
    return [str(read_object(settings).get("chat_template"))] if settings.is_file() else []


def _embedding(files: ModelFiles, folder: Path) -> DecoderEncoder:
    sentence = read_sentence_folder(folder)
    if sentence is None or sentence.settings.pooling is None:
        raise UnsupportedModelError(
            f"{folder} does not say how a text's states become its embedding: it needs {MODULES}"
        )
    settings = sentence.settings
    limit = files.config.context_length
    return DecoderEncoder(
        files=files,
        pooling=settings.pooling,
        dense={_dense_name(name): tensor for name, tensor in settings.dense.items()},
        prompts=settings.prompts,
        default_prompt=settings.default_prompt,
        similarity=settings.similarity,
        max_tokens=min(limit, settings.max_tokens or limit),
    )


def _dense_name(name: str) -> str:
    index, _, part = name.partition(".")
    return f"head.dense.{index}{'_bias' if part == 'bias' else ''}"


def _with_prefix(name: str) -> str:
    return f"model.{name}" if name.startswith(BARE) else name


def _classifies(values: Mapping[str, Any]) -> bool:
    architectures = values.get("architectures")
    first = str(architectures[0]) if isinstance(architectures, list) and architectures else ""
    return first.endswith("ForSequenceClassification")


def _named_reranker(path: Path) -> bool:
    return any(name in path.resolve().name.lower() for name in QWEN3_RERANKER)


def _answers(folder: Path) -> tuple[int, ...] | None:
    """Return the token ids of "yes" and, where it counts, "no"; None where the folder is no reranker of this kind."""
    module = _logit_score(folder)
    if module is None:
        return QWEN3_ANSWERS if _named_reranker(folder) and not (folder / MODULES).is_file() else None
    fields = Fields(read_object(module / "config.json"), "LogitScore's config.json")
    ids = [fields.get("true_token_id"), fields.get("false_token_id")]
    return tuple(_token(token) for token in ids if token is not None)


def _token(token: object) -> int:
    require(isinstance(token, int) and not isinstance(token, bool) and token >= 0, "answer token", "an id", token)
    assert isinstance(token, int)
    return token


def _logit_score(folder: Path) -> Path | None:
    """Return the folder of the module that follows the Transformer, if it is a `LogitScore`."""
    file = folder / MODULES
    if not file.is_file() or file.stat().st_size > MAX_JSON_BYTES:
        return None
    modules = parse_object(b'{"modules": %s}' % file.read_bytes(), str(file))["modules"]
    for module in modules if isinstance(modules, list) else ():
        if isinstance(module, dict) and str(module.get("type")).endswith(f".{LOGIT_SCORE}"):
            path = module.get("path")
            plain = isinstance(path, str) and path.isprintable() and not set(path) & set("/\\:") and path != ".."
            require(plain, "LogitScore's path", "a folder's name", path)
            return folder / str(path)
    return None


def _answer_rows(files: ModelFiles, answers: tuple[int, ...]) -> StoredTensor:
    """Return the rows of the output matrix for the answers' tokens, still encoded."""
    if files.config.logit_softcap:
        raise UnsupportedModelError("the reranker caps its logits, which is not supported: choose another model")
    require_count("number of answer tokens", len(answers), 2)
    for token in answers:
        require(token < files.config.vocab_size, "answer token", f"below {files.config.vocab_size}", token)
    return files.tensors["embed" if files.config.tied_head else "head"].take_rows(list(answers))


def _score_matrix(config: ModelConfig, matrix: StoredTensor) -> StoredTensor:
    expected = (1, config.hidden_size)
    if matrix.shape != expected:
        raise ModelFormatError(f"tensor {matrix.name!r} has shape {matrix.shape}; a reranker's is {expected}")
    return matrix


# GGUF


def _gguf_use(path: Path) -> bool:
    with read_gguf(path) as file:
        name = str(file.metadata.get("general.architecture"))
        kind = Fields(file.metadata, "GGUF metadata", f"{name}.").get("pooling_type")
        return not is_encoder_architecture(name) and kind not in (None, 0)


def is_encoder_architecture(name: str) -> bool:
    """Return whether a GGUF file's architecture is an encoder's, known or not."""
    return "bert" in name or name.startswith("t5")


def _from_gguf(path: Path) -> DecoderEncoder:
    file = read_gguf(path)
    try:
        stored = dict(file.tensors)
        ranker = stored.pop(RANKER, None)
        config = config_from_gguf(file.metadata, stored)
        tensors = tensors_from_gguf(config, file.metadata, stored)
        files = ModelFiles(config, tensors, metadata=file.metadata, release=file.close)
        fields = Fields(file.metadata, "GGUF metadata", f"{file.metadata['general.architecture']}.")
        kind = fields.size("pooling_type", RANK)
        if kind == RANK:
            return _ranking(files, _ranking_rows(config, ranker), path)
        if kind not in POOLINGS:
            raise UnsupportedModelError("the GGUF file does not say how a text's states become its embedding")
        pooling = PoolingConfig(modes=(POOLINGS[kind],), normalize=True)
        return DecoderEncoder(files=files, pooling=pooling, max_tokens=config.context_length)
    except BaseException:
        file.close()
        raise


def _ranking_rows(config: ModelConfig, matrix: StoredTensor | None) -> StoredTensor:
    if matrix is None:
        raise ModelFormatError(f"the GGUF file is a reranker without its tensor {RANKER!r}: get another version of it")
    if matrix.shape not in ((1, config.hidden_size), (2, config.hidden_size)):
        raise ModelFormatError(
            f"tensor {RANKER!r} has shape {matrix.shape}; expected 1 or 2 rows of {config.hidden_size}"
        )
    return matrix
