"""Reads what a sentence-transformers folder says beside its Transformer: modules, pooling, prompts, limits.

Owns the meaning of ``modules.json`` and of each module's small configuration. Loads no Transformer. Invariant: a module
or setting that is not known here is refused by name, never skipped, and no code of a repository is run.
Source: sentence-transformers 5 (``SentenceTransformer``, ``models.Pooling``, ``models.Dense``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, cast, get_args

from miaotui.errors import ModelFormatError, ModelNotFoundError, UnsupportedModelError
from miaotui.hub.formats.safetensors import read_safetensors
from miaotui.hub.formats.tensors import StoredTensor
from miaotui.hub.formats.untrusted_json import MAX_JSON_BYTES, read_object
from miaotui.model.encoder.config import Activation
from miaotui.model.encoder.container import Pipeline, SentenceSettings, Similarity
from miaotui.model.encoder.heads import MAX_DENSE, DenseConfig, PoolingConfig, PoolingMode

MODULES = "modules.json"
MAX_MODULES = 16
MAX_PROMPTS = 1 << 10
MAX_PROMPT_CHARACTERS = 1 << 14
_PACKAGES = ("sentence_transformers.", "pylate.")
_POOLING = {  # in the order in which results are joined
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
    "pooling_mode_weightedmean_tokens": "weighted_mean",
    "pooling_mode_lasttoken": "last",
}
_POOLING_NAMES = {"weightedmean": "weighted_mean", "mean_sqrt_len_tokens": "mean_sqrt_len", "lasttoken": "last"}
_ACTIVATIONS: Mapping[str, Activation | None] = {
    "Identity": None,
    "Tanh": "tanh",
    "ReLU": "relu",
    "GELU": "gelu",
    "SiLU": "silu",
}
_BERT_CONFIGS = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "mpnet", "deberta")
)


@dataclass(frozen=True)
class SentenceFolder:
    """Contents of the folder: where the Transformer lies, and the settings around it."""

    transformer: Path
    settings: SentenceSettings


def read_sentence_folder(folder: Path) -> SentenceFolder | None:
    """Read ``modules.json`` and all that it names; None if the folder has none.

    Raises `UnsupportedModelError` for a module or setting that cannot be honoured, `ModelFormatError` for nonsense.
    """
    if not (folder / MODULES).is_file():
        return None
    modules = _read_modules(folder)
    transformer = modules[0].folder
    limits = _first_config(transformer)
    model = _object(folder / "config_sentence_transformers.json")
    prompts = _prompts(model, folder)
    default = model.get("default_prompt_name")
    if default is not None and default not in prompts:
        raise ModelFormatError(f"{folder} names the default prompt {str(default)[:80]!r}, and has none of that name")
    dense, tensors = _dense(modules)
    settings = SentenceSettings(
        pipeline=_pipeline(modules, folder),
        pooling=_pooling(modules, dense),
        dense=tensors,
        prompts=prompts,
        default_prompt=default,
        similarity=_similarity(model, folder),
        max_tokens=_max_tokens(limits, transformer),
        do_lower_case=limits.get("do_lower_case") is True,
    )
    return SentenceFolder(transformer, settings)


@dataclass(frozen=True)
class _Module:
    kind: str
    folder: Path

    @property
    def config(self) -> dict[str, Any]:
        return read_object(self.folder / "config.json")


def _read_modules(folder: Path) -> list[_Module]:
    file = folder / MODULES
    text = file.read_bytes() if file.stat().st_size <= MAX_JSON_BYTES else b""
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelFormatError(f"{file} is not JSON ({str(error)[:200]}); get it again") from error
    if not isinstance(entries, list) or not 1 <= len(entries) <= MAX_MODULES:
        raise ModelFormatError(f"{file} must list 1 to {MAX_MODULES} modules; get it again")
    modules = [_module(folder, entry) for entry in entries]
    if modules[0].kind not in ("Transformer", "MLMTransformer"):
        raise _refused(folder, modules[0].kind, "as the first module")
    for module in modules[1:]:
        if module.kind not in ("Pooling", "Dense", "Normalize", "SpladePooling", "Dropout"):
            raise _refused(folder, module.kind, "after the first")
    return modules


def _module(folder: Path, entry: Any) -> _Module:
    kind, path = (entry.get("type"), entry.get("path", "")) if isinstance(entry, dict) else (None, None)
    if not isinstance(kind, str) or not isinstance(path, str):
        raise ModelFormatError(f"each module in {folder / MODULES} must have a type and a path; get it again")
    if not kind.startswith(_PACKAGES):
        raise UnsupportedModelError(
            f"{folder} names the module {kind[:100]!r} of its own repository; code of repositories is never run: "
            "choose a model whose modules are sentence-transformers' own"
        )
    inside = PurePosixPath(path)
    if inside.is_absolute() or ".." in inside.parts or "\\" in path or not path.isprintable():
        raise ModelFormatError(f"{folder / MODULES} names {path[:100]!r}, which is no folder inside it")
    return _Module(kind.rpartition(".")[2], folder / inside)


def _refused(folder: Path, kind: str, where: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{folder} has the module {kind[:80]!r} {where}, which is not supported: expected Transformer, then Pooling, "
        "Dense and Normalize"
    )


def _pipeline(modules: Sequence[_Module], folder: Path) -> Pipeline:
    kinds = [module.kind for module in modules]
    if kinds[:2] == ["MLMTransformer", "SpladePooling"] and len(kinds) == 2:
        config = modules[1].config
        for key, known in (("pooling_strategy", "max"), ("activation_function", "relu")):
            if config.get(key, known) != known:
                raise UnsupportedModelError(f"{folder} has the {key} {str(config[key])[:80]!r}; known is {known!r}")
        return "splade"
    if kinds[0] == "Transformer" and kinds[1:2] == ["Pooling"] and "SpladePooling" not in kinds:
        rest = [kind for kind in kinds[2:] if kind != "Dropout"]
        if "Pooling" in rest or "Normalize" in rest[:-1]:
            raise _refused(folder, next(kind for kind in rest if kind in ("Pooling", "Normalize")), "out of order")
        return "embedding"
    if kinds in (["Transformer", "Dense"], ["Transformer", "Dense", "Normalize"]):
        return "colbert"
    raise _refused(folder, " + ".join(kinds), "in this order")


def _pooling(modules: Sequence[_Module], dense: tuple[DenseConfig, ...]) -> PoolingConfig | None:
    module = next((module for module in modules if module.kind == "Pooling"), None)
    if module is None:
        return None
    config = module.config
    unknown = {key for key in config if key.startswith("pooling_mode_")} - _POOLING.keys()
    if unknown:
        raise UnsupportedModelError(f"{module.folder} has the unknown {min(unknown)[:80]!r}")
    if "pooling_mode" in config:
        modes = _named_modes(config["pooling_mode"], module)
    else:  # the mean is sentence-transformers' default, even beside other modes
        flags = {"pooling_mode_mean_tokens": True} | config
        modes = tuple(mode for key, mode in _POOLING.items() if flags.get(key) is True)
    return PoolingConfig(
        modes=cast("tuple[PoolingMode, ...]", modes),
        dense=dense,
        normalize=any(module.kind == "Normalize" for module in modules),
        include_prompt=config.get("include_prompt") is not False,
    )


def _named_modes(named: object, module: _Module) -> tuple[str, ...]:
    """Return the modes that newer files name, in the order in which results are joined."""
    names = named if isinstance(named, list) else [named]
    modes = {_POOLING_NAMES.get(str(name), str(name)) for name in names}
    if not modes or modes - set(get_args(PoolingMode)):
        raise UnsupportedModelError(f"{module.folder} has the unknown pooling mode {str(named)[:80]!r}")
    return tuple(mode for mode in _POOLING.values() if mode in modes)


def _dense(modules: Sequence[_Module]) -> tuple[tuple[DenseConfig, ...], dict[str, StoredTensor]]:
    configs: list[DenseConfig] = []
    tensors: dict[str, StoredTensor] = {}
    for module in modules:
        if module.kind != "Dense":
            continue
        if len(configs) == MAX_DENSE:
            raise UnsupportedModelError(f"{module.folder.parent} has more than {MAX_DENSE} dense modules")
        stored = _linear(module.folder)
        config = _dense_config(module, "bias" in stored)
        if stored["weight"].shape != (config.outputs, config.inputs):
            raise ModelFormatError(
                f"{module.folder} holds a matrix of shape {stored['weight'].shape}, and its config.json says "
                f"{(config.outputs, config.inputs)}: get the folder again"
            )
        tensors |= {f"{len(configs)}.{name}": tensor for name, tensor in stored.items()}
        configs.append(config)
    return tuple(configs), tensors


def _dense_config(module: _Module, bias: bool) -> DenseConfig:
    config = module.config
    name = str(config.get("activation_function") or "Identity").rpartition(".")[2]
    if name not in _ACTIVATIONS:
        raise UnsupportedModelError(
            f"{module.folder} has the activation function {name[:80]!r}; known are {', '.join(_ACTIVATIONS)}"
        )
    inputs, outputs = config.get("in_features"), config.get("out_features")
    if type(inputs) is not int or type(outputs) is not int or config.get("bias", True) is not bias:
        raise ModelFormatError(f"{module.folder} must say in_features, out_features and the bias it has; get it again")
    return DenseConfig(inputs=inputs, outputs=outputs, bias=bias, activation=_ACTIVATIONS[name])


def _linear(folder: Path) -> dict[str, StoredTensor]:
    if not (folder / "model.safetensors").is_file():
        raise UnsupportedModelError(
            f"{folder} has no model.safetensors; pickled weights are never loaded, because they can run code: get a "
            "version of the model with safetensors"
        )
    found = {name.removeprefix("linear."): tensor for name, tensor in read_safetensors(folder).items()}
    if not {"weight"} <= found.keys() <= {"weight", "bias"}:
        raise ModelFormatError(f"{folder} must hold linear.weight and linear.bias, not {sorted(found)[:4]}")
    return found


def _first_config(transformer: Path) -> dict[str, Any]:
    for name in _BERT_CONFIGS:
        if (transformer / name).is_file():
            return read_object(transformer / name)
    return {}


def _max_tokens(limits: Mapping[str, Any], folder: Path) -> int | None:
    value = limits.get("max_seq_length")
    if value is None:
        return None
    if type(value) is not int or value < 1:
        raise ModelFormatError(f"{folder} has the max_seq_length {str(value)[:80]!r}, not a positive number")
    return value


def _object(file: Path) -> dict[str, Any]:
    try:
        return read_object(file)
    except ModelNotFoundError:
        return {}


def _prompts(model: Mapping[str, Any], folder: Path) -> dict[str, str]:
    prompts = model.get("prompts") or {}
    if not isinstance(prompts, dict) or len(prompts) > MAX_PROMPTS or not all(map(_is_prompt, prompts.values())):
        raise ModelFormatError(
            f"the prompts in {folder / 'config_sentence_transformers.json'} must be at most {MAX_PROMPTS:,} texts, "
            f"each of at most {MAX_PROMPT_CHARACTERS:,} characters; get it again"
        )
    return dict(prompts)


def _is_prompt(value: object) -> bool:
    return isinstance(value, str) and len(value) <= MAX_PROMPT_CHARACTERS


def _similarity(model: Mapping[str, Any], folder: Path) -> Similarity:
    name = model.get("similarity_fn_name") or "cosine"
    if name not in get_args(Similarity):
        raise UnsupportedModelError(
            f"{folder} compares by {str(name)[:80]!r}; known are {', '.join(get_args(Similarity))}"
        )
    return cast(Similarity, name)
