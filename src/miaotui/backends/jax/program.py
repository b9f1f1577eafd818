"""One artefact for all devices: the forward pass exported by `jax.export`, and its level of proof on each platform.

Owns the export with symbolic sizes, and the levels: *lowered* says that the program was translated for a platform,
*executed* that a device of it ran the program and gave the oracle's logits. Knows no plans. Invariant: a platform whose
device is not here is never called executed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import export
from numpy.typing import NDArray

from miaotui.backends.jax.forward import Array, CallRows, KvCaches, forward, rotations
from miaotui.model.config import ModelConfig
from miaotui.model.oracle import Oracle
from miaotui.schedule.plan import PAGE_SIZE, pages_for

PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
SIZES = "s, n, p, k"  # see `forward`
TOLERANCE = 1e-4  # of logits, beside the oracle's
Level = Literal["executed", "lowered", "failed"]
for _kind in (CallRows, KvCaches):
    export.register_namedtuple_serialization(_kind, serialized_name=f"miaotui.{_kind.__name__}")

Step = Callable[[Mapping[str, Array], KvCaches, CallRows], tuple[Array, KvCaches]]


def exported(
    config: ModelConfig, weights: Mapping[str, Any], slots: int, platforms: Sequence[str] = PLATFORMS
) -> export.Exported:
    """Export the forward pass of a model for several platforms at once; ``slots`` is that of the caches.

    Of ``weights`` the shapes matter alone. `Exported.serialize` makes it a file.
    """
    s, n, p, k = export.symbolic_shape(SIZES)

    def shaped(*shape: Any, kind: Any = jnp.int32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, kind)

    rows = CallRows(shaped(s, n), shaped(s, n), shaped(s, n), shaped(s, p), shaped(s, k))
    caches = KvCaches(
        *(shaped(config.n_layers, slots, config.n_kv_heads, dim, kind=jnp.float32) for dim in _dims(config))
    )
    held = {name: shaped(*array.shape, kind=jnp.float32) for name, array in weights.items()}
    return export.export(jax.jit(partial(forward, config)), platforms=tuple(platforms))(held, caches, rows)


def step_of(program: export.Exported) -> Step:
    """Return an exported program as a function for the device at hand, which writes caches in place."""

    def call(weights: Mapping[str, Array], caches: KvCaches, rows: CallRows) -> tuple[Array, KvCaches]:
        logits, after = program.call(weights, caches, rows)
        return logits, KvCaches(*after)

    step: Step = jax.jit(call, donate_argnums=(1,))
    return step


def empty_caches(config: ModelConfig, slots: int) -> KvCaches:
    """Return caches without keys and values."""
    return KvCaches(
        *(jnp.zeros((config.n_layers, slots, config.n_kv_heads, dim), jnp.float32) for dim in _dims(config))
    )


def levels_of_proof(
    config: ModelConfig, weights: Mapping[str, NDArray[np.float32]], platforms: Sequence[str] = PLATFORMS
) -> dict[str, Level]:
    """Return what was shown for each platform with a model of these weights: see the module's head."""
    held = {**weights, **rotations(config, PAGE_SIZE)}
    found: dict[str, Level] = {}
    for platform in platforms:
        try:
            program = exported(config, held, PAGE_SIZE + 1, [platform])
        except Exception:  # whatever a compiler raises: the platform cannot have this program
            found[platform] = "failed"
            continue
        device = _device(platform)
        found[platform] = "lowered"
        if device is not None:
            with jax.default_device(device):
                error = _error(config, weights, held, step_of(program))
            found[platform] = "executed" if error <= TOLERANCE else "failed"
    return found


def _error(
    config: ModelConfig, weights: Mapping[str, NDArray[np.float32]], held: Mapping[str, Any], step: Step
) -> float:
    """Return the greatest difference to the oracle's logits over a short text."""
    tokens = np.arange(7, dtype=np.int32) % config.vocab_size
    at = np.arange(len(tokens), dtype=np.int32)[None]
    rows = CallRows(tokens[None], at, at, np.zeros((1, pages_for(len(tokens))), np.int32), at)
    logits, _ = step(
        {name: jnp.asarray(each) for name, each in held.items()}, empty_caches(config, PAGE_SIZE + 1), rows
    )
    return float(np.abs(np.asarray(logits[0]) - Oracle(config, weights).logits(tokens.tolist())).max())


def _device(platform: str) -> Any | None:
    try:
        return jax.devices("gpu" if platform in ("cuda", "rocm") else platform)[0] if _is_here(platform) else None
    except RuntimeError:  # none of that platform
        return None


def _is_here(platform: str) -> bool:
    """Return whether JAX was installed for a platform and sees a device of it."""
    if platform == "cpu":
        return True
    version = jax.devices()[0].client.platform_version.lower()
    return jax.default_backend() in ("gpu", "tpu") and (platform in version or jax.default_backend() == platform)


def _dims(config: ModelConfig) -> tuple[int, int]:
    return config.head_dim, config.value_dim
