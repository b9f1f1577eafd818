"""Building the reference backend and the scheduler for it: model files to float32 arrays.

Refuses options that only packed weights have. Knows nothing of prompts.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from miaotui.backends.options import Built, EngineOptions
from miaotui.backends.reference.backend import ReferenceBackend
from miaotui.backends.sizes import EngineSizes, engine_sizes
from miaotui.errors import RequestError
from miaotui.hub.formats.tensors import StoredTensor
from miaotui.kernels.platform.host import read_host
from miaotui.model.config import ModelConfig
from miaotui.model.oracle import Oracle
from miaotui.model.reading.files import open_model
from miaotui.schedule.scheduler import Scheduler


def build(path: Path, options: EngineOptions) -> Built:
    """Decode the weights of the model at ``path`` and reserve pages; 4 bytes of memory for each weight.

    Raises `RequestError` for options that this backend lacks and when there is no memory.
    """
    with open_model(path) as files:
        return assemble(files.config.for_context(options.context), files.tensors, options)


def assemble(
    config: ModelConfig, tensors: Mapping[str, StoredTensor] | Mapping[str, NDArray[np.float32]], options: EngineOptions
) -> Built:
    """Build from opened tensors or plain arrays: the rest of `build`."""
    sizes = reference_sizes(config, options)
    try:
        backend = ReferenceBackend(Oracle(config, tensors), sizes.limits)
    except MemoryError as error:
        raise sizes.memory_error() from error
    return Built(backend, Scheduler(sizes.schedule))


def reference_sizes(config: ModelConfig, options: EngineOptions, layers: range | None = None) -> EngineSizes:
    """Return the sizes of a reference backend that computes ``layers`` (None: all).

    Raises `RequestError` for options that this backend lacks.
    """
    for name, unset in (("format", None), ("threads", None), ("kv", "f16")):
        value = getattr(options, name)
        if value != unset:
            raise RequestError(
                f"the reference backend has no {name} {value!r}: it computes in float32, keeps keys and values as f16 "
                f"and leaves threads to NumPy. Leave {name} out, or choose backend='cpu'"
            )
    kv_token_bytes = 2 * 2 * config.kv_values
    return engine_sizes(config, options, kv_token_bytes, read_host().memory_bytes, layers)
