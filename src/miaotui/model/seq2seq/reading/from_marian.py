"""An encoder-decoder from Marian's own files: configuration, canonical tensors and settings of its search.

Knows Marian's names and options. Invariant: an option that the forward pass does not compute with is refused by name;
shapes are checked before any array is decoded. Source: marian-dev, ``models/transformer.h``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from miaotui.errors import ModelFormatError, UnsupportedModelError
from miaotui.hub.formats.marian.binary import MarianFile
from miaotui.hub.formats.tensors import ComputedTensor, StoredTensor
from miaotui.model.config import MAX_LAYERS, MAX_WIDTH
from miaotui.model.encoder.config import Activation
from miaotui.model.seq2seq.config import Seq2SeqConfig, StackConfig
from miaotui.model.seq2seq.generation import GenerationSettings
from miaotui.model.seq2seq.names import seq2seq_shapes
from miaotui.model.seq2seq.reading.whisper import zero_bias

ARCHITECTURE = "marian-binary"
MAX_TOKENS = 1024  # of a source or target: positions are computed, and set no limit
MAX_LENGTH = 512  # of a target, unless more is asked for
END, UNKNOWN = "</s>", "<unk>"
_ACTIVATIONS: Mapping[str, Activation] = {"relu": "relu", "swish": "silu", "gelu": "gelu"}
_KNOWN = {
    "type": ("transformer",),
    "transformer-preprocess": ("", "d"),
    "transformer-postprocess": ("dan", "an"),
    "transformer-postprocess-emb": ("d", ""),
    "transformer-postprocess-top": ("",),
    "transformer-decoder-autoreg": ("rnn", "self-attention"),
    "transformer-ffn-depth": ("2",),
    "transformer-no-projection": ("false",),
    "transformer-train-position-embeddings": ("false",),
    "transformer-tied-layers": ("[]",),
    "lemma-dim-emb": ("0",),
    "ulr": ("false",),
    "right-left": ("false",),
}
_LINEAR = {"q": ("Wq", "bq"), "k": ("Wk", "bk"), "v": ("Wv", "bv"), "o": ("Wo", "bo")}


def config_from_marian(file: MarianFile) -> Seq2SeqConfig:
    """Read the configuration. Raises `ModelFormatError` or `UnsupportedModelError`."""
    options = file.options
    for name, known in _KNOWN.items():
        _require(file, name, options.get(name, known[0]), known)
    recurrent = options.get("transformer-decoder-autoreg") == "rnn"
    if recurrent:
        _require(file, "dec-cell", options.get("dec-cell", ""), ("ssru",))
    activation = options.get("transformer-ffn-activation", "swish")
    _require(file, "transformer-ffn-activation", activation, tuple(_ACTIVATIONS))
    shared = options.get("tied-embeddings-all") == "true"
    if not shared:
        _require(file, "tied-embeddings", options.get("tied-embeddings", ""), ("true",))
    hidden, heads = _number(file, "dim-emb", MAX_WIDTH), _number(file, "transformer-heads", MAX_WIDTH)
    if hidden % heads:
        raise ModelFormatError(f"{file.label}: dim-emb {hidden} is no multiple of the {heads} heads")
    return Seq2SeqConfig(
        architecture=ARCHITECTURE,
        source_vocab_size=_rows(file, _table("encoder", shared)),
        vocab_size=_rows(file, _table("decoder", shared)),
        hidden_size=hidden,
        head_dim=hidden // heads,
        encoder=_stack(file, "encoder", heads),
        decoder=_stack(file, "decoder", heads),
        norm_eps=1e-6,
        activation=_ACTIVATIONS[activation],
        position="sinusoidal_fairseq",  # the same frequencies, from Google's tensor2tensor
        zero_start=True,
        recurrent=recurrent,
        embedding_scale=hidden**0.5,
        attention_scale=(hidden // heads) ** -0.5,
        shared_embedding=shared,
        head_bias="decoder_ff_logit_out_b" in file.arrays,
    )


def tensors_from_marian(file: MarianFile, config: Seq2SeqConfig) -> Mapping[str, StoredTensor]:
    """Return the tensors under canonical names. Raises `ModelFormatError` for missing ones and wrong shapes."""
    names, tensors = dict(_names(config)), {}
    for name, shape in seq2seq_shapes(config).items():
        stored = file.tensor(names[name]) if name in names else zero_bias(name, shape[0])
        if stored is not None and stored.kind.is_float and len(shape) == 2 and not name.endswith("embed"):
            stored = _transposed(stored)
        if stored is None or stored.shape != shape:
            got = "is missing" if stored is None else f"has shape {stored.shape}"
            raise ModelFormatError(f"{file.label}: {names[name]} {got}, expected {shape}: get the model again")
        tensors[name] = stored.renamed(name)
    return tensors


def generation_from_marian(pieces: Sequence[str], config: Seq2SeqConfig) -> GenerationSettings:
    """Return the settings of a search, from the pieces of the target's vocabulary in order; no unknown one is written.

    Raises `ModelFormatError` where the vocabulary lacks its end token or is longer than the model's.
    """
    if END not in pieces or len(pieces) > config.vocab_size:
        raise ModelFormatError(
            f"the vocabulary of {len(pieces):,} pieces is not that of the model's {config.vocab_size:,}, or lacks "
            f"{END}: get the model's .spm files again"
        )
    end = pieces.index(END)
    unknown = (pieces.index(UNKNOWN),) if UNKNOWN in pieces else ()
    return GenerationSettings(start_token=end, eos_ids=(end,), max_length=MAX_LENGTH, suppressed_ids=unknown)


def _require(file: MarianFile, name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        names = " or ".join(each or "nothing" for each in known)
        raise UnsupportedModelError(
            f"{file.label} has {name}: {value[:40]!r}, and {names} is supported: choose another model"
        )


def _number(file: MarianFile, name: str, most: int) -> int:
    value = file.options.get(name, "")
    if not value.isdecimal() or len(value) > 9 or not 1 <= int(value) <= most:
        raise ModelFormatError(f"{file.label}: {name} must be a number from 1 to {most:,}, not {value[:40]!r}")
    return int(value)


def _rows(file: MarianFile, name: str) -> int:
    found = file.arrays.get(name)
    if found is None or len(found.shape) != 2:
        raise ModelFormatError(f"{file.label}: {name} is missing or no matrix: get the model again")
    return found.shape[0]


def _table(stack: str, shared: bool) -> str:
    return "Wemb" if shared else f"{stack}_Wemb"


def _stack(file: MarianFile, name: str, heads: int) -> StackConfig:
    found = file.arrays.get(f"{name}_l1_ffn_b1")
    if found is None:
        raise ModelFormatError(f"{file.label}: {name}_l1_ffn_b1 is missing: get the model again")
    layers = _number(file, f"{name[:3]}-depth", MAX_LAYERS)
    return StackConfig(n_layers=layers, n_heads=heads, ffn_size=found.count, max_tokens=MAX_TOKENS)


def _transposed(tensor: StoredTensor) -> StoredTensor:
    """Return a matrix ``[inputs, outputs]`` as ``[outputs, inputs]``."""
    return ComputedTensor(tensor.name, tensor.shape[::-1], lambda: tensor.float32().T)


def _names(config: Seq2SeqConfig) -> Iterator[tuple[str, str]]:
    """Yield canonical and stored names; the candidate of a recurrent unit has no bias."""
    yield "embed", _table("decoder", config.shared_embedding)
    yield "source_embed", "encoder_Wemb"
    yield "head_bias", "decoder_ff_logit_out_b"
    for stack in ("encoder", "decoder"):
        for layer in range(config.stack(stack).n_layers):
            ours, theirs = f"{stack}.layers.{layer}.", f"{stack}_l{layer + 1}_"
            recurrent = stack == "decoder" and config.recurrent
            if recurrent:
                yield from ((f"{ours}candidate", f"{theirs}rnn_W"), (f"{ours}forget", f"{theirs}rnn_Wf"))
                yield f"{ours}forget_bias", f"{theirs}rnn_bf"
                yield from _norm(f"{ours}attn_norm", f"{theirs}rnn_ffn")
            else:
                yield from _attention(f"{ours}", f"{theirs}self_")
                yield from _norm(f"{ours}attn_norm", f"{theirs}self_Wo")
            if stack == "decoder":
                yield from _attention(f"{ours}cross_", f"{theirs}context_")
                yield from _norm(f"{ours}cross_norm", f"{theirs}context_Wo")
            for name, place in (("up", 1), ("down", 2)):
                yield from ((f"{ours}{name}", f"{theirs}ffn_W{place}"), (f"{ours}{name}_bias", f"{theirs}ffn_b{place}"))
            yield from _norm(f"{ours}ffn_norm", f"{theirs}ffn_ffn")


def _attention(ours: str, theirs: str) -> Iterator[tuple[str, str]]:
    for name, (weight, bias) in _LINEAR.items():
        yield ours + name, theirs + weight
        yield f"{ours}{name}_bias", theirs + bias


def _norm(ours: str, theirs: str) -> Iterator[tuple[str, str]]:
    yield ours, f"{theirs}_ln_scale"
    yield f"{ours}_bias", f"{theirs}_ln_bias"
