"""Loads torch when it is first used.

Owns the error where torch is missing, and choices that depend on the processor. Knows no network.
"""

from __future__ import annotations

from typing import Any

from miaotui.errors import RequestError

PRECISIONS = ("auto", "bf16", "f32")


def load_torch() -> Any:
    """Return torch. Raises `RequestError` without it."""
    try:
        import torch  # noqa: PLC0415  (an extra, which takes seconds to load)
        import torch.utils.checkpoint  # noqa: PLC0415  (see above)
    except ImportError as error:
        raise RequestError("training needs torch: pip install 'miaotui[optimize]'") from error
    return torch


def use_threads(threads: int | None) -> None:
    """Let torch compute with so many threads; None: as many as it chooses."""
    if threads is not None:
        load_torch().set_num_threads(threads)


def product_dtype(torch: Any) -> Any:
    """Return the type that products are computed in: bfloat16 where the processor multiplies it, or else float32.

    Without such instructions a product in bfloat16 takes 37 times as long (AMD EPYC, Zen 3).
    """
    return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32


def dtype_named(torch: Any, precision: str) -> Any:
    """Return the type of products that one of `PRECISIONS` means."""
    return {"auto": product_dtype(torch), "bf16": torch.bfloat16, "f32": torch.float32}[precision]
