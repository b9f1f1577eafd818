"""Choice of a backend by its name in the options.

Imports only the one that is chosen: the reference backend works where nothing can be compiled.
"""

from __future__ import annotations

from pathlib import Path

from miaotui.backends.backend import Sampling
from miaotui.backends.options import Built, EngineOptions
from miaotui.config import Settings
from miaotui.errors import RequestError
from miaotui.libraries import missing, need
from miaotui.model.config import ModelConfig
from miaotui.types import Progress

WHOLE_ENGINES = {"openvino": "OpenVINO", "vllm": "vLLM"}


def build_backend(
    path: Path, config: ModelConfig, options: EngineOptions, settings: Settings, progress: Progress | None = None
) -> Built:
    """Build the backend that ``options`` name for the model at ``path``, and a scheduler for it.

    Raises a `MiaotuiError`: see the backends' own ``build``.
    """
    if options.backend == "reference":
        from miaotui.backends.reference.build import build as build_reference  # noqa: PLC0415  (only the chosen one)

        return build_reference(path, options)
    if options.backend in WHOLE_ENGINES:
        name = WHOLE_ENGINES[options.backend]
        raise RequestError(f"{name} is an engine of its own: open the model with miaotui.load or miaotui serve")
    if options.backend == "jax":
        need("jax")
        from miaotui.backends.jax.build import build as build_jax  # noqa: PLC0415  (only the chosen one)

        return build_jax(path, options)
    try:
        if options.is_staged:
            from miaotui.backends.stages.build import build_staged  # noqa: PLC0415  (rarely needed)

            return build_staged(path, config, options, settings, progress)
        from miaotui.backends.cpu.build import build  # noqa: PLC0415  (imports the compiler)
    except ModuleNotFoundError as error:
        raise missing(error.name or "") from error
    return build(path, config, options, settings, progress)


def reference_sampling() -> Sampling:
    """Return the choosing of tokens in NumPy, for checks of parameters where no backend is open."""
    from miaotui.backends.reference import sampling  # noqa: PLC0415  (only the chosen one)

    return sampling
