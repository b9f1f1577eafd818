"""Building the JAX backend and the scheduler for it: model files to float32 arrays on a device.

Refuses options and models that it lacks, by name. Knows nothing of prompts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from miaotui.backends.jax.backend import JaxBackend, kv_token_bytes
from miaotui.backends.options import Built, EngineOptions
from miaotui.backends.sizes import engine_sizes
from miaotui.errors import RequestError, UnsupportedModelError
from miaotui.hub.formats.tensors import StoredTensor
from miaotui.kernels.platform.host import read_host
from miaotui.model.config import ModelConfig
from miaotui.model.reading.files import open_model
from miaotui.schedule.scheduler import Scheduler


def build(path: Path, options: EngineOptions) -> Built:
    """Decode the weights of the model at ``path`` and bring them to the device; 4 bytes of memory for each weight.

    Raises `RequestError` for options that this backend lacks, `UnsupportedModelError` for a model that it cannot run.
    """
    with open_model(path) as files:
        return assemble(files.config.for_context(options.context), files.tensors, options)


def assemble(
    config: ModelConfig, tensors: Mapping[str, StoredTensor] | Mapping[str, NDArray[np.float32]], options: EngineOptions
) -> Built:
    """Build from opened tensors or plain arrays: the rest of `build`."""
    if config.masked is not None:
        raise UnsupportedModelError(
            "the jax backend has no models that restore masked tokens: choose backend='cpu' or backend='reference'"
        )
    if not config.has_one_stream:
        raise UnsupportedModelError(
            f"the jax backend has no {config.architecture}, whose layers share keys or hand on more than one residual "
            "stream: choose backend='cpu' or backend='reference'"
        )
    for name, unset in (("format", None), ("threads", None), ("kv", "f16")):
        value = getattr(options, name)
        if value != unset:
            raise RequestError(
                f"the jax backend has no {name} {value!r}: it computes, and keeps keys and values, in float32, and "
                f"leaves threads to JAX. Leave {name} out, or choose backend='cpu'"
            )
    sizes = engine_sizes(config, options, kv_token_bytes(config), read_host().memory_bytes)
    weights = {name: each.float32() if isinstance(each, StoredTensor) else each for name, each in tensors.items()}
    return Built(JaxBackend(config, weights, replace(sizes.limits, passes=1)), Scheduler(sizes.schedule))
