"""Options by which a model is run, and an engine's parts once they are ready.

Owns the checks of the options and the names of backends. Knows no backend. Invariant: options that exist are within
their ranges.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from miaotui.backends.backend import Backend
from miaotui.errors import RequestError
from miaotui.kernels.linear.formats import WANTED, Format
from miaotui.schedule.scheduler import Scheduler

KvKind = Literal["f16", "int8"]
BackendName = Literal["cpu", "reference"]
EngineName = Literal["cpu", "reference", "jax", "openvino", "vllm"]
EncoderPooling = Literal["mean", "cls", "last", "max"]
Activations = Literal["int16", "int8"]

MAX_OPTION = 1 << 27
MOST_PASSES = 8  # of a run


@dataclass(frozen=True)
class EngineOptions:
    """Options of a model's engine. None: chosen from the model and the machine.

    ``backend`` computes: ``cpu`` by compiled kernels, ``reference`` slowly in NumPy, with nothing compiled,
    ``jax`` by XLA on the device that JAX finds, in float32, ``openvino`` by OpenVINO GenAI and ``vllm`` by vLLM,
    whole engines of their own.
    ``format`` is how weights stored as floats are packed; ``context`` bounds prompt plus answer and
    ``kv_tokens`` says for how many tokens, over all requests, keys and values are kept;
    ``chunk_size`` is how many prompt tokens a pass takes at most; up to ``most_passes`` follow each other
    before what they bring is looked at, fewer when that takes long. ``stages`` processes share the layers out;
    ``stage_at`` names those that run elsewhere (HOST:PORT), ``stage_key_file`` the secret that they ask for. Raises
    `RequestError` for values out of range.
    """

    format: Format | None = None
    threads: int | None = None
    kv: KvKind = "f16"
    context: int | None = None
    kv_tokens: int | None = None
    max_sequences: int = 16
    chunk_size: int = 512
    reuse_prefix: bool = True
    most_passes: int = MOST_PASSES
    backend: EngineName = "cpu"
    stages: int = 1
    stage_at: tuple[str, ...] = ()
    stage_key_file: str | None = None

    def __post_init__(self) -> None:
        for name in ("threads", "context", "kv_tokens", "max_sequences", "chunk_size", "stages"):
            value = getattr(self, name)
            optional = value is None and name not in ("max_sequences", "chunk_size", "stages")
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not optional and not (whole and 1 <= value <= MAX_OPTION):
                raise RequestError(f"{name} must be a whole number from 1 to {MAX_OPTION:,}, not {value!r}")
        if not 1 <= self.most_passes <= MOST_PASSES:
            raise RequestError(f"most_passes must be 1 to {MOST_PASSES}, not {self.most_passes!r}")
        if self.format not in (None, Format.Q4M, *WANTED.values()):
            raise RequestError(f"format must be one of {', '.join(WANTED)}: other formats hold blocks of files")
        if self.backend not in get_args(EngineName):
            raise RequestError(f"backend must be one of {', '.join(get_args(EngineName))}, not {self.backend!r}")
        if self.kv not in ("f16", "int8"):
            raise RequestError(f"kv must be 'f16' or 'int8', not {self.kv!r}")
        if self.is_staged and self.backend != "cpu":
            raise RequestError(f"backend {self.backend!r} has no stages: leave them out, or use backend='cpu'")

    @property
    def is_staged(self) -> bool:
        """Return whether several processes share the layers."""
        return self.stages > 1 or bool(self.stage_at)


@dataclass(frozen=True)
class EncoderOptions:
    """Options of an encoder. None: chosen from the model and the machine.

    ``format`` is how weights stored as floats are kept; ``max_tokens`` lowers the limit of a text and ``rows`` is how
    many tokens a pass has at most; ``pooling`` says how states become an embedding where the model's files do not;
    ``dimensions`` are lengths that embeddings may be cut to, for a model that was trained for it; ``activations`` is
    how the compiled backend keeps what a norm leaves: ``int16`` (13 bits), or ``int8``, which is faster and a little
    less exact. Raises `RequestError` for values out of range.
    """

    format: Format | None = None
    threads: int | None = None
    max_tokens: int | None = None
    rows: int | None = None
    pooling: EncoderPooling | None = None
    dimensions: tuple[int, ...] = ()
    backend: BackendName = "cpu"
    activations: Activations = "int16"

    def __post_init__(self) -> None:
        for name in ("threads", "max_tokens", "rows"):
            _require_count(name, getattr(self, name))
        for length in self.dimensions:
            _require_count("dimensions", length)
        _require_choice("pooling", self.pooling, (None, *get_args(EncoderPooling)))
        _require_choice("backend", self.backend, get_args(BackendName))
        _require_choice("format", self.format, (None, Format.Q4, Format.Q8, Format.F32))
        _require_choice("activations", self.activations, get_args(Activations))


def _require_count(name: str, value: object) -> None:
    is_count = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_OPTION
    if value is not None and not is_count:
        raise RequestError(f"{name} must be a whole number from 1 to {MAX_OPTION:,}, not {value!r}")


def _require_choice(name: str, value: object, known: Sequence[object]) -> None:
    if value not in known:
        names = ", ".join(str(getattr(each, "value", each)) for each in known if each is not None)
        raise RequestError(f"{name} must be one of {names}, not {value!r}")


class Built(NamedTuple):
    """An engine's parts: the arithmetic, and the scheduler that plans for it."""

    backend: Backend
    scheduler: Scheduler
